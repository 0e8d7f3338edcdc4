"""What follows the table of a plan comment, the more important first (pure).

`comment` takes of it what fits; the terminal shows some of the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from renderers.comment_table import ARROW, latency
from renderers.markdown import UNSEEN, bullets, folded, money, number, safe

__all__ = ["promotions", "rehearsal_cells", "sections", "traffic"]

Data = Mapping[str, Any]

_LINES = 15
"""Files that are named."""
_FOLDED_MAX = 6_000
"""Of one object's folded diff: 40 objects with large diffs must not hide the rest."""


def sections(document: Data, changes: list[Data]) -> Iterator[list[str]]:
    """The rest, the more important first."""
    yield bullets("Promoted", (
        line for change in changes for line in promotions(change, safe)
    ))  # fmt: skip
    yield _rehearsed(document.get("rehearsal", ()))
    yield bullets("Rollout", (
        f"{safe(r['object'])}: {r['says']}" for r in document["rollout"]
    ))  # fmt: skip
    yield bullets("What targets say", (
        f"{safe(change['object'])}: " + "; ".join(safe(said) for said in _previewed(p))
        for change in changes for p in change["previews"]
    ))  # fmt: skip
    yield bullets("Routes touched", (
        f"{safe(r['route'])} ({safe(', '.join(r['models']))}, project {safe(r['project'])}): "
        + traffic(r["traffic"])
        for r in document["routes"]
    ))  # fmt: skip
    yield _elsewhere(document["pull"])
    yield _costs(document)
    yield folded(
        "Optimizer: what was chosen, and what else", _choices(document["decisions"])
    )
    for change in changes:
        if change["diffs"]:
            yield _diff(change)
    yield folded("Field owners and drift", _owners(document, changes))
    passed = [f"- {safe(r['policy'])} {r['rule']}" for r in document["policy"] if r["result"] == "pass"]  # fmt: skip
    yield folded("Policies that are kept", passed)


def promotions(change: Data, quote: Callable[[str], str]) -> Iterator[str]:
    """Where it was proved, how it measured there, and what is predicted of it here."""
    was, now = change["before"] or {}, change["after"] or {}
    said = now.get("promoted")
    if not said or said == was.get("promoted"):
        return
    if not said["holds"]:
        yield f"{quote(change['object'])}: no longer what was proved in {quote(said['from'])}"
        return
    yield (
        f"{quote(change['object'])} as {quote(said['digest'][:12])}, which "
        f"{quote(said['from'])} says it served (its ledger, entry {quote(said['entry'])}). "
        f"Measured there: {quote(said['measured'])}. Predicted here: TTFT "
        f"{latency(now, 'ttft')} ms, TPOT {latency(now, 'tpot')} ms"
    )


def _rehearsed(rows: Sequence[Data]) -> list[str]:
    """What one replica on the simulator measured, beside what was predicted of it."""
    if not rows:
        return []
    lines = [
        "**Rehearsed on the simulator**, whose timing follows the prediction: one replica",
        "",
        *(
            f"- failed: {safe(r['object'])}: {safe(r['failed'])}"
            for r in rows
            if r["failed"]
        ),
        "",
        (
            "| endpoint | at once | tokens out | TTFT ms | measured (p95) | TPOT ms "
            "| measured (p95) | tokens/s | measured |"
        ),
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {safe(row['object'])} | {' | '.join(rehearsal_cells(row))} |"
        for row in rows
        if not row["failed"]
    ]
    return [*lines, ""]


def rehearsal_cells(row: Data) -> Iterator[str]:
    """The load that was played; then TTFT, TPOT, tokens/s, predicted and measured."""
    said, met = row["predicted"], row["measured"]
    for played, wanted in (("atOnce", "share"), ("tokens", "declaredTokens")):
        cut = row[played] < row[wanted]
        yield f"{row[played]} of {row[wanted]}" if cut else str(row[wanted])
    for name in ("ttft", "tpot"):
        mean, most = met[f"{name}Ms"], met[f"{name}P95Ms"]
        yield number(said[f"{name}Ms"])
        yield "-" if mean is None else f"{number(mean)} ({number(most)})"
    yield number(said["tokensPerS"])
    yield "-" if met["tokensPerS"] is None else number(met["tokensPerS"])


def _previewed(found: Data) -> Iterator[str]:
    """What it means for people; the single things are in the document."""
    yield f"refused: {found['refused']}" if found["refused"] else found["summary"]
    yield from found["disruption"]


def _elsewhere(pull: Data | None) -> list[str]:
    """What is merged as well, and nothing here says anything about."""
    files = (pull or {}).get("elsewhere", ())
    if not files:
        return []
    more = f" and {len(files) - _LINES} more" if len(files) > _LINES else ""
    return bullets("Changed, and no part of this plan", [
        ", ".join(safe(name) for name in files[:_LINES]) + more
    ])  # fmt: skip


def traffic(carried: Data | None) -> str:
    if carried is None:
        return "traffic unknown"
    return (
        f"{number(carried['requests'])} requests, {number(carried['tokens'])} tokens "
        f"{carried['since']}"
    )


def _costs(document: Data) -> list[str]:
    was, now = document["cost"]["before"], document["cost"]["after"]
    lines = [f"all: {_total(was)}{ARROW}{_total(now)} USD a month"]
    lines += [
        f"project {safe(name)}: {_total(p['before'])}{ARROW}{_total(p['after'])}"
        for name, p in document["projects"].items()
        if p["before"] != p["after"]
    ]
    sources = {
        e["cost"]["source"] for c in document["changes"] if (e := c["after"] or c["before"])
    }  # fmt: skip
    lines += [f"price: {safe(source)}" for source in sorted(sources)[:8]]
    return bullets("Cost at the declared load", lines)


def _total(cost: Data) -> str:
    known = money(cost["monthLow"], cost["monthHigh"])
    if not cost["unknown"]:
        return known
    return f"{known} + {cost['unknown']} unknown" if cost["monthHigh"] else "unknown"


def _choices(decisions: Mapping[str, Data]) -> list[str]:
    lines = []
    for name, said in decisions.items():
        lines += [
            f"{safe(name)}: {safe(said['why'])} ({said['measuredPoints']} measured points)",
            "",
            "| layout | pool | TTFT ms (90 %) | TPOT ms (90 %) | tokens/s | USD/h |",
            "|---|---|--:|--:|--:|--:|",
        ]
        lines += [
            f"| {safe(o['layout'])} | {safe(o['nodePool'])} | {o['ttftMs']} | {o['tpotMs']} "
            f"| {o['tokensPerS']} | {o['usdPerHour'] or 'unknown'} |"
            for o in (said["chosen"], *said["alternatives"])
        ]
        lines.append("")
    return lines


def _diff(change: Data) -> list[str]:
    text = UNSEEN.sub(lambda m: f"U+{ord(m[0]):04X}", "\n".join(change["diffs"]))
    if len(text) > _FOLDED_MAX:
        text = text[:_FOLDED_MAX].rsplit("\n", 1)[0] + "\n... cut, see the document"
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return folded(f"diff of {change['object']}", [f"{fence}diff", text, fence])


def _owners(document: Data, changes: list[Data]) -> list[str]:
    lines = [
        f"- {safe(c['object'])} ({safe(c['file'])}) was last written by "
        f"{safe(', '.join(c['writers']))}"
        for c in changes
        if c["writers"]
    ]
    lines += [
        f"- drifted: {safe(d['key'])}: {safe(d['detail'])}" for d in document["drift"]
    ]
    adopted = [c for c in document["changes"] if c["action"] in ("adopt", "forget")]
    return lines + [f"- {c['action']}: {safe(c['object'])}" for c in adopted]
