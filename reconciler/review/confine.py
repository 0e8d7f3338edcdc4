"""Shutting a process in before it reads what a stranger wrote (I/O: this process).

The describer's child calls `confine` once, and there is no way back: it reads the
checkout and this program, writes nowhere, reaches no network, and has bounds on
memory, time and files. Landlock does it without privileges; a kernel without it
plans no pull request at all.
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct
from collections.abc import Iterable
from pathlib import Path

from schemas.errors import PermanentError

__all__ = ["confine"]

MEMORY_BYTES = 4 << 30
"""Of address space; a spec of 10,000 objects takes a quarter of it."""
CPU_S = 60
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_NO_NEW_PRIVS, _PR_SET_DUMPABLE = 38, 4
# Numbers of the system calls: the same on every architecture since 5.13.
_CREATE, _ADD, _RESTRICT = 444, 445, 446
_VERSION_FLAG, _PATH_BENEATH = 1, 1
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
# How many access rights each version of Landlock knows for files.
_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
_RIGHTS_NEWEST = 16
_WITH_NETWORK = 4


def confine(readable: Iterable[Path]) -> None:
    """Leave this process nothing but to read below ``readable``.

    Raises:
        PermanentError: this kernel cannot promise it.
    """
    for limit, value in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CPU, CPU_S),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))
    libc = ctypes.CDLL(None, use_errno=True)
    # An empty network of its own where that is allowed; Landlock refuses TCP anyway.
    libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
    version = libc.syscall(_CREATE, None, 0, _VERSION_FLAG)
    if version < _WITH_NETWORK:
        raise PermanentError(
            "cannot plan a pull request: this kernel has no Landlock with network "
            f"rules (version {max(version, 0)}, at least {_WITH_NETWORK} is needed)",
            hint="use Linux 6.7 or newer with landlock among its security modules",
        )
    _restrict(libc, version, readable)


def _restrict(libc: ctypes.CDLL, version: int, readable: Iterable[Path]) -> None:
    files = (1 << _RIGHTS.get(version, _RIGHTS_NEWEST)) - 1
    network = 0b11  # bind and connect
    wanted = struct.pack("QQ", files, network)
    rules = _checked(libc.syscall(_CREATE, wanted, len(wanted), 0))
    for path in readable:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        allowed = _READ_FILE | (_READ_DIR if path.is_dir() else 0)
        rule = struct.pack("=Qi", allowed, handle)
        _checked(libc.syscall(_ADD, rules, _PATH_BENEATH, rule, 0))
        os.close(handle)
    _checked(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _checked(libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0))
    _checked(libc.syscall(_RESTRICT, rules, 0))


def _checked(result: int) -> int:
    if result < 0:
        reason = os.strerror(ctypes.get_errno())
        raise PermanentError(f"cannot shut the planner in: {reason}")
    return result
