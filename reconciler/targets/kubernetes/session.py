"""A kubeconfig -> an open session with its API server. (I/O)

Only ``Transport`` uses it, and imports it late: this module alone stands on
``kubernetes.aio``, for all that a kubeconfig can say (certificates, OIDC, token refresh,
proxies).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import aiohttp
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import load_kube_config_from_dict
from kubernetes.aio.config.config_exception import ConfigException

from schemas.errors import PermanentError

__all__ = ["Configuration", "open_session"]

_CONNECT_S = 10.0
_EVENT_BYTES = 1 << 21  # one watch event is one line, and is read whole


async def open_session(
    kubeconfig: Mapping[str, Any], context: str | None
) -> tuple[Configuration, aiohttp.ClientSession]:
    """Who we are and where, and a session that trusts what the kubeconfig trusts.

    Raises:
        PermanentError: it is no kubeconfig, or names what is not there.
    """
    configuration = Configuration()
    try:
        await load_kube_config_from_dict(  # type: ignore[no-untyped-call]
            dict(kubeconfig), context=context, client_configuration=configuration
        )
    except (ConfigException, OSError, ValueError) as error:
        raise PermanentError(f"cannot read a kubeconfig: {error}") from error
    api = ApiClient(configuration)
    trusted = api.rest_client.ssl_context
    await api.close()  # type: ignore[no-untyped-call]
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=trusted, limit=0),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S),
        read_bufsize=_EVENT_BYTES,
    )
    return configuration, session
