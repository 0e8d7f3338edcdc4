"""A foundry's reviews, put together from what its environment says (I/O: credentials).

`bud reconcile` asks for them once it has read the protected branch.
"""

from __future__ import annotations

from dataclasses import dataclass

from reconciler.forge import open_forge
from reconciler.foundry import Foundry, now
from reconciler.review.describer import Describer
from reconciler.review.gate import ReviewGate
from reconciler.review.planner import Planner
from reconciler.review.receiver import Receiver, Wanted
from reconciler.review.reviewer import Notify, Reviewer
from reconciler.review.traffic import Traffic
from reconciler.review.trees import Trees
from schemas.review import Review

__all__ = ["Reviews", "connect"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reviews:
    reviewer: Reviewer
    receiver: Receiver
    gate: ReviewGate


def connect(
    foundry: Foundry,
    settings: Review,
    *,
    remote: str,
    branch: str,
    actor: str,
    notify: Notify,
) -> Reviews:
    """Raises: PermanentError: a credential of the forge is not there."""
    traffic = Traffic(foundry.gateway.metrics_url, now)
    reviewer = Reviewer(
        forge=open_forge(settings.forge, foundry.read, now),
        planner=Planner(
            pipeline=foundry.pipeline,
            trees=Trees(remote, branch, foundry.home.source),
            describer=Describer(foundry.mask),
            traffic=traffic,
        ),
        settings=settings,
        branch=branch,
        notify=notify,
        meters=traffic.counters,
    )
    receiver = Receiver(
        kind=settings.forge.kind,
        repository=settings.forge.repository,
        secret=foundry.read(settings.forge.webhook_secret),
        store=foundry.store,
        wanted=Wanted(),
        clock=now,
    )
    return Reviews(
        reviewer=reviewer,
        receiver=receiver,
        gate=ReviewGate(reviewer=reviewer, actor=actor),
    )
