"""The API server's verbs on raw objects. (I/O)

Everything else in this package reads and writes through ``Client``. It sends JSON
itself, over ``Transport``: the generated models of the kubernetes package drop the
fields of custom resources and cost a copy of each object, and its watch starts over
where it must list again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self

import aiohttp
import orjson

from reconciler.targets.kubernetes.manifests import FIELD_MANAGER, Json
from reconciler.targets.kubernetes.transport import (
    ApiRefusal,
    Kubeconfig,
    MayWrite,
    Token,
    Transport,
    refusal,
)
from schemas.errors import TemporaryError

__all__ = ["Access", "Client", "Gone"]

_PAGE = 500
_IN_FLIGHT = 32
# The server closes a watch on its own after this; ours ends first and starts anew.
_WATCH_S = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How to reach a cluster of ours, asked anew whenever it is needed."""

    kubeconfig: Kubeconfig
    token: Token | None = None


class Gone(Exception):
    """410: the resource version is too old. List again."""


class Client:
    """One cluster. Opened by its first request, closed as an async context manager.

    A kubeconfig that cannot be read is a failure of that request: a cluster is then
    unknown, like one that does not answer.
    """

    def __init__(
        self,
        kubeconfig: Kubeconfig,
        *,
        context: str | None = None,
        in_flight: int = _IN_FLIGHT,
        token: Token | None = None,
        may_write: MayWrite = lambda: None,
    ) -> None:
        """``token`` is asked for each request, in place of the kubeconfig's own."""
        self._transport = Transport(
            kubeconfig,
            context=context,
            in_flight=in_flight,
            token=token,
            may_write=may_write,
        )

    @property
    def requests(self) -> int:
        return self._transport.requests

    @property
    def writes(self) -> int:
        """Requests that were to change something; a dry run is none."""
        return self._transport.writes

    def check_may_write(self) -> None:
        """Before a write that goes another way; raises where it must not be."""
        self._transport.may_write()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._transport.close()

    async def get(self, path: str) -> Json | None:
        """Read one object; None when the server says that it is not there."""
        try:
            return await self.request("GET", path)
        except ApiRefusal as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise

    async def list(self, path: str, *, selector: str = "") -> tuple[list[Json], str]:
        """Read every object that ``selector`` picks, and the list's version.

        A list is consistent: it is served at the newest version, never from a
        cache that may be behind.
        """
        items: list[Json] = []
        query = {"limit": str(_PAGE), "labelSelector": selector}
        while True:
            try:
                page = await self.request("GET", path, query=query)
            except ApiRefusal as error:
                if error.status != HTTPStatus.GONE or "continue" not in query:
                    raise
                # The pages that were read are of a version that is gone: all again.
                items, query = [], {"labelSelector": selector}
                continue
            items += page.get("items") or []
            metadata = page["metadata"]
            if not metadata.get("continue"):
                return items, metadata.get("resourceVersion", "")
            query = {**query, "continue": metadata["continue"]}

    async def apply(
        self,
        path: str,
        manifest: Mapping[str, Any],
        *,
        force: bool,
        dry_run: bool,
        manager: str = FIELD_MANAGER,
    ) -> Json:
        """Apply server-side as our field manager.

        Only a dry run asks for strict validation: what is written was rehearsed, and
        the server would parse each body twice.
        """
        query = {
            "fieldManager": manager,
            "force": str(force).lower(),
            "fieldValidation": "Strict" if dry_run else "Ignore",
        }
        if dry_run:
            query["dryRun"] = "All"
        return await self.request(
            "PATCH",
            path,
            query=query,
            body=manifest,
            content_type="application/apply-patch+yaml",
        )

    async def create(self, path: str, manifest: Mapping[str, Any]) -> Json:
        """Create in the collection ``path``: for the server half of an apply's work.

        Raises:
            ApiRefusal: status 409, it is there; maybe by an attempt that broke.
        """
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Ignore"}
        return await self.request("POST", path, query=query, body=manifest)

    async def delete(self, path: str, *, uid: str, dry_run: bool = False) -> None:
        """Delete the object of this UID, dependents first; gone already is success.

        Raises:
            ApiRefusal: status 409, another object has the name now.
        """
        body: Json = {
            "propagationPolicy": "Foreground",
            "preconditions": {"uid": uid},
        }
        if dry_run:
            body["dryRun"] = ["All"]
        try:
            await self.request("DELETE", path, body=body)
        except ApiRefusal as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise

    async def watch(
        self, path: str, *, selector: str, version: str
    ) -> AsyncIterator[tuple[str, Json]]:
        """Yield (type, object) of each change after ``version``, bookmarks included.

        Ends when the server ends it: go on from the last version seen.

        Raises:
            Gone: the version is too old.
            TemporaryError: the connection broke.
        """
        query = {
            "watch": "true",
            "labelSelector": selector,
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(_WATCH_S),
        }
        try:
            async with self._transport.open("GET", path, query) as response:
                if response.status == HTTPStatus.GONE:
                    raise Gone
                if response.status != HTTPStatus.OK:
                    raise refusal("GET", path, response.status, await response.read())
                async for line in response.content:
                    event = orjson.loads(line)
                    if event["type"] == "ERROR":
                        if event["object"].get("code") == HTTPStatus.GONE:
                            raise Gone
                        raise TemporaryError(
                            f"cannot watch {path}: {event['object'].get('message')}"
                        )
                    yield event["type"], event["object"]
        except (aiohttp.ClientError, OSError, orjson.JSONDecodeError) as error:
            raise TemporaryError(f"cannot watch {path}: {error}") from error

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> Json:
        """Send one request; try again where that may help.

        Every write of this package may be repeated (an apply, a delete of one UID, a
        create of a name), so a broken connection is no reason not to.

        Raises:
            ApiRefusal: the server said no.
            TemporaryError: it did not answer, or is too busy.
        """
        return await self._transport.send(
            method, path, query=query or {}, body=body, content_type=content_type
        )
