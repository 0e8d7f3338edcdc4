# What the Cluster's observed state holds. Nothing here is a secret: people and bud
# log in with their own Entra identity.

output "cluster" {
  description = "How the Kubernetes API is reached."
  value = {
    name           = azurerm_kubernetes_cluster.this.name
    id             = azurerm_kubernetes_cluster.this.id
    version        = azurerm_kubernetes_cluster.this.kubernetes_version
    endpoint       = "https://${coalesce(azurerm_kubernetes_cluster.this.private_fqdn, azurerm_kubernetes_cluster.this.fqdn)}:443"
    resource_group = azurerm_resource_group.this.name
    # Of that block everything is called sensitive; this is the public half of it.
    certificate_authority = nonsensitive(azurerm_kubernetes_cluster.this.kube_config[0].cluster_ca_certificate)
    location              = var.location
  }
}

output "node_pools" {
  description = "Node pools by name."
  value = {
    for name, pool in var.node_pools : name => {
      instance_type = pool.instance_type
      gpu           = pool.gpu
      min           = pool.min
      max           = pool.max
    }
  }
}

output "workload_identity" {
  description = "The issuer that Entra trusts for service accounts of this cluster."
  value       = { issuer = azurerm_kubernetes_cluster.this.oidc_issuer_url }
}
