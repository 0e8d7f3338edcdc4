"""Secrets: SOPS for what is in git, sealed envelopes for what we obtain."""

from reconciler.secrets.credentials import read_credential
from reconciler.secrets.sops import SopsFiles
from reconciler.secrets.vault import Vault

__all__ = ["SopsFiles", "Vault", "read_credential"]
