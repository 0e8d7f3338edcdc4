"""A forge's HTTP API: JSON in and out, with deadlines and bounds (I/O).

Each forge has one. It follows no redirect (a token would go along), reads no more
than it was promised and says of every failure whether it is worth another try.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import orjson
from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout

from schemas.errors import PermanentError, TemporaryError

__all__ = ["Api"]

_TIMEOUT = ClientTimeout(total=30)
_MAX_BYTES = 32 << 20
_PER_PAGE = 50
"""What every forge gives at once; Gitea's own ceiling."""
_MAX_PAGES = 200
_WAIT = frozenset((408, 425, 429, 500, 502, 503, 504))
_LAST_GOOD = 299


class Api:
    """``login`` gives the headers of each request; ``close`` it at the end."""

    def __init__(
        self, url: str, login: Callable[[], Awaitable[Mapping[str, str]]]
    ) -> None:
        self._url, self._login = url.rstrip("/"), login
        self._session: ClientSession | None = None

    async def get(self, path: str, **query: str | int) -> Any:
        return await self.call("GET", path, query=query)

    async def find(self, path: str, **query: str | int) -> Any | None:
        """The same; None where there is nothing."""
        return await self.call("GET", path, query=query, missing=True)

    async def pages(
        self, path: str, *, per_page: str = "per_page", **query: str | int
    ) -> AsyncIterator[Any]:
        """Every item of a list."""
        for page in range(1, _MAX_PAGES + 1):
            asked = {**query, per_page: _PER_PAGE, "page": page}
            items = await self.call("GET", path, query=asked)
            for item in items or ():
                yield item
            if not items or len(items) < _PER_PAGE:
                return

    async def call(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str | int] | None = None,
        missing: bool = False,
    ) -> Any:
        if self._session is None:
            self._session = ClientSession(timeout=_TIMEOUT)
        headers = {**(await self._login()), "Accept": "application/json"}
        data = None if body is None else orjson.dumps(body)
        if data is not None:
            headers["Content-Type"] = "application/json"
        try:
            async with self._session.request(
                method,
                f"{self._url}{path}",
                params=query,
                data=data,
                headers=headers,
                allow_redirects=False,
            ) as answer:
                return await _read(answer, f"{method} {path}", missing=missing)
        except (ClientError, TimeoutError) as error:
            raise TemporaryError(
                f"cannot ask the forge: {method} {path}: {type(error).__name__}"
            ) from error

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()
            await asyncio.sleep(0)  # lets the connector's transports go


async def _read(answer: ClientResponse, what: str, *, missing: bool) -> Any:
    said = await answer.content.read(_MAX_BYTES + 1)
    while len(said) <= _MAX_BYTES and (more := await answer.content.read(1 << 20)):
        said += more
    if len(said) > _MAX_BYTES:
        raise PermanentError(f"cannot read the forge's answer to {what}: too large")
    if missing and answer.status == 404:  # noqa: PLR2004
        return None
    if answer.status in _WAIT:
        after = answer.headers.get("Retry-After", "")
        raise TemporaryError(
            f"cannot ask the forge: {what}: status {answer.status}",
            retry_after_s=float(after) if after.isdigit() else 0.0,
        )
    if answer.status > _LAST_GOOD:
        text = " ".join(said[:300].decode(errors="replace").split())
        raise PermanentError(
            f"cannot ask the forge: {what}: status {answer.status}: {text}",
            hint="see docs/pull-requests.md for what its token must be allowed",
        )
    try:
        return orjson.loads(said) if said else None
    except orjson.JSONDecodeError as error:
        raise PermanentError(f"cannot read the forge's answer to {what}") from error
