"""Numbered points at which a rehearsal may kill this process (I/O).

Law 10 says that a run killed between any two lines converges when it is started
again. Every module that writes calls ``point`` before and after each write; a
reference run with ``BUD_FAULT_LOG=<file>`` lists the points it passed, and one
more run for each ``BUD_FAULT_AT=<n>`` dies by SIGKILL at the n-th. Without these
variables a point costs one comparison, and it never does anything else.
"""

from __future__ import annotations

import os
import signal
from itertools import count
from pathlib import Path

__all__ = ["point"]

_kill_at = int(os.environ.get("BUD_FAULT_AT", "0"))
_log = os.environ.get("BUD_FAULT_LOG", "")
_armed = bool(_kill_at or _log)
_numbers = count(1)


def point(name: str) -> None:
    """Pass the next numbered point; die there if this is the one asked for."""
    if not _armed:
        return
    number = next(_numbers)
    if _log:
        with Path(_log).open("a", encoding="utf-8") as lines:
            lines.write(f"{number} {name}\n")
    if number == _kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
