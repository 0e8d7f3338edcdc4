"""How verbs about clusters find them, and reach them (I/O)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import click
import yaml

from reconciler.cli.context import Context
from reconciler.clusters import Maker
from reconciler.foundry import Home, files_of, home_of, makers_of
from reconciler.load import load
from reconciler.overlay import overlay
from reconciler.render import maker_of
from reconciler.secrets import read_credential
from reconciler.targets.kubernetes import Client
from reconciler.targets.kubernetes.manifests import Json
from reconciler.values import Commit
from schemas.cluster import Cluster
from schemas.errors import PermanentError, TemporaryError
from schemas.objects import DEFAULT_PROJECT, Credential, Ref

__all__ = [
    "client_of",
    "constant",
    "declared_clusters",
    "existing_clusters",
    "find_cluster",
    "home_here",
    "made",
    "makers_here",
    "nodes_of",
    "project_option",
    "reader_of",
]

_UNNAMED = Commit(sha="0" * 40)

project_option = click.option("--project", default=DEFAULT_PROJECT, show_default=True)


async def nodes_of(context: Context, ref: Ref) -> tuple[list[Json], list[Json]]:
    async with await client_of(context, ref) as client:
        nodes, _ = await client.list("/api/v1/nodes")
        pods, _ = await client.list("/api/v1/pods")
        return nodes, pods


async def client_of(context: Context, ref: Ref) -> Client:
    item = _clusters(context).get(ref)
    if item is None or item.spec.provider == "local":
        raise PermanentError(f"cannot find a cluster {ref.name!r} with nodes to ask")
    if (name := maker_of(item)) is None:
        assert item.spec.credentials is not None, "the schema asks for its kubeconfig"
        text = await asyncio.to_thread(reader_of(context), item.spec.credentials)
        return Client(constant(yaml.safe_load(text)))
    return await made(item, makers_here(context)[name]())


def _clusters(context: Context) -> Mapping[Ref, Cluster]:
    desired = overlay(load(context.repo, _UNNAMED), context.environment)
    return {r: i for r, i in desired.objects.items() if isinstance(i, Cluster)}


def declared_clusters(context: Context) -> Mapping[Ref, Cluster]:
    """Those that bud makes."""
    return {r: i for r, i in _clusters(context).items() if maker_of(i) is not None}


def existing_clusters(context: Context) -> list[Ref]:
    """Those that bud uses as they are."""
    found = _clusters(context).items()
    return [ref for ref, item in found if item.spec.provider == "existing"]


def find_cluster(context: Context, project: str, name: str) -> tuple[Cluster, Maker]:
    declared = declared_clusters(context)
    found = declared.get(Ref("Cluster", project, name))
    if found is None:
        known = ", ".join(ref.name for ref in declared)
        raise PermanentError(
            f"cannot find cluster {name!r} among those that bud makes",
            hint=f"there is {known}" if known else "none is declared here",
        )
    return found, makers_here(context)[maker_of(found) or ""]()


def home_here(context: Context) -> Home:
    return home_of(context.repo, context.environment, context.state)


def makers_here(context: Context) -> Mapping[str, Any]:
    return makers_of(home_here(context), context.environment, reader_of(context))


def reader_of(context: Context) -> Callable[[Credential], str]:
    files = files_of(context.repo, context.environment, home_here(context))
    return partial(read_credential, files=files)


async def made(item: Cluster, maker: Maker) -> Client:
    """The way to a cluster that bud makes."""
    found = await maker.kubeconfig(item)
    if found is None:
        raise TemporaryError(f"cannot reach {item.ref}: it is not made yet")
    return Client(constant(found), token=partial(maker.token, item))


def constant(found: Mapping[str, Any]) -> Any:
    async def read() -> Mapping[str, Any]:
        return found

    return read
