"""Verbs about API keys: keys create, keys revoke."""

from __future__ import annotations

from pathlib import Path

import click

from reconciler.apikeys import new_key
from reconciler.cli.context import Context, pass_context
from schemas.errors import PermanentError
from schemas.gateway import hash_key
from schemas.objects import API_VERSION, DEFAULT_PROJECT

__all__ = ["COMMANDS"]


@click.group()
def keys() -> None:
    """API keys: a hash in git, the key itself shown once."""


@keys.command()
@click.argument("name")
@click.option("--project", default=DEFAULT_PROJECT, show_default=True)
@pass_context
def create(context: Context, name: str, project: str) -> None:
    """Make a key: prints it once, and writes its ApiKey file to be committed."""
    file = _file(context.repo, project, name)
    if file.exists():
        raise PermanentError(
            f"cannot create key: {file.relative_to(context.repo)} is there",
            hint="choose another name, or revoke that one first",
        )
    made = new_key()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(
        f"apiVersion: {API_VERSION}\nkind: ApiKey\nmetadata:\n  name: {name}\n"
        f"  project: {project}\nspec:\n  hash: {hash_key(made)}\n",
        encoding="utf-8",
    )
    where = str(file.relative_to(context.repo))
    click.echo(f"wrote {where}: commit it; the key is shown only now", err=True)
    context.show({"key": made, "file": where}, made)


@keys.command()
@click.argument("name")
@click.option("--project", default=DEFAULT_PROJECT, show_default=True)
@pass_context
def revoke(context: Context, name: str, project: str) -> None:
    """Remove a key's file; it stops working once that is applied."""
    file = _file(context.repo, project, name)
    if not file.exists():
        raise PermanentError(
            f"cannot revoke key: {file.relative_to(context.repo)} is not there",
            hint="`bud tree` lists the keys there are",
        )
    file.unlink()
    where = str(file.relative_to(context.repo))
    context.show({"removed": where}, f"removed {where}: commit it")


def _file(repo: Path, project: str, name: str) -> Path:
    folder = repo / "spec" if project == DEFAULT_PROJECT else repo / "spec" / project
    return folder / "apikey" / f"{name}.yaml"


COMMANDS = [keys]
