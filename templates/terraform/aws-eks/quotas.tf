# The account's vCPU quotas, read while planning: half a cluster is worse than none.
# They count what runs already too, which AWS does not tell here: a plan that passes
# can still meet a full quota.

locals {
  # Quota codes of EC2, by the letter of the family: on demand, spot.
  quota_codes = {
    p        = { "false" = "L-417A185B", "true" = "L-7212CCBC" }
    g        = { "false" = "L-DB2E81BA", "true" = "L-3819A6DF" }
    standard = { "false" = "L-1216C47A", "true" = "L-34B43A08" }
  }
  pool_quota = {
    for name, pool in var.node_pools : name => local.quota_codes[
      contains(["p", "g"], substr(pool.instance_type, 0, 1)) ? substr(pool.instance_type, 0, 1) : "standard"
    ][tostring(pool.spot)]
  }
  vcpus_by_quota = {
    for code in distinct(values(local.pool_quota)) : code => sum([
      for name, pool in var.node_pools : pool.max * pool.vcpus if local.pool_quota[name] == code
    ])
  }
}

data "aws_servicequotas_service_quota" "vcpus" {
  for_each     = var.check_quotas ? local.vcpus_by_quota : {}
  service_code = "ec2"
  quota_code   = each.key

  lifecycle {
    postcondition {
      condition     = self.value >= each.value
      error_message = "The pools need up to ${each.value} vCPUs under quota ${each.key} (${self.quota_name}), and the account may have ${self.value} in ${var.region}: ask AWS for more, or make the pools smaller."
    }
  }
}
