"""Verbs about the ledger: log show, verify, prove, check, export, key."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

import click

from reconciler import witness
from reconciler.cli.context import Context, pass_context
from reconciler.ledger import Checkpoint, Verifier, check_proof, read_proof, verify
from schemas.errors import PermanentError, TemporaryError

__all__ = ["COMMANDS"]


@click.group("log")
def log() -> None:
    """The ledger: what was done, by whom, and the proof of it."""


@log.command()
@click.option("--limit", default=50, show_default=True)
@click.option("--plan", "plan_digest", default="", help="Only of this plan.")
@click.option("--target", default="", help="Only at this target.")
@pass_context
def show(context: Context, limit: int, plan_digest: str, target: str) -> None:
    """Print the newest entries, oldest first."""
    with context.foundry() as foundry:
        found = foundry.store.log.entries(plan=plan_digest, target=target, limit=limit)
    entries = [asdict(entry) for entry in reversed(found)]
    lines = [
        f"{e['seq']:>6} {e['at']} {e['actor']} {e['step']}: {e['outcome']}"
        + (f"\n       {e['error']}" if e["error"] else "")
        for e in entries
    ]
    context.show(entries, "\n".join(lines) or "nothing is recorded yet")


@log.command("verify")
@click.argument(
    "exported",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=False,
)
@click.option(
    "--key", help="The public key that must have signed, as `log key` prints it."
)
@pass_context
def verify_(context: Context, exported: Path | None, key: str | None) -> None:
    """Hold every entry against the chain, the tree and every checkpoint.

    Checkpoints that were exported to git count too: they are what finds a log
    that was rewritten together with its key. Exits 4 when it is broken.
    """
    with context.foundry() as foundry:
        verifier = _verifier(key) if key else foundry.store.log.verifier
        witnesses = asyncio.run(_witnesses(context, verifier))
        if exported is None:
            head = foundry.store.log.verify(witnesses)
        else:
            with exported.open("rb") as lines:
                head = verify(lines, witnesses)
    said = {"entries": head.size, "hash": head.hash.hex(), "root": head.root.hex(),
            "witnessed": head.witnessed, "checkpointsInGit": len(witnesses)}  # fmt: skip
    context.show(
        said,
        f"{head.size} entries are intact, {head.witnessed} of them under a checkpoint, "
        f"{len(witnesses)} checkpoints from git agree",
    )


@log.command()
@click.argument("seq", type=int)
@click.option("--since", type=int, help="Prove growth from this many entries to SEQ.")
@pass_context
def prove(context: Context, seq: int, since: int | None) -> None:
    """Print a proof that entry SEQ is in the log, or that the log only grew."""
    with context.foundry() as foundry:
        journal = foundry.store.log
        proof = (
            journal.prove(seq) if since is None else journal.prove_growth(since, seq)
        )
    click.echo(proof.model_dump_json(indent=2))


@log.command()
@click.argument("document", type=click.File("rb"))
@click.option("--key", required=True, help="The public key, as `log key` prints it.")
@pass_context
def check(context: Context, document: BinaryIO, key: str) -> None:
    """Check a proof; needs nothing but the proof and the key."""
    check_proof(read_proof(document.read()), [_verifier(key)])
    context.show({"valid": True}, "the proof holds")


@log.command()
@pass_context
def key(context: Context) -> None:
    """Print the public key of the ledger; pin it elsewhere."""
    with context.foundry() as foundry:
        found = str(foundry.store.log.verifier)
    context.show({"key": found}, found)


@log.command()
@click.argument("file", type=click.File("wb"), default="-")
@pass_context
def export(context: Context, file: BinaryIO) -> None:
    """Write every entry as one line of canonical JSON."""
    with context.foundry() as foundry:
        file.writelines(foundry.store.log.lines())


async def _witnesses(context: Context, verifier: Verifier) -> list[Checkpoint]:
    """What git keeps; a folder without git has no witness."""
    try:
        return await witness.checkpoints(context.repo, context.environment, verifier)
    except TemporaryError as error:
        click.echo(f"no checkpoint is read from git: {error}", err=True)
        return []


def _verifier(text: str) -> Verifier:
    try:
        return Verifier.parse(text)
    except ValueError as error:
        raise PermanentError(
            str(error), hint="copy the line of `bud log key`"
        ) from error


COMMANDS = [log]
