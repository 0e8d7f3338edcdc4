from __future__ import annotations

import json
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import yaml

from reconciler.lock import Lock, dump, entry
from reconciler.optimizer.heuristic import Heuristic
from reconciler.optimizer.shown import decision_of
from reconciler.optimizer.task import Task
from renderers.plan import text
from schemas.objects import Ref

CHAT = Ref("Endpoint", "default", "chat")
FREE = {"monthLow": 0.0, "monthHigh": 0.0, "unknown": []}


@pytest.fixture
def lock(chat_task: Task) -> dict[str, Any]:
    decision = Heuristic().decide(chat_task)
    made = entry(decision, {"engine": "vllm"}, autoscaled=False)
    found: dict[str, Any] = yaml.safe_load(dump(Lock(entries={CHAT: made})))
    return found


def document(said: dict[str, Any]) -> dict[str, Any]:
    step = {"key": f"kubernetes:{CHAT}", "action": "create", "reason": "it is new"}
    return {
        "digest": "0" * 64,
        "environment": "test",
        "commit": "0" * 40,
        "steps": [step],
        "changes": [],
        "decisions": {str(CHAT): said},
        "blocked": [],
        "drift": [],
        "unchanged": 0,
        "policy": [],
        "rollout": [],
        "cost": {"before": FREE, "after": FREE},
    }


def numbers(value: object) -> list[float]:
    match value:
        case dict():
            return [n for v in value.values() for n in numbers(v)]
        case list():
            return [n for v in value for n in numbers(v)]
        case float():
            return [value]
    return []


def test_a_plan_shows_the_choice_its_promise_and_the_alternatives(
    lock: dict[str, Any],
) -> None:
    said = decision_of(lock, CHAT)
    assert said is not None
    shown = text(document(said))
    chosen = said["chosen"]
    assert all(chosen[part] in shown for part in ("layout", "ttftMs", "tpotMs"))
    assert len(said["alternatives"]) == 3


def test_the_picture_in_a_plan_marks_what_was_chosen(lock: dict[str, Any]) -> None:
    said = decision_of(lock, CHAT)
    assert said is not None
    root = ET.fromstring(said["picture"])
    sizes = [c.get("r") for c in root.findall("{http://www.w3.org/2000/svg}circle")]
    assert sizes.count("6") == 1
    assert len(sizes) == len(lock["endpoints"]["default/chat"]["front"])


def test_what_a_plan_keeps_of_a_decision_holds_no_float(lock: dict[str, Any]) -> None:
    """Two writers of JSON may spell one float differently; the digest must not."""
    said = decision_of(lock, CHAT)
    assert numbers(json.loads(json.dumps(said))) == []


def test_only_endpoints_of_the_lock_have_decisions(lock: dict[str, Any]) -> None:
    assert decision_of(lock, Ref("Endpoint", "default", "other")) is None
    assert decision_of(lock, Ref("Model", "default", "chat")) is None
    assert decision_of({}, CHAT) is None
