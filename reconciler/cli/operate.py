"""Verbs that change what will be: plan, apply, suspend, resume."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from datetime import timedelta
from typing import Any

import click
import orjson

from reconciler.cli.context import Context, actor, object_of, pass_context
from reconciler.cli.look import CHANGES_PENDING, document_of
from reconciler.daemon_http import ask_daemon
from reconciler.foundry import Foundry, now
from reconciler.plan import Plan
from reconciler.review.offline import document_here
from reconciler.review.rehearse import rehearse
from reconciler.store import Suspension
from reconciler.values import Key, Outcome, OutcomeKind
from renderers import plan as rendering
from renderers.comment import comment
from schemas.errors import PermanentError
from schemas.units import Duration

__all__ = ["COMMANDS", "tell"]

Data = dict[str, Any]


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


COMMANDS = [plan, apply, suspend, resume]
