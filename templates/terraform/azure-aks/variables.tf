variable "name" {
  description = "Name of the cluster, and prefix of everything that belongs to it."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$", var.name))
    error_message = "name must be 1 to 40 lower-case letters, digits and hyphens."
  }
}

variable "location" {
  description = "Azure region, such as eastus2."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9]+$", var.location))
    error_message = "location must be an Azure region, such as eastus2."
  }
}

variable "kubernetes_version" {
  description = "Minor version of Kubernetes, such as 1.33; AKS chooses the patch."
  type        = string

  validation {
    condition     = can(regex("^1\\.[0-9]{2}$", var.kubernetes_version))
    error_message = "kubernetes_version must be a minor version, such as 1.33."
  }
}

variable "cidr" {
  description = "Addresses of the virtual network; nodes get the first half of it."
  type        = string
  default     = "10.0.0.0/16"

  validation {
    condition     = can(cidrhost(var.cidr, 0)) && try(tonumber(split("/", var.cidr)[1]) >= 12 && tonumber(split("/", var.cidr)[1]) <= 20, false)
    error_message = "cidr must be between a /12 and a /20."
  }
}

variable "availability_zones" {
  description = "How many zones nodes spread over. A pool on a fabric takes one."
  type        = number
  default     = 3

  validation {
    condition     = var.availability_zones >= 1 && var.availability_zones <= 3
    error_message = "availability_zones must be between 1 and 3."
  }
}

variable "private_api" {
  description = "Whether the Kubernetes API answers inside the virtual network only."
  type        = bool
  default     = false
}

variable "authorized_ip_ranges" {
  description = "Who may reach the Kubernetes API from outside, while it is not private. Empty: everybody."
  type        = set(string)
  default     = []
}

variable "administrators" {
  description = "Object IDs of Entra groups that administer the cluster."
  type        = set(string)
  default     = []
}

variable "node_pools" {
  description = "Machines by pool. min equals max where nobody may scale the pool."
  type = map(object({
    instance_type = string
    vcpus         = number
    gpu           = bool
    fabric        = bool
    min           = number
    max           = number
    spot          = bool
    disk_gib      = number
    labels        = map(string)
    taints        = list(string)
  }))

  validation {
    # AKS: names of Linux node pools.
    condition     = alltrue([for name in keys(var.node_pools) : can(regex("^[a-z][a-z0-9]{0,11}$", name))])
    error_message = "A node pool's name in AKS has 1 to 12 lower-case letters and digits, and begins with a letter."
  }
  validation {
    condition     = alltrue([for pool in var.node_pools : pool.min >= 0 && pool.max >= 1 && pool.min <= pool.max])
    error_message = "A node pool needs 0 <= min <= max and max >= 1."
  }
  validation {
    # The system pool carries what keeps the cluster alive.
    condition     = anytrue([for pool in var.node_pools : !pool.gpu && !pool.spot && pool.min >= 1 && length(pool.taints) == 0])
    error_message = "One pool must have no GPU, no taint, no spot machines and at least one node: AKS runs its own parts there."
  }
}

variable "log_retention_days" {
  description = "How long control-plane logs are kept."
  type        = number
  default     = 90
}
