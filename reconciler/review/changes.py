"""Changes: a plan's steps by object, with what was and what will be (pure).

`document` asks it. A reviewer decides on objects; that one object has a step at two
targets is a matter of the engine.
"""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orjson

from reconciler.plan import Plan, Step
from reconciler.values import Key, Live
from schemas.objects import Ref

__all__ = ["changes_of", "diff_of", "rollout_of", "routes_of"]

Data = dict[str, Any]

_ORDER = ("delete", "create", "change", "adopt", "forget")
"""What an object is said to undergo: the gravest of its steps."""
_CONTEXT = 2
_LONGEST = 400
"""Lines of one object's diff; the whole is in the document."""


def changes_of(
    made: Plan,
    head: Mapping[str, Any],
    base: Mapping[str, Any],
    observed: Mapping[Key, Live],
    *,
    mask: Callable[[str], str],
) -> list[Data]:
    """One entry for each object that the plan touches, deletes and failures first."""
    steps: dict[Ref, list[Step]] = defaultdict(list)
    for step in made.steps:
        steps[step.key.ref].append(step)
    found = []
    for ref, some in sorted(steps.items()):
        action = min((step.change.action for step in some), key=_ORDER.index)
        before, after = base["endpoints"].get(str(ref)), head["endpoints"].get(str(ref))
        found.append(
            {
                "object": str(ref),
                "action": str(action),
                "file": head["files"].get(str(ref)) or base["files"].get(str(ref), ""),
                "reasons": sorted({step.reason for step in some}),
                "targets": [step.key.target for step in some],
                "previews": [
                    step.preview.document(why=True) for step in some if step.preview
                ],
                "before": before,
                "after": None if action == "delete" else after,
                "slo": _slo_moved(before, None if action == "delete" else after),
                "diffs": [mask(text) for text in map(diff_of, some) if text],
                "writers": sorted(
                    {live.writer for s in some if (live := observed.get(s.key)) and live.writer}
                ),
            }
        )  # fmt: skip
    return sorted(found, key=_gravity)


def _gravity(change: Data) -> tuple[int, int, str]:
    failing = change["slo"]["after"] == "FAILS"
    return (
        0 if change["action"] == "delete" else 1 if failing else 2,
        0 if change["after"] or change["before"] else 1,
        change["object"],
    )


def _slo_moved(before: Data | None, after: Data | None) -> Data:
    was = before["slo"]["verdict"] if before else ""
    now = after["slo"]["verdict"] if after else ""
    order = ("FAILS", "unknown", "at risk", "meets", "none set")
    worse = bool(was and now) and order.index(now) < order.index(was)
    return {"before": was, "after": now, "worse": worse}


def diff_of(step: Step) -> str:
    """What was applied against what is planned, line by line; empty for a correction."""
    was = step.owned.unit.content if step.owned else b""
    now = step.change.unit.content if step.change.unit else b""
    if was == now:
        return ""
    lines = [
        *difflib.unified_diff(
            _lines(was),
            _lines(now),
            fromfile=f"{step.key} as applied",
            tofile=f"{step.key} as planned",
            lineterm="",
            n=_CONTEXT,
        )
    ]
    if len(lines) > _LONGEST:
        left = len(lines) - _LONGEST
        lines = [*lines[:_LONGEST], f"... {left} more lines"]
    return "\n".join(lines)


def _lines(content: bytes) -> list[str]:
    """JSON a field a line, anything else as it is."""
    try:
        data = orjson.loads(content)
    except orjson.JSONDecodeError:
        return content.decode("utf-8", "replace").splitlines()
    return orjson.dumps(data, option=orjson.OPT_INDENT_2).decode().splitlines()


def rollout_of(changes: list[Data], head: Mapping[str, Any]) -> list[Data]:
    """For each endpoint that rolls: does the surge fit beside what runs?"""
    return [*_rollouts(changes, head)]


def _rollouts(changes: list[Data], head: Mapping[str, Any]) -> Iterator[Data]:
    used: dict[tuple[str, str], int] = defaultdict(int)
    for endpoint in head["endpoints"].values():
        used[endpoint["cluster"], endpoint["nodePool"]] += endpoint["gpusMost"]
    pools = {
        (name.rpartition("/")[2], pool): size["gpus"]
        for name, cluster in head["clusters"].items()
        for pool, size in cluster["pools"].items()
    }
    for change in changes:
        after = change["after"]
        if change["action"] not in ("create", "change") or not after:
            continue
        if not after["gpusPerReplica"]:
            continue  # what a machine without GPUs has room for, its cluster says
        place = after["cluster"], after["nodePool"]
        each = after["gpusPerReplica"]
        free = pools.get(place, 0) - used[place]
        surge = each * after["surge"] if change["action"] == "change" else 0
        if free < 0:
            said = f"needs {-free} GPUs more than {place[0]}/{place[1]} can have: it will not be scheduled"
        elif change["action"] == "create":
            said = f"fits: {free} GPUs of {place[0]}/{place[1]} stay free"
        elif after["strategy"] == "recreate":
            said = "recreate: it does not answer while it is replaced"
        elif free >= surge:
            said = f"rolls with a surge of {surge} GPUs, {free} are free: no capacity is lost"
        else:
            said = f"surge needs {surge} GPUs, {max(free, 0)} are free: a replica is drained first"
        yield {
            "object": change["object"],
            "feasible": free >= 0,
            "surge": surge,
            "free": free,
            "says": said,
        }


def routes_of(
    changes: list[Data],
    head: Mapping[str, Any],
    base: Mapping[str, Any],
    traffic: Mapping[str, Data] | None,
) -> list[Data]:
    """Routes through anything that changes, with what they carried of late."""
    touched = {change["object"] for change in changes}
    found = []
    for name in sorted({*head["routes"], *base["routes"]}):
        route = head["routes"].get(name) or base["routes"][name]
        through = sorted(touched & {name, *route["needs"]})
        if through:
            carried = None if traffic is None else traffic.get(name.partition("/")[2])
            found.append(
                {
                    "route": name,
                    "project": route["project"],
                    "models": route["models"],
                    "through": through,
                    "traffic": carried,
                }
            )
    return found
