"""Verbs that run something: reconcile, up, down, gateway."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import click

from reconciler import lockfile, witness
from reconciler.cli.context import Context, actor, pass_context
from reconciler.cli.operate import tell
from reconciler.daemon import Daemon
from reconciler.daemon_http import ask_daemon, serve
from reconciler.forge import Forge
from reconciler.foundry import Foundry, now
from reconciler.graduate import graduate
from reconciler.metrics import Metrics
from reconciler.notify import Notifier
from reconciler.pipeline import Prepared
from reconciler.proposal import Grounds, Published, publish
from reconciler.reconciler import Options
from reconciler.render import find
from reconciler.replica import Replica
from reconciler.revert import revert
from reconciler.review.connect import Reviews, connect
from reconciler.review.service import reviewing
from reconciler.source import RemoteBranch, Source
from reconciler.store import Frozen
from reconciler.targets.kubernetes.lease import Lease, open_lease
from reconciler.trials import Trials
from reconciler.values import Desired
from renderers.gateway import USAGE
from schemas.catalog import catalog
from schemas.endpoint import Endpoint
from schemas.errors import PermanentError
from schemas.model import Model
from schemas.notification import Notification
from schemas.objects import DEFAULT_PROJECT, Ref
from schemas.route import Route

__all__ = ["COMMANDS"]

ROOT = Path(__file__).resolve().parents[2]
_REPLICA = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_STOP_TIMEOUT_S = 60.0
_START_TIMEOUT_S = 30.0
_LOOK_S = 0.2


@click.command()
@click.option("--remote", metavar="URL", help="Follow a branch of a remote repository.")
@click.option("--branch", default="main", show_default=True)
@click.option("--allowed-signers", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="OpenSSH allowed-signers file: refuse commits that none of them signed.")  # fmt: skip
@click.option("--resolve/--no-resolve", "resolving", default=False,
              help="Keep the lock of the watched checkout current.")  # fmt: skip
@click.option(
    "--port", default=0, show_default=True, help="Of metrics and health, on loopback."
)
@click.option(
    "--replica",
    metavar="NAME",
    help="Share the environment with other daemons, as this one of them.",
)
@click.option(
    "--leases",
    metavar="KUBECONFIG",
    help="Of the cluster that holds their Leases, or `in-cluster`.",
)
@click.option("--lease-namespace", default="bud-system", show_default=True)
@click.option("--lease-seconds", default=15, show_default=True, type=click.IntRange(min=3),
              help="After so long without a sign of life others take over.")  # fmt: skip
@pass_context
def reconcile(  # noqa: PLR0913 - the options of a verb
    context: Context,
    *,
    remote: str | None,
    branch: str,
    allowed_signers: Path | None,
    resolving: bool,
    port: int,
    replica: str | None,
    leases: str | None,
    lease_namespace: str,
    lease_seconds: int,
) -> None:
    """Run the daemon: make the world match, and keep it so."""
    if remote is not None and resolving:
        raise click.UsageError(
            "--resolve writes to a checkout: it cannot go with --remote"
        )
    if (replica is None) != (leases is None):
        raise click.UsageError("--replica and --leases go together")
    if replica is not None and not _REPLICA.fullmatch(replica):
        raise click.UsageError(
            f"--replica is a name as a pod has one, not {replica!r}: it names its Lease"
        )
    lease = None
    if replica is not None and leases is not None:
        lease = open_lease(
            leases,
            namespace=lease_namespace,
            environment=context.environment,
            replica=replica,
            seconds=lease_seconds,
            clock=now,
        )
    with context.foundry(lease) as foundry:
        source: Source = context.checkout
        where = None if remote is None else (remote, branch)
        if remote is not None:
            source = RemoteBranch(
                remote, branch, foundry.home.source, signers=allowed_signers
            )
        running = _reconcile(foundry, source, port, where, lease, resolving=resolving)
        asyncio.run(running)


async def _reconcile(
    foundry: Foundry,
    source: Source,
    port: int,
    remote: tuple[str, str] | None,
    lease: Lease | None,
    *,
    resolving: bool,
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    metrics = Metrics()
    store = foundry.store
    notifier = Notifier(
        environment=foundry.environment, read=foundry.read, mask=foundry.pipeline.mask
    )
    reviews = await _reviews(foundry, source, remote, notifier)
    forge = None if reviews is None else reviews.reviewer.forge
    grounds = Grounds(repo=foundry.repo)
    if forge is not None and isinstance(source, RemoteBranch):
        grounds = Grounds(repo=source.mirror, at=source.ref, onto=source.branch)
    trials = Trials(
        store,
        foundry.home.gateway_config.with_name(USAGE),
        propose=partial(_propose_revert, foundry, grounds, forge),
        promote=partial(_propose_graduation, foundry, grounds, forge),
        clock=foundry.pipeline.clock,
    )
    if lease is not None and reviews is not None:
        raise PermanentError(
            "cannot share an environment whose changes come by pull request",
            hint="an approved plan is one, and is applied by one daemon",
        )
    async with AsyncExitStack() as stack:
        pipeline, replica = foundry.pipeline, None
        if lease is None:
            journal = stack.enter_context(store.lead(actor("daemon")))
        else:
            journal = stack.enter_context(store.share())
            replica = Replica(lease, store.shards, journal)
            pipeline = replace(pipeline, share=replica)
        daemon = Daemon(
            pipeline,
            source,
            journal,
            actor=actor("daemon"),
            metrics=metrics,
            options=Options(
                resolve=resolving,
                trials=trials.look,
                gate=None if reviews is None else reviews.gate,
                tell=notifier,
                follow=lambda prepared: notifier.follow(_channels(prepared)),
                witness=partial(
                    witness.export, foundry.repo, foundry.environment, foundry.store.log
                ),
            ),
        )
        where = foundry.home.daemon
        await stack.enter_async_context(foundry.session())
        await stack.enter_async_context(serve(daemon, metrics, port=port, where=where))
        if reviews is not None:
            await stack.enter_async_context(
                reviewing(reviews.reviewer, reviews.receiver, moved=daemon.look)
            )
        if replica is not None:
            await stack.enter_async_context(replica.keeping(daemon.look))
        await daemon.run(stop)


async def _propose_revert(
    foundry: Foundry,
    grounds: Grounds,
    forge: Forge | None,
    ref: Ref,
    items: Sequence[Frozen],
    reason: str,
) -> Published:
    pipeline = foundry.pipeline
    made = await revert(grounds, pipeline, foundry.store.log, ref, items, reason)
    published = await publish(grounds, made.proposal, forge, pipeline.mask)
    if published.why:
        raise PermanentError(published.why)
    return published


async def _propose_graduation(
    foundry: Foundry,
    grounds: Grounds,
    forge: Forge | None,
    ref: Ref,
    endpoint: str,
    reason: str,
) -> Published:
    made = await graduate(grounds, foundry.environment, ref, endpoint, reason)
    return await publish(grounds, made, forge, foundry.mask)


def _channels(prepared: Prepared) -> Iterator[Notification]:
    for item in prepared.desired.objects.values():
        if isinstance(item, Notification):
            yield item


async def _reviews(
    foundry: Foundry,
    source: Source,
    remote: tuple[str, str] | None,
    notify: Notifier,
) -> Reviews | None:
    """What the protected branch says of pull requests, as the daemon starts."""
    if remote is None:
        return None
    tree = await source.newest()
    settings = foundry.pipeline.desire(tree).environment.spec.review
    if settings is None:
        return None
    url, branch = remote
    return connect(
        foundry,
        settings,
        remote=url,
        branch=branch,
        actor=actor("daemon"),
        notify=notify,
    )


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


COMMANDS = [reconcile, up, down, gateway]
