"""Each rule, broken and kept, over a document as a plan makes it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from reconciler.review.document import requirements_of
from reconciler.review.policy import evaluate

MONDAY_NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def policy(rules: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "foundry.bud/v1",
        "kind": "Policy",
        "metadata": {"name": "p"},
        "spec": {"rules": rules, **spec},
    }


def document(**changes: Any) -> dict[str, Any]:
    cost = {"monthLow": 900.0, "monthHigh": 1000.0, "unknown": 0}
    made: dict[str, Any] = {
        "environment": "production",
        "changes": [
            {
                "object": "Endpoint/default/chat",
                "action": "change",
                "after": {"region": "eu-north-1", "model": "Model/default/m"},
                "slo": {"before": "meets", "after": "FAILS", "worse": True},
            },
            {
                "object": "Endpoint/search/old",
                "action": "delete",
                "after": None,
                "slo": {"before": "meets", "after": "", "worse": False},
            },
        ],
        "cost": {"before": cost, "after": {**cost, "monthHigh": 1300.0}},
        "projects": {},
        "gpus": 24,
        "clusters": {},
        "models": {
            "Model/default/m": {
                "licence": "MIT", "source": "hf:meta/llama", "pinned": "0" * 40,
            },
            "Model/default/unused": {"licence": "none", "source": "x", "pinned": ""},
        },
        "access": {"wider": ["ann owns Project/x"], "narrower": []},
        "owned": {"Endpoint": 4},
    }  # fmt: skip
    return made | changes


BROKEN: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"maxCostPerMonth": "1299USD"}, {"maxCostPerMonth": "1300USD"}, "1,300 USD a month at most"),
    ({"maxCostIncreasePercent": 29}, {"maxCostIncreasePercent": 30}, "+300 USD a month (+30 %)"),
    ({"maxGpus": 23}, {"maxGpus": 24}, "24 GPUs"),
    ({"regions": ["us-east-1"]}, {"regions": ["eu-north-1"]}, "is in eu-north-1"),
    ({"licences": ["Apache-2.0"]}, {"licences": ["MIT"]}, "is under MIT"),
    ({"sources": ["hf:google/*"]}, {"sources": ["hf:meta/*"]}, "comes from hf:meta/llama"),
    ({"maxDeletePercent": 24}, {"maxDeletePercent": 25}, "1 Endpoint objects deleted (25 %)"),
    ({"deletes": ["Endpoint"]}, {"deletes": ["Cluster"]}, "Endpoint/search/old is deleted"),
    ({"windows": [{"days": ["tue"], "start": "11:00", "length": "2h"}]},
     {"windows": [{"days": ["mon"], "start": "11:00", "length": "2h"}]}, "outside of the hours"),
    ({"windows": [{"days": ["mon"], "start": "13:00", "length": "20h"}]},
     {"windows": [{"days": ["sun"], "start": "23:00", "length": "14h"}]}, "outside of the hours"),
    ({"expressions": [{"brokenIf": "plan.gpus > 20", "message": "too many"}]},
     {"expressions": [{"brokenIf": "plan.gpus > 30", "message": "too many"}]}, "too many"),
    ({"expressions": [{"brokenIf": "plan.changes.exists(c, c.action == 'delete')", "message": "no"}]},
     {"expressions": [{"brokenIf": "plan.environment != 'production'", "message": "no"}]}, "no"),
]  # fmt: skip


@pytest.mark.parametrize(("broken", "kept", "words"), BROKEN)
def test_a_rule_says_what_breaks_it_and_passes_what_keeps_it(
    broken: dict[str, Any], kept: dict[str, Any], words: str
) -> None:
    [result, _] = evaluate({"p": policy(broken)}, document(), now=MONDAY_NOON)
    assert result["result"] == "deny"
    assert words in result["details"][0]

    [result, _] = evaluate({"p": policy(kept)}, document(), now=MONDAY_NOON)
    assert (result["result"], result["details"]) == ("pass", [])


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"sloWorse": True}, "meets -> FAILS"),
        ({"widerAccess": True}, "ann owns"),
        ({"approvals": 2}, "2 needed for any change"),
    ],
)
def test_what_needs_somebody_names_them(rules: dict[str, Any], words: str) -> None:
    asking = policy(rules, effect="approve", approvers=["platform"])
    results = evaluate({"p": asking}, document(), now=MONDAY_NOON)

    assert results[0]["result"] == "approve"
    assert words in results[0]["details"][0]
    [wanted] = requirements_of(results)
    assert wanted["owners"] == ["platform"]
    assert wanted["count"] == rules.get("approvals", 1)


@pytest.mark.parametrize(
    "text", ["plan.gpus >", "plan.nowhere > 1", "plan.gpus + 'x' == 1", "plan.gpus"]
)
def test_an_expression_that_cannot_be_evaluated_is_broken_never_kept(text: str) -> None:
    rules = {"expressions": [{"brokenIf": text, "message": "m"}]}
    [result, _] = evaluate({"p": policy(rules)}, document(), now=MONDAY_NOON)

    assert result["result"] == "deny"
    assert result["details"][0].startswith("m (")


def test_a_policy_sees_its_projects_and_environments_alone() -> None:
    rules = {"deletes": ["*"]}
    elsewhere = policy(rules, environments=["local"])
    others = policy(rules, projects=["default"])
    theirs = policy(rules, projects=["search"])

    assert len(evaluate({"p": elsewhere}, document(), now=MONDAY_NOON)) == 1
    assert evaluate({"p": others}, document(), now=MONDAY_NOON)[0]["result"] == "pass"
    assert evaluate({"p": theirs}, document(), now=MONDAY_NOON)[0]["result"] == "deny"


def test_a_project_beyond_its_quota_is_refused_without_any_policy() -> None:
    project = {
        "gpus": 17, "quotaGpus": 16, "quotaCost": 100.0,
        "after": {"monthHigh": 120.0, "monthLow": 0.0, "unknown": 0},
    }  # fmt: skip
    [result] = evaluate({}, document(projects={"search": project}), now=MONDAY_NOON)

    assert result["result"] == "deny"
    assert len(result["details"]) == 2


def test_a_model_that_is_not_pinned_has_no_provenance() -> None:
    models = {"Model/default/m": {"licence": "MIT", "source": "path:/x", "pinned": ""}}
    rules = {"sources": ["path:*"]}
    [result, _] = evaluate(
        {"p": policy(rules)}, document(models=models), now=MONDAY_NOON
    )

    assert "without a digest" in result["details"][0]
