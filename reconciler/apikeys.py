"""Making API keys (randomness). Only their hashes are ever stored in git."""

from __future__ import annotations

import secrets

__all__ = ["new_key"]

_PREFIX = "sk-bud-"
"""Clients know a key by `sk-`; scanners of leaked secrets know ours by the rest."""


def new_key() -> str:
    """256 random bits: nobody guesses it, and its bare hash gives nothing away."""
    return _PREFIX + secrets.token_urlsafe(32)
