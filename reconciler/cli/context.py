"""What every verb is given, and the few ways a verb speaks."""

from __future__ import annotations

import getpass
import logging
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import orjson
import structlog
from structlog.typing import EventDict

from reconciler.foundry import Foundry, open_foundry
from reconciler.source import Checkout
from reconciler.targets.kubernetes.lease import Lease
from schemas.errors import FoundryError
from schemas.objects import Ref

__all__ = ["Context", "actor", "object_of", "onto_option", "pass_context"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    repo: Path
    environment: str
    state: str | None
    as_json: bool
    level: str

    @contextmanager
    def foundry(self, lease: Lease | None = None) -> Iterator[Foundry]:
        """``lease``: of this process, where it is one of several that share."""
        with open_foundry(
            self.repo,
            self.environment,
            self.state,
            replica=lease.replica if lease else "",
            may_write=lease.check if lease else _always,
        ) as foundry:
            self.start_log(foundry.mask)
            try:
                yield foundry
            except FoundryError as error:
                # A target's own words may quote what it was given.
                error.args = tuple(foundry.mask(str(said)) for said in error.args)
                raise

    @property
    def checkout(self) -> Checkout:
        return Checkout(self.repo)

    def start_log(self, mask: Callable[[str], str]) -> None:
        """Structured lines on stderr: for people on a terminal, JSON elsewhere."""
        people = sys.stderr.isatty()

        def masked(_logger: object, _level: str, event: EventDict) -> EventDict:
            return {k: mask(v) if isinstance(v, str) else v for k, v in event.items()}

        structlog.configure(
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                masked,
                structlog.dev.ConsoleRenderer()
                if people
                else structlog.processors.JSONRenderer(),
            ],
            wrapper_class=structlog.make_filtering_bound_logger(
                logging.getLevelNamesMapping()[self.level.upper()]
            ),
            # Looked up at each line: a caller that lends its own stderr takes it back.
            logger_factory=lambda *_: structlog.WriteLogger(sys.stderr),
        )

    def show(self, data: Any, text: str) -> None:
        """Print the answer: the same facts as JSON or as text."""
        if self.as_json:
            click.echo(orjson.dumps(data, option=orjson.OPT_INDENT_2).decode())
        elif text:
            click.echo(text)


pass_context = click.make_pass_decorator(Context)
onto_option = click.option(
    "--onto", default="main", show_default=True, metavar="BRANCH",
    help="Where a change that is proposed is to be merged.",
)  # fmt: skip


def _always() -> None:
    """Who drives everything may write."""


def actor(role: str = "") -> str:
    """Who acts, for the ledger: a person at a machine, or a daemon there."""
    try:
        person = getpass.getuser()
    except (KeyError, OSError):  # no such user: a container's bare uid
        person = "unknown"
    return f"{role or person}@{socket.gethostname()}"


def object_of(name: str) -> Ref:
    """The object that an argument OBJECT names."""
    try:
        return Ref.parse(name)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="OBJECT") from error
