# A shared file system for weights, where efs is asked for.

resource "aws_efs_file_system" "this" {
  count           = contains(var.shared_storage, "efs") ? 1 : 0
  encrypted       = true
  kms_key_id      = aws_kms_key.this.arn
  throughput_mode = "elastic"
  tags            = { Name = var.name }
}

resource "aws_efs_mount_target" "this" {
  for_each        = contains(var.shared_storage, "efs") ? aws_subnet.private : {}
  file_system_id  = aws_efs_file_system.this[0].id
  subnet_id       = each.value.id
  security_groups = [aws_security_group.storage[0].id]
}

resource "aws_security_group" "storage" {
  count       = contains(var.shared_storage, "efs") ? 1 : 0
  name        = "${var.name}-storage"
  description = "EFS: NFS from inside the VPC"
  vpc_id      = aws_vpc.this.id
  tags        = { Name = "${var.name}-storage" }
}

resource "aws_vpc_security_group_ingress_rule" "storage" {
  count             = length(aws_security_group.storage)
  security_group_id = aws_security_group.storage[0].id
  description       = "NFS from inside the VPC"
  cidr_ipv4         = var.cidr
  ip_protocol       = "tcp"
  from_port         = 2049
  to_port           = 2049
}
