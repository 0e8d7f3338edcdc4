"""What the tests of the terraform target run for real, and whether it is here.

Terraform and its provider mirror come with a machine, not with a registry: without
them tests skip and say so. OpenTofu is built by `make tools`, ministack and SeaweedFS
come from pip: with CI set, their absence is a failure.
"""

import os
import shutil
import socket
from pathlib import Path

ROOT = Path(__file__).parents[4]


def terraform() -> str | None:
    return os.environ.get("BUD_TERRAFORM") or shutil.which("terraform")


def tofu() -> str | None:
    built = ROOT / ".tools" / "bin" / "tofu"
    return str(built) if os.access(built, os.X_OK) else shutil.which("tofu")


def mirror() -> Path | None:
    """A folder that holds registry.terraform.io/hashicorp/aws."""
    named = os.environ.get("BUD_TERRAFORM_MIRROR")
    candidates = [Path(named)] if named else [Path("/opt/tf-plugins")]
    held = "registry.terraform.io/hashicorp/aws"
    return next((path for path in candidates if (path / held).is_dir()), None)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
