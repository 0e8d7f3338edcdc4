"""Verbs about clusters: status, upgrade, rotate, kubeconfig, inventory, drain."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import click
import yaml

from reconciler.cli.adopt import adopt
from reconciler.cli.context import Context, pass_context
from reconciler.cli.reach import (
    client_of,
    declared_clusters,
    existing_clusters,
    find_cluster,
    home_here,
    made,
    makers_here,
    nodes_of,
    project_option,
)
from reconciler.clusters import Maker
from reconciler.daemon_http import ask_daemon
from reconciler.drain import cordon
from reconciler.drain import drain as drain_nodes
from reconciler.hardware import hardware
from reconciler.render import maker_of, render_made
from reconciler.targets.ansible import AnsibleTarget
from reconciler.targets.base import Previewing
from reconciler.targets.kubernetes import Client
from reconciler.values import Action, Change, Health, Key, Live, Presence, Unit
from schemas.catalog import catalog
from schemas.cluster import Cluster
from schemas.errors import FoundryError, PermanentError, TemporaryError
from schemas.objects import Ref
from schemas.units import Duration

__all__ = ["COMMANDS"]


@click.group()
def cluster() -> None:
    """Clusters that bud makes: in a cloud, or of one's own machines."""


@cluster.command()
@pass_context
def status(context: Context) -> int:
    """Show every cluster: what lives, how it is, where it answers."""
    rows = asyncio.run(_rows(context))
    lines = [
        f"{row['cluster']}  {row['state']}"
        + (f"  {row['detail']}" if row["detail"] else "")
        + (f"\n  {row['doing']}" if row["doing"] else "")
        for row in rows
    ]
    context.show(
        rows, "\n".join(lines) or "no cluster is declared here but this machine"
    )
    return 1 if any(row["state"] in {"unknown", "unreachable"} for row in rows) else 0


async def _rows(context: Context) -> list[dict[str, Any]]:
    declared, makers = declared_clusters(context), makers_here(context)
    wanted = {maker_of(item) for item in declared.values()}
    daemon = await ask_daemon(home_here(context).daemon) or {"steps": {}}
    rows = []
    for name, open_maker in makers.items():
        if name not in wanted:
            continue
        maker = open_maker()
        mine = [Key(name, r) for r, item in declared.items() if maker_of(item) == name]
        for key, live in sorted((await maker.observe(mine)).items()):
            item = declared.get(key.ref)
            state, detail = await _state(live, maker, item)
            rows.append(
                {
                    "cluster": str(key.ref),
                    "declared": item is not None,
                    "state": state,
                    "detail": detail,
                    "doing": daemon["steps"].get(str(key), ""),
                    "says": dict(live.says),
                }
            )
    for ref in sorted(existing_clusters(context)):
        state, detail = await _answers(partial(client_of, context, ref))
        row = {"cluster": str(ref), "declared": True, "state": state}
        rows.append({**row, "detail": detail, "doing": "", "says": {}})
    return rows


async def _state(live: Live, maker: Maker, item: Cluster | None) -> tuple[str, str]:
    """One word for what a person does next, and why."""
    if live.presence is not Presence.PRESENT:
        return live.presence.value, live.detail
    if live.health is Health.DEGRADED:
        state, _, detail = live.detail.partition(": ")
        return state, detail
    if item is None:
        return "not declared", live.detail
    return await _answers(partial(made, item, maker))


async def _answers(reach: Callable[[], Awaitable[Client]]) -> tuple[str, str]:
    """Whether the API of a cluster answers, and which Kubernetes."""
    try:
        async with await reach() as client:
            version = (await client.request("GET", "/version"))["gitVersion"]
    except FoundryError as error:
        return "unreachable", error.args[0]
    return "ready", f"Kubernetes {version}"


@cluster.command()
@click.argument("name")
@click.option("--to", "version", required=True, help="A minor version, such as 1.33.")
@click.option(
    "--plan", is_flag=True, help="The default: an upgrade is a change in git."
)
@project_option
@pass_context
def upgrade(
    context: Context,
    name: str,
    version: str,
    project: str,
    plan: bool,  # noqa: FBT001
) -> int:
    """Show what moving to a version would do; it writes nothing.

    The upgrade itself is a change of `version` in git, planned and applied like any.
    """
    del plan
    item, maker = find_cluster(context, project, name)
    moved = item.model_copy(
        update={"spec": item.spec.model_copy(update={"version": version})}
    )
    summary = asyncio.run(_preview(maker, moved))
    context.show(
        summary.document(),
        "\n".join(
            [
                *summary.changes,
                *(f"note: {n}" for n in summary.disruption),
                summary.summary,
            ]
        ),
    )
    return 3 if summary.changes else 0


async def _preview(maker: Maker, item: Cluster) -> Any:
    key, content = Key(maker.name, item.ref), render_made(item, catalog())
    live = await maker.health(key)
    if live.presence is not Presence.PRESENT:
        raise TemporaryError(f"cannot plan the upgrade of {key}: it is {live.presence}")
    digest = hashlib.sha256(content).hexdigest()
    change = Change(
        key=key,
        action=Action.CHANGE,
        unit=Unit(key=key, content=content, digest=digest),
        uid=live.uid,
        version=live.version,
    )
    assert isinstance(maker, Previewing), (
        "whatever makes clusters says what it would do"
    )
    return await maker.preview(change)


@cluster.command()
@click.argument("name")
@project_option
@pass_context
def rotate(context: Context, name: str, project: str) -> None:
    """Make new certificates for a cluster of one's own machines.

    Of a cluster in a cloud nobody keeps a key: there is nothing to rotate.
    """
    item, maker = find_cluster(context, project, name)
    if not isinstance(maker, AnsibleTarget):
        raise PermanentError(
            f"cannot rotate credentials of {name}: nobody keeps any",
            hint="its tokens last minutes; change what spec.credentials refers to",
        )
    asyncio.run(maker.rotate(item, partial(click.echo, err=True)))
    context.show({"rotated": name}, f"{name} has new certificates")


@cluster.command()
@click.argument("name")
@project_option
@pass_context
def kubeconfig(context: Context, name: str, project: str) -> None:
    """Print a kubeconfig that is good for minutes."""
    item, maker = find_cluster(context, project, name)

    async def ask() -> tuple[Mapping[str, Any] | None, str | None]:
        found = await maker.kubeconfig(item)
        return found, None if found is None else await maker.token(item)

    found, token = asyncio.run(ask())
    if found is None:
        raise TemporaryError(f"cannot reach {name}: it is not made yet")
    if token is None:
        raise PermanentError(
            f"cannot print a kubeconfig of {name}: it holds a key that does not end",
            hint="make an account of your own there",
        )
    (user,) = found["users"]
    config = {**found, "users": [{**user, "user": {"token": token}}]}
    context.show(config, yaml.safe_dump(config, sort_keys=False).rstrip())


@cluster.command()
@click.argument("name")
@project_option
@pass_context
def inventory(context: Context, name: str, project: str) -> None:
    """Show what the nodes of a cluster really have, as nodePools for its file."""
    nodes, pods = asyncio.run(nodes_of(context, Ref("Cluster", project, name)))
    found = hardware(nodes, pods, catalog())
    lines = [yaml.safe_dump({"nodePools": [m.spec() for m in found]}, sort_keys=False)]
    for each in found:
        free = ", ".join(f"{n} {name}" for name, n in each.free.items()) or "no device"
        said = [*each.fabrics, *(f"{n} x {s}" for s, n in each.slices.items())]
        lines.append(f"# {each.pool}: {free} free" + "".join(f"; {s}" for s in said))
        if each.trouble:
            lines.append(f"# {each.pool}: {each.trouble}")
    context.show([asdict(each) for each in found], "\n".join(lines))


@cluster.command()
@click.argument("name")
@click.option("--pool", help="Every node of a pool.")
@click.option("--node", "named", multiple=True, help="One node; may be repeated.")
@click.option("--timeout", "limit", default="15m", show_default=True)
@click.option("--undo", is_flag=True, help="Let the nodes take work again.")
@project_option
@pass_context
def drain(
    context: Context,
    name: str,
    project: str,
    pool: str | None,
    named: tuple[str, ...],
    limit: str,
    undo: bool,  # noqa: FBT001
) -> None:
    """Let nodes go of what runs on them, within disruption budgets."""
    if (pool is None) == (not named):
        raise click.UsageError("say which nodes: --pool, or --node")
    timeout_s = Duration(limit).seconds

    async def work() -> list[str]:
        async with await client_of(context, Ref("Cluster", project, name)) as client:
            nodes, _ = await client.list("/api/v1/nodes")
            found = [
                each
                for machines in hardware(nodes, (), catalog())
                for each in machines.nodes
                if machines.pool == pool or each in named
            ]
            if not found or set(named) - set(found):
                missing = ", ".join(sorted(set(named) - set(found))) or f"pool {pool}"
                raise PermanentError(f"cannot find {missing} in cluster {name}")
            if undo:
                await cordon(client, found, on=False)
            else:
                tell = partial(click.echo, err=True)
                await drain_nodes(client, found, tell, timeout_s=timeout_s)
            return found

    done = asyncio.run(work())
    said = "take work again" if undo else "are drained"
    context.show({"nodes": done}, f"{', '.join(done)} {said}")


cluster.add_command(adopt)

COMMANDS = [cluster]
