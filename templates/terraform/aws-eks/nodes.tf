# Node groups, one a pool. Pools that a scaler may resize are a resource of their own,
# because Terraform must then never write the size it finds.

data "aws_ec2_instance_type" "this" {
  for_each      = toset([for pool in var.node_pools : pool.instance_type])
  instance_type = each.key
}

data "aws_ec2_instance_type_offerings" "this" {
  for_each      = toset([for pool in var.node_pools : pool.instance_type])
  location_type = "availability-zone"

  filter {
    name   = "instance-type"
    values = [each.key]
  }
  filter {
    name   = "location"
    values = local.zones
  }

  lifecycle {
    postcondition {
      condition     = length(self.locations) > 0
      error_message = "No zone of the cluster offers ${each.key}: take another region, more zones, or another instance type."
    }
  }
}

locals {
  # Zones that sell the machine. A placement group lies in one zone.
  pool_zones = {
    for name, pool in var.node_pools : name => slice(
      sort(data.aws_ec2_instance_type_offerings.this[pool.instance_type].locations),
      0,
      pool.fabric ? 1 : length(data.aws_ec2_instance_type_offerings.this[pool.instance_type].locations)
    )
  }
  # One EFA interface on each network card that takes one.
  efa_interfaces = {
    for name, pool in var.node_pools : name => pool.fabric ? data.aws_ec2_instance_type.this[pool.instance_type].efa_maximum_interfaces : 0
  }
  fabric_pools = { for name, pool in var.node_pools : name => pool if pool.fabric }
}

resource "aws_iam_role" "node" {
  name_prefix        = "${var.name}-node-"
  assume_role_policy = data.aws_iam_policy_document.assume["ec2"].json

  # One that was made elsewhere and is adopted keeps its name.
  lifecycle {
    ignore_changes = [name_prefix]
  }
}

resource "aws_iam_role_policy_attachment" "node" {
  for_each   = toset(["AmazonEKSWorkerNodePolicy", "AmazonEKS_CNI_Policy", "AmazonEC2ContainerRegistryPullOnly"])
  role       = aws_iam_role.node.name
  policy_arn = "arn:${local.partition}:iam::aws:policy/${each.key}"
}

# EFA passes traffic only between members of a group that may talk to itself, both ways.
resource "aws_security_group" "fabric" {
  count       = length(local.fabric_pools) > 0 ? 1 : 0
  name        = "${var.name}-fabric"
  description = "EFA: everything between the nodes of this cluster"
  vpc_id      = aws_vpc.this.id
  tags        = { Name = "${var.name}-fabric" }
}

resource "aws_vpc_security_group_ingress_rule" "fabric" {
  count                        = length(aws_security_group.fabric)
  security_group_id            = aws_security_group.fabric[0].id
  description                  = "EFA from other nodes"
  referenced_security_group_id = aws_security_group.fabric[0].id
  ip_protocol                  = "-1"
}

resource "aws_vpc_security_group_egress_rule" "fabric" {
  count                        = length(aws_security_group.fabric)
  security_group_id            = aws_security_group.fabric[0].id
  description                  = "EFA to other nodes"
  referenced_security_group_id = aws_security_group.fabric[0].id
  ip_protocol                  = "-1"
}

resource "aws_placement_group" "fabric" {
  for_each = local.fabric_pools
  name     = "${var.name}-${each.key}"
  strategy = "cluster"
}

resource "aws_launch_template" "node" {
  for_each               = var.node_pools
  name_prefix            = "${var.name}-${each.key}-"
  update_default_version = true

  # Pods get their credentials from EKS Pod Identity, never from the node's role.
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  block_device_mappings {
    device_name = "/dev/xvda"
    ebs {
      volume_type           = "gp3"
      volume_size           = each.value.disk_gib
      encrypted             = true
      kms_key_id            = aws_kms_key.this.arn
      delete_on_termination = true
    }
  }

  vpc_security_group_ids = local.efa_interfaces[each.key] > 0 ? null : [aws_eks_cluster.this.vpc_config[0].cluster_security_group_id]

  dynamic "network_interfaces" {
    for_each = range(local.efa_interfaces[each.key])
    content {
      # EC2: card 0 holds device 0, every further card device 1.
      device_index          = network_interfaces.value == 0 ? 0 : 1
      network_card_index    = network_interfaces.value
      interface_type        = "efa"
      delete_on_termination = true
      security_groups = [
        aws_eks_cluster.this.vpc_config[0].cluster_security_group_id,
        aws_security_group.fabric[0].id,
      ]
    }
  }

  dynamic "placement" {
    for_each = each.value.fabric ? [aws_placement_group.fabric[each.key].name] : []
    content {
      group_name = placement.value
    }
  }

  tag_specifications {
    resource_type = "instance"
    tags          = { Name = "${var.name}-${each.key}" }
  }

  # One that was made elsewhere and is adopted keeps its name.
  lifecycle {
    ignore_changes = [name_prefix]
  }
}

locals {
  node_groups = {
    for name, pool in var.node_pools : name => merge(pool, {
      ami_type   = pool.gpu ? "AL2023_x86_64_NVIDIA" : "AL2023_x86_64_STANDARD"
      subnet_ids = [for zone in local.pool_zones[name] : aws_subnet.private[zone].id]
    })
  }
}

resource "aws_eks_node_group" "fixed" {
  for_each               = { for name, pool in local.node_groups : name => pool if pool.min == pool.max }
  cluster_name           = aws_eks_cluster.this.name
  node_group_name_prefix = "${each.key}-"
  node_role_arn          = aws_iam_role.node.arn
  subnet_ids             = each.value.subnet_ids
  instance_types         = [each.value.instance_type]
  ami_type               = each.value.ami_type
  capacity_type          = each.value.spot ? "SPOT" : "ON_DEMAND"
  version                = aws_eks_cluster.this.version
  labels                 = merge(each.value.labels, { "foundry.bud/pool" = each.key })

  scaling_config {
    min_size     = each.value.min
    desired_size = each.value.min
    max_size     = each.value.max
  }
  update_config {
    max_unavailable = 1
  }
  launch_template {
    id      = aws_launch_template.node[each.key].id
    version = aws_launch_template.node[each.key].latest_version
  }
  dynamic "taint" {
    for_each = each.value.taints
    content {
      key    = taint.value.key
      value  = taint.value.value
      effect = taint.value.effect
    }
  }

  # What cannot be changed in place is made anew first, and drained after.
  lifecycle {
    create_before_destroy = true
    ignore_changes        = [node_group_name_prefix] # One that is adopted keeps its name.
  }
  depends_on = [aws_iam_role_policy_attachment.node, aws_eks_addon.network]
}

resource "aws_eks_node_group" "scaled" {
  for_each               = { for name, pool in local.node_groups : name => pool if pool.min != pool.max }
  cluster_name           = aws_eks_cluster.this.name
  node_group_name_prefix = "${each.key}-"
  node_role_arn          = aws_iam_role.node.arn
  subnet_ids             = each.value.subnet_ids
  instance_types         = [each.value.instance_type]
  ami_type               = each.value.ami_type
  capacity_type          = each.value.spot ? "SPOT" : "ON_DEMAND"
  version                = aws_eks_cluster.this.version
  labels                 = merge(each.value.labels, { "foundry.bud/pool" = each.key })

  scaling_config {
    min_size     = each.value.min
    desired_size = each.value.min
    max_size     = each.value.max
  }
  update_config {
    max_unavailable = 1
  }
  launch_template {
    id      = aws_launch_template.node[each.key].id
    version = aws_launch_template.node[each.key].latest_version
  }
  dynamic "taint" {
    for_each = each.value.taints
    content {
      key    = taint.value.key
      value  = taint.value.value
      effect = taint.value.effect
    }
  }

  lifecycle {
    create_before_destroy = true
    # The scaler's field, once the pool is there; and the name of one that is adopted.
    ignore_changes = [scaling_config[0].desired_size, node_group_name_prefix]
  }
  depends_on = [aws_iam_role_policy_attachment.node, aws_eks_addon.network]
}
