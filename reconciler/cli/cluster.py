"""Verbs about clusters: status, upgrade, kubeconfig, inventory, drain."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import IO, Any

import click
import yaml

from reconciler.adoption import Adoption, adopt_eks, adopt_existing
from reconciler.cli.context import Context, pass_context
from reconciler.clusters import Maker
from reconciler.daemon_http import ask_daemon
from reconciler.drain import cordon
from reconciler.drain import drain as drain_nodes
from reconciler.foundry import Home, files_of, home_of, makers_of
from reconciler.hardware import hardware
from reconciler.load import load
from reconciler.overlay import overlay
from reconciler.render import maker_of, render_made
from reconciler.secrets import read_credential
from reconciler.targets.ansible import AnsibleTarget
from reconciler.targets.base import Previewing
from reconciler.targets.kubernetes import Client
from reconciler.targets.kubernetes.manifests import Json
from reconciler.targets.terraform.credentials import parse_credentials
from reconciler.values import Action, Change, Commit, Health, Key, Live, Presence, Unit
from schemas.catalog import catalog
from schemas.cluster import Cluster
from schemas.errors import FoundryError, PermanentError, TemporaryError
from schemas.objects import DEFAULT_PROJECT, Credential, Metadata, Ref
from schemas.units import Duration

__all__ = ["COMMANDS"]

_UNNAMED = Commit(sha="0" * 40)

project_option = click.option("--project", default=DEFAULT_PROJECT, show_default=True)


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
    declared, makers = _declared(context), _makers(context)
    wanted = {maker_of(item) for item in declared.values()}
    daemon = await ask_daemon(_home(context).daemon) or {"steps": {}}
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
    for ref in sorted(_existing(context)):
        state, detail = await _answers(partial(_client, context, ref))
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
    return await _answers(partial(_made, item, maker))


async def _answers(reach: Callable[[], Awaitable[Client]]) -> tuple[str, str]:
    """Whether the API of a cluster answers, and which Kubernetes."""
    try:
        async with await reach() as client:
            version = (await client.request("GET", "/version"))["gitVersion"]
    except FoundryError as error:
        return "unreachable", error.args[0]
    return "ready", f"Kubernetes {version}"


async def _made(item: Cluster, maker: Maker) -> Client:
    """The way to a cluster that bud makes."""
    found = await maker.kubeconfig(item)
    if found is None:
        raise TemporaryError(f"cannot reach {item.ref}: it is not made yet")
    return Client(_constant(found), token=partial(maker.token, item))


def _constant(found: Mapping[str, Any]) -> Any:
    async def read() -> Mapping[str, Any]:
        return found

    return read


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
    item, maker = _find(context, project, name)
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
@click.option("--region", help="Of the EKS cluster NAME.")
@click.option("--kubeconfig", "source", type=click.File(), help="Of any cluster.")
@click.option(
    "--credentials",
    "written",
    metavar="env=|file=|secret=REF",
    help="Where its credentials are; without it, what this process holds.",
)
@pass_context
def adopt(
    context: Context,
    name: str,
    region: str | None,
    source: IO[str] | None,
    written: str | None,
) -> None:
    """Print the file of a cluster that somebody else made; it writes nothing there.

    With --region, of an EKS cluster that bud shall hold from now on: what lies in the
    cloud becomes part of its state, and `bud plan` shows it. With --kubeconfig, of a
    cluster that is used as it is; the kubeconfig is encrypted into the environment.
    """
    if (region is None) == (source is None):
        raise click.UsageError("say where it is: --region, or --kubeconfig")
    try:
        Metadata(name=name)
    except ValueError as error:
        raise click.BadParameter(
            f"{name!r} names no Cluster: lower-case letters, digits, hyphens"
        ) from error
    credentials = _reference(written)
    if source is not None:
        made, credentials = _adopt_existing(context, name, source.read())
    else:
        # Half a second of libraries, which no other verb needs.
        from reconciler.targets.terraform.aws import (  # noqa: PLC0415
            clients,
            look_at,
        )

        held = _held(context, credentials)
        client = clients(held, str(region), os.environ.get("AWS_ENDPOINT_URL", ""))
        made = adopt_eks(look_at(name, client), str(region), catalog())
    spec = dict(made.spec)
    if credentials is not None:
        spec["credentials"] = credentials.model_dump(exclude_none=True)
    item = {
        "apiVersion": "foundry.bud/v1",
        "kind": "Cluster",
        "metadata": {"name": name},
        "spec": spec,
    }
    notes = "".join(f"# {note}\n" for note in made.notes)
    text = notes + yaml.safe_dump(item, sort_keys=False)
    context.show({"cluster": item, "notes": made.notes}, text.rstrip())


def _reference(written: str | None) -> Credential | None:
    if written is None:
        return None
    kind, _, place = written.partition("=")
    try:
        return Credential.model_validate({kind: place})
    except ValueError as error:
        raise click.BadParameter(
            "write env=NAME, file=PATH or secret=FILE#KEY"
        ) from error


def _held(context: Context, credentials: Credential | None) -> Mapping[str, str]:
    if credentials is None:
        return {}
    return parse_credentials(_reader(context)(credentials))


def _adopt_existing(
    context: Context, name: str, text: str
) -> tuple[Adoption, Credential]:
    async def look() -> tuple[str, list[Json]]:
        async with Client(_constant(yaml.safe_load(text))) as client:
            version = (await client.request("GET", "/version"))["gitVersion"]
            nodes, _ = await client.list("/api/v1/nodes")
            return version, nodes

    version, nodes = asyncio.run(look())
    pools = [machines.spec() for machines in hardware(nodes, (), catalog())]
    files = files_of(context.repo, context.environment, _home(context))
    # A name of its own: beside it may be what else belongs to the cluster.
    file = f"{name}-kubeconfig.yaml"
    files.encrypt(file, {"kubeconfig": text})
    click.echo(f"wrote {files.folder / file}: commit it", err=True)
    credential = Credential(secret=f"{file}#kubeconfig")
    return adopt_existing(version, pools), credential


@cluster.command()
@click.argument("name")
@project_option
@pass_context
def rotate(context: Context, name: str, project: str) -> None:
    """Make new certificates for a cluster of one's own machines.

    Of a cluster in a cloud nobody keeps a key: there is nothing to rotate.
    """
    item, maker = _find(context, project, name)
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
    item, maker = _find(context, project, name)

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
    nodes, pods = asyncio.run(_nodes(context, Ref("Cluster", project, name)))
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
        async with await _client(context, Ref("Cluster", project, name)) as client:
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


async def _nodes(context: Context, ref: Ref) -> tuple[list[Json], list[Json]]:
    async with await _client(context, ref) as client:
        nodes, _ = await client.list("/api/v1/nodes")
        pods, _ = await client.list("/api/v1/pods")
        return nodes, pods


async def _client(context: Context, ref: Ref) -> Client:
    item = _clusters(context).get(ref)
    if item is None or item.spec.provider == "local":
        raise PermanentError(f"cannot find a cluster {ref.name!r} with nodes to ask")
    if (name := maker_of(item)) is None:
        assert item.spec.credentials is not None, "the schema asks for its kubeconfig"
        text = await asyncio.to_thread(_reader(context), item.spec.credentials)
        return Client(_constant(yaml.safe_load(text)))
    return await _made(item, _makers(context)[name]())


def _clusters(context: Context) -> Mapping[Ref, Cluster]:
    desired = overlay(load(context.repo, _UNNAMED), context.environment)
    return {r: i for r, i in desired.objects.items() if isinstance(i, Cluster)}


def _declared(context: Context) -> Mapping[Ref, Cluster]:
    """Those that bud makes."""
    return {r: i for r, i in _clusters(context).items() if maker_of(i) is not None}


def _existing(context: Context) -> list[Ref]:
    """Those that bud uses as they are."""
    found = _clusters(context).items()
    return [ref for ref, item in found if item.spec.provider == "existing"]


def _find(context: Context, project: str, name: str) -> tuple[Cluster, Maker]:
    declared = _declared(context)
    found = declared.get(Ref("Cluster", project, name))
    if found is None:
        known = ", ".join(ref.name for ref in declared)
        raise PermanentError(
            f"cannot find cluster {name!r} among those that bud makes",
            hint=f"there is {known}" if known else "none is declared here",
        )
    return found, _makers(context)[maker_of(found) or ""]()


def _home(context: Context) -> Home:
    return home_of(context.repo, context.environment, context.state)


def _makers(context: Context) -> Mapping[str, Any]:
    return makers_of(_home(context), context.environment, _reader(context))


def _reader(context: Context) -> Callable[[Credential], str]:
    files = files_of(context.repo, context.environment, _home(context))
    return partial(read_credential, files=files)


COMMANDS = [cluster]
