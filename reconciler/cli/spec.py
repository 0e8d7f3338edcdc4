"""Verbs about what is written: init, validate, schema, resolve."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from reconciler import lockfile
from reconciler.cli.context import Context, pass_context
from reconciler.load import load
from reconciler.overlay import overlay
from reconciler.scaffold import scaffold
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
@pass_context
def resolve(context: Context, check: bool) -> int:  # noqa: FBT001
    """Run the optimizer for what is open, and write the environment's lock."""
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
