"""Routes as tables of the gateway's file: what is said is what is served."""

from __future__ import annotations

import json
import tomllib
from typing import Any

from renderers.gateway import render_provider, render_route
from schemas.gateway import GatewayConfig
from schemas.route import Provider, Route

HEAD = {"apiVersion": "foundry.bud/v1", "metadata": {"name": "chat", "project": "team"}}


def rendered(**spec: Any) -> dict[str, Any]:
    spec = {"models": ["m"], "targets": [{"endpoint": "chat"}], **spec}
    text = json.dumps({**HEAD, "kind": "Route", "spec": spec})
    route = Route.model_validate_json(text)
    table: dict[str, Any] = tomllib.loads(render_route(route, {}).decode())
    found: dict[str, Any] = table["routes"]["team/chat"]
    return found


def test_a_cache_and_its_embeddings_are_rendered() -> None:
    assert rendered(cache={"ttl": "10m"})["cache"] == {"ttl": "10m"}
    near = rendered(
        cache={"mode": "semantic", "embeddings": "minilm", "similarityPercent": 90}
    )
    assert near["cache"] == {
        "mode": "semantic",
        "similarity": 0.9,
        "embeddings": "team/minilm",
    }


def test_guardrails_are_rendered_with_who_judges() -> None:
    found = rendered(
        guardrails=[
            {"name": "pii", "pii": ["card"], "action": "redact", "on": "input"},
            {"name": "harm", "moderation": "openai", "failure": "open"},
        ]
    )
    assert found["guardrails"] == [
        {"name": "pii", "on": "input", "pii": ["card"], "action": "redact"},
        {"name": "harm", "moderation": "team/provider.openai", "failure": "open"},
    ]


def test_a_provider_can_judge_for_a_route() -> None:
    spec = {"dialect": "openai", "baseUrl": "https://api.openai.com/v1"}
    provider = Provider.model_validate({**HEAD, "kind": "Provider", "spec": spec})
    text = render_provider(provider).decode()
    rail = {"name": "harm", "moderation": "team/provider.chat"}
    route = {
        "models": ["m"],
        "targets": [{"upstream": "team/provider.chat"}],
        "guardrails": [rail],
    }
    GatewayConfig.model_validate({**tomllib.loads(text), "routes": {"team/r": route}})
