# Pinned exactly: a provider that moves by itself changes plans that nobody wrote.
# The hashes in .terraform.lock.hcl are the only builds that may run.
terraform {
  required_version = ">= 1.10.0, < 2.0.0"

  required_providers {
    # Named with its host, so that Terraform and OpenTofu mean the same provider.
    aws = {
      source  = "registry.terraform.io/hashicorp/aws"
      version = "5.100.0"
    }
  }
}
