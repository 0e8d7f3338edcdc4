"""Verbs about what is written: init, validate, schema, resolve."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, replace
from pathlib import Path

import click

from reconciler import lockfile
from reconciler.cli.context import Context, onto_option, pass_context
from reconciler.forge import visit
from reconciler.foundry import home_of, now, reader_of
from reconciler.load import load
from reconciler.overlay import overlay
from reconciler.proposal import Grounds, Published, draft, publish
from reconciler.scaffold import scaffold
from reconciler.secrecy import Mask
from reconciler.targets.local import digest_path
from reconciler.validate import validate as check
from reconciler.values import Commit
from schemas.catalog import catalog
from schemas.kinds import KINDS, json_schema

__all__ = ["COMMANDS"]

_UNNAMED = Commit(sha="0" * 40)
"""Checking what is written needs no commit."""


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@pass_context
def init(context: Context, directory: Path) -> None:
    """Make a new repository that validates."""
    made = scaffold(directory)
    files = [str(path) for path in made]
    context.show(
        {"files": files},
        f"made {len(files)} files in {directory}\n"
        f"next: cd {directory} && bud validate && bud up",
    )


@click.command()
@pass_context
def validate(context: Context) -> None:
    """Show every error of the checkout at once."""
    documents = check(context.repo, _UNNAMED)
    counts = {
        "objects": len(documents.spec),
        "environments": len(documents.environments),
    }
    said = ", ".join(f"{count} {what}" for what, count in counts.items())
    context.show(counts, f"all is valid: {said}")


@click.command()
@click.argument("kind", type=click.Choice([*KINDS]), required=False)
@pass_context
def schema(context: Context, kind: str | None) -> None:
    """Print the JSON Schema of one kind, or of all."""
    wanted = [kind] if kind else [*KINDS]
    found = {name: json_schema(name) for name in wanted}
    replace(context, as_json=True).show(found[kind] if kind else found, "")


@click.command()
@click.option(
    "--check", is_flag=True, help="Write nothing; exit 3 if the lock is stale."
)
@click.option(
    "--propose", is_flag=True, help="Propose the last commit's lock in git instead."
)
@onto_option
@pass_context
def resolve(context: Context, check: bool, propose: bool, onto: str) -> int:  # noqa: FBT001
    """Run the optimizer for what is open, and write the environment's lock."""
    if propose:
        published = asyncio.run(_propose_lock(context, onto))
        context.show(asdict(published), str(published))
        return 0
    documents = load(context.repo, _UNNAMED)
    desired = overlay(documents, context.environment)
    lock, moved = lockfile.refresh(desired, catalog())
    if not check and moved:
        lockfile.write(context.repo, context.environment, lock)
    path = lockfile.lock_path(context.repo, context.environment)
    where, names = str(path.relative_to(context.repo)), [str(ref) for ref in moved]
    state = "would change" if check else "changed"
    said = f"{where} {state}: {', '.join(names)}" if moved else f"{where} is current"
    context.show({"file": where, "changed": names}, said)
    return 3 if check and moved else 0


async def _propose_lock(context: Context, onto: str) -> Published:
    """For prices, tables and measurements that moved while nobody edited anything."""
    environment, review = context.environment, None

    async def edit(root: Path) -> str:
        nonlocal review
        desired = overlay(load(root, _UNNAMED), environment)
        review = desired.environment.spec.review
        lock, moved = await asyncio.to_thread(lockfile.refresh, desired, catalog())
        lockfile.write(root, environment, lock)
        names = "\n".join(f"- `{ref}`" for ref in moved)
        return f"What the optimizer decides has other inputs now:\n\n{names}\n"

    grounds, mask = Grounds(repo=context.repo, onto=onto), Mask()
    made = await draft(
        grounds,
        branch=f"bud/resolve/{environment}",
        title=f"Resolve {environment} anew",
        edit=edit,
    )
    home = home_of(context.repo, environment, context.state)
    read = reader_of(context.repo, environment, home, mask)
    async with visit(review, read, now) as forge:
        return await publish(grounds, made, forge, mask)


@click.group()
def model() -> None:
    """Weights on this machine."""


@model.command()
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@pass_context
def digest(context: Context, path: Path) -> None:
    """Print the SHA-256 that a Model names its weights by: of a file, or a folder."""
    found = digest_path(path)
    context.show({"sha256": found}, found)


COMMANDS = [init, validate, schema, resolve, model]
