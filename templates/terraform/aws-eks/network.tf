# VPC: nodes in private subnets, load balancers in public ones, one of each a zone.

data "aws_availability_zones" "available" {
  state = "available"

  # Local and wavelength zones have to be opted into, and EKS does not run there.
  filter {
    name   = "opt-in-status"
    values = ["opt-in-not-required"]
  }
}

locals {
  zones = length(var.subnets) > 0 ? sort(keys(var.subnets)) : slice(
    sort(data.aws_availability_zones.available.names), 0, var.availability_zones
  )
  # Without a say of one's own: an eighth of the addresses for each zone's nodes and
  # pods, and of the last eighth, which no zone takes, a 256th for load balancers.
  ranges = {
    for i, zone in local.zones : zone => try(var.subnets[zone], {
      private = cidrsubnet(var.cidr, 3, i)
      public  = cidrsubnet(var.cidr, 8, 240 + i)
    })
  }
  nat_zones    = var.nat == "none" ? [] : var.nat == "single" ? [local.zones[0]] : local.zones
  nat_of       = { for zone in local.zones : zone => var.nat == "per-zone" ? zone : local.zones[0] if var.nat != "none" }
  public_tags  = { "kubernetes.io/role/elb" = "1" }
  private_tags = { "kubernetes.io/role/internal-elb" = "1" }
}

resource "aws_vpc" "this" {
  cidr_block           = var.cidr
  enable_dns_support   = true
  enable_dns_hostnames = true
  tags                 = { Name = var.name }
}

# The default group lets its members talk; emptied, so that nothing relies on it.
resource "aws_default_security_group" "this" {
  vpc_id = aws_vpc.this.id
}

resource "aws_subnet" "private" {
  for_each          = local.ranges
  vpc_id            = aws_vpc.this.id
  availability_zone = each.key
  cidr_block        = each.value.private
  tags              = merge(local.private_tags, { Name = "${var.name}-private-${each.key}" })
}

resource "aws_subnet" "public" {
  for_each          = local.ranges
  vpc_id            = aws_vpc.this.id
  availability_zone = each.key
  cidr_block        = each.value.public
  tags              = merge(local.public_tags, { Name = "${var.name}-public-${each.key}" })
}

resource "aws_internet_gateway" "this" {
  vpc_id = aws_vpc.this.id
  tags   = { Name = var.name }
}

resource "aws_eip" "nat" {
  for_each   = toset(local.nat_zones)
  domain     = "vpc"
  tags       = { Name = "${var.name}-nat-${each.key}" }
  depends_on = [aws_internet_gateway.this]
}

resource "aws_nat_gateway" "this" {
  for_each      = toset(local.nat_zones)
  allocation_id = aws_eip.nat[each.key].id
  subnet_id     = aws_subnet.public[each.key].id
  tags          = { Name = "${var.name}-${each.key}" }
}

resource "aws_route_table" "public" {
  vpc_id = aws_vpc.this.id
  tags   = { Name = "${var.name}-public" }
}

resource "aws_route" "public" {
  route_table_id         = aws_route_table.public.id
  destination_cidr_block = "0.0.0.0/0"
  gateway_id             = aws_internet_gateway.this.id
}

resource "aws_route_table_association" "public" {
  for_each       = aws_subnet.public
  subnet_id      = each.value.id
  route_table_id = aws_route_table.public.id
}

resource "aws_route_table" "private" {
  for_each = aws_subnet.private
  vpc_id   = aws_vpc.this.id
  tags     = { Name = "${var.name}-private-${each.key}" }
}

resource "aws_route" "private" {
  for_each               = local.nat_of
  route_table_id         = aws_route_table.private[each.key].id
  destination_cidr_block = "0.0.0.0/0"
  nat_gateway_id         = aws_nat_gateway.this[each.value].id
}

resource "aws_route_table_association" "private" {
  for_each       = aws_subnet.private
  subnet_id      = each.value.id
  route_table_id = aws_route_table.private[each.key].id
}
