"""Promote: one environment's proof as a proposal for another (I/O: git, targets).

`bud promote` calls it, with the line of the environment that it promotes from. What it
writes is a difference of the other environment alone, with that environment's lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from reconciler import lockfile
from reconciler.forge.base import Proposal
from reconciler.ledger import Entry
from reconciler.load import load
from reconciler.lock import parse
from reconciler.optimizer.feedback import read_records, replicas_of
from reconciler.optimizer.posing import model_of
from reconciler.overlay import overlay
from reconciler.pipeline import Pipeline, Prepared
from reconciler.promotion import (
    Served,
    compose,
    digest_of,
    marks_of,
    model_difference,
    proof_of,
    served_difference,
)
from reconciler.proposal import Grounds, draft, places_of
from reconciler.source import Tree
from reconciler.values import Commit, Desired
from schemas.catalog import catalog
from schemas.endpoint import Endpoint
from schemas.errors import PermanentError
from schemas.objects import API_VERSION, Ref

__all__ = ["Promotion", "promote"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    proposal: Proposal
    digest: str
    proof: Entry
    measured: Mapping[str, str] | None
    """In the environment it comes from; None while too few used it."""
    predicted: Mapping[str, float]
    """For the environment it goes to."""


async def promote(
    grounds: Grounds,
    pipeline: Pipeline,
    tree: Tree,
    ref: Ref,
    *,
    to: str,
    records: Path,
) -> Promotion:
    """Draft what makes ``to`` declare what serves here; ``records`` are the gateway's.

    Raises:
        PermanentError: it was not proved here, or ``to`` does not declare the object.
        SpecError: with the difference ``to`` is not valid.
    """
    if "+" in tree.commit.sha:
        raise PermanentError(
            f"cannot promote {ref}: the work tree differs from its commit",
            hint="commit it, and let it be applied first",
        )
    prepared = await pipeline.prepare(tree)
    source = _served(prepared.desired, ref, pipeline.environment)
    proof = _proof(pipeline, prepared, source)
    measured = await asyncio.to_thread(_measured, records, source, proof)
    digest, predicted = digest_of(source), dict[str, float]()
    marks = marks_of(pipeline.environment, digest, proof, measured)

    async def edit(root: Path) -> str:
        predicted.update(await asyncio.to_thread(_edit, root, source, to, marks))
        return (
            f"What served in {pipeline.environment} as of ledger entry {proof.seq} "
            f"({proof.at}, commit {proof.commit}), promoted as {digest}."
        )

    proposal = await draft(
        grounds,
        branch=f"bud/promote/{to}-{ref.name}",
        title=f"Promote {ref} from {pipeline.environment} to {to}",
        edit=edit,
    )
    return Promotion(
        proposal=proposal, digest=digest, proof=proof, measured=measured,
        predicted=predicted,
    )  # fmt: skip


def _served(desired: Desired, ref: Ref, environment: str) -> Served:
    found = desired.objects.get(ref)
    if not isinstance(found, Endpoint):
        raise PermanentError(
            f"cannot promote {ref}: {environment} declares no such endpoint",
            hint=f"take it in environments/{environment}/environment.yaml, and say in "
            f"{places_of(ref, environment)[1]} where it runs there",
        )
    entry = parse(desired.lock).entries.get(ref)
    if entry is None:
        raise PermanentError(
            f"cannot promote {ref}: the lock of {environment} has no entry for it",
            hint=f"run `bud --env {environment} resolve`, and commit the lock",
        )
    model = model_of(desired, found)
    return Served(endpoint=found, model=model, resolution=entry.resolution)


def _proof(pipeline: Pipeline, prepared: Prepared, source: Served) -> Entry:
    refs = (source.ref, source.model.ref)
    units = {
        key: unit
        for key, unit in prepared.rendered.units.items()
        # How a gateway reaches it is the environment's own.
        if key.ref in refs and key.target != "gateway"
    }
    [target] = {key.target for key in units if key.ref == source.ref}
    return proof_of(
        source.ref,
        units,
        owned=pipeline.store.inventory(),
        observed=prepared.observed,
        success=partial(pipeline.store.log.success, target),
    )


def _measured(records: Path, source: Served, proof: Entry) -> Mapping[str, str] | None:
    name = f"{source.ref.project}/{source.ref.name}"
    since = datetime.fromisoformat(proof.at).timestamp()
    replicas = {name: replicas_of(source.endpoint, source.resolution)}
    found = read_records(records, replicas, since=since)
    return found[0] if found else None


def _edit(
    root: Path, source: Served, to: str, marks: Mapping[str, Any]
) -> Mapping[str, float]:
    """Write the difference and the lock; what is predicted with them."""
    ref = source.ref

    def read() -> Desired:
        return overlay(load(root, Commit(sha="0" * 40)), to)

    target = _served(read(), ref, to)
    spec = served_difference(source, target)
    if digest_of(target) == digest_of(source) and not spec:
        raise PermanentError(f"cannot promote {ref}: {to} declares the same already")
    _write(root, ref, to, compose(spec, marks))
    desired = read()  # in which the endpoint may name another model
    model = model_of(desired, source.endpoint)
    if said := model_difference(source.model, model):
        _write(root, model.ref, to, said)
        desired = read()
    lock, _ = lockfile.refresh(desired, catalog())
    lockfile.write(root, to, lock)
    return lock.entries[ref].resolution.prediction


def _write(root: Path, ref: Ref, to: str, said: Mapping[str, Any]) -> None:
    """Add to what an environment says of an object."""
    file = root / places_of(ref, to)[1]
    before = file.read_text(encoding="utf-8") if file.exists() else ""
    head = [line for line in before.splitlines() if not line or line[0] == "#"]
    known = yaml.safe_load(before) or {
        "apiVersion": API_VERSION,
        "kind": ref.kind,
        "metadata": {"name": ref.name, "project": ref.project},
    }
    text = yaml.dump(
        compose(known, said), Dumper=_Quoting, sort_keys=False, allow_unicode=True
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    kept = "".join(f"{line}\n" for line in head if line)
    file.write_text(kept + text, encoding="utf-8")


class _Quoting(yaml.SafeDumper):
    """Quotes what begins like a number: 12345e67 is a revision and not infinity."""


def _quoted(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = '"' if text[:1].isdigit() else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Quoting.add_representer(str, _quoted)
