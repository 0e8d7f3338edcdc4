"""The plan document and what surrounds it, in words (pure).

The commands print these; every function takes the data that ``--json`` prints, so
that no form can say more than another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

__all__ = ["markdown", "outcomes", "status", "text", "tree", "why"]

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
    if plan["steps"]:
        lines.append(f"Apply it: bud apply --plan {plan['digest']}")
    return "\n".join(lines) + "\n"


def markdown(plan: Data) -> str:
    """For a pull request."""
    lines = [f"### {_headline(plan)}", ""]
    if plan["steps"]:
        lines += ["| action | object | target | why |", "|---|---|---|---|"]
        for step in _by_risk(plan["steps"]):
            target, _, ref = step["key"].partition(":")
            action = (
                step["action"].upper() if step["action"] == "delete" else step["action"]
            )
            lines.append(
                f"| {action} | {_cell(ref)} | {target} | {_cell(step['reason'])} |"
            )
        lines.append("")
    for step in _by_risk(plan["steps"]):
        if below := list(_preview(step)):
            lines += [f"- {_cell(step['key'])}:", *(f"  - {_cell(b)}" for b in below)]
    for ref, said in plan["decisions"].items():
        lines += _choices(ref, said)
    for item in plan["blocked"]:
        lines.append(f"- held back: {_cell(item['key'])}: {_cell(item['detail'])}")
    for item in plan["drift"]:
        lines.append(f"- drifted: {_cell(item['key'])}: {_cell(item['detail'])}")
    lines += ["", f"Plan `{plan['digest']}` of commit `{plan['commit']}`", ""]
    return "\n".join(lines)


def _preview(step: Data) -> Iterator[str]:
    """What a target said of a step: what it means for people, then each thing."""
    found = step.get("preview")
    if not found:
        return
    yield f"refused: {found['refused']}" if found["refused"] else found["summary"]
    yield from found["disruption"]
    yield from found["changes"]


def _choices(ref: str, said: Data) -> list[str]:
    """What was chosen for an endpoint, first, and the best alternatives."""
    rows = [
        f"| {_cell(o['layout'])} | {o['nodePool']} | {o['ttftMs']} | {o['tpotMs']} "
        f"| {o['tokensPerS']} | {o['usdPerHour'] or '-'} |"
        for o in (said["chosen"], *said["alternatives"])
    ]
    return [
        f"<details><summary>{ref}: {said['why']}</summary>",
        "",
        "| layout | pool | TTFT ms (90 %) | TPOT ms (90 %) | tok/s | USD/h |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
        f"{_promise(said)}.",
        "",
        "</details>",
        "",
    ]


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


def _cell(value: str) -> str:
    """Text from outside, kept inside its cell whatever it holds."""
    plain = " ".join(value.split()).replace("|", "\\|").replace("`", "'")
    return f"`{plain}`"


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
