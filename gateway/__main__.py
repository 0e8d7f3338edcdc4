"""``python -m gateway --config gateway.toml``: the data path alone."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path

import orjson

from gateway.admin import start_admin
from gateway.files import Files, compile_bundle
from gateway.logs import configure
from gateway.openapi import document
from gateway.slot import bind
from gateway.supervisor import Supervisor
from schemas.errors import FoundryError, SpecError
from schemas.gateway_toml import json_schema

__all__ = ["main"]

USAGE, FAILED = 2, 1
_READABLE = orjson.OPT_INDENT_2


def main(argv: list[str] | None = None) -> None:
    """Run, or only check the config; exits 0, 1 (failed) or 2 (invalid)."""
    parser = argparse.ArgumentParser(prog="bud-gateway", description=__doc__)
    parser.add_argument(
        "--config",
        type=Path,
        default=os.environ.get("BUD_GATEWAY_CONFIG", "gateway.toml"),
        help="the TOML file (BUD_GATEWAY_CONFIG, default gateway.toml)",
    )
    parser.add_argument(
        "verb",
        nargs="?",
        choices=["run", "check", "schema", "openapi"],
        default="run",
        help="run (default); check: read the files, say what is wrong; schema: of the "
        "file; openapi: of what clients may ask",
    )
    options = parser.parse_args(argv)
    if options.verb == "schema":
        sys.stdout.write(json_schema())
        return
    if options.verb == "openapi":
        sys.stdout.write(orjson.dumps(document(), option=_READABLE).decode() + "\n")
        return
    configure()
    check = options.verb == "check"
    try:
        asyncio.run(_run(options.config, check=check))
    except SpecError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(USAGE)
    except FoundryError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(USAGE if check else FAILED)


async def _run(config: Path, *, check: bool) -> None:
    files = Files(config)
    bundle = files.read()
    snapshot = compile_bundle(bundle, file=str(config))
    if check:
        return
    listener = snapshot.listener
    admin = bind(listener.admin, shared=False)
    supervisor = Supervisor(files, bundle, listener)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    host = listener.admin.rpartition(":")[0]
    where = {
        "listen": supervisor.listen,
        "admin": f"{host}:{admin.getsockname()[1]}",
        "pid": os.getpid(),
    }
    sys.stdout.write(orjson.dumps(where).decode() + "\n")
    sys.stdout.flush()
    runner = await start_admin(supervisor, admin)
    try:
        await supervisor.run(stop)
    finally:
        await runner.cleanup()


if __name__ == "__main__":
    main()
