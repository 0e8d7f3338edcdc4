"""Children that end with us, however we end (pure: it makes an argument list).

`helm` and a rehearsal start theirs so: an orphan that still writes to a cluster, or
still serves, would be nobody's.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

__all__ = ["tethered"]

# PR_SET_PDEATHSIG, and then nobody may be gone already.
_LAUNCH = (
    "import ctypes,os,sys\n"
    "ctypes.CDLL(None).prctl(1,9)\n"
    "os.getppid()==int(sys.argv[1]) or sys.exit(1)\n"
    "os.execv(sys.argv[2],sys.argv[2:])"
)


def tethered(argv: Iterable[str]) -> list[str]:
    """The same command, killed by the kernel when the thread that starts it ends.

    The program is named by its path.
    """
    launch = [sys.executable, "-I", "-S", "-c", _LAUNCH, str(os.getpid())]
    return [*launch, *argv]
