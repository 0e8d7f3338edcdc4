# What EKS itself installs. The rest (GPU Operator, HAMi, ingress ...) is Helm's, and
# comes once the cluster answers.

locals {
  # Which IAM policy a driver's service account holds.
  drivers = merge(
    {
      aws-ebs-csi-driver = { account = "ebs-csi-controller-sa", policy = "service-role/AmazonEBSCSIDriverPolicy" }
    },
    contains(var.shared_storage, "efs") ? {
      aws-efs-csi-driver = { account = "efs-csi-controller-sa", policy = "service-role/AmazonEFSCSIDriverPolicy" }
    } : {},
    contains(var.shared_storage, "fsx") ? {
      aws-fsx-csi-driver = { account = "fsx-csi-controller-sa", policy = "AmazonFSxFullAccess" }
    } : {},
  )
}

# Nodes are not ready without these, so they come before the first node.
resource "aws_eks_addon" "network" {
  for_each                    = toset(["vpc-cni", "kube-proxy", "eks-pod-identity-agent"])
  cluster_name                = aws_eks_cluster.this.name
  addon_name                  = each.key
  resolve_conflicts_on_create = "OVERWRITE"
  resolve_conflicts_on_update = "OVERWRITE"
}

# These run on nodes, and wait for one.
resource "aws_eks_addon" "scheduled" {
  for_each                    = toset(concat(["coredns"], keys(local.drivers)))
  cluster_name                = aws_eks_cluster.this.name
  addon_name                  = each.key
  resolve_conflicts_on_create = "OVERWRITE"
  resolve_conflicts_on_update = "OVERWRITE"

  depends_on = [
    aws_eks_node_group.fixed,
    aws_eks_node_group.scaled,
    aws_eks_pod_identity_association.driver,
  ]
}

data "aws_iam_policy_document" "pod" {
  statement {
    actions = ["sts:AssumeRole", "sts:TagSession"]
    principals {
      type        = "Service"
      identifiers = ["pods.eks.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "driver" {
  for_each = local.drivers
  # aws-ebs-csi-driver -> ebs-csi, which fits a name prefix.
  name_prefix        = "${var.name}-${substr(each.key, 4, 7)}-"
  assume_role_policy = data.aws_iam_policy_document.pod.json
}

resource "aws_iam_role_policy_attachment" "driver" {
  for_each   = local.drivers
  role       = aws_iam_role.driver[each.key].name
  policy_arn = "arn:${local.partition}:iam::aws:policy/${each.value.policy}"
}

resource "aws_eks_pod_identity_association" "driver" {
  for_each        = local.drivers
  cluster_name    = aws_eks_cluster.this.name
  namespace       = "kube-system"
  service_account = each.value.account
  role_arn        = aws_iam_role.driver[each.key].arn
}

# The cluster autoscaler, which Helm installs where a pool may grow.
resource "aws_iam_role" "autoscaler" {
  name_prefix        = "${var.name}-scaler-"
  assume_role_policy = data.aws_iam_policy_document.pod.json
}

resource "aws_iam_role_policy" "autoscaler" {
  name   = "scale"
  role   = aws_iam_role.autoscaler.id
  policy = data.aws_iam_policy_document.autoscaler.json
}

resource "aws_eks_pod_identity_association" "autoscaler" {
  cluster_name    = aws_eks_cluster.this.name
  namespace       = "kube-system"
  service_account = "cluster-autoscaler"
  role_arn        = aws_iam_role.autoscaler.arn
}

data "aws_iam_policy_document" "autoscaler" {
  # These actions know no resource to name.
  statement {
    actions = [
      "autoscaling:DescribeAutoScalingGroups", "autoscaling:DescribeAutoScalingInstances",
      "autoscaling:DescribeLaunchConfigurations", "autoscaling:DescribeScalingActivities",
      "ec2:DescribeImages", "ec2:DescribeInstanceTypes", "ec2:DescribeLaunchTemplateVersions",
      "ec2:GetInstanceTypesFromInstanceRequirements", "eks:DescribeNodegroup",
    ]
    resources = ["*"]
  }
  statement {
    actions   = ["autoscaling:SetDesiredCapacity", "autoscaling:TerminateInstanceInAutoScalingGroup"]
    resources = ["*"]
    # EKS puts this tag on the scaling group of each of its node groups.
    condition {
      test     = "StringEquals"
      variable = "aws:ResourceTag/k8s.io/cluster-autoscaler/${var.name}"
      values   = ["owned"]
    }
  }
}
