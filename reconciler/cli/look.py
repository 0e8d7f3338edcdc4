"""Verbs that look and change nothing: status, why, tree, drift, diff."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from textwrap import indent
from typing import Any

import click

from reconciler.cli.context import Context, object_of, pass_context
from reconciler.daemon_http import ask_daemon
from reconciler.foundry import Foundry, now
from reconciler.observe import observe
from reconciler.pipeline import Prepared
from reconciler.plan import Plan
from reconciler.review.changes import diff_of
from reconciler.source import Tree
from reconciler.values import Key, Live
from renderers import plan as rendering
from schemas.errors import FoundryError, PermanentError
from schemas.kinds import references
from schemas.naming import resolve_ref
from schemas.objects import Ref

__all__ = ["CHANGES_PENDING", "COMMANDS", "document_of", "prepare"]

CHANGES_PENDING = 3
"""The exit code that says so."""


def prepare(context: Context, foundry: Foundry) -> tuple[Tree, Prepared]:
    async def look() -> tuple[Tree, Prepared]:
        async with foundry.session():
            tree = await context.checkout.newest()
            return tree, await foundry.pipeline.prepare(tree)

    return asyncio.run(look())


def document_of(made: Plan) -> dict[str, Any]:
    return {"digest": made.digest, **made.document()}


@click.command()
@pass_context
def status(context: Context) -> None:
    """Show what is, what it is doing, and what waits."""
    with context.foundry() as foundry:
        owned = foundry.store.inventory()
        observed = asyncio.run(_observe(context, foundry, [*owned]))
        daemon = asyncio.run(ask_daemon(foundry.home.daemon))
        suspended = foundry.store.suspensions(now())
        runs = foundry.store.runs(environment=context.environment, limit=1)
    objects = [_row(key, observed[key]) for key in sorted(owned)]
    data = {
        "environment": context.environment,
        "daemon": daemon,
        "objects": objects,
        "suspended": {str(ref): item.reason for ref, item in suspended.items()},
        "lastRun": None
        if not runs
        else {
            "commit": runs[0].commit,
            "result": runs[0].result,
            "error": runs[0].error,
        },
    }
    context.show(data, rendering.status(data))


async def _observe(
    context: Context, foundry: Foundry, keys: list[Key]
) -> Mapping[Key, Live]:
    """What lives, also when the checkout is broken right now."""
    async with foundry.session():
        with suppress(FoundryError):
            tree = await context.checkout.newest()
            return (await foundry.pipeline.prepare(tree)).observed
        return await observe(foundry.pipeline.targets, keys, foundry.mask)


def _row(key: Key, live: Live) -> dict[str, str]:
    return {
        "object": str(key.ref),
        "target": key.target,
        "presence": live.presence,
        "health": live.health,
        "detail": live.detail,
    }


@click.command()
@click.argument("name", metavar="OBJECT")
@pass_context
def why(context: Context, name: str) -> int:
    """Say why an object is as it is, and what it waits for."""
    ref = object_of(name)
    with context.foundry() as foundry:
        _, prepared = prepare(context, foundry)
        history = [
            entry
            for entry in foundry.store.log.entries(limit=5000)
            if f" {ref} " in f"{entry.step} "
        ][:10]
    lines = _waits(prepared.plan, ref)
    keys = sorted(
        k for k in {*prepared.rendered.units, *prepared.observed} if k.ref == ref
    )
    if not keys and ref not in prepared.desired.objects:
        raise PermanentError(
            f"cannot find {ref}: it is neither declared in {context.environment} nor live",
            hint="`bud tree` lists what is",
        )
    objects = [_row(k, prepared.observed[k]) for k in keys if k in prepared.observed]
    needs = [str(k.ref) for k in _needs(prepared, keys)]
    said = [
        f"{entry.at} {entry.step}: {entry.outcome} {entry.error}".rstrip()
        for entry in history
    ]
    data = {
        "object": str(ref),
        "live": objects,
        "waits": lines,
        "needs": needs,
        "history": said,
    }
    context.show(data, rendering.why(data))
    return CHANGES_PENDING if lines else 0


def _waits(made: Plan, ref: Ref) -> list[str]:
    """What is due for an object, and what holds it back."""
    due = [f"{s.change.action}: {s.reason}" for s in made.steps if s.key.ref == ref]
    held = [
        f"{item.action} is held back ({item.waits}): {item.detail}"
        for item in made.blocked
        if item.key.ref == ref
    ]
    return due + held


def _needs(prepared: Prepared, keys: list[Key]) -> list[Key]:
    units = prepared.rendered.units
    return sorted({need for key in keys if key in units for need in units[key].after})


@click.command()
@pass_context
def tree(context: Context) -> None:
    """Show what belongs to what."""
    with context.foundry() as foundry:
        _, prepared = prepare(context, foundry)
    desired = prepared.desired
    needs = {
        ref: sorted(
            {resolve_ref(desired.objects, named) for _, named in references(item)}
        )
        for ref, item in desired.objects.items()
    }
    health = {key.ref: live.health for key, live in prepared.observed.items()}
    data = {
        str(ref): {"needs": [str(n) for n in named], "health": health.get(ref)}
        for ref, named in sorted(needs.items())
    }
    context.show(data, rendering.tree(data))


@click.command()
@pass_context
def drift(context: Context) -> int:
    """Show what strayed from what was applied; exit 3 if anything did."""
    with context.foundry() as foundry:
        _, prepared = prepare(context, foundry)
    found = document_of(prepared.plan)["drift"]
    text = "\n".join(f"{item['key']}: {item['detail']}" for item in found)
    context.show(found, text or "nothing drifted")
    return CHANGES_PENDING if found else 0


@click.command()
@click.argument("name", metavar="[OBJECT]", required=False)
@pass_context
def diff(context: Context, name: str | None) -> int:
    """Show line by line what apply would change; exit 3 if anything."""
    wanted = object_of(name) if name else None
    with context.foundry() as foundry:
        _, prepared = prepare(context, foundry)
        mask = foundry.pipeline.mask
    strayed = {item.key: item.detail for item in prepared.plan.drift}
    found = {
        str(step.key): mask(diff_of(step) or strayed.get(step.key, step.reason))
        for step in prepared.plan.steps
        if wanted in (None, step.key.ref)
    }
    text = "\n".join(f"{key}\n{indent(said, '  ')}" for key, said in found.items())
    context.show(found, text or "nothing to change")
    return CHANGES_PENDING if found else 0


COMMANDS = [status, why, tree, drift, diff]
