"""The comment stays under its limit and hides nothing that matters."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from renderers.comment import LIMIT, comment, marker, unreadable
from renderers.markdown import safe


def endpoint(**changes: Any) -> dict[str, Any]:
    return {
        "gpu": "h200-sxm-141gb",
        "layout": "TP8 PP1 DP1",
        "gpusPerReplica": 8,
        "replicasFewest": 1,
        "replicasMost": 2,
        "prediction": {
            "ttft_ms": 540.0, "ttft_lo": 470.0, "ttft_hi": 640.0,
            "tpot_ms": 22.0, "tpot_lo": 19.0, "tpot_hi": 26.0,
            "tokens_per_s": 5000.0, "memory_hi": 118.2,
        },
        "memoryAvailable": 129.2,
        "cost": {"monthLow": 46206.0, "monthHigh": 92412.0, "millionLow": 3.5,
                 "millionHigh": 4.1, "source": "p5en.48xlarge 63.3 USD/h"},
        "slo": {"verdict": "meets"},
    } | changes  # fmt: skip


def change(name: str, action: str = "change", **changes: Any) -> dict[str, Any]:
    gone = action == "delete"
    return {
        "object": f"Endpoint/default/{name}",
        "action": action,
        "file": f"spec/endpoint/{name}.yaml",
        "before": None if action == "create" else endpoint(layout="TP4 PP1 DP1"),
        "after": None if gone else endpoint(),
        "slo": {"before": "meets", "after": "" if gone else "meets", "worse": False},
        "diffs": ["--- a\n+++ b\n-  tensor: 4\n+  tensor: 8"],
        "previews": [],
        "writers": [],
    } | changes


def document(*changes: dict[str, Any], **more: Any) -> dict[str, Any]:
    cost = {"monthLow": 1000.0, "monthHigh": 2000.0, "unknown": 0}
    return {
        "digest": "7f3c9e12" * 8,
        "environment": "production",
        "commit": "a1b2c3d4" * 5,
        "unchanged": 41,
        "steps": [{}],
        "blocked": [],
        "drift": [],
        "pull": {"head": "a1b2c3d4" * 5, "base": "9d8e7f60" * 5, "author": "ann", "branch": "main"},
        "changes": list(changes),
        "cost": {"before": cost, "after": cost},
        "projects": {},
        "rollout": [],
        "routes": [],
        "access": {"wider": [], "narrower": []},
        "policy": [],
        "decisions": {},
    } | more  # fmt: skip


def test_a_plan_of_300_objects_shows_every_delete_and_every_failing_slo() -> None:
    failing = {"before": "meets", "after": "FAILS", "worse": True}
    changes = [
        *(change(f"gone-{i}", "delete") for i in range(60)),
        *(change(f"fails-{i}", slo=failing) for i in range(40)),
        *(change(f"fine-{i}", diffs=["x\n" * 900]) for i in range(200)),
    ]
    said = comment(document(*changes))

    assert len(said) <= LIMIT
    for i in range(60):
        assert f"| `Endpoint/default/gone-{i}` | **DELETE** |" in said
    for i in range(40):
        assert re.search(rf"`Endpoint/default/fails-{i}` .*FAILS", said)
    assert "**60 DELETE**" in said


@pytest.mark.parametrize("count", [500, 600, 1500])
def test_what_is_grave_is_named_or_the_plan_is_said_to_be_too_large(count: int) -> None:
    changes = [change(f"a-rather-long-name-{i}", "delete") for i in range(count)]
    said = comment(document(*changes))

    assert len(said) <= LIMIT
    named = sum(f"a-rather-long-name-{i}`" in said for i in range(count))
    assert (named == count) != unreadable(document(*changes))
    assert ("this plan cannot be approved" in said) == unreadable(document(*changes))


def test_long_texts_in_every_place_never_pass_the_limit() -> None:
    long = "x" * 9000
    results = [
        {"policy": f"Policy/default/p{i}", "rule": "expressions", "result": "deny",
         "details": [long] * 40, "approvers": [], "count": 1}
        for i in range(200)
    ]  # fmt: skip
    outcome = {
        "result": "failed", "at": "now", "by": "daemon", "measured": [],
        "outcomes": [{"key": long, "outcome": "failed", "error": long}] * 300,
    }  # fmt: skip
    held = [{"waits": "backoff", "key": long, "detail": long}] * 300
    gone = [change(f"a-rather-long-name-{i}", "delete") for i in range(500)]
    more = {"policy": results, "outcome": outcome, "blocked": held}
    said = comment(document(*gone, **more))

    assert len(said) <= LIMIT
    assert sum(f"a-rather-long-name-{i}`" in said for i in range(500)) == 500
    assert "200 deny" in said


def test_verdicts_stand_before_anything_that_can_be_cut() -> None:
    results = [
        {"policy": "Policy/default/spending", "rule": "max_cost_per_month", "result": "deny",
         "details": ["500,000 USD a month at most, more than 400,000"], "approvers": [], "count": 1},
        {"policy": "Policy/default/deletes", "rule": "deletes", "result": "approve",
         "details": ["Endpoint/default/gone is deleted"], "approvers": ["platform"], "count": 2},
    ]  # fmt: skip
    changes = [change(f"fine-{i}", diffs=["y\n" * 3000]) for i in range(300)]
    said = comment(document(*changes, policy=results))

    assert "refused by** `Policy/default/spending`" in said
    assert "2 of `platform`" in said
    assert len(said) <= LIMIT


HOSTILE = [
    "```\n</details>\n@everyone",
    "a | b | **c**",
    "`@alice` #12 !3",
    "<img src=x onerror=alert(1)>",
    "x\u202egnp.exe\u2066",
    "<!-- bud plan production -->",
    "[click](javascript:alert(1))",
    "~~~~\n````diff",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_what_comes_from_content_breaks_out_of_nothing(text: str) -> None:
    item = change("x", diffs=[f"--- a\n+++ b\n+{text}"], writers=[text])
    held = [{"waits": "backoff", "key": text, "detail": text}]
    said = comment(document(item, blocked=held))

    outside = outside_of_code(said)
    assert outside.startswith(marker("production"))
    assert outside.count("<!--") == 1
    assert outside.count("<details>") == outside.count("</details>") > 0
    for mark in ("@everyone", "<img", "onerror", "javascript:", "#12", "@alice"):
        assert mark not in outside
    assert "\u202e" not in said


@given(st.text(max_size=200))
def test_safe_text_is_one_code_span_whatever_it_holds(text: str) -> None:
    said = safe(text)

    assert said[0] == said[-1] == "`"
    assert not re.search(r"[`|\n\r]", said[1:-1])


def outside_of_code(said: str) -> str:
    """What a forge would read as markup: neither in a fence nor in a code span."""
    lines, fence = [], ""
    for line in said.splitlines():
        opening = re.match(r"`{3,}", line)
        if fence:
            if line == fence:
                fence = ""
        elif opening:
            fence = opening[0]
        else:
            lines.append(re.sub(r"`[^`]*`", "", line))
    assert not fence, "a fence is left open"
    return "\n".join(lines)


def test_an_unknown_price_is_never_zero() -> None:
    nothing = {"monthLow": None, "monthHigh": None, "millionLow": None, "millionHigh": None, "source": "?"}  # fmt: skip
    unknown = {"monthLow": 0.0, "monthHigh": 0.0, "unknown": 2}
    item = change("x", before=None, after=endpoint(cost=nothing))
    said = comment(document(item, cost={"before": unknown, "after": unknown}))

    assert "| unknown | unknown |" in said
    assert "all: unknown \N{RIGHTWARDS ARROW} unknown USD a month" in said
