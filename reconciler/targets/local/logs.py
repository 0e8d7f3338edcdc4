"""The log file of a replica: bounded, and shown without secrets (I/O).

Replicas write to it themselves; this target only marks each start, keeps it from
filling the disk, and quotes its end when something fails.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

__all__ = ["bound", "mark", "masked", "tail"]

# Two files of this size a slot: enough for a day of warnings, and 100 slots take
# no more than 2 GB.
_LIMIT = 10 * 1024 * 1024
_MARK = "=== "
_TAIL_BYTES = 64 * 1024
_SECRET_NAME = re.compile(r"(?i)(key|token|secret|passw|credential|auth)")
# What secrets of this field look like: hub tokens, API keys, cloud keys, bearers.
_SECRET_VALUE = re.compile(
    r"\b(?:hf_|sk-|gh[pousr]_|xox[bap]-|AKIA|ASIA|eyJ)[\w.-]{8,}"
    r"|(?i:(?<=bearer )|(?<=://)(?=[^/\s]*:[^/\s]*@))[^\s@]+"
)


def mark(log: Path, text: str) -> None:
    """Begin a new run in ``log``, after making room where it has grown too large."""
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > _LIMIT:
        log.replace(log.with_suffix(".log.1"))
    with log.open("a", encoding="utf-8") as file:
        file.write(f"{_MARK}{text}\n")


def bound(log: Path) -> None:
    """Cut a log that a running replica has let grow; it goes on appending.

    Its file stays the same one, because the replica holds it open: the text moves
    away instead. A line written between the two steps is lost, which a log may be.
    """
    try:
        if log.stat().st_size <= _LIMIT:
            return
        log.with_suffix(".log.1").write_bytes(log.read_bytes())
        with log.open("r+b") as file:
            file.truncate(0)
    except FileNotFoundError:
        return


def tail(log: Path, *, lines: int, env: Mapping[str, str]) -> list[str]:
    """The last lines of the current run, masked."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return []
    # The mark that begins the run is itself not part of what it said.
    _, marked, run = f"\n{text}".rpartition(f"\n{_MARK}")
    said = run.partition("\n")[2] if marked else text
    kept = [line.rstrip() for line in said.splitlines() if line.strip()]
    return [masked(line, env) for line in kept[-lines:]]


def masked(text: str, env: Mapping[str, str]) -> str:
    """Cover what is secret by its name in ``env``, and what looks like a secret."""
    for name, value in env.items():
        if value and _SECRET_NAME.search(name):
            text = text.replace(value, "***")
    return _SECRET_VALUE.sub("***", text)
