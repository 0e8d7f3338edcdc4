# Node pools. Those that a scaler may resize are a resource of their own, because
# Terraform must then never write the size it finds.

locals {
  pools = {
    for name, pool in var.node_pools : name => merge(pool, {
      labels = merge(
        pool.labels,
        { "foundry.bud/pool" = name },
        pool.spot ? { "kubernetes.azure.com/scalesetpriority" = "spot" } : {},
      )
      # AKS sets this taint on spot machines; said here, or each plan would remove it.
      taints = concat(pool.taints, pool.spot ? ["kubernetes.azure.com/scalesetpriority=spot:NoSchedule"] : [])
      # InfiniBand reaches inside one zone's cluster of machines only.
      zones = pool.fabric ? [local.zones[0]] : local.zones
    }) if name != local.system_pool
  }
}

resource "azurerm_kubernetes_cluster_node_pool" "fixed" {
  for_each                    = { for name, pool in local.pools : name => pool if pool.min == pool.max }
  name                        = each.key
  kubernetes_cluster_id       = azurerm_kubernetes_cluster.this.id
  vm_size                     = each.value.instance_type
  orchestrator_version        = var.kubernetes_version
  vnet_subnet_id              = azurerm_subnet.nodes.id
  zones                       = each.value.zones
  os_disk_size_gb             = each.value.disk_gib
  max_pods                    = 110
  priority                    = each.value.spot ? "Spot" : "Regular"
  eviction_policy             = each.value.spot ? "Delete" : null
  spot_max_price              = each.value.spot ? -1 : null
  node_labels                 = each.value.labels
  node_taints                 = each.value.taints
  node_count                  = each.value.min
  temporary_name_for_rotation = "rotation"

  dynamic "upgrade_settings" {
    for_each = each.value.spot ? [] : [1]
    content {
      max_surge = "33%"
    }
  }
}

resource "azurerm_kubernetes_cluster_node_pool" "scaled" {
  for_each                    = { for name, pool in local.pools : name => pool if pool.min != pool.max }
  name                        = each.key
  kubernetes_cluster_id       = azurerm_kubernetes_cluster.this.id
  vm_size                     = each.value.instance_type
  orchestrator_version        = var.kubernetes_version
  vnet_subnet_id              = azurerm_subnet.nodes.id
  zones                       = each.value.zones
  os_disk_size_gb             = each.value.disk_gib
  max_pods                    = 110
  priority                    = each.value.spot ? "Spot" : "Regular"
  eviction_policy             = each.value.spot ? "Delete" : null
  spot_max_price              = each.value.spot ? -1 : null
  node_labels                 = each.value.labels
  node_taints                 = each.value.taints
  auto_scaling_enabled        = true
  node_count                  = each.value.min
  min_count                   = each.value.min
  max_count                   = each.value.max
  temporary_name_for_rotation = "rotation"

  dynamic "upgrade_settings" {
    for_each = each.value.spot ? [] : [1]
    content {
      max_surge = "33%"
    }
  }

  lifecycle {
    ignore_changes = [node_count]
  }
}
