"""Verbs about what is and what will be: plan, apply, status, why, tree, drift, diff,
suspend, resume."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from textwrap import indent
from typing import Any

import click
import orjson

from reconciler.cli.context import Context, actor, object_of, pass_context
from reconciler.daemon_http import ask_daemon
from reconciler.foundry import Foundry, now
from reconciler.observe import observe
from reconciler.pipeline import Prepared
from reconciler.plan import Plan
from reconciler.review.changes import diff_of
from reconciler.review.offline import document_here
from reconciler.review.rehearse import rehearse
from reconciler.source import Tree
from reconciler.store import Suspension
from reconciler.values import Key, Live, Outcome, OutcomeKind
from renderers import plan as rendering
from renderers.comment import comment
from schemas.errors import FoundryError, PermanentError
from schemas.kinds import references
from schemas.naming import resolve_ref
from schemas.objects import Ref
from schemas.units import Duration

__all__ = ["COMMANDS", "tell"]

CHANGES_PENDING = 3
Data = dict[str, Any]


def _prepare(context: Context, foundry: Foundry) -> tuple[Tree, Prepared]:
    async def look() -> tuple[Tree, Prepared]:
        async with foundry.session():
            tree = await context.checkout.newest()
            return tree, await foundry.pipeline.prepare(tree)

    return asyncio.run(look())


@click.command()
@click.option("--format", "form", default="text", show_default=True,
              type=click.Choice(["text", "markdown", "json"]))  # fmt: skip
@click.option(
    "--base", help="Compare with this commit. [default: what was applied last]"
)
@click.option("--digest", help="Show a plan that is kept, of a pull request or one's own.")  # fmt: skip
@click.option("--rehearse", "rehearsing", is_flag=True,
              help="Start what changes on the simulator, and measure it.")  # fmt: skip
@pass_context
def plan(
    context: Context,
    form: str,
    base: str | None,
    digest: str | None,
    rehearsing: bool,  # noqa: FBT001
) -> int:
    """Show what apply would do, and keep it under its digest."""
    if rehearsing and digest is not None:
        raise click.UsageError("--rehearse plays the checkout, and no kept plan")
    with context.foundry() as foundry:
        if digest is not None:
            document = _kept(foundry, digest)
        else:
            document = asyncio.run(
                _planned(context, foundry, base, rehearsing=rehearsing)
            )
    if context.as_json or form == "json":
        replace(context, as_json=True).show(document, "")
    elif form == "markdown":
        click.echo(comment(document), nl=False)
    else:
        click.echo(rendering.text(document), nl=False)
    return CHANGES_PENDING if document["steps"] or document["blocked"] else 0


async def _planned(
    context: Context, foundry: Foundry, base: str | None, *, rehearsing: bool
) -> Data:
    async with foundry.session():
        tree = await context.checkout.newest()
        prepared = await foundry.pipeline.prepare(tree)
        foundry.store.save_plan(prepared.plan.digest, prepared.plan.canonical())
        document = await document_here(foundry, prepared, base)
    if rehearsing:
        document["rehearsal"] = await rehearse(prepared)
    return document


def _kept(foundry: Foundry, digest: str) -> Data:
    review = foundry.store.reviews.find(digest)
    if review is None:
        raise PermanentError(
            f"cannot find plan {digest}: no pull request was planned so here",
            hint="`bud plan` plans the checkout",
        )
    document: Data = orjson.loads(review.document)
    return document


def document_of(made: Plan) -> dict[str, Any]:
    return {"digest": made.digest, **made.document()}


@click.command()
@click.option("--plan", "digest", help="Apply exactly this plan, or say what moved.")
@pass_context
def apply(context: Context, digest: str | None) -> int:
    """Make the world match the checkout, once."""
    with context.foundry() as foundry, foundry.store.lead(actor()) as journal:

        async def work() -> tuple[Plan, tuple[Outcome, ...]]:
            async with foundry.session():
                tree = await context.checkout.newest()
                await foundry.pipeline.note_decisions(journal)
                prepared = await foundry.pipeline.prepare(tree)
                foundry.pipeline.check_signed(prepared, tree)
                if digest is not None:
                    foundry.pipeline.check_pinned(prepared.plan, digest)
                    foundry.store.use_plan(digest, actor())
                outcomes = await foundry.pipeline.execute(
                    prepared.plan, journal, actor=actor(), progress=tell
                )
            return prepared.plan, outcomes

        made, outcomes = asyncio.run(work())
    failed = [
        o for o in outcomes if o.kind in (OutcomeKind.FAILED, OutcomeKind.SKIPPED)
    ]
    context.show(
        {
            "plan": made.digest,
            "outcomes": [
                {"key": str(o.key), "outcome": o.kind, "error": o.error}
                for o in outcomes
            ],
            "blocked": document_of(made)["blocked"],
        },
        rendering.outcomes([(str(o.key), str(o.kind), o.error) for o in outcomes]),
    )
    for item in made.blocked:
        click.echo(f"waits: {item.key.ref}: {item.detail}", err=True)
    return 1 if failed or made.blocked else 0


def tell(key: Key, doing: str) -> None:
    click.echo(f"{key.ref}: {doing}", err=True)
    sys.stderr.flush()


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
        _, prepared = _prepare(context, foundry)
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
        _, prepared = _prepare(context, foundry)
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
        _, prepared = _prepare(context, foundry)
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
        _, prepared = _prepare(context, foundry)
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


@click.command()
@click.argument("name", metavar="OBJECT")
@click.option("--reason", required=True, help="Read by everybody who asks why.")
@click.option(
    "--for", "length", default="24h", show_default=True, help="Until it ends by itself."
)
@pass_context
def suspend(context: Context, name: str, reason: str, length: str) -> None:
    """Leave an object alone for a while."""
    ref = object_of(name)
    try:
        expires = now() + timedelta(seconds=Duration(length).seconds)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--for") from error
    with context.foundry() as foundry:
        foundry.store.suspend(
            Suspension(ref=ref, reason=reason, actor=actor(), expires_at=expires)
        )
    until = f"{expires:%Y-%m-%d %H:%M}Z"
    context.show(
        {"object": str(ref), "until": until}, f"{ref} is suspended until {until}"
    )


@click.command()
@click.argument("name", metavar="OBJECT")
@pass_context
def resume(context: Context, name: str) -> None:
    """End a suspension, and allow again what was rolled back."""
    ref = object_of(name)
    with context.foundry() as foundry:
        ended = foundry.store.resume(ref, actor())
        back = [
            item.digest
            for item in foundry.store.frozen().values()
            if item.stand_in is not None and item.stand_in.key.ref == ref
        ]
        thawed = foundry.store.thaw(back, actor(), f"resume {ref}")
        asyncio.run(ask_daemon(foundry.home.daemon, look=True))
    resumed = ended or thawed > 0
    said = (
        f"{ref} is resumed"
        if resumed
        else f"{ref} was not suspended, and nothing of it frozen"
    )
    context.show({"object": str(ref), "resumed": resumed}, said)


COMMANDS = [plan, apply, status, why, tree, drift, diff, suspend, resume]
