"""The table of a plan comment: one row an object, the graver first (pure).

`comment` gives it room; what is grave is named in any case.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from renderers.markdown import money, number, safe, size

__all__ = ["ARROW", "NAMES_MAX", "grave", "latency", "names", "table"]

Data = Mapping[str, Any]

NAMES_MAX = 25_000
"""Characters of names of what is grave, about 600 objects. What stands before and after
them is bounded to less than the rest of a comment."""
ARROW = " \N{RIGHTWARDS ARROW} "
_SLO_SIGNS = {"FAILS": "\N{CROSS MARK} ", "at risk": "\N{WARNING SIGN}\ufe0f "}


def grave(change: Data, document: Data) -> bool:
    """Whether nobody may miss it: a delete, a failing or worse SLO, no room."""
    infeasible = any(
        r["object"] == change["object"] and not r["feasible"]
        for r in document["rollout"]
    )
    slo = change["slo"]
    return (
        change["action"] == "delete"
        or slo["after"] == "FAILS"
        or slo["worse"]
        or infeasible
    )


_HEAD = (
    (
        "| object | action | SLO | GPUs | GiB per rank | TTFT ms (90 %) | TPOT ms (90 %) "
        "| tokens/s | USD/month | USD/1M tokens |"
    ),
    "|---|---|---|--:|--:|--:|--:|--:|--:|--:|",
)
"""Forges are narrower than that: what a decision hangs on must not be scrolled to."""
_LEAN = ("| object | action | SLO | USD/month |", "|---|---|---|--:|")


def table(kept: list[Data], rest: list[Data], room: int) -> list[str]:
    """All grave rows; wide ones if they fit, lean ones else, names at the least."""
    if not kept and not rest:
        return []
    if size(names(kept)) > NAMES_MAX:
        return [
            (
                f"**{len(kept)} objects are deleted or fail their SLO: too many to be shown, "
                "so this plan cannot be approved. Split the pull request.**"
            ),
            "",
        ]
    for head, row in ((_HEAD, _row), (_LEAN, _lean_row)):
        rows = [row(change) for change in kept]
        if size((*head, *rows)) > room:
            continue
        left = room - size((*head, *rows))
        others = []
        for change in rest:
            line = row(change)
            if (left := left - len(line) - 1) < 0:
                break
            others.append(line)
        missing = len(rest) - len(others)
        more = [f"... and {missing} more, none of them a delete or a failing SLO", ""]
        return [*head, *rows, *others, "", *(more if missing else [])]
    return [*names(kept), "", f"... and {len(rest)} more, none of them grave", ""]


def names(kept: list[Data]) -> list[str]:
    """The least that can be said of each."""
    return [f"`{change['action']} {change['object']}`" for change in kept]


def _row(change: Data) -> str:
    was, now = change["before"], change["after"]
    cells = (
        safe(change["object"]),
        _action(change),
        _slo(change),
        _pair(was, now, _gpus),
        _pair(None, now, _memory),
        _pair(was, now, lambda e: latency(e, "ttft")),
        _pair(was, now, lambda e: latency(e, "tpot")),
        _pair(was, now, lambda e: number(e["prediction"].get("tokens_per_s"))),
        _pair(was, now, lambda e: money(e["cost"]["monthLow"], e["cost"]["monthHigh"])),
        _pair(was, now, lambda e: money(e["cost"]["millionLow"], e["cost"]["millionHigh"])),
    )  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _lean_row(change: Data) -> str:
    cost = _pair(
        change["before"],
        change["after"],
        lambda e: money(e["cost"]["monthLow"], e["cost"]["monthHigh"]),
    )
    return f"| {safe(change['object'])} | {_action(change)} | {_slo(change)} | {cost} |"


def _action(change: Data) -> str:
    if change["action"] == "delete":
        return "**DELETE**"
    was, now = change["before"], change["after"]
    if was and now and was["layout"] != now["layout"]:
        return f"{was['layout']}{ARROW}{now['layout']}"
    return str(change["action"])


def _pair(was: Data | None, now: Data | None, say: Any) -> str:
    before, after = say(was) if was else "", say(now) if now else ""
    if before and after and before != after:
        return f"{before}{ARROW}{after}"
    if before and not now:
        return f"{before}{ARROW}0" if say is _gpus else "-"
    return after or "-"


def _gpus(endpoint: Data) -> str:
    if not endpoint["gpu"]:
        return "CPU"
    fewest, most = (
        endpoint[name] * endpoint["gpusPerReplica"]
        for name in ("replicasFewest", "replicasMost")
    )
    count = str(most) if fewest == most else f"{fewest}-{most}"
    return f"{count} {endpoint['gpu'].split('-')[0]}"


def _memory(endpoint: Data) -> str:
    needed = endpoint["prediction"].get("memory_hi")
    there = endpoint["memoryAvailable"]
    if needed is None or there is None:
        return "?"
    return f"{needed:.1f} of {there:.1f}" + ("" if needed <= there else " **too much**")


def latency(endpoint: Data, name: str) -> str:
    prediction = endpoint["prediction"]
    mean = prediction.get(f"{name}_ms")
    if mean is None:
        return "?"
    low, high = prediction.get(f"{name}_lo"), prediction.get(f"{name}_hi")
    measured = endpoint.get("measured", {}).get(name)
    # The dash that no table breaks a line at.
    said = f"{number(mean)} ({number(low)}\N{NON-BREAKING HYPHEN}{number(high)})"
    return said + (f", measured {number(measured)}" if measured is not None else "")


def _slo(change: Data) -> str:
    slo = change["slo"]
    if not slo["after"]:
        return "-"
    sign = _SLO_SIGNS.get(slo["after"], "")
    was = f" (was {slo['before']})" if slo["before"] not in ("", slo["after"]) else ""
    return f"{sign}{slo['after']}{was}"
