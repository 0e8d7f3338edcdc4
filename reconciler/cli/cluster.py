"""Verbs about clusters in a cloud: status, upgrade, kubeconfig."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Mapping
from typing import Any

import click
import yaml

from reconciler.cli.context import Context, pass_context
from reconciler.foundry import files_of, home_of, now
from reconciler.load import load
from reconciler.overlay import overlay
from reconciler.secrets import read_credential
from reconciler.targets.terraform import TerraformTarget, open_terraform
from reconciler.targets.terraform.credentials import parse_credentials
from reconciler.targets.terraform.kubeconfig import eks_kubeconfig, eks_token
from reconciler.values import Action, Change, Commit, Key, Presence, Unit
from renderers.terraform import render_cluster
from schemas.catalog import catalog
from schemas.cluster import CLOUDS, Cluster
from schemas.errors import PermanentError, TemporaryError
from schemas.objects import DEFAULT_PROJECT, Credential, Ref

__all__ = ["COMMANDS"]

_UNNAMED = Commit(sha="0" * 40)

project_option = click.option("--project", default=DEFAULT_PROJECT, show_default=True)


@click.group()
def cluster() -> None:
    """Clusters that bud makes in a cloud."""


@cluster.command()
@pass_context
def status(context: Context) -> int:
    """Show every cluster in a cloud: what lives, how it is, where it answers."""
    target, keys = _target(context), _declared(context)
    lives = asyncio.run(target.observe(keys))
    rows = []
    for key, live in lives.items():
        row = {
            "cluster": str(key.ref),
            "declared": key in keys,
            "presence": live.presence.value,
            "health": live.health.value,
            "detail": live.detail,
        }
        if live.presence is Presence.PRESENT:
            row |= {"says": dict(asyncio.run(target.outputs(key)))}
        rows.append(row)
    lines = [
        f"{row['cluster']}  {row['presence']}  {row['health']}"
        + (f"  {row['detail']}" if row["detail"] else "")
        for row in rows
    ]
    context.show(rows, "\n".join(lines) or "no cluster in a cloud")
    bad = {Presence.UNKNOWN.value}
    return 1 if any(row["presence"] in bad for row in rows) else 0


@cluster.command()
@click.argument("name")
@click.option("--to", "version", required=True, help="A minor version, such as 1.33.")
@project_option
@pass_context
def upgrade(context: Context, name: str, version: str, project: str) -> int:
    """Show what moving to a version would do; it writes nothing.

    The upgrade itself is a change of `version` in git, planned and applied like any.
    """
    target, item = _target(context), _find(context, project, name)
    moved = item.model_copy(
        update={"spec": item.spec.model_copy(update={"version": version})}
    )
    key, content = Key("terraform", item.ref), render_cluster(moved, catalog())
    live = asyncio.run(target.health(key))
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
    summary = asyncio.run(target.preview(change))
    pools = [p.name for p in item.spec.node_pools if p.capacity]
    notes = [
        "the API answers throughout; the control plane is not changed back afterwards",
        f"nodes of {', '.join(pools)} are drained and replaced one at a time",
    ]
    rows = [str(each) for each in summary.changes]
    context.show(
        {"changes": rows, "disruption": notes, "digest": summary.digest},
        "\n".join([*rows, *(f"note: {note}" for note in notes), str(summary)]),
    )
    return 3 if summary.changes else 0


@cluster.command()
@click.argument("name")
@project_option
@pass_context
def kubeconfig(context: Context, name: str, project: str) -> None:
    """Print a kubeconfig that is good for 15 minutes."""
    item = _find(context, project, name)
    if item.spec.provider != "aws-eks":
        raise PermanentError(
            f"cannot sign a token for {name}: {item.spec.provider} has people log in",
            hint=f"use `az aks get-credentials --name {name}`, then `kubelogin`",
        )
    target = _target(context)
    said: Any = asyncio.run(target.outputs(Key("terraform", item.ref))).get("cluster")
    if not said:
        raise TemporaryError(f"cannot reach {name}: it is not made yet")
    held: Mapping[str, str] = target.backend.secrets
    if item.spec.credentials is not None:
        held = parse_credentials(target.credentials(item.spec.credentials))
    token = eks_token(said["name"], said["region"], held, now())
    config = eks_kubeconfig(said, token)
    context.show(config, yaml.safe_dump(config, sort_keys=False).rstrip())


def _declared(context: Context) -> list[Key]:
    desired = overlay(load(context.repo, _UNNAMED), context.environment)
    return [
        Key("terraform", ref)
        for ref, item in desired.objects.items()
        if isinstance(item, Cluster) and item.spec.provider in CLOUDS
    ]


def _find(context: Context, project: str, name: str) -> Cluster:
    desired = overlay(load(context.repo, _UNNAMED), context.environment)
    found = desired.objects.get(Ref("Cluster", project, name))
    if not isinstance(found, Cluster) or found.spec.provider not in CLOUDS:
        known = ", ".join(key.ref.name for key in _declared(context))
        raise PermanentError(
            f"cannot find cluster {name!r} in a cloud",
            hint=f"there is {known}" if known else "none is declared here",
        )
    return found


def _target(context: Context) -> TerraformTarget:
    home = home_of(context.repo, context.environment, context.state)
    files = files_of(context.repo, context.environment, home)

    def read(credential: Credential) -> str:
        return read_credential(credential, files)

    return open_terraform(home.root, os.environ, read)


COMMANDS = [cluster]
