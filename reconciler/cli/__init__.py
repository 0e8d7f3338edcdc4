"""The command `bud`. Verbs are in the modules beside this one."""

from reconciler.cli.main import main

__all__ = ["main"]
