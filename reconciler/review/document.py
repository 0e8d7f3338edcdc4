"""The plan document of a review: what everybody reads before they decide (pure).

`planner` makes it of a pull request and `bud plan` of a checkout, from the same
values. Comment, terminal, JSON, policies and agents read this one document and
nothing else. What an approval binds to is the plan's digest; all else here follows
from what that digest pins, or is dated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from reconciler.plan import Plan
from reconciler.review.changes import changes_of, rollout_of, routes_of
from reconciler.review.policy import evaluate
from reconciler.values import Key, Live

__all__ = ["Surroundings", "counted", "document_of", "judged_at", "requirements_of"]

Data = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a document says beside the plan and the two commits' facts."""

    now: datetime
    mask: Callable[[str], str] = str
    owned: Mapping[str, int]
    """Kind -> how many objects of ours live: what a share of deletes is of."""
    traffic: Mapping[str, Data] | None = None
    """``project/route`` -> what it carried of late; None when nobody knows."""
    pull: Data | None = None
    """The pull request: number, author, head, base, link."""


def document_of(
    made: Plan,
    observed: Mapping[Key, Live],
    *,
    head: Mapping[str, Any],
    base: Mapping[str, Any],
    around: Surroundings,
) -> Data:
    """Everything about a plan, as JSON data; strings from content are masked."""
    changes = changes_of(made, head, base, observed, mask=around.mask)
    document: Data = {
        "digest": made.digest,
        **made.document(),
        "madeAt": around.now.isoformat(timespec="seconds"),
        "pull": around.pull,
        "changes": changes,
        "cost": {"before": base["cost"], "after": head["cost"]},
        "projects": _projects(head, base),
        "gpus": head["gpus"],
        "gpusBefore": base["gpus"],
        "rollout": rollout_of(changes, head),
        "routes": routes_of(changes, head, base, around.traffic),
        "models": head["models"],
        "clusters": head["clusters"],
        "access": _access(head["access"], base["access"]),
        "owned": dict(around.owned),
    }
    # The protected branch's: nothing is judged by rules that it brings along.
    document["rules"] = base["policies"]
    masked = _masked(document, around.mask)
    assert isinstance(masked, dict), "a document is a mapping"
    return judged_at(masked, around.now)


def judged_at(document: Mapping[str, Any], now: datetime) -> Data:
    """The document with what its rules say at a moment: windows open and close."""
    results = evaluate(document["rules"], document, now=now)
    return {**document, "policy": results, "approvals": requirements_of(results)}


def requirements_of(results: list[Data]) -> list[Data]:
    """Who has to approve, and why; each group once, by the most it was asked for."""
    wanted: dict[tuple[str, ...], Data] = {}
    for result in results:
        if result["result"] != "approve":
            continue
        group = tuple(sorted(result["approvers"]))
        known = wanted.setdefault(group, {"owners": list(group), "count": 1, "why": []})
        known["count"] = max(known["count"], result["count"])
        known["why"] += result["details"]
    return [wanted[group] for group in sorted(wanted)]


def counted(keys: Mapping[Key, object]) -> dict[str, int]:
    """Kind -> objects, for ``Surroundings.owned``."""
    return dict(Counter(ref.kind for ref in {key.ref for key in keys}))


def _projects(head: Mapping[str, Any], base: Mapping[str, Any]) -> Data:
    nothing = {"monthLow": 0.0, "monthHigh": 0.0, "unknown": 0}
    found = {}
    for name in sorted({*head["projects"], *base["projects"]}):
        now, was = head["projects"].get(name, {}), base["projects"].get(name, {})
        found[name] = {
            "before": was.get("cost", nothing),
            "after": now.get("cost", nothing),
            "gpus": now.get("gpus", 0),
            # The protected branch's: a branch cannot raise its own quota unseen.
            "quotaGpus": was.get("quotaGpus") if was else now.get("quotaGpus"),
            "quotaCost": was.get("quotaCost") if was else now.get("quotaCost"),
        }
    return found


def _access(now: Mapping[str, list[str]], was: Mapping[str, list[str]]) -> Data:
    known = {grant for grants in was.values() for grant in grants}
    current = {grant for grants in now.values() for grant in grants}
    return {"wider": sorted(current - known), "narrower": sorted(known - current)}


def _masked(value: Any, mask: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, Mapping):
        return {mask(str(k)): _masked(v, mask) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(v, mask) for v in value]
    return value
