"""Policies over the plan document: what is denied, warned of, or needs whom (pure).

`document` asks it, with the policies of the protected branch: a pull request is
never judged by its own. Built-in rules are fields of a Policy; anything else is a
CEL expression over the same JSON that reviewers and agents read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any, cast

import orjson

from schemas.access import Policy, PolicyRules

__all__ = ["evaluate"]

Data = dict[str, Any]
Found = Iterator[str]

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def evaluate(
    policies: Mapping[str, Any], document: Mapping[str, Any], *, now: datetime
) -> list[Data]:
    """One result for each policy and rule: pass, deny, warn or approve."""
    results: list[Data] = []
    for name, written in sorted(policies.items()):
        policy = Policy.model_validate_json(orjson.dumps(written))
        places = policy.spec.environments
        if places and document["environment"] not in places:
            continue
        seen = _within(document, policy.spec.projects)
        for rule, check in _RULES.items():
            if getattr(policy.spec.rules, rule) in (None, (), False):
                continue
            results += _results(
                name, policy, rule, [*check(policy.spec.rules, seen, now)]
            )
        for i, expression in enumerate(policy.spec.rules.expressions):
            broken = _expression(expression.broken_if, seen)
            said = [f"{expression.message}{broken}"] if broken is not None else []
            results += _results(name, policy, f"expressions[{i}]", said)
    quotas = [*_quotas(document)]
    results.append(_result("quotas of projects", "quota", "deny", quotas, ()))
    return results


def _results(name: str, policy: Policy, rule: str, broken: list[str]) -> list[Data]:
    spec = policy.spec
    result = _result(name, rule, spec.effect, broken, spec.approvers)
    # A number of approvals is asked for whatever else is in the plan.
    result["count"] = spec.rules.approvals if rule == "approvals" else 1
    return [result]


def _result(
    name: str, rule: str, effect: str, broken: list[str], approvers: tuple[str, ...]
) -> Data:
    return {
        "policy": name,
        "rule": rule,
        "result": effect if broken else "pass",
        "details": broken,
        "approvers": list(approvers) if broken else [],
        "count": 1,
    }


def _within(
    document: Mapping[str, Any], projects: tuple[str, ...]
) -> Mapping[str, Any]:
    """The document as a policy of some projects sees it."""
    if not projects:
        return document
    changes = [c for c in document["changes"] if c["object"].split("/")[1] in projects]
    some = [p for name, p in document["projects"].items() if name in projects]
    cost = {
        when: {
            "monthLow": sum(p[when]["monthLow"] for p in some),
            "monthHigh": sum(p[when]["monthHigh"] for p in some),
            "unknown": sum(p[when]["unknown"] for p in some),
        }
        for when in ("before", "after")
    }
    gpus = sum(p["gpus"] for p in some)
    return {**document, "changes": changes, "cost": cost, "gpus": gpus}


def _max_cost(rules: PolicyRules, seen: Mapping[str, Any], _: datetime) -> Found:
    assert rules.max_cost_per_month is not None, "the caller looked"
    limit, after = float(rules.max_cost_per_month.usd), seen["cost"]["after"]
    if after["monthHigh"] > limit:
        yield f"{after['monthHigh']:,.0f} USD a month at most, more than {limit:,.0f}"


def _cost_increase(rules: PolicyRules, seen: Mapping[str, Any], _: datetime) -> Found:
    assert rules.max_cost_increase_percent is not None, "the caller looked"
    was, now = seen["cost"]["before"], seen["cost"]["after"]
    limit = was["monthHigh"] * (1 + rules.max_cost_increase_percent / 100)
    if now["monthHigh"] > limit:
        more = now["monthHigh"] - was["monthHigh"]
        share = f" (+{100 * more / was['monthHigh']:.0f} %)" if was["monthHigh"] else ""
        yield f"{more:+,.0f} USD a month{share}, more than {rules.max_cost_increase_percent} %"
    if now["unknown"] > was["unknown"]:
        yield "the cost of something new is unknown"


def _gpus(rules: PolicyRules, seen: Mapping[str, Any], _: datetime) -> Found:
    if seen["gpus"] > cast(int, rules.max_gpus):
        yield f"{seen['gpus']} GPUs, more than {rules.max_gpus}"


def _regions(rules: PolicyRules, seen: Mapping[str, Any], _: datetime) -> Found:
    for change in seen["changes"]:
        region = (change["after"] or {}).get("region")
        if region is not None and region not in rules.regions:
            yield f"{change['object']} is in {region}"
    for name, cluster in seen["clusters"].items():
        touched = any(change["object"] == name for change in seen["changes"])
        if touched and cluster["region"] and cluster["region"] not in rules.regions:
            yield f"{name} is in {cluster['region']}"


def _models(seen: Mapping[str, Any]) -> Iterator[tuple[str, Data]]:
    """Models that this plan brings or uses."""
    used = {(c["after"] or {}).get("model") for c in seen["changes"]}
    used |= {c["object"] for c in seen["changes"] if c["action"] != "delete"}
    for name, model in seen["models"].items():
        if name in used:
            yield name, model


def _licences(rules: PolicyRules, seen: Mapping[str, Any], _: datetime) -> Found:
    for name, model in _models(seen):
        if model["licence"] not in rules.licences:
            yield f"{name} is under {model['licence']}"


def _sources(rules: PolicyRules, seen: Mapping[str, Any], _: datetime) -> Found:
    for name, model in _models(seen):
        if not any(fnmatchcase(model["source"], p) for p in rules.sources):
            yield f"{name} comes from {model['source']}"
        elif not model["pinned"]:
            yield f"{name} comes from {model['source']} without a digest"


def _approvals(rules: PolicyRules, seen: Mapping[str, Any], _: datetime) -> Found:
    if rules.approvals and seen["changes"]:
        yield f"{rules.approvals} needed for any change here"


def _windows(rules: PolicyRules, _: Mapping[str, Any], now: datetime) -> Found:
    """A window may pass midnight: the one that began yesterday counts as well."""
    for window in rules.windows:
        hour, minute = map(int, window.start.split(":"))
        for back in (0, 1):
            day = now - timedelta(days=back)
            start = day.replace(hour=hour, minute=minute, second=0, microsecond=0)
            open_ = start <= now < start + timedelta(seconds=window.length.seconds)
            if _DAYS[day.weekday()] in window.days and open_:
                return
    yield f"{now:%a %H:%M} UTC is outside of the hours for changes"


def _delete_percent(rules: PolicyRules, seen: Mapping[str, Any], _: datetime) -> Found:
    gone = Counter(
        c["object"].partition("/")[0]
        for c in seen["changes"]
        if c["action"] == "delete"
    )
    for kind, count in sorted(gone.items()):
        share = 100 * count / max(seen["owned"].get(kind, 0), count)
        if share > cast(int, rules.max_delete_percent):
            yield f"{count} {kind} objects deleted ({share:.0f} %), more than {rules.max_delete_percent} %"


def _deletes(rules: PolicyRules, seen: Mapping[str, Any], _: datetime) -> Found:
    for change in seen["changes"]:
        kind = change["object"].partition("/")[0]
        if change["action"] == "delete" and {kind, "*"} & {*rules.deletes}:
            yield f"{change['object']} is deleted"


def _slo_worse(_: PolicyRules, seen: Mapping[str, Any], __: datetime) -> Found:
    for change in seen["changes"]:
        slo = change["slo"]
        if slo["worse"] or (slo["after"] == "FAILS" and change["action"] == "create"):
            yield f"{change['object']}: {slo['before'] or 'new'} -> {slo['after']}"


def _wider_access(_: PolicyRules, seen: Mapping[str, Any], __: datetime) -> Found:
    yield from seen["access"]["wider"]


def _quotas(document: Mapping[str, Any]) -> Found:
    for name, project in document["projects"].items():
        limit = project["quotaGpus"]
        if limit is not None and project["gpus"] > limit:
            yield f"project {name}: {project['gpus']} GPUs, its quota is {limit}"
        money, after = project["quotaCost"], project["after"]["monthHigh"]
        if money is not None and after > money:
            yield f"project {name}: {after:,.0f} USD a month, its quota is {money:,.0f}"


def _expression(text: str, document: Mapping[str, Any]) -> str | None:
    """None when it holds; else what to add to the message. Broken is broken."""
    # It brings a command of its own: half a second that no other verb should pay.
    import cel  # noqa: PLC0415

    try:
        broken = cel.evaluate(text, {"plan": document})
    except Exception as error:  # noqa: BLE001  the interpreter raises what it meets
        # A rule that cannot be read must never read as a rule that is kept.
        return f" (cannot evaluate: {str(error)[:200]})"
    if broken is False:
        return None
    return "" if broken is True else f" (it is {broken!r}, not true or false)"


_RULES: dict[str, Callable[[PolicyRules, Mapping[str, Any], datetime], Found]] = {
    "max_cost_per_month": _max_cost,
    "max_cost_increase_percent": _cost_increase,
    "max_gpus": _gpus,
    "regions": _regions,
    "licences": _licences,
    "sources": _sources,
    "approvals": _approvals,
    "windows": _windows,
    "max_delete_percent": _delete_percent,
    "deletes": _deletes,
    "slo_worse": _slo_worse,
    "wider_access": _wider_access,
}
