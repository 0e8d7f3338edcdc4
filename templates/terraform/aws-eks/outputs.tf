# What the Cluster's observed state holds. Nothing here is a secret: people and bud
# log in with their own IAM identity.

output "cluster" {
  description = "How the Kubernetes API is reached."
  value = {
    name                  = aws_eks_cluster.this.name
    arn                   = aws_eks_cluster.this.arn
    version               = aws_eks_cluster.this.version
    endpoint              = aws_eks_cluster.this.endpoint
    certificate_authority = aws_eks_cluster.this.certificate_authority[0].data
    region                = var.region
  }
}

output "network" {
  description = "Where it lies."
  value = {
    vpc             = aws_vpc.this.id
    zones           = local.zones
    private_subnets = [for zone in local.zones : aws_subnet.private[zone].id]
    public_subnets  = [for zone in local.zones : aws_subnet.public[zone].id]
  }
}

output "node_pools" {
  description = "Node groups by pool."
  value = {
    for name, group in merge(aws_eks_node_group.fixed, aws_eks_node_group.scaled) : name => {
      node_group    = group.node_group_name
      status        = group.status
      instance_type = var.node_pools[name].instance_type
      gpu           = var.node_pools[name].gpu
      min           = var.node_pools[name].min
      max           = var.node_pools[name].max
      zones         = local.pool_zones[name]
    }
  }
}

output "workload_identity" {
  description = "The issuer that IAM trusts for service accounts of this cluster."
  value = {
    issuer   = aws_eks_cluster.this.identity[0].oidc[0].issuer
    provider = aws_iam_openid_connect_provider.this.arn
  }
}

output "file_system" {
  description = "EFS file system for shared volumes, where there is one."
  value       = one(aws_efs_file_system.this[*].id)
}
