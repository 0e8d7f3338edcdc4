# The control plane, with the pool that its own parts run on.

locals {
  # The first by name of those that can carry the cluster's own parts.
  system_pool = sort([
    for name, pool in var.node_pools : name
    if !pool.gpu && !pool.spot && pool.min >= 1 && length(pool.taints) == 0
  ])[0]
  system = var.node_pools[local.system_pool]
  zones  = [for i in range(var.availability_zones) : tostring(i + 1)]
}

resource "azurerm_kubernetes_cluster" "this" {
  name                      = var.name
  location                  = azurerm_resource_group.this.location
  resource_group_name       = azurerm_resource_group.this.name
  dns_prefix                = var.name
  kubernetes_version        = var.kubernetes_version
  sku_tier                  = "Standard"
  private_cluster_enabled   = var.private_api
  oidc_issuer_enabled       = true
  workload_identity_enabled = true
  azure_policy_enabled      = true
  image_cleaner_enabled     = true
  # AKS upgrades nothing by itself: versions come from git.
  node_os_upgrade_channel = "None"
  run_command_enabled     = false
  # Without local accounts the state holds no key to the cluster.
  local_account_disabled = true

  azure_active_directory_role_based_access_control {
    azure_rbac_enabled     = true
    tenant_id              = data.azurerm_client_config.current.tenant_id
    admin_group_object_ids = var.administrators
  }

  default_node_pool {
    name                        = local.system_pool
    vm_size                     = local.system.instance_type
    orchestrator_version        = var.kubernetes_version
    vnet_subnet_id              = azurerm_subnet.nodes.id
    zones                       = local.zones
    os_disk_size_gb             = local.system.disk_gib
    max_pods                    = 110
    node_labels                 = merge(local.system.labels, { "foundry.bud/pool" = local.system_pool })
    auto_scaling_enabled        = local.system.min != local.system.max
    node_count                  = local.system.min
    min_count                   = local.system.min != local.system.max ? local.system.min : null
    max_count                   = local.system.min != local.system.max ? local.system.max : null
    temporary_name_for_rotation = "rotation"

    upgrade_settings {
      max_surge = "33%"
    }
  }

  identity {
    type         = "UserAssigned"
    identity_ids = [azurerm_user_assigned_identity.cluster.id]
  }

  network_profile {
    network_plugin      = "azure"
    network_plugin_mode = "overlay"
    network_policy      = "cilium"
    network_data_plane  = "cilium"
    load_balancer_sku   = "standard"
  }

  dynamic "api_server_access_profile" {
    for_each = !var.private_api && length(var.authorized_ip_ranges) > 0 ? [1] : []
    content {
      authorized_ip_ranges = var.authorized_ip_ranges
    }
  }

  key_management_service {
    key_vault_key_id         = azurerm_key_vault_key.etcd.id
    key_vault_network_access = "Public"
  }

  storage_profile {
    blob_driver_enabled         = true
    disk_driver_enabled         = true
    file_driver_enabled         = true
    snapshot_controller_enabled = true
  }

  oms_agent {
    log_analytics_workspace_id      = azurerm_log_analytics_workspace.this.id
    msi_auth_for_monitoring_enabled = true
  }

  lifecycle {
    # The scaler's field, once the pool is there.
    ignore_changes = [default_node_pool[0].node_count]
  }
  depends_on = [azurerm_role_assignment.etcd, azurerm_role_assignment.network]
}

resource "azurerm_log_analytics_workspace" "this" {
  name                = var.name
  location            = azurerm_resource_group.this.location
  resource_group_name = azurerm_resource_group.this.name
  sku                 = "PerGB2018"
  retention_in_days   = var.log_retention_days
}

resource "azurerm_monitor_diagnostic_setting" "control_plane" {
  name                       = "control-plane"
  target_resource_id         = azurerm_kubernetes_cluster.this.id
  log_analytics_workspace_id = azurerm_log_analytics_workspace.this.id

  dynamic "enabled_log" {
    for_each = toset(["kube-apiserver", "kube-audit-admin", "kube-controller-manager", "kube-scheduler", "guard"])
    content {
      category = enabled_log.value
    }
  }
}
