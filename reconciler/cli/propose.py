"""Verbs that propose a change in git: rollback, promote."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import click

from reconciler.cli.context import Context, actor, object_of, onto_option, pass_context
from reconciler.daemon_http import ask_daemon
from reconciler.forge import visit
from reconciler.foundry import Foundry, home_of, now, reader_of
from reconciler.load import load
from reconciler.overlay import overlay
from reconciler.promote import Promotion
from reconciler.promote import promote as promote_
from reconciler.proposal import Grounds, Published, publish
from reconciler.revert import revert
from reconciler.rollback import revisions_before
from reconciler.source import Checkout
from reconciler.store import Frozen
from renderers.gateway import USAGE
from schemas.errors import FoundryError
from schemas.objects import Ref

__all__ = ["COMMANDS"]

Data = dict[str, Any]


@click.command()
@click.argument("name", metavar="OBJECT")
@click.option("--reason", required=True, help="Read by everybody who asks why.")
@onto_option
@pass_context
def rollback(context: Context, name: str, reason: str, onto: str) -> None:
    """Go back to what lived before, freeze what lives, propose the revert in git."""
    ref = object_of(name)
    with context.foundry() as foundry:
        store = foundry.store
        items = revisions_before(
            ref,
            owned=store.inventory(),
            former=store.former(ref),
            frozen=store.frozen(),
            reason=reason,
            now=now(),
        )
        digests = ", ".join(item.digest[:12] for item in items)
        said = f"rollback {ref} from {digests}: {reason}"
        store.freeze(items, actor(), said)
        daemon = asyncio.run(ask_daemon(foundry.home.daemon, look=True))
        grounds = Grounds(repo=context.repo, onto=onto)
        made, proposal = asyncio.run(_revert(foundry, grounds, ref, items, reason))
    follows = "the daemon follows" if daemon else "run `bud apply` to make it so"
    context.show(
        {"object": str(ref), "frozen": [i.digest for i in items], **made},
        f"{ref} goes back to what lived before {digests}: {follows}\n{proposal}",
    )


async def _revert(
    foundry: Foundry, grounds: Grounds, ref: Ref, items: list[Frozen], reason: str
) -> tuple[Data, str]:
    """What proposes it, and what to say; a proposal is no condition of a rollback."""
    pipeline = foundry.pipeline
    try:
        made = await revert(grounds, pipeline, foundry.store.log, ref, items, reason)
        tree = await Checkout(grounds.repo).newest()
        review = pipeline.desire(tree).environment.spec.review
        async with visit(review, foundry.read, now) as forge:
            published = await publish(grounds, made.proposal, forge, foundry.mask)
    except FoundryError as error:
        return {"branch": "", "url": ""}, (
            f"git still declares it; revert it there ({error})"
        )
    data = {"branch": published.branch, "url": published.url}
    if made.exact:
        return data, str(published)
    return data, (
        f"{published}\nsomething else that it is made of moved too: complete it before "
        "you merge"
    )


@click.command()
@click.argument("name", metavar="OBJECT")
@click.option(
    "--from", "source", metavar="ENVIRONMENT", help="Where it serves. [default: --env]"
)
@click.option(
    "--to", required=True, metavar="ENVIRONMENT", help="That is to declare it."
)
@onto_option
@pass_context
def promote(
    context: Context, name: str, source: str | None, to: str, onto: str
) -> None:
    """Propose for one environment what serves in another, as it was proved there."""
    ref, source = object_of(name), source or context.environment
    if source == to:
        raise click.UsageError(f"--from and --to are both {to}")
    with replace(context, environment=source).foundry() as foundry:
        made, published = asyncio.run(_promote(context, foundry, ref, to, onto))
    data = {
        "object": str(ref),
        "from": source,
        "to": to,
        "digest": made.digest,
        "entry": made.proof.seq,
        "measured": made.measured,
        "predicted": dict(made.predicted),
        "files": sorted(made.proposal.files),
        "branch": published.branch,
        "url": published.url,
    }
    context.show(data, f"{made.proposal.title} as {made.digest[:12]}: {published}")


async def _promote(
    context: Context, foundry: Foundry, ref: Ref, to: str, onto: str
) -> tuple[Promotion, Published]:
    grounds, pipeline = Grounds(repo=context.repo, onto=onto), foundry.pipeline
    async with foundry.session():
        tree = await context.checkout.newest()
        made = await promote_(
            grounds, pipeline, tree, ref, to=to,
            records=foundry.home.gateway_config.with_name(USAGE),
        )  # fmt: skip
    review = overlay(load(tree.root, tree.commit), to).environment.spec.review
    read = reader_of(context.repo, to, home_of(context.repo, to, None), foundry.mask)
    async with visit(review, read, now) as forge:
        return made, await publish(grounds, made.proposal, forge, foundry.mask)


COMMANDS = [rollback, promote]
