"""The terraform target: clusters in a cloud."""

from reconciler.targets.terraform.backend import Backend
from reconciler.targets.terraform.command import Command
from reconciler.targets.terraform.opening import open_terraform
from reconciler.targets.terraform.target import TerraformTarget

__all__ = ["Backend", "Command", "TerraformTarget", "open_terraform"]
