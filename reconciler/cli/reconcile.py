"""`bud reconcile`: the daemon, put together from what the environment asks for."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import click

from reconciler import witness
from reconciler.cli.context import Context, actor, pass_context
from reconciler.daemon import Daemon
from reconciler.daemon_http import serve
from reconciler.forge import Forge
from reconciler.foundry import Foundry, now
from reconciler.graduate import graduate
from reconciler.metrics import Metrics
from reconciler.notify import Notifier
from reconciler.pipeline import Prepared
from reconciler.proposal import Grounds, Published, publish
from reconciler.reconciler import Options, Reconciler
from reconciler.replica import Replica
from reconciler.revert import revert
from reconciler.review.connect import Reviews, connect
from reconciler.review.service import reviewing
from reconciler.source import RemoteBranch, Source
from reconciler.store import Frozen
from reconciler.targets.kubernetes.lease import Lease, open_lease
from reconciler.trials import Trials
from renderers.gateway import USAGE
from schemas.errors import PermanentError
from schemas.notification import Notification
from schemas.objects import Ref

__all__ = ["COMMANDS"]

_REPLICA = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


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
            Reconciler(
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
                        witness.export,
                        foundry.repo,
                        foundry.environment,
                        foundry.store.log,
                    ),
                ),
            )
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


COMMANDS = [reconcile]
