"""The plan document as the comment of a pull request (pure).

The reviewer and `bud plan --format markdown` print it, byte for byte the same. The
order is what a decision needs: table, what is refused and who must agree, rollout,
routes, cost; then everything that may be folded. Deletes, failing SLOs and risks
are written first and never cut; whatever else does not fit is counted instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

from renderers.comment_sections import sections, traffic
from renderers.comment_table import NAMES_MAX, grave, names, table
from renderers.markdown import number, safe, size

__all__ = ["LIMIT", "comment", "marker", "unreadable"]

Data = Mapping[str, Any]

LIMIT = 65_535
"""Characters; what GitHub takes, the least of the forges."""
_RESERVE = 4_000
"""Kept for what stands after the table when deletes alone would fill a comment."""
_VERDICT_MAX = 18_000
_LINES = 15
"""Failures, and measurements, that an outcome shows."""
_RESULT_SIGNS = {
    "deny": "\N{CROSS MARK}",
    "approve": "\N{RAISED HAND}",
    "warn": "\N{WARNING SIGN}\ufe0f",
}


def marker(environment: str) -> str:
    """The first line, by which our comment is found again."""
    return f"<!-- bud plan {environment} -->"


def comment(document: Data) -> str:
    """At most ``LIMIT`` characters, whatever is in the document."""
    head = [marker(document["environment"]), *_headline(document)]
    if document.get("outcome"):
        head += _outcome(document["outcome"])
    changes = [c for c in document["changes"] if c["action"] not in ("adopt", "forget")]
    kept = [c for c in changes if grave(c, document)]
    rest = [c for c in changes if not grave(c, document)]
    graver = [*_verdict(document), *_held(document["blocked"])]
    tail = _tail(document)
    room = LIMIT - sum(map(size, (head, graver, tail)))
    rows = table(kept, rest, max(room - _RESERVE, 0))
    room -= size(rows)
    body: list[str] = []
    for section in sections(document, changes):
        if (taken := size(section)) <= room:
            body += section
            room -= taken
        elif (short := _shortened(section, room)) is not None:
            body += short
            room -= size(short)
    whole = "\n".join([*head, *rows, *graver, *body, *tail])
    assert len(whole) <= LIMIT, "every part was measured before it was taken"
    return whole


def unreadable(document: Data) -> bool:
    """Whether more of it is grave than a comment can show: nobody can approve that."""
    kept = [c for c in document["changes"] if grave(c, document)]
    return size(names(kept)) > NAMES_MAX


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


def _verdict(document: Data) -> list[str]:
    """What policies refuse, whom they ask, what they warn of."""
    for most in (20, 3, 0):
        lines = [
            _judged(result, most)
            for kind in ("deny", "approve", "warn")
            for result in document["policy"]
            if result["result"] == kind
        ]
        if size(lines) <= _VERDICT_MAX // 2:
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
                f"{traffic(carried)}, and {safe(', '.join(gone & {*route['through']}))} "
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
            f"| {safe(m['object'])} | {number(m['ttftPredicted'])} | {number(m['ttft'])} "
            f"| {number(m['tpotPredicted'])} | {number(m['tpot'])} |"
            for m in data["measured"][:_LINES]
        ]
    return [*lines, ""]
