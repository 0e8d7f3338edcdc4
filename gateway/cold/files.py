"""Files: what batches read and write (I/O).

Their contents are files of the store's folder, their descriptions documents of
the store. Part of the aiohttp application.
"""

from __future__ import annotations

import asyncio
import os
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiohttp.typedefs import Handler

from gateway.cold.forms import read_form, too_large
from gateway.cold.relay import ColdRuntime
from gateway.cold.stored import (
    answer,
    document_of,
    new_id,
    page_of,
    project_of,
    store_of,
)
from gateway.documents import Document
from gateway.openai import BadRequest

if TYPE_CHECKING:
    from gateway.store import Store

__all__ = ["content_path", "file_body", "handlers"]

_PURPOSES = frozenset(
    {"assistants", "batch", "fine-tune", "vision", "user_data", "evals"}
)
_MIN_LIFE_S, _MAX_LIFE_S = 3600, 30 * 86400  # OpenAI's bounds for expires_after
_PAGE = 10_000


def handlers(runtime: ColdRuntime) -> dict[str, Handler]:
    files = Files(runtime)
    return {
        "create-file": files.create,
        "files": files.list,
        "file": files.get,
        "delete-file": files.delete,
        "content": files.content,
    }


def content_path(store: Store, name: str) -> Path:
    """Say where a file's contents are; names are ours, never a client's."""
    return store.folder / "files" / name


def file_body(
    name: str,
    *,
    filename: str,
    purpose: str,
    size: int,
    now: int,
    expires_at: int | None,
) -> dict[str, Any]:
    return {
        "id": name,
        "object": "file",
        "bytes": size,
        "created_at": now,
        "expires_at": expires_at,
        "filename": filename,
        "purpose": purpose,
        "status": "processed",
        "status_details": None,
    }


class _Incoming:
    """A form with one file, on its way to the disk."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb")
        self.filename: str | None = None
        self.size = 0
        self.fields: dict[str, str] = {}

    def add_field(self, name: str, value: bytes) -> None:
        self.fields[name] = value.decode("utf-8", "replace")

    def begin_file(self, name: str, filename: str, kind: str | None) -> None:  # noqa: ARG002  its type says nothing
        if name != "file" or self.filename is not None:
            raise BadRequest("cannot read the form: give one `file`", param="file")
        self.filename = filename

    def append(self, data: bytes) -> None:
        self._file.write(data)
        self.size += len(data)

    def end_file(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class Files:
    """Handlers of ``/v1/files``."""

    def __init__(self, runtime: ColdRuntime) -> None:
        self._runtime = runtime

    async def create(self, request: web.Request) -> web.Response:
        store, project = store_of(self._runtime), project_of(request["key"])
        listener = self._runtime.snapshot.listener
        assert listener.store is not None
        left = listener.store.quota.bytes - await asyncio.to_thread(store.used, project)
        most = min(left, listener.max_upload.bytes)
        if most <= 0:
            raise too_large(0)
        name = new_id("file-")
        path = content_path(store, name)
        incoming = _Incoming(path)
        try:
            await read_form(request, incoming, most=most, quiet_s=listener.idle.seconds)
            incoming.close()
            document = self._describe(name, project, incoming)
            await asyncio.to_thread(store.add, document)
        except BaseException:
            incoming.close()
            path.unlink(missing_ok=True)
            raise
        return answer(document.body)

    def _describe(self, name: str, project: str, incoming: _Incoming) -> Document:
        fields = incoming.fields
        if incoming.filename is None:
            raise BadRequest("cannot keep a file: `file` is missing", param="file")
        if fields.get("purpose") not in _PURPOSES:
            raise BadRequest(
                f"cannot keep a file for {fields.get('purpose')!r}: a purpose is one "
                f"of {', '.join(sorted(_PURPOSES))}",
                param="purpose",
            )
        now = int(self._runtime.wall())
        expires_at = _expiry(fields, now)
        body = file_body(
            name,
            filename=incoming.filename,
            purpose=fields["purpose"],
            size=incoming.size,
            now=now,
            expires_at=expires_at,
        )
        return Document(
            project=project,
            kind="file",
            id=name,
            body=body,
            created_at=now,
            expires_at=expires_at,
            bytes=incoming.size,
        )

    async def list(self, request: web.Request) -> web.Response:
        return await page_of(self._runtime, request, "file", default=_PAGE)

    async def get(self, request: web.Request) -> web.Response:
        return answer((await document_of(self._runtime, request, "file")).body)

    async def delete(self, request: web.Request) -> web.Response:
        document = await document_of(self._runtime, request, "file")
        store = store_of(self._runtime)
        gone = await asyncio.to_thread(store.remove, document)
        content_path(store, document.id).unlink(missing_ok=True)
        return answer({"id": document.id, "object": "file", "deleted": gone})

    async def content(self, request: web.Request) -> web.StreamResponse:
        document = await document_of(self._runtime, request, "file")
        path = content_path(store_of(self._runtime), document.id)
        if not os.access(path, os.R_OK):
            raise BadRequest(
                f"cannot find the contents of {document.id!r}",
                status=HTTPStatus.NOT_FOUND,
            )
        return web.FileResponse(
            path, headers={"content-type": "application/octet-stream"}
        )


def _expiry(fields: dict[str, str], now: int) -> int | None:
    seconds = fields.get("expires_after[seconds]")
    if seconds is None:
        return None
    anchor = fields.get("expires_after[anchor]")
    known = anchor == "created_at" and seconds.isdigit()
    if not known or not _MIN_LIFE_S <= int(seconds[:9]) <= _MAX_LIFE_S:
        raise BadRequest(
            f"cannot let a file expire {seconds!r} s after {anchor!r}: write "
            f"{_MIN_LIFE_S}..{_MAX_LIFE_S} after created_at",
            param="expires_after",
        )
    return now + int(seconds)
