"""What Helm keeps of a release, read as values. Pure.

Helm writes a Secret for each revision; the newest says which objects the release has.
The target reads it after an installation, and looks at the objects from then on.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Iterable, Iterator

import orjson
import yaml

from reconciler.targets.kubernetes.manifests import Json
from schemas.errors import PermanentError

__all__ = ["is_stuck", "manifest_of", "newest", "objects", "selector"]

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_STUCK = ("pending-install", "pending-upgrade", "pending-rollback", "uninstalling")


def selector(name: str) -> str:
    """Pick the Secrets in which Helm keeps the revisions of a release."""
    return f"owner=helm,name={name}"


def is_stuck(revision: Json) -> bool:
    """Say whether whoever wrote this revision was cut off; Helm would wait for ever."""
    return revision["metadata"]["labels"].get("status") in _STUCK


def newest(revisions: Iterable[Json]) -> Json | None:
    return max(
        revisions,
        key=lambda secret: int(secret["metadata"]["labels"]["version"]),
        default=None,
    )


def manifest_of(revision: Json) -> str:
    """Read the manifest of a revision.

    Raises:
        PermanentError: Helm did not write this.
    """
    try:
        packed = base64.b64decode(base64.b64decode(revision["data"]["release"]))
        found: str = orjson.loads(gzip.decompress(packed))["manifest"]
    except (KeyError, ValueError, OSError) as error:
        name = revision["metadata"]["name"]
        raise PermanentError(f"cannot read release {name}: {error}") from error
    return found


def objects(manifest: str | bytes) -> Iterator[Json]:
    """Every object of a manifest, as Helm rendered it."""
    for document in yaml.load_all(manifest, Loader=_LOADER):
        if not isinstance(document, dict):
            continue
        if document.get("kind") == "List":
            yield from document.get("items") or ()
        else:
            yield document
