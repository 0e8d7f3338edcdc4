"""`bud` itself: the options of every verb, the verbs, and how it ends.

Data goes to stdout, the rest to stderr. Exit codes: 0 nothing to do or done,
1 failed, 2 usage or invalid spec, 3 changes pending, 4 ledger broken.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from reconciler.cli import (
    cluster,
    keys,
    log,
    look,
    operate,
    propose,
    reconcile,
    run,
    secrets,
    spec,
)
from reconciler.cli.context import Context
from reconciler.optimizer.cli import optimize, optimizer
from schemas.errors import ChainBrokenError, FoundryError, SpecError

__all__ = ["bud", "main"]


@click.group(
    context_settings={
        "auto_envvar_prefix": "BUD",
        "help_option_names": ["-h", "--help"],
    }
)
@click.option(
    "--repo",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="The checkout that holds spec/ and environments/.",
)
@click.option("--env", "environment", envvar="BUD_ENV", default="local", show_default=True,
              help="The environment.")  # fmt: skip
@click.option("--state", envvar="BUD_STATE", default=None,
              help="A folder, or postgresql+psycopg://USER@HOST/DATABASE. "
              "[default: .bud/ in the checkout]")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print data as JSON.")
@click.option("-v", "--verbose", is_flag=True, help="Say more on stderr.")
@click.option("-q", "--quiet", is_flag=True, help="Say only errors on stderr.")
@click.version_option(package_name="bud-foundry", prog_name="bud")
@click.pass_context
def bud(
    click_context: click.Context,
    repo: Path,
    environment: str,
    state: str | None,
    as_json: bool,  # noqa: FBT001
    verbose: bool,  # noqa: FBT001
    quiet: bool,  # noqa: FBT001
) -> None:
    """GenAI infrastructure as a git repository, made so."""
    click_context.obj = Context(
        repo=repo.resolve(),
        environment=environment,
        state=state,
        as_json=as_json,
        level="debug" if verbose else "error" if quiet else "info",
    )


for module in (
    spec,
    operate,
    look,
    propose,
    reconcile,
    run,
    log,
    keys,
    secrets,
    cluster,
):
    for command in module.COMMANDS:
        bud.add_command(command)


bud.add_command(optimize)
bud.add_command(optimizer)


def main() -> None:
    """Run the command; a mistake of the user's never shows a traceback."""
    try:
        code = bud(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
    except (FoundryError, ExceptionGroup) as error:
        known = _known(error)
        if known is None:
            raise
        click.echo(str(known), err=True)
        sys.exit(_code(known))
    sys.exit(code if isinstance(code, int) else 0)


def _known(error: BaseException) -> FoundryError | None:
    """The first failure of ours, out of whatever tasks it came through."""
    if isinstance(error, FoundryError):
        return error
    if isinstance(error, BaseExceptionGroup):
        return next(filter(None, map(_known, error.exceptions)), None)
    return None


def _code(error: FoundryError) -> int:
    match error:
        case SpecError():
            return 2
        case ChainBrokenError():
            return 4
        case _:
            return 1
