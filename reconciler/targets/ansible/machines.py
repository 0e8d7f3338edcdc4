"""Machines over SSH, with a key that is never in a file (I/O).

The target opens a `Shell` for each piece of work: an ssh-agent of its own, which is
given the key through a pipe and ends with the block. Ansible uses the same agent, so
that it never sees a key either. Of the person who runs bud nothing is read: no
configuration, no keys, no known hosts.
"""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from schemas.ansible import Machine
from schemas.errors import PermanentError, TemporaryError

__all__ = ["Answer", "Shell", "shell"]

_CONNECT_S = 10
_TIMEOUT_S = 60.0
_READY_S = 10.0
_UNREACHABLE = 255  # of ssh itself; what it runs ends with less


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a machine said; ``reached`` is False when it said nothing."""

    reached: bool
    code: int = 0
    out: str = field(default="", repr=False)
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shell:
    environment: Mapping[str, str]
    """For ssh and Ansible: made from nothing, and no secret in it."""
    options: tuple[str, ...]
    folder: Path
    """Of the host keys: those that a spec pins, and those that were seen first."""

    def trust(self, machine: Machine) -> tuple[str, ...]:
        """Which host key is the machine's; another one is another machine."""
        name = "seen_hosts" if machine.host_key is None else "pinned_hosts"
        checking = "accept-new" if machine.host_key is None else "yes"
        return (
            *("-o", f"StrictHostKeyChecking={checking}"),
            *("-o", f"UserKnownHostsFile={self.folder / name}"),
        )

    async def run(
        self, machine: Machine, command: Sequence[str], *, given: bytes = b""
    ) -> Answer:
        """Run a command as root, with ``given`` on its standard input."""
        words = [*command] if machine.user == "root" else ["sudo", "-n", "--", *command]
        process = await asyncio.create_subprocess_exec(
            *("ssh", *self.options, *self.trust(machine)),
            *("-p", str(machine.port), "-l", machine.user),
            *("--", machine.address, shlex.join(words)),
            env=dict(self.environment),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                out, err = await process.communicate(given)
        except TimeoutError:
            return Answer(reached=False, why=f"no answer in {_TIMEOUT_S:.0f} s")
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        code = process.returncode or 0
        said = err.decode(errors="replace").strip()
        why = said.splitlines()[-1][:200] if said else f"exit {code}"
        reached = code != _UNREACHABLE
        return Answer(
            reached=reached, code=code, out=out.decode(errors="replace"), why=why
        )

    async def leave(self, machine: Machine) -> None:
        """Close the connection that is shared, if there is one."""
        process = await asyncio.create_subprocess_exec(
            *("ssh", *self.options, "-O", "exit", "-p", str(machine.port)),
            *("-l", machine.user, "--", machine.address),
            env=dict(self.environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        await process.wait()


@asynccontextmanager
async def shell(
    folder: Path, key: str, machines: Sequence[Machine]
) -> AsyncIterator[Shell]:
    """Open the way to ``machines``; ``folder`` keeps the host keys that were seen.

    Raises:
        PermanentError: the credential is no private key, or ssh is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    (folder / "pinned_hosts").write_text(
        "".join(
            f"[{m.address}]:{m.port} {m.host_key}\n{m.address} {m.host_key}\n"
            for m in machines
            if m.host_key is not None
        )
    )
    # A socket's path has at most 107 characters: not below a folder of the user's.
    with TemporaryDirectory(prefix="bud-ssh-") as private:
        environment = {
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
            "HOME": private,
            "LANG": "C.UTF-8",
            "SSH_AUTH_SOCK": f"{private}/agent",
        }
        async with _agent(environment, key):
            opened = Shell(
                environment=environment,
                options=(
                    *("-F", "none", "-o", "BatchMode=yes", "-T"),
                    *("-o", f"ConnectTimeout={_CONNECT_S}"),
                    *("-o", "ServerAliveInterval=15", "-o", "IdentityFile=none"),
                    # One connection for all that a piece of work asks a machine.
                    *("-o", "ControlMaster=auto", "-o", "ControlPersist=yes"),
                    *("-o", f"ControlPath={private}/%C"),
                    *("-o", "GlobalKnownHostsFile=none"),
                ),
                folder=folder,
            )
            try:
                yield opened
            finally:
                await asyncio.gather(*(opened.leave(m) for m in machines))


@asynccontextmanager
async def _agent(environment: Mapping[str, str], key: str) -> AsyncIterator[None]:
    socket = Path(environment["SSH_AUTH_SOCK"])
    try:
        agent = await asyncio.create_subprocess_exec(
            *("ssh-agent", "-D", "-a", str(socket)),
            env=dict(environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except FileNotFoundError as error:
        raise PermanentError(
            "cannot reach machines: ssh-agent is not installed",
            hint="install the OpenSSH client",
        ) from error
    try:
        try:
            async with asyncio.timeout(_READY_S):
                while not socket.exists():
                    await asyncio.sleep(0.01)
        except TimeoutError as error:
            raise TemporaryError("cannot reach machines: no ssh-agent") from error
        added = await asyncio.create_subprocess_exec(
            *("ssh-add", "-q", "-"),
            env=dict(environment),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        await added.communicate(f"{key.strip()}\n".encode())
        if added.returncode:
            raise PermanentError(
                "cannot read SSH key: the credential is no private key without passphrase",
                hint="put the whole file there, BEGIN and END lines too",
            )
        yield
    finally:
        agent.terminate()
        await agent.wait()
