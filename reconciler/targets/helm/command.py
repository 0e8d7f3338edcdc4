"""Helm as a child process that can write to a cluster. (I/O: runs helm)

The Helm target and ``Charts`` run every command through here: an argument list, an
environment made from nothing, a home of its own, a time limit. The kubeconfig is handed
over in memory, never on a disk. Helm dies with whoever started it: a release that was
cut off is known by its record and its own status, while one that an orphan still
writes could not be told from one that is stuck (helm-controller#149).
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from reconciler.tethered import tethered
from schemas.errors import PermanentError, TemporaryError

__all__ = ["HelmCommand"]

_PASSED = ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")
_SAID_BYTES = 2000
# What a registry or an API server that cannot be reached makes Helm say.
_PASSES = ("connection refused", "timeout", "timed out", "no such host", "EOF", "503")


@dataclass(frozen=True, slots=True, kw_only=True)
class HelmCommand:
    binary: str

    async def run(
        self,
        *arguments: str,
        what: str,
        timeout_s: float,
        kubeconfig: Mapping[str, Any] | None = None,
        values: Mapping[str, Any] | None = None,
    ) -> bytes:
        """Run one command; what it printed.

        Raises:
            PermanentError: Helm says no.
            TemporaryError: it could not reach something, or did not end in time.
        """
        with tempfile.TemporaryDirectory(prefix="bud-helm-") as folder:
            if values is not None:
                file = Path(folder, "values.json")
                file.write_bytes(orjson.dumps(values))
                arguments = (*arguments, "--values", str(file))
            handed = _in_memory(kubeconfig) if kubeconfig is not None else None
            try:
                if handed is not None:
                    arguments = (*arguments, "--kubeconfig", f"/proc/self/fd/{handed}")
                return await self._run(folder, arguments, handed, what, timeout_s)
            finally:
                if handed is not None:
                    os.close(handed)

    async def _run(
        self,
        folder: str,
        arguments: tuple[str, ...],
        handed: int | None,
        what: str,
        timeout_s: float,
    ) -> bytes:
        process = await asyncio.create_subprocess_exec(
            *tethered([self.binary, *arguments]),
            cwd=folder,
            env={
                "HOME": folder,
                "HELM_PLUGINS": f"{folder}/none",
                **{name: os.environ[name] for name in _PASSED if name in os.environ},
            },
            pass_fds=() if handed is None else (handed,),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(timeout_s):
                output, errors = await process.communicate()
        except TimeoutError as error:
            raise TemporaryError(
                f"cannot {what}: Helm did not end in {timeout_s:.0f} s"
            ) from error
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if process.returncode:
            said = errors.decode(errors="replace").strip().removeprefix("Error: ")
            kind = TemporaryError if any(p in said for p in _PASSES) else PermanentError
            raise kind(f"cannot {what}: {said[-_SAID_BYTES:]}")
        return output


def _in_memory(kubeconfig: Mapping[str, Any]) -> int:
    handed = os.memfd_create("kubeconfig", 0)
    os.write(handed, orjson.dumps(dict(kubeconfig)))
    return handed
