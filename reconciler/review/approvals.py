"""Approvals: does what people said allow this plan to be applied? (pure)

The reviewer asks it, with what the forge says now. An approval counts for one plan:
for the head it was given to, and only after that plan could be read. Whoever wrote
a part of the change approves nothing of it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from reconciler.forge.base import Approval
from reconciler.store import Review
from renderers.comment import unreadable

__all__ = ["Judgement", "judge"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """``approved`` says who agreed; ``reasons`` why it may not be applied, if any."""

    approved: tuple[str, ...]
    reasons: tuple[str, ...]


def judge(
    review: Review,
    document: Mapping[str, Any],
    approvals: Iterable[Approval],
    *,
    authors: Collection[str],
    writers: Collection[str],
    members: Mapping[str, frozenset[str]],
    now: datetime,
) -> Judgement:
    """``writers`` may push; ``members`` has each team that a policy names."""
    reasons, good = [], set()
    for approval in approvals:
        refused = _refused(review, approval, authors, writers)
        if refused:
            reasons.append(refused)
        else:
            good.add(approval.by)
    problems = [*_state(review, now), *_denied(document)]
    if unreadable(document):
        problems.append("more is deleted or fails than a comment can show: split it")
    for wanted in document["approvals"]:
        people = {
            login
            for name in wanted["owners"]
            for login in ({name} | members.get(name, frozenset()))
        }
        agreed = good & people if wanted["owners"] else good
        if len(agreed) < wanted["count"]:
            owners = ", ".join(wanted["owners"])
            problems.append(
                f"{wanted['count'] - len(agreed)} approvals of {owners} are missing"
            )
    if not problems:
        return Judgement(approved=tuple(sorted(good)), reasons=())
    return Judgement(approved=tuple(sorted(good)), reasons=(*problems, *reasons))


def _refused(
    review: Review,
    approval: Approval,
    authors: Collection[str],
    writers: Collection[str],
) -> str:
    who = approval.by
    if who in authors:
        return f"the approval by {who} does not count: they wrote a part of it"
    if who not in writers:
        return f"the approval by {who} does not count: they may not write here"
    if approval.commit not in ("", review.head):
        return f"the approval by {who} is stale: it is of {approval.commit[:12]}"
    # Strictly after: within one second nobody has read a plan.
    if review.posted_at is None or approval.at <= review.posted_at:
        return f"the approval by {who} is stale: it is older than this plan"
    return ""


def _state(review: Review, now: datetime) -> list[str]:
    if review.state != "open":
        return [f"the plan is {review.state}"]
    if now >= review.expires_at:
        return [f"the plan expired at {review.expires_at:%Y-%m-%d %H:%M}Z"]
    return []


def _denied(document: Mapping[str, Any]) -> list[str]:
    return [
        f"{result['policy']} refuses it: {'; '.join(result['details'][:5])}"
        for result in document["policy"]
        if result["result"] == "deny"
    ]
