"""`bud cluster adopt`: the file of a cluster that somebody else made."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import IO

import click
import yaml

from reconciler.adoption import Adoption, adopt_eks, adopt_existing
from reconciler.cli.context import Context, pass_context
from reconciler.cli.reach import constant, home_here, reader_of
from reconciler.foundry import files_of
from reconciler.hardware import hardware
from reconciler.targets.kubernetes import Client
from reconciler.targets.kubernetes.manifests import Json
from reconciler.targets.terraform.credentials import parse_credentials
from schemas.catalog import catalog
from schemas.objects import Credential, Metadata

__all__ = ["adopt"]


@click.command()
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
    return parse_credentials(reader_of(context)(credentials))


def _adopt_existing(
    context: Context, name: str, text: str
) -> tuple[Adoption, Credential]:
    async def look() -> tuple[str, list[Json]]:
        async with Client(constant(yaml.safe_load(text))) as client:
            version = (await client.request("GET", "/version"))["gitVersion"]
            nodes, _ = await client.list("/api/v1/nodes")
            return version, nodes

    version, nodes = asyncio.run(look())
    pools = [machines.spec() for machines in hardware(nodes, (), catalog())]
    files = files_of(context.repo, context.environment, home_here(context))
    # A name of its own: beside it may be what else belongs to the cluster.
    file = f"{name}-kubeconfig.yaml"
    files.encrypt(file, {"kubeconfig": text})
    click.echo(f"wrote {files.folder / file}: commit it", err=True)
    credential = Credential(secret=f"{file}#kubeconfig")
    return adopt_existing(version, pools), credential
