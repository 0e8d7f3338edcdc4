"""Operating-system processes, each known by its pid and its start time (I/O).

A pid alone is used again; with the start time it names one process for ever. A
process of ours also carries two marks that outlive every record: its environment
(``BUD_HOME``, ``BUD_INSTANCE``) and its working directory, a folder of its own.
So one that was started right before a kill, and never written down, is found
again. Both, because an engine that sets its process title writes over the
environment, and one that becomes a daemon changes its directory.

Needs Linux: /proc, process descriptors and their races are its.
"""

from __future__ import annotations

import atexit
import errno
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import PermanentError

__all__ = [
    "Process",
    "Processes",
    "alive",
    "connections",
    "exit_code",
    "free_port",
    "is_free",
    "send",
]

_PROC = Path("/proc")
_ESTABLISHED = b"01"  # the kernel's TCP_ESTABLISHED, in /proc/net/tcp's hexadecimal
_HOME, _INSTANCE = "BUD_HOME", "BUD_INSTANCE"

# Children of this Python process, whatever object started them: only their parent
# can take an ended child off the process table.
_children: dict[int, subprocess.Popen[bytes]] = {}


@atexit.register
def _disown() -> None:
    """Leave running children running, without a warning that they do: they are meant
    to outlive us, and whoever comes next finds them."""
    for child in _children.values():
        child.returncode = child.returncode or 0


@dataclass(frozen=True, slots=True, order=True)
class Process:
    pid: int
    started: int
    """Clock ticks since boot, field 22 of /proc/<pid>/stat."""


class Processes:
    """Starts processes and finds those that were started here, by anyone."""

    def __init__(self, home: Path, instances: Path) -> None:
        self._home = str(home)
        self._instances = instances

    def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        instance: str,
        folder: Path,
        log: Path,
    ) -> Process:
        """Start ``argv`` in a session of its own: it outlives this process.

        Raises:
            PermanentError: the system refuses to start it.
        """
        marks = {_HOME: self._home, _INSTANCE: instance}
        try:
            with log.open("ab") as output:
                child = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**env, **marks},
                    cwd=folder,
                    start_new_session=True,
                )
        except OSError as error:
            raise PermanentError(
                f"cannot start {argv[0]}: {error.strerror}",
                hint="install the engine, or correct its path",
            ) from error
        _children[child.pid] = child
        return Process(child.pid, _started(child.pid) or 0)

    def scan(self) -> dict[str, list[Process]]:
        """Every living process of this home, under the instance it belongs to.

        The first is the one that was started; the others are its children.
        """
        found: dict[str, list[tuple[bool, Process]]] = {}
        for pid in _pids():
            if (name := self._instance_of(pid)) is None:
                continue
            fields = _stat(pid)
            if fields is not None:
                leads = fields.session == pid
                found.setdefault(name, []).append(
                    (not leads, Process(pid, fields.started))
                )
        return {name: [p for _, p in sorted(group)] for name, group in found.items()}

    def members(self, instance: str) -> list[Process]:
        """The living processes of one instance, the one that was started first."""
        return self.scan().get(instance, [])

    def _instance_of(self, pid: int) -> str | None:
        try:
            variables = (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
            if f"{_HOME}={self._home}".encode() in variables:
                for variable in variables:
                    name, _, value = variable.decode(errors="replace").partition("=")
                    if name == _INSTANCE:
                        return value
            place = (_PROC / str(pid) / "cwd").readlink()
        except OSError:
            return None  # it ended meanwhile, or belongs to somebody else
        place = Path(str(place).removesuffix(" (deleted)"))
        inside = place.parts[len(self._instances.parts) :]
        ours = place.is_relative_to(self._instances) and len(inside) > 1
        return inside[1] if ours else None


def alive(process: Process) -> bool:
    """Tell whether exactly this process runs; an ended child is taken off the table."""
    if (child := _children.get(process.pid)) is not None:
        child.poll()
    return process.pid > 0 and _started(process.pid) == process.started


def exit_code(process: Process) -> int | None:
    """How it ended, if it was ours to wait for; negative is a signal."""
    child = _children.get(process.pid)
    return None if child is None else child.poll()


def send(process: Process, number: signal.Signals) -> None:
    """Signal exactly this process; nothing happens when it has ended."""
    with suppress(ProcessLookupError):
        descriptor = os.pidfd_open(process.pid)
        try:
            # Looked at through the descriptor's lifetime, the pid cannot be reused.
            if alive(process):
                signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)


def connections(port: int) -> int:
    """Established TCP connections whose local end is ``port``."""
    local = f":{port:04X}".encode()
    return sum(
        fields[1].endswith(local) and fields[3] == _ESTABLISHED
        for table in ("tcp", "tcp6")
        for fields in _rows(_PROC / "net" / table)
    )


def free_port() -> int:
    """A port that the system has free on loopback right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_free(port: int) -> bool:
    """Tell whether a server could listen on ``port`` of loopback."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return False
        return True


@dataclass(frozen=True, slots=True)
class _Stat:
    state: str
    session: int
    started: int


def _stat(pid: int) -> _Stat | None:
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    # The second field, the name, may itself hold spaces and brackets.
    fields = text.rpartition(")")[2].split()
    return _Stat(fields[0], int(fields[3]), int(fields[19]))


def _started(pid: int) -> int | None:
    """When ``pid`` started; None once it ended, even while nobody waited for it."""
    found = _stat(pid)
    return None if found is None or found.state in "ZX" else found.started


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir(_PROC) if name.isdigit())  # noqa: PTH208


def _rows(table: Path) -> Iterator[list[bytes]]:
    with suppress(FileNotFoundError):  # a kernel without IPv6
        yield from (line.split() for line in table.read_bytes().splitlines()[1:])
