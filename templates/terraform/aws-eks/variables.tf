variable "name" {
  description = "Name of the cluster, and prefix of everything that belongs to it."
  type        = string

  validation {
    # EKS allows 100 characters; an IAM name prefix only 38, less our longest suffix.
    condition     = can(regex("^[a-z0-9]([-a-z0-9]{0,26}[a-z0-9])?$", var.name))
    error_message = "name must be 1 to 28 lower-case letters, digits and hyphens."
  }
}

variable "region" {
  description = "AWS region, such as us-east-1."
  type        = string

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "region must be an AWS region, such as us-east-1."
  }
}

variable "kubernetes_version" {
  description = "Minor version of Kubernetes, such as 1.33. EKS moves up one minor at a time and never down."
  type        = string

  validation {
    condition     = can(regex("^1\\.[0-9]{2}$", var.kubernetes_version))
    error_message = "kubernetes_version must be a minor version, such as 1.33."
  }
}

variable "cidr" {
  description = "Addresses of the VPC. Each zone gets an eighth for nodes and pods, and a 256th for load balancers."
  type        = string
  default     = "10.0.0.0/16"

  validation {
    # AWS: a VPC is at most a /16, and a subnet at least a /28.
    condition     = can(cidrhost(var.cidr, 0)) && try(tonumber(split("/", var.cidr)[1]) >= 16 && tonumber(split("/", var.cidr)[1]) <= 20, false)
    error_message = "cidr must be between a /16 and a /20."
  }
}

variable "availability_zones" {
  description = "How many zones the cluster spans."
  type        = number
  default     = 3

  validation {
    # The control plane of EKS asks for two.
    condition     = var.availability_zones >= 2 && var.availability_zones <= 6
    error_message = "availability_zones must be between 2 and 6: EKS needs two."
  }
}

variable "subnets" {
  description = "Addresses of each zone's subnets, where they are one's own choice; then these are the zones."
  type        = map(object({ private = string, public = string }))
  default     = {}

  validation {
    condition     = contains([0, 2, 3, 4, 5, 6], length(var.subnets))
    error_message = "subnets must name between 2 and 6 zones: EKS needs two."
  }
}

variable "nat" {
  description = "Way out for private subnets: none (VPC endpoints only), single, or per-zone."
  type        = string
  default     = "single"

  validation {
    condition     = contains(["none", "single", "per-zone"], var.nat)
    error_message = "nat must be none, single or per-zone."
  }
}

variable "private_api" {
  description = "Whether the Kubernetes API answers inside the VPC only."
  type        = bool
  default     = false
}

variable "public_access_cidrs" {
  description = "Who may reach the Kubernetes API from outside, while it is not private."
  type        = list(string)
  default     = ["0.0.0.0/0"]
}

variable "administrators" {
  description = "ARNs of IAM roles that administer the cluster, besides the one that made it."
  type        = set(string)
  default     = []
}

variable "shared_storage" {
  description = "Drivers for volumes that many nodes mount: efs, fsx."
  type        = set(string)
  default     = []

  validation {
    condition     = length(setsubtract(var.shared_storage, ["efs", "fsx"])) == 0
    error_message = "shared_storage may hold efs and fsx."
  }
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
    taints = list(object({
      key    = string
      value  = string
      effect = string
    }))
  }))

  validation {
    # A node group's name prefix takes 37 characters, the hyphen included.
    condition     = alltrue([for name in keys(var.node_pools) : length(name) <= 36])
    error_message = "A node pool's name may have at most 36 characters."
  }
  validation {
    condition     = alltrue([for pool in var.node_pools : pool.min >= 0 && pool.max >= 1 && pool.min <= pool.max])
    error_message = "A node pool needs 0 <= min <= max and max >= 1."
  }
  validation {
    condition     = alltrue(flatten([for pool in var.node_pools : [for taint in pool.taints : contains(["NO_SCHEDULE", "PREFER_NO_SCHEDULE", "NO_EXECUTE"], taint.effect)]]))
    error_message = "A taint's effect is NO_SCHEDULE, PREFER_NO_SCHEDULE or NO_EXECUTE."
  }
}

variable "check_quotas" {
  description = "Whether to read the account's vCPU quotas first, and stop the plan where they are too small."
  type        = bool
  default     = true
}

variable "log_retention_days" {
  description = "How long control-plane and flow logs are kept."
  type        = number
  default     = 365
}
