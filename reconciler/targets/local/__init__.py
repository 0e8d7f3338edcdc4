"""The local target: this machine's processes and files under the line's contract."""

from reconciler.targets.local.digest import digest_file, digest_folder, digest_path
from reconciler.targets.local.target import LocalTarget

__all__ = ["LocalTarget", "digest_file", "digest_folder", "digest_path"]
