"""How the gateway's processes log: JSON lines to stderr (I/O).

stdout carries one line, the addresses in use, and may be closed after it.
"""

from __future__ import annotations

import sys

import structlog

__all__ = ["configure"]


def configure() -> None:
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=lambda *_: structlog.WriteLogger(sys.stderr),
    )
