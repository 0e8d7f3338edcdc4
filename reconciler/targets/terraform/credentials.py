"""What a cloud's command line may find in its environment (pure).

A credential is text: a JSON object, or lines of ``NAME=value``, of the variables
that the provider itself reads. No other name passes, so that a secret cannot set
``LD_PRELOAD`` or Terraform's own ``TF_CLI_ARGS``.
"""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from schemas.errors import PermanentError

__all__ = ["ambient", "parse_credentials"]

# From the providers' documentation, "Environment Variables".
_CREDENTIALS = frozenset(
    {
        "ARM_CLIENT_CERTIFICATE_PATH",
        "ARM_CLIENT_ID",
        "ARM_CLIENT_SECRET",
        "ARM_OIDC_TOKEN_FILE_PATH",
        "ARM_SUBSCRIPTION_ID",
        "ARM_TENANT_ID",
        "ARM_USE_MSI",
        "ARM_USE_OIDC",
        "AWS_ACCESS_KEY_ID",
        "AWS_CONFIG_FILE",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_PROFILE",
        "AWS_ROLE_ARN",
        "AWS_ROLE_SESSION_NAME",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_SHARED_CREDENTIALS_FILE",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
    }
)
# How to get there: proxies, trust, and the endpoint of a private cloud.
_SURROUNDINGS = frozenset(
    {
        "AWS_CA_BUNDLE",
        "AWS_EC2_METADATA_DISABLED",
        "AWS_ENDPOINT_URL",
        "AZURE_AUTHORITY_HOST",
        "HTTPS_PROXY",
        "HTTP_PROXY",
        "NO_PROXY",
        "SSL_CERT_DIR",
        "SSL_CERT_FILE",
    }
)


def ambient(environment: Mapping[str, str], *, own: bool) -> dict[str, str]:
    """What passes from this process on; its own credentials only where ``own``."""
    names = _SURROUNDINGS | (_CREDENTIALS if own else frozenset())
    return {name: environment[name] for name in sorted(names & environment.keys())}


def parse_credentials(text: str) -> dict[str, str]:
    """Read a cloud credential.

    Raises:
        PermanentError: it is neither form, or names what no provider reads. The
            message has names only, never a value.
    """
    found: dict[str, str]
    if text.lstrip().startswith("{"):
        try:
            loaded = orjson.loads(text)
        except orjson.JSONDecodeError:
            loaded = None
        if not isinstance(loaded, dict):
            raise _unreadable("JSON that does not parse")
        found = {str(name): str(value) for name, value in loaded.items()}
    else:
        lines = [line for line in text.splitlines() if line.strip()]
        if not lines or any("=" not in line for line in lines):
            raise _unreadable("neither a JSON object nor lines of NAME=value")
        pairs = (line.split("=", 1) for line in lines)
        found = {name.strip(): value.strip() for name, value in pairs}
    if extra := sorted(found.keys() - _CREDENTIALS):
        raise _unreadable(f"{', '.join(name[:40] for name in extra)} in it")
    return found


def _unreadable(found: str) -> PermanentError:
    return PermanentError(
        f"cannot read cloud credential: {found}",
        hint="it holds only variables of the provider, such as AWS_ACCESS_KEY_ID",
    )
