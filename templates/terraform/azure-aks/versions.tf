# Pinned exactly: a provider that moves by itself changes plans that nobody wrote.
terraform {
  required_version = ">= 1.10.0, < 2.0.0"

  required_providers {
    azurerm = {
      source  = "registry.terraform.io/hashicorp/azurerm"
      version = "4.20.0"
    }
  }
}
