"""The plan document and what surrounds it, in words (pure).

The commands print these; every function takes the data that ``--json`` prints, so
that no form can say more than another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from renderers.comment_sections import promotions, rehearsal_cells

__all__ = ["outcomes", "status", "text", "tree", "why"]

Data = Mapping[str, Any]

_SIGNS = {"create": "+", "change": "~", "delete": "-", "adopt": "=", "forget": "="}
_NOTHING = "Nothing to do."


def text(plan: Data) -> str:
    """For a terminal."""
    lines = [_headline(plan)]
    for step in _by_risk(plan["steps"]):
        sign, action = _SIGNS[step["action"]], step["action"]
        lines.append(f"  {sign} {action:<7}{step['key']}  ({step['reason']})")
        lines += [f"      {line}" for line in _preview(step)]
    if plan["blocked"]:
        lines.append("Held back:")
        lines += [
            f"  ! {item['action']:<7}{item['key']}  ({item['waits']}: {item['detail']})"
            for item in plan["blocked"]
        ]
    if plan["drift"]:
        lines.append("Drifted:")
        lines += [f"  ? {item['key']}  ({item['detail']})" for item in plan["drift"]]
    lines += [
        f"Chosen for {ref}: {said['chosen']['layout']} on {said['chosen']['nodePool']}\n"
        f"  {_promise(said)}; {said['why']}"
        for ref, said in plan["decisions"].items()
    ]
    lines += [
        f"Promoted: {said}"
        for change in plan["changes"]
        for said in promotions(change, str)
    ]
    lines += _rehearsed(plan.get("rehearsal", ()))
    lines += _judged(plan)
    if plan["steps"]:
        lines.append(f"Apply it: bud apply --plan {plan['digest']}")
    return "\n".join(lines) + "\n"


def _rehearsed(rows: Sequence[Data]) -> list[str]:
    if not rows:
        return []
    head = ("endpoint", "at once", "tokens out", "TTFT ms", "measured (p95)", "TPOT ms",
            "measured (p95)", "tokens/s", "measured")  # fmt: skip
    cells = [
        (row["object"], f"failed: {row['failed']}", *[""] * 7)
        if row["failed"]
        else (row["object"], *rehearsal_cells(row))
        for row in rows
    ]
    title = (
        "Rehearsed on the simulator, whose timing follows the prediction; one replica:"
    )
    return [title, *(f"  {line}" for line in _table(head, cells))]


def _judged(plan: Data) -> list[str]:
    """What rules say of it, whether it fits, and what it costs."""
    lines = [
        f"  {result['result']:<8}{result['policy']}: {'; '.join(result['details'])}"
        for result in plan["policy"]
        if result["result"] != "pass"
    ]
    lines += [f"  {item['object']}: {item['says']}" for item in plan["rollout"]]
    if plan["steps"]:
        was, now = plan["cost"]["before"], plan["cost"]["after"]
        lines.append(f"Cost: {_cost(was)} -> {_cost(now)} USD a month at list prices")
    return lines


def _cost(cost: Data) -> str:
    """A range, with what nobody knows the price of; never 0 for unknown."""
    low, high = cost["monthLow"], cost["monthHigh"]
    known = f"{high:,.0f}" if low == high else f"{low:,.0f}-{high:,.0f}"
    if not cost["unknown"]:
        return known
    return f"{known} + {cost['unknown']} unknown" if high else "unknown"


def _preview(step: Data) -> Iterator[str]:
    """What a target said of a step: what it means for people, then each thing."""
    found = step.get("preview")
    if not found:
        return
    yield f"refused: {found['refused']}" if found["refused"] else found["summary"]
    yield from found["disruption"]
    yield from found["changes"]


def _promise(said: Data) -> str:
    chosen = said["chosen"]
    return (
        f"TTFT {chosen['ttftMs']} ms, TPOT {chosen['tpotMs']} ms, "
        f"{said['memoryGiB']} GiB a rank, resting on {said['measuredPoints']} "
        "measured points"
    )


def _headline(plan: Data) -> str:
    counts = dict.fromkeys(_SIGNS, 0)
    for step in plan["steps"]:
        counts[step["action"]] += 1
    said = [f"{count} to {action}" for action, count in counts.items() if count]
    said.append(f"{plan['unchanged']} unchanged")
    head = f"Plan {plan['digest'][:12]} for {plan['environment']}: "
    return head + (", ".join(said) if plan["steps"] else f"{_NOTHING} {said[-1]}.")


def _by_risk(steps: Iterable[Data]) -> list[Data]:
    """Deletes first: what cannot be undone must not be scrolled past."""
    order = ["delete", "change", "create", "adopt", "forget"]
    return sorted(steps, key=lambda step: (order.index(step["action"]), step["key"]))


def outcomes(found: Sequence[tuple[str, str, str]]) -> str:
    """(key, outcome, error) of each step of an apply."""
    if not found:
        return _NOTHING
    return "\n".join(
        f"{outcome:<10}{key}" + (f"\n  {error}" if error else "")
        for key, outcome, error in found
    )


def status(data: Data) -> str:
    daemon = data["daemon"]
    lines = [f"environment {data['environment']}"]
    if daemon is None:
        lines.append("daemon      not running")
    else:
        lines.append(
            f"daemon      {daemon['phase']}, commit {_short(daemon['commit'])}"
        )
        lines += [f"  {key}: {doing}" for key, doing in daemon["steps"].items()]
        if daemon["error"]:
            lines += ["  " + line for line in daemon["error"].splitlines()]
        lines += [f"  waits: {b['key']}: {b['detail']}" for b in daemon["blocked"]]
    if data["lastRun"] is not None:
        run = data["lastRun"]
        lines.append(
            f"last apply  {run['result'] or 'running'} ({_short(run['commit'])})"
        )
        lines += ["  " + line for line in run["error"].splitlines()]
    lines += [
        f"suspended   {ref}: {reason}" for ref, reason in data["suspended"].items()
    ]
    if data["objects"]:
        rows = [
            (o["object"], o["target"], o["health"] if o["presence"] == "present"
             else o["presence"], o["detail"])
            for o in data["objects"]
        ]  # fmt: skip
        lines += ["", *_table(("object", "target", "health", "detail"), rows)]
    else:
        lines.append("nothing is applied yet")
    return "\n".join(lines)


def _short(commit: str) -> str:
    return commit[:12] + commit[40:]


def why(data: Data) -> str:
    lines = [data["object"]]
    lines += [
        f"  {o['target']}: {o['presence']}, {o['health']}"
        + (f" ({o['detail']})" if o["detail"] else "")
        for o in data["live"]
    ]
    lines += [f"  waits: {reason}" for reason in data["waits"]]
    if data["needs"]:
        lines.append(f"  needs: {', '.join(data['needs'])}")
    lines += [f"  {line}" for line in data["history"]]
    return "\n".join(lines)


def tree(data: Data) -> str:
    """Each object that nothing needs, with what it needs below it."""
    needed = {name for item in data.values() for name in item["needs"]}
    lines: list[str] = []

    def draw(name: str, prefix: str, branch: str, below: str) -> None:
        item = data.get(name)
        health = f"  {item['health']}" if item and item["health"] else ""
        lines.append(f"{prefix}{branch}{name}{health}")
        children = item["needs"] if item else []
        for i, child in enumerate(children):
            last = i == len(children) - 1
            draw(
                child,
                prefix + below,
                "└─ " if last else "├─ ",
                "   " if last else "│  ",
            )

    for name in data:
        if name not in needed:
            draw(name, "", "", "")
    return "\n".join(lines)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    return [
        "  ".join(
            cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in [head, *rows]
    ]
