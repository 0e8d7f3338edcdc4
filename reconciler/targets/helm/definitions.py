"""The definitions in a chart's `crds/`, which Helm installs and never upgrades. (I/O)

The Helm target calls ``Definitions.upgrade`` before a release gets another revision, as
Flux's helm-controller does under `crds: CreateReplace`. A definition is never deleted:
that would delete every object of its kind. What the API server refuses (a version that
objects are stored in may not go) fails the step, and nothing else was written.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from reconciler.targets.helm.command import HelmCommand
from reconciler.targets.helm.release import objects
from reconciler.targets.kubernetes.client import Client
from reconciler.targets.kubernetes.discovery import Discovery, NoSuchKind
from reconciler.targets.kubernetes.manifests import Json, identify
from schemas.errors import TemporaryError

__all__ = ["Definitions", "kinds_of"]

_SHOW_S = 60.0
_SERVED_S = 30.0
"""Until the API server serves a version that it took: it takes a second or two."""
_LOOK_S = 0.2


def kinds_of(item: Json) -> list[tuple[str, str]]:
    """The kinds that an object of a chart defines, if it is a definition."""
    if item["kind"] != "CustomResourceDefinition":
        return []
    spec = item["spec"]
    return [
        (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
        for version in spec["versions"]
        if version["served"]
    ]


class Definitions:
    def __init__(
        self, client: Client, discovery: Discovery, command: HelmCommand
    ) -> None:
        self._client, self._discovery, self._command = client, discovery, command

    async def upgrade(self, archive: Path) -> None:
        """Bring every definition of a chart to what it says, and wait until served.

        Raises:
            PermanentError: the API server refuses one.
            TemporaryError: one is not served in time.
        """
        shown = await self._command.run(
            *("show", "crds", str(archive)),
            what=f"read the definitions of {archive.name}",
            timeout_s=_SHOW_S,
        )
        for item in objects(shown):
            path = await self._discovery.path(identify(item))
            await self._client.apply(path, item, force=True, dry_run=False)
            for api_version, kind in kinds_of(item):
                await self._until_served(api_version, kind)

    async def _until_served(self, api_version: str, kind: str) -> None:
        deadline = time.monotonic() + _SERVED_S
        while True:
            try:
                await self._discovery.collection(api_version, kind)
            except NoSuchKind as error:
                if time.monotonic() > deadline:
                    raise TemporaryError(
                        f"cannot upgrade {kind}: {api_version} is not served after "
                        f"{_SERVED_S:.0f} s"
                    ) from error
                await asyncio.sleep(_LOOK_S)
            else:
                return
