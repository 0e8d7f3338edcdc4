"""Routes as tables of the gateway's file: what is said is what is served."""

from __future__ import annotations

import json
import tomllib
from typing import Any

from renderers.gateway import render_provider, render_route
from schemas.gateway import GatewayConfig
from schemas.objects import FoundryObject, Ref
from schemas.route import Provider, Route

HEAD = {"apiVersion": "foundry.bud/v1", "metadata": {"name": "chat", "project": "team"}}


def route_of(name: str = "chat", project: str = "team", **spec: Any) -> Route:
    spec = {"models": ["m"], "targets": [{"endpoint": "chat"}], **spec}
    metadata = {"name": name, "project": project}
    content = {**HEAD, "metadata": metadata, "kind": "Route", "spec": spec}
    return Route.model_validate_json(json.dumps(content))


def rendered(**spec: Any) -> dict[str, Any]:
    route = route_of(**spec)
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


def test_how_a_full_or_late_route_goes_on_is_rendered() -> None:
    found = rendered(
        limits={"concurrency": 8},
        queue={"wait": "3s", "length": 20},
        hedge={"percentile": 90, "after": "300ms"},
        strategy="sticky",
    )
    assert found["limits"] == {"concurrent": 8}
    assert found["queue"] == {"wait": "3s", "length": 20}
    assert found["hedge"] == {"after": "300ms", "percentile": 90}
    assert found["strategy"] == "sticky"
    assert not rendered().keys() & {"queue", "hedge", "strategy"}


def test_how_a_provider_is_spoken_to_and_paid_is_rendered() -> None:
    spec = {
        "dialect": "openai",
        "baseUrl": "https://llm.internal.example.com/v1",
        "tls": {
            "ca": {"file": "/run/ca.pem"},
            "certificate": {"env": "CLIENT_CERTIFICATE"},
            "key": {"env": "CLIENT_KEY"},
            "oldest": "1.2",
        },
        "price": {"input": "2USD", "output": "8USD"},
    }
    content = json.dumps({**HEAD, "kind": "Provider", "spec": spec})
    text = render_provider(Provider.model_validate_json(content)).decode()
    found = tomllib.loads(text)["upstreams"]["team/provider.chat"]
    assert found["tls"] == spec["tls"]
    assert found["price"] == spec["price"]


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


def test_a_name_that_the_project_lacks_means_what_all_projects_share() -> None:
    shared = route_of("shared", "default", targets=[{"endpoint": "big"}])
    there = [shared.ref, Ref("Endpoint", "default", "big")]
    there.append(Ref("Provider", "default", "openai"))
    objects: dict[Ref, FoundryObject] = dict.fromkeys(there, shared)
    route = route_of(
        targets=[{"endpoint": "own"}, {"provider": "openai", "model": "gpt"}],
        fallbacks=[{"route": "shared"}],
    )

    table = tomllib.loads(render_route(route, objects).decode())["routes"]["team/chat"]

    assert [target["upstream"] for target in table["targets"]] == [
        "team/own",
        "default/provider.openai",
        "default/big",
    ]
