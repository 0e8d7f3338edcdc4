"""Requests to one API server: credentials, limits, retries. (I/O)

Only ``Client`` uses it; ``session`` reads the kubeconfig.

What bounds it is the number of requests in flight, taken for the length of one
request and never while waiting for anything else: a limit of requests per second
that long operations share can starve the ones that would end them (Argo CD's
scalability report, experiment 2). The server says when to slow down: 429 and
Retry-After are obeyed, outside the limit. Each request in flight has a connection, and
each connection a handshake, so there are few at first, and more the more is asked.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson

from reconciler.targets.kubernetes.manifests import Json
from schemas.errors import PermanentError, TemporaryError

if TYPE_CHECKING:
    from reconciler.targets.kubernetes.session import Configuration

__all__ = ["ApiRefusal", "Kubeconfig", "MayWrite", "Token", "Transport", "refusal"]

Kubeconfig = Callable[[], Awaitable[Mapping[str, Any]]]
"""Reads a kubeconfig, decrypted in memory, when the cluster is first asked."""

Token = Callable[[], Awaitable[str | None]]
"""A bearer token that is good now; None where the kubeconfig says who we are."""

MayWrite = Callable[[], None]
"""Asked right before each write; raises where this process must write no more."""

_TIMEOUT_S = 30.0
_ATTEMPTS = 4
_SAID_BYTES = 1000
_FIRST_IN_FLIGHT = 4
_PER_MORE = 8
"""Requests after which one more may be in flight: a cluster with a few endpoints is
done before it has ten connections, and one with a thousand soon has all."""


class ApiRefusal(PermanentError):
    """The API server understood, and said no: ``status`` is its HTTP status."""

    def __init__(self, message: str, *, status: int, body: Json) -> None:
        super().__init__(message)
        self.status, self.body = status, body

    @property
    def causes(self) -> tuple[str, ...]:
        """Each reason with its field, such as the conflicts of an apply."""
        details = self.body.get("details") or {}
        return tuple(
            f"{cause.get('field', '')}: {cause.get('message', '')}".removeprefix(": ")
            for cause in details.get("causes") or ()
        )


class Transport:
    """``requests`` and ``writes`` count what was sent; a dry run is no write."""

    def __init__(
        self,
        kubeconfig: Kubeconfig,
        *,
        context: str | None,
        in_flight: int,
        token: Token | None = None,
        may_write: MayWrite,
    ) -> None:
        self._kubeconfig, self._context, self._token = kubeconfig, context, token
        self.may_write = may_write
        first = min(_FIRST_IN_FLIGHT, in_flight)
        self._slots, self._more = asyncio.Semaphore(first), in_flight - first
        self._opening = asyncio.Lock()
        self._opened: tuple[Configuration, aiohttp.ClientSession] | None = None
        self.requests = 0
        self.writes = 0

    async def _open(self) -> tuple[Configuration, aiohttp.ClientSession]:
        # kubernetes.aio takes 0.3 s to import, and most verbs ask no cluster anything.
        from reconciler.targets.kubernetes.session import open_session  # noqa: PLC0415

        async with self._opening:
            if self._opened is None:
                self._opened = await open_session(
                    await self._kubeconfig(), self._context
                )
            return self._opened

    async def close(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None and opened[1].connector is not None:
            await opened[1].connector.close(abort_ssl=True)
            await opened[1].close()

    async def send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str],
        body: Mapping[str, Any] | None,
        content_type: str,
    ) -> Json:
        """Send one request, and again after what passes by itself."""
        data = None if body is None else orjson.dumps(body)
        dry = "dryRun" in query or (body is not None and "dryRun" in body)
        writes = method != "GET" and not dry
        for attempt in range(1, _ATTEMPTS + 1):
            self.requests += 1
            self.writes += writes
            if self._more and self.requests % _PER_MORE == 0:
                self._more -= 1
                self._slots.release()
            try:
                return await self._once(
                    method, path, query, data, content_type, writes=writes
                )
            except TemporaryError as error:
                if attempt == _ATTEMPTS:
                    raise
                jitter = random.uniform(0, 0.1 * 2**attempt)  # noqa: S311 - no secret
                pause = max(error.retry_after_s, jitter)
            await asyncio.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    @asynccontextmanager
    async def open(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        data: bytes | None = None,
        content_type: str | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Open a response, with the credentials as they are now: tokens expire."""
        configuration, session = await self._open()
        headers = {"Accept": "application/json"}
        if content_type is not None and data is not None:
            headers["Content-Type"] = content_type
        token = (await configuration.auth_settings()).get("BearerToken")
        if self._token is not None and (made := await self._token()) is not None:
            headers["Authorization"] = f"Bearer {made}"
        elif token is not None:
            headers["Authorization"] = str(token["value"])
        response = await session.request(
            method,
            configuration.host + path,
            params={name: value for name, value in query.items() if value},
            data=data,
            headers=headers,
            proxy=configuration.proxy,
            server_hostname=configuration.tls_server_name,
        )
        try:
            yield response
        except BaseException:
            # Closing politely takes a round trip that nobody is left to wait for.
            connection = response.connection
            if connection is not None and connection.transport is not None:
                connection.transport.abort()
            response.close()
            raise
        response.release()

    async def _once(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        data: bytes | None,
        content_type: str,
        *,
        writes: bool,
    ) -> Json:
        try:
            async with self._slots, asyncio.timeout(_TIMEOUT_S):
                if writes:
                    self.may_write()
                async with self.open(
                    method, path, query, data, content_type
                ) as response:
                    content = await response.read()
            status = response.status
            wait = response.headers.get("Retry-After", "0")
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
            said = str(error) or type(error).__name__
            raise TemporaryError(f"cannot {method.lower()} {path}: {said}") from error
        busy = status == HTTPStatus.TOO_MANY_REQUESTS
        if busy or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise TemporaryError(
                f"cannot {method.lower()} {path}: status {status} {_message(content)}",
                retry_after_s=float(wait) if wait.isdigit() else 0.0,
            )
        if status >= HTTPStatus.MULTIPLE_CHOICES:
            raise refusal(method, path, status, content)
        found: Json = orjson.loads(content)
        return found


def refusal(method: str, path: str, status: int, content: bytes) -> ApiRefusal:
    """Read a refusal from an answer."""
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError:
        body = {}
    return ApiRefusal(
        f"cannot {method.lower()} {path}: {_message(content)}",
        status=status,
        body=body if isinstance(body, dict) else {},
    )


def _message(content: bytes) -> str:
    try:
        return str(orjson.loads(content)["message"])[:_SAID_BYTES]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return content[:_SAID_BYTES].decode(errors="replace")
