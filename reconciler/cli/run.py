"""Verbs that start and stop what runs on this machine: up, down, gateway."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import click

from reconciler import lockfile
from reconciler.cli.context import Context, pass_context
from reconciler.cli.operate import tell
from reconciler.daemon_http import ask_daemon
from reconciler.foundry import Foundry
from reconciler.render import find
from reconciler.values import Desired
from schemas.catalog import catalog
from schemas.endpoint import Endpoint
from schemas.model import Model
from schemas.objects import DEFAULT_PROJECT, Ref
from schemas.route import Route

__all__ = ["COMMANDS"]

ROOT = Path(__file__).resolve().parents[2]
_STOP_TIMEOUT_S = 60.0
_START_TIMEOUT_S = 30.0
_LOOK_S = 0.2


@click.command()
@pass_context
def up(context: Context) -> int:
    """Bring up everything on this machine, and show how to call it."""
    with context.foundry() as foundry:
        key = foundry.home.local_key()
        desired = _resolve(context, foundry)
        if asyncio.run(ask_daemon(foundry.home.daemon)) is None:
            _start_daemon(context, foundry.home.daemon_log)
        trouble = asyncio.run(_follow(foundry.home.daemon))
    if trouble:
        click.echo(trouble, err=True)
        click.echo(f"hint: see `bud status` and {foundry.home.daemon_log}", err=True)
        return 1
    context.show(*_how_to_call(desired, key))
    return 0


def _resolve(context: Context, foundry: Foundry) -> Desired:
    """Say what is wrong before anything is started, and fill what is open."""
    tree = asyncio.run(context.checkout.newest())
    desired = foundry.pipeline.desire(tree)
    lock, moved = lockfile.refresh(desired, catalog())
    if moved:
        path = lockfile.write(context.repo, context.environment, lock)
        click.echo(f"resolved {len(moved)} endpoints into {path.name}", err=True)
    return desired


def _start_daemon(context: Context, log: Path) -> None:
    argv = [sys.executable, str(ROOT / "bud_foundry.py"), "--repo", str(context.repo)]
    argv += ["--env", context.environment]
    # The URL of a store can hold a password, and arguments are everybody's to read.
    environ = os.environ | ({"BUD_STATE": context.state} if context.state else {})
    with log.open("ab") as out:
        subprocess.Popen(
            [*argv, "reconcile", "--resolve"],
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )


async def _follow(where: Path) -> str:
    """Show what the daemon does until nothing is left to do; return what is wrong."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _START_TIMEOUT_S
    shown: dict[str, str] = {}
    while True:
        said = await ask_daemon(where)
        if said is None:
            if loop.time() > deadline:
                return "cannot start the daemon: it does not answer"
        else:
            deadline = loop.time() + _START_TIMEOUT_S
            for key, doing in said["steps"].items():
                if shown.get(key) != doing:
                    click.echo(f"{key}: {doing}", err=True)
            shown = said["steps"]
            if said["phase"] == "waiting":
                waits = [f"{b['key']}: {b['detail']}" for b in said["blocked"]]
                if said["error"] or waits:
                    return "\n".join([said["error"], *waits]).strip()
                if not said["pending"]:
                    return ""
        await asyncio.sleep(_LOOK_S)


def _how_to_call(desired: Desired, key: str) -> tuple[dict[str, str], str]:
    gateway = desired.environment.spec.gateway
    url = f"http://{gateway.host}:{gateway.port}/v1"
    data = {"baseUrl": url, "apiKey": key}
    lines = [f"the gateway answers on {url} with the key {key}"]
    for ref, item in sorted(desired.objects.items()):
        if isinstance(item, Route) and ref.project == DEFAULT_PROJECT:
            model = item.spec.models[0]
            call = _curl(desired, item, url, key)
            data.setdefault("model", model)
            lines += ["", f"# {ref.name}", call]
    return data, "\n".join(lines)


def _curl(desired: Desired, route: Route, url: str, key: str) -> str:
    """A call that works as it stands."""
    endpoint = route.spec.targets[0].endpoint
    task = "chat"
    if endpoint is not None:
        served = find(
            desired, Ref("Endpoint", route.metadata.project, endpoint), Endpoint
        )
        model = Ref("Model", route.metadata.project, served.spec.model)
        task = find(desired, model, Model).spec.task
    calls: dict[str, tuple[str, dict[str, object]]] = {
        "chat": ("chat/completions", {"messages": [{"role": "user", "content": "Hello!"}],
                                      "max_tokens": 64}),
        "completion": ("completions", {"prompt": "Once upon a time", "max_tokens": 64}),
        "embedding": ("embeddings", {"input": "Once upon a time"}),
    }  # fmt: skip
    path, content = calls[task]
    body = json.dumps({"model": route.spec.models[0], **content})
    return (
        f"curl {url}/{path} -H 'Authorization: Bearer {key}' \\\n"
        f"  -H 'Content-Type: application/json' -d {shlex.quote(body)}"
    )


@click.command()
@pass_context
def down(context: Context) -> None:
    """Stop everything that `up` started; what it made stays recorded."""
    with context.foundry() as foundry:
        asyncio.run(_down(foundry))


async def _down(foundry: Foundry) -> None:
    said = await ask_daemon(foundry.home.daemon)
    if said is not None:
        click.echo("stopping the daemon", err=True)
        os.kill(said["pid"], signal.SIGTERM)
        async with asyncio.timeout(_STOP_TIMEOUT_S):
            while _alive(said["pid"]):
                await asyncio.sleep(_LOOK_S)
    click.echo("stopping the gateway", err=True)
    await foundry.gateway.stop()
    await foundry.local.stop_all(tell)
    click.echo("everything is stopped; `bud up` starts it again", err=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def gateway(arguments: tuple[str, ...]) -> None:
    """Run the data path alone: [check | schema] --config FILE."""
    argv = [sys.executable, "-m", "gateway", *arguments]
    # It takes this process's place, so that signals reach it.
    os.execve(sys.executable, argv, os.environ | {"PYTHONPATH": str(ROOT)})


COMMANDS = [up, down, gateway]
