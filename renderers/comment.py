"""The plan document as the comment of a pull request (pure).

The reviewer and `bud plan --format markdown` print it, byte for byte the same. The
order is what a decision needs: table, what is refused and who must agree, rollout,
routes, cost; then everything that may be folded. Deletes, failing SLOs and risks
are written first and never cut; whatever else does not fit is counted instead.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

__all__ = [
    "LIMIT",
    "comment",
    "marker",
    "promotions",
    "rehearsal_cells",
    "safe",
    "unreadable",
]

Data = Mapping[str, Any]

LIMIT = 65_535
"""Characters; what GitHub takes, the least of the forges."""
_RESERVE = 4_000
"""Kept for what stands after the table when deletes alone would fill a comment."""
_NAMES_MAX = 25_000
"""Characters of names of what is grave, about 600 objects. What stands before and after
them is bounded to less than the rest of a comment."""
_VERDICT_MAX = 18_000
_LONGEST = 300
"""Characters of one text from outside; the document has all of it."""
_LINES = 15
"""Failures, and measurements, that an outcome shows."""
_FOLDED_MAX = 6_000
"""Of one object's folded diff: 40 objects with large diffs must not hide the rest."""

_ARROW = " \N{RIGHTWARDS ARROW} "
_SLO_SIGNS = {"FAILS": "\N{CROSS MARK} ", "at risk": "\N{WARNING SIGN}\ufe0f "}
_RESULT_SIGNS = {
    "deny": "\N{CROSS MARK}",
    "approve": "\N{RAISED HAND}",
    "warn": "\N{WARNING SIGN}\ufe0f",
}
# Controls, and characters that turn the direction of text or cannot be seen.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)


def marker(environment: str) -> str:
    """The first line, by which our comment is found again."""
    return f"<!-- bud plan {environment} -->"


def comment(document: Data) -> str:
    """At most ``LIMIT`` characters, whatever is in the document."""
    head = [marker(document["environment"]), *_headline(document)]
    if document.get("outcome"):
        head += _outcome(document["outcome"])
    changes = [c for c in document["changes"] if c["action"] not in ("adopt", "forget")]
    kept = [c for c in changes if _grave(c, document)]
    rest = [c for c in changes if not _grave(c, document)]
    graver = [*_verdict(document), *_held(document["blocked"])]
    tail = _tail(document)
    room = LIMIT - sum(map(_size, (head, graver, tail)))
    table = _table(kept, rest, max(room - _RESERVE, 0))
    room -= _size(table)
    body: list[str] = []
    for section in _sections(document, changes):
        if (taken := _size(section)) <= room:
            body += section
            room -= taken
        elif (short := _shortened(section, room)) is not None:
            body += short
            room -= _size(short)
    whole = "\n".join([*head, *table, *graver, *body, *tail])
    assert len(whole) <= LIMIT, "every part was measured before it was taken"
    return whole


def unreadable(document: Data) -> bool:
    """Whether more of it is grave than a comment can show: nobody can approve that."""
    kept = [c for c in document["changes"] if _grave(c, document)]
    return _size(_names(kept)) > _NAMES_MAX


def safe(text: str) -> str:
    """Text from outside as inline code: it mentions nobody and ends nothing."""
    short = (
        text if len(text) <= _LONGEST else text[:_LONGEST] + "\N{HORIZONTAL ELLIPSIS}"
    )
    seen = _UNSEEN.sub(lambda m: f"U+{ord(m[0]):04X}", " ".join(short.split()))
    return f"`{seen.replace('`', chr(39)).replace('|', chr(0x2502)) or ' '}`"


def _size(lines: Iterable[str]) -> int:
    return sum(len(line) + 1 for line in lines)


def _headline(document: Data) -> list[str]:
    counts = Counter(change["action"] for change in document["changes"])
    said = []
    if counts["delete"]:
        said.append(f"**{counts['delete']} DELETE**")
    said += [f"{counts[a]} to {a}" for a in ("create", "change") if counts[a]]
    said.append(f"{document['unchanged']} unchanged")
    lines = [
        f"### Plan `{document['digest'][:12]}` for {safe(document['environment'])}: "
        + ", ".join(said),
        "",
    ]
    pull = document["pull"]
    if pull:
        lines += [
            (
                f"`{pull['head'][:12]}` by {safe(pull['author'])} onto "
                f"{safe(pull['branch'])} at `{pull['base'][:12]}`"
            ),
            "",
        ]
    return lines


def _grave(change: Data, document: Data) -> bool:
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


def _table(kept: list[Data], rest: list[Data], room: int) -> list[str]:
    """All grave rows; wide ones if they fit, lean ones else, names at the least."""
    if not kept and not rest:
        return []
    if _size(_names(kept)) > _NAMES_MAX:
        return [
            (
                f"**{len(kept)} objects are deleted or fail their SLO: too many to be shown, "
                "so this plan cannot be approved. Split the pull request.**"
            ),
            "",
        ]
    for head, row in ((_HEAD, _row), (_LEAN, _lean_row)):
        rows = [row(change) for change in kept]
        if _size((*head, *rows)) > room:
            continue
        left = room - _size((*head, *rows))
        others = []
        for change in rest:
            line = row(change)
            if (left := left - len(line) - 1) < 0:
                break
            others.append(line)
        missing = len(rest) - len(others)
        more = [f"... and {missing} more, none of them a delete or a failing SLO", ""]
        return [*head, *rows, *others, "", *(more if missing else [])]
    return [*_names(kept), "", f"... and {len(rest)} more, none of them grave", ""]


def _names(kept: list[Data]) -> list[str]:
    return [f"`{change['action']} {change['object']}`" for change in kept]


def _row(change: Data) -> str:
    was, now = change["before"], change["after"]
    cells = (
        safe(change["object"]),
        _action(change),
        _slo(change),
        _pair(was, now, _gpus),
        _pair(None, now, _memory),
        _pair(was, now, lambda e: _latency(e, "ttft")),
        _pair(was, now, lambda e: _latency(e, "tpot")),
        _pair(was, now, lambda e: _number(e["prediction"].get("tokens_per_s"))),
        _pair(was, now, lambda e: _money(e["cost"]["monthLow"], e["cost"]["monthHigh"])),
        _pair(was, now, lambda e: _money(e["cost"]["millionLow"], e["cost"]["millionHigh"])),
    )  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _lean_row(change: Data) -> str:
    cost = _pair(
        change["before"],
        change["after"],
        lambda e: _money(e["cost"]["monthLow"], e["cost"]["monthHigh"]),
    )
    return f"| {safe(change['object'])} | {_action(change)} | {_slo(change)} | {cost} |"


def _action(change: Data) -> str:
    if change["action"] == "delete":
        return "**DELETE**"
    was, now = change["before"], change["after"]
    if was and now and was["layout"] != now["layout"]:
        return f"{was['layout']}{_ARROW}{now['layout']}"
    return str(change["action"])


def _pair(was: Data | None, now: Data | None, say: Any) -> str:
    before, after = say(was) if was else "", say(now) if now else ""
    if before and after and before != after:
        return f"{before}{_ARROW}{after}"
    if before and not now:
        return f"{before}{_ARROW}0" if say is _gpus else "-"
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


def _latency(endpoint: Data, name: str) -> str:
    prediction = endpoint["prediction"]
    mean = prediction.get(f"{name}_ms")
    if mean is None:
        return "?"
    low, high = prediction.get(f"{name}_lo"), prediction.get(f"{name}_hi")
    measured = endpoint.get("measured", {}).get(name)
    # The dash that no table breaks a line at.
    said = f"{_number(mean)} ({_number(low)}\N{NON-BREAKING HYPHEN}{_number(high)})"
    return said + (f", measured {_number(measured)}" if measured is not None else "")


def _slo(change: Data) -> str:
    slo = change["slo"]
    if not slo["after"]:
        return "-"
    sign = _SLO_SIGNS.get(slo["after"], "")
    was = f" (was {slo['before']})" if slo["before"] not in ("", slo["after"]) else ""
    return f"{sign}{slo['after']}{was}"


def _number(value: float | None) -> str:
    if value is None:
        return "?"
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            scale = 1e3 if unit == "k" else limit
            return f"{value / scale:.1f}{unit}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"  # noqa: PLR2004


def _money(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return "unknown"
    return _number(low) if low == high else f"{_number(low)}-{_number(high)}"


def _verdict(document: Data) -> list[str]:
    """What policies refuse, whom they ask, what they warn of."""
    for most in (20, 3, 0):
        lines = [
            _judged(result, most)
            for kind in ("deny", "approve", "warn")
            for result in document["policy"]
            if result["result"] == kind
        ]
        if _size(lines) <= _VERDICT_MAX // 2:
            break
    lines += _widened(document)
    passed = sum(r["result"] == "pass" for r in document["policy"])
    others = Counter(r["result"] for r in document["policy"])
    summary = f"Policy: {passed} pass, {others['warn']} warn, {others['deny']} deny."
    shown = [
        line
        for line, end in zip(lines, accumulate(len(n) + 1 for n in lines), strict=True)
        if end <= _VERDICT_MAX
    ]
    if len(shown) < len(lines):
        shown.append(f"- {len(lines) - len(shown)} more in the document")
    return [*shown, *([""] if shown else []), summary, ""]


def _judged(result: Data, most: int) -> str:
    kind, details = result["result"], result["details"]
    said = "; ".join(safe(detail) for detail in details[:most])
    more = f" and {len(details) - most} more" if len(details) > most else ""
    return (
        f"- {_RESULT_SIGNS[kind]} **{_WORDS[kind]}** {safe(result['policy'])}: "
        f"{said}{more}{_asked(result)}"
    )


def _widened(document: Data) -> list[str]:
    """Deletes of what is in use, and who is let in."""
    lines = []
    gone = {c["object"] for c in document["changes"] if c["action"] == "delete"}
    for route in document["routes"]:
        carried = route["traffic"]
        if gone & {*route["through"]} and carried and carried["requests"]:
            lines.append(
                f"- {_RESULT_SIGNS['warn']} **in use** {safe(route['route'])} answered "
                f"{_traffic(carried)}, and {safe(', '.join(gone & {*route['through']}))} "
                "is deleted"
            )
    lines += [
        f"- {_RESULT_SIGNS['warn']} **wider access** {safe(grant)}"
        for grant in document["access"]["wider"][:20]
    ]
    return lines


_WORDS = {"deny": "refused by", "approve": "approval for", "warn": "warning of"}


def _asked(result: Data) -> str:
    if result["result"] != "approve":
        return ""
    owners = ", ".join(safe(name) for name in result["approvers"])
    return f" \N{EM DASH} {result['count']} of {owners}"


def _held(blocked: list[Data]) -> list[str]:
    lines = [
        f"- held back ({item['waits']}): {safe(item['key'])}: {safe(item['detail'])}"
        for item in blocked[:_LINES]
    ]
    if len(blocked) > len(lines):
        lines.append(f"- held back: {len(blocked) - len(lines)} more")
    return [*lines, ""] if lines else []


def _sections(document: Data, changes: list[Data]) -> Iterator[list[str]]:
    """The rest, the more important first."""
    yield _list("Promoted", (
        line for change in changes for line in promotions(change, safe)
    ))  # fmt: skip
    yield _rehearsed(document.get("rehearsal", ()))
    yield _list("Rollout", (
        f"{safe(r['object'])}: {r['says']}" for r in document["rollout"]
    ))  # fmt: skip
    yield _list("What targets say", (
        f"{safe(change['object'])}: " + "; ".join(safe(said) for said in _previewed(p))
        for change in changes for p in change["previews"]
    ))  # fmt: skip
    yield _list("Routes touched", (
        f"{safe(r['route'])} ({safe(', '.join(r['models']))}, project {safe(r['project'])}): "
        + _traffic(r["traffic"])
        for r in document["routes"]
    ))  # fmt: skip
    yield _elsewhere(document["pull"])
    yield _costs(document)
    yield _folded(
        "Optimizer: what was chosen, and what else", _choices(document["decisions"])
    )
    for change in changes:
        if change["diffs"]:
            yield _diff(change)
    yield _folded("Field owners and drift", _owners(document, changes))
    passed = [f"- {safe(r['policy'])} {r['rule']}" for r in document["policy"] if r["result"] == "pass"]  # fmt: skip
    yield _folded("Policies that are kept", passed)


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
        f"{_latency(now, 'ttft')} ms, TPOT {_latency(now, 'tpot')} ms"
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
        yield _number(said[f"{name}Ms"])
        yield "-" if mean is None else f"{_number(mean)} ({_number(most)})"
    yield _number(said["tokensPerS"])
    yield "-" if met["tokensPerS"] is None else _number(met["tokensPerS"])


def _previewed(found: Data) -> Iterator[str]:
    """What it means for people; the single things are in the document."""
    yield f"refused: {found['refused']}" if found["refused"] else found["summary"]
    yield from found["disruption"]


def _list(title: str, items: Iterable[str]) -> list[str]:
    lines = [f"- {item}" for item in items]
    return [f"**{title}**", "", *lines, ""] if lines else []


def _elsewhere(pull: Data | None) -> list[str]:
    """What is merged as well, and nothing here says anything about."""
    files = (pull or {}).get("elsewhere", ())
    if not files:
        return []
    more = f" and {len(files) - _LINES} more" if len(files) > _LINES else ""
    return _list("Changed, and no part of this plan", [
        ", ".join(safe(name) for name in files[:_LINES]) + more
    ])  # fmt: skip


def _traffic(carried: Data | None) -> str:
    if carried is None:
        return "traffic unknown"
    return (
        f"{_number(carried['requests'])} requests, {_number(carried['tokens'])} tokens "
        f"{carried['since']}"
    )


def _costs(document: Data) -> list[str]:
    was, now = document["cost"]["before"], document["cost"]["after"]
    lines = [f"all: {_total(was)}{_ARROW}{_total(now)} USD a month"]
    lines += [
        f"project {safe(name)}: {_total(p['before'])}{_ARROW}{_total(p['after'])}"
        for name, p in document["projects"].items()
        if p["before"] != p["after"]
    ]
    sources = {
        e["cost"]["source"] for c in document["changes"] if (e := c["after"] or c["before"])
    }  # fmt: skip
    lines += [f"price: {safe(source)}" for source in sorted(sources)[:8]]
    return _list("Cost at the declared load", lines)


def _total(cost: Data) -> str:
    known = _money(cost["monthLow"], cost["monthHigh"])
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
    text = _UNSEEN.sub(lambda m: f"U+{ord(m[0]):04X}", "\n".join(change["diffs"]))
    if len(text) > _FOLDED_MAX:
        text = text[:_FOLDED_MAX].rsplit("\n", 1)[0] + "\n... cut, see the document"
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return _folded(f"diff of {change['object']}", [f"{fence}diff", text, fence])


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


def _folded(title: str, lines: list[str]) -> list[str]:
    if not lines:
        return []
    return [
        f"<details><summary>{_html(title)}</summary>",
        "",
        *lines,
        "",
        "</details>",
        "",
    ]


def _html(text: str) -> str:
    plain = _UNSEEN.sub("?", text).replace("&", "&amp;").replace("<", "&lt;")
    # A mention needs its sign to stand before the name.
    return plain.replace("@", "&#64;").replace("`", "'")


def _shortened(section: list[str], room: int) -> list[str] | None:
    """A list without its last items; what is folded is shown whole or not at all."""
    if not section or section[0].startswith("<details>"):
        return None
    kept: list[str] = []
    room -= 60
    for line in section:
        if (room := room - len(line) - 1) < 0:
            break
        kept.append(line)
    if len(kept) <= 2:  # noqa: PLR2004  a title alone says nothing
        return None
    return [*kept, f"- ... {len(section) - len(kept)} more in the document", ""]


def _tail(document: Data) -> list[str]:
    link = document.get("link")
    where = f"[The whole document]({link})" if link else (
        f"The whole document: `bud plan --digest {document['digest']} --format json`"
    )  # fmt: skip
    lines = [where, ""]
    if document["pull"] and document["steps"]:
        lines += [
            (
                f"Approve this pull request, then merge it or comment "
                f"`/bud apply {document['digest'][:12]}`. An approval counts for this plan "
                "alone: a push, a move of the base or of what lives, of prices or tables "
                "makes another."
            ),
            "",
        ]
    return [*lines, f"Plan `{document['digest']}` of commit `{document['commit']}`", ""]


def _outcome(data: Data) -> list[str]:
    """What became of it, to stand at the end of the comment."""
    lines = [f"#### {safe(data['result'])} at {data['at']} by {safe(data['by'])}", ""]
    failed = [o for o in data["outcomes"] if o["outcome"] in ("failed", "skipped")]
    counts = Counter(o["outcome"] for o in data["outcomes"])
    lines += [", ".join(f"{n} {kind}" for kind, n in sorted(counts.items())), ""]
    lines += [
        f"- **{o['outcome']}** {safe(o['key'])}: {safe(o['error'])}"
        for o in failed[:_LINES]
    ]
    if data["measured"]:
        lines += ["", "| endpoint | predicted TTFT ms | measured | predicted TPOT ms | measured |",
                  "|---|--:|--:|--:|--:|"]  # fmt: skip
        lines += [
            f"| {safe(m['object'])} | {_number(m['ttftPredicted'])} | {_number(m['ttft'])} "
            f"| {_number(m['tpotPredicted'])} | {_number(m['tpot'])} |"
            for m in data["measured"][:_LINES]
        ]
    return [*lines, ""]
