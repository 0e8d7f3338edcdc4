"""The kubeconfig of a cluster in a cloud, from what its module says (pure).

It says where the cluster answers and by which certificate, and holds no key: who
asks brings a token that ends by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["kubeconfig"]


def kubeconfig(said: Mapping[str, Any], token: str | None = None) -> dict[str, Any]:
    """Of the module's output ``cluster``; with ``token``, for a person."""
    name = said["name"]
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": name,
                "cluster": {
                    "server": said["endpoint"],
                    "certificate-authority-data": said["certificate_authority"],
                },
            }
        ],
        "users": [{"name": name, "user": {} if token is None else {"token": token}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    }
