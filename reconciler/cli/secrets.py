"""Verbs about secrets: init, encrypt, rotate, verify."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
import yaml

from reconciler.cli.context import Context, pass_context
from reconciler.foundry import files_of, home_of
from reconciler.secrets import SopsFiles, Vault
from reconciler.secrets.elsewhere import FORMS
from schemas.errors import FoundryError, PermanentError

__all__ = ["COMMANDS"]


@click.group()
def secrets() -> None:
    """Secrets: encrypted files in git, sealed items beside the state."""


key_option = click.option(
    "--key",
    "uri",
    default="",
    help=f"Where the vault's key is, if it is to leave no other place: {FORMS}.",
)


@secrets.command()
@key_option
@pass_context
def init(context: Context, uri: str) -> None:
    """Make an identity and a vault key, where there are none yet."""
    files, vault = _places(context)
    recipient = files.initialise()
    key = vault.keys.ensure(uri)
    context.show(
        {"recipient": recipient, "identity": str(files.identity), "vaultKey": key},
        f"recipient {recipient}\nidentity  {files.identity} (keep a copy elsewhere)\n"
        f"vault key {key[:12]}",
    )


@secrets.command()
@click.argument("name")
@pass_context
def encrypt(context: Context, name: str) -> None:
    """Encrypt a YAML mapping from standard input as the file NAME, for git.

    Values are read from a pipe, so that no plaintext is in a file, in the history of
    a shell, or in the list of processes.
    """
    files, _ = _places(context)
    if Path(name).name != name or not name.endswith(".yaml"):
        raise click.BadParameter("write a file name that ends in .yaml")
    if sys.stdin.isatty():
        click.echo("write KEY: VALUE lines, then end with Ctrl-D", err=True)
    try:
        values = yaml.safe_load(sys.stdin.read())
    except yaml.YAMLError as error:
        raise PermanentError("cannot encrypt: the input is no YAML") from error
    if not isinstance(values, dict) or not values:
        raise PermanentError(
            "cannot encrypt: the input is no mapping", hint="write KEY: VALUE lines"
        )
    texts = {
        str(k): v if isinstance(v, str) else json.dumps(v) for k, v in values.items()
    }
    files.encrypt(name, texts)
    where = str((files.folder / name).relative_to(context.repo))
    keys = sorted(texts)
    context.show(
        {"file": where, "keys": keys},
        f"wrote {where}: {', '.join(keys)}; commit it",
    )


@secrets.command()
@key_option
@pass_context
def rotate(context: Context, uri: str) -> None:
    """Make new keys; files are encrypted anew, sealed items wrapped again.

    With --key, the vault's next key is the one there; `--key file` makes one here.
    """
    files, vault = _places(context)
    if not uri and (held := vault.keys.elsewhere):
        raise PermanentError(
            f"cannot rotate: the vault's key is {held}, and bud makes none there",
            hint="make the next one there and name it with --key; or write --key file",
        )
    # First the vault: a key that does not answer then stops before anything moved.
    moved = vault.rotate(uri if uri != "file" else "")
    files.rotate()
    done = {"files": list(files.names()), "items": list(moved)}
    context.show(
        done,
        f"{len(files.names())} file(s) encrypted anew: commit them; "
        f"{len(moved)} sealed item(s) wrapped again",
    )


@secrets.command()
@pass_context
def verify(context: Context) -> int:
    """Open everything in memory; exit 1 when something does not open."""
    files, vault = _places(context)
    broken = {f"vault/{name}": why for name, why in vault.verify().items()}
    for name in files.names():
        try:
            files.decrypt(name)
        except FoundryError as error:
            broken[name] = error.args[0]
    count = len(files.names()) + len(vault.names())
    lines = [f"{name}: {why}" for name, why in sorted(broken.items())]
    lines.append(f"{count - len(broken)} of {count} open")
    context.show({"count": count, "broken": broken}, "\n".join(lines))
    return 1 if broken else 0


def _places(context: Context) -> tuple[SopsFiles, Vault]:
    home = home_of(context.repo, context.environment, context.state)
    files = files_of(context.repo, context.environment, home)
    return files, Vault(home.vault)


COMMANDS = [secrets]
