"""Each kind says what it may, and refuses what cannot be true."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from schemas.kinds import KINDS, parse, references
from schemas.objects import API_VERSION, Ref

SHA = "0" * 64
NODES = [{"name": "gpu", "instanceType": "p5.48xlarge", "count": 1}]
SPECS: dict[str, dict[str, Any]] = {
    "Project": {},
    "Policy": {"rules": {"maxGpus": 8}},
    "Notification": {"to": {"env": "CHAT"}, "events": ["apply"]},
    "ApiKey": {"hash": f"sha256:{SHA}"},
    "Cluster": {"provider": "local"},
    "Model": {
        "source": {"hf": {"repo": "a/b", "revision": "0" * 40}},
        "precision": "bf16",
        "licence": {"id": "MIT"},
    },
    "Endpoint": {
        "model": "m",
        "cluster": "c",
        "engine": {"name": "vllm"},
        "workload": {"inputTokens": 100, "outputTokens": 10, "concurrency": 1},
    },
    "Provider": {"dialect": "openai", "baseUrl": "https://api.example.com/v1"},
    "Route": {"models": ["a"], "targets": [{"endpoint": "e"}]},
    "Environment": {"take": ["Endpoint/*"]},
}
CLOUD = {"provider": "aws-eks", "region": "r", "version": "1.33", "nodePools": NODES}
POOL = {"name": "p", "count": 1}
S3 = {"uri": "s3://bucket/a", "sha256": SHA}
PACKAGE = {"name": "a", "version": "1", "sha256": SHA}
AZURE_HOST = {"address": "10.0.0.1", "role": "control-plane"}
OTHER_HOST = {**AZURE_HOST, "address": "b"}
ONPREM = {"provider": "onprem", "version": "1.33.5"}


def made(kind: str, **changes: Any) -> Any:
    spec = {**SPECS[kind], **changes}
    return parse(
        {
            "apiVersion": API_VERSION,
            "kind": kind,
            "metadata": {"name": "x", "project": "p"},
            "spec": {name: value for name, value in spec.items() if value is not ...},
        }
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_says_its_least(kind):
    assert made(kind).ref == Ref(kind, "p", "x")


@pytest.mark.parametrize(
    ("kind", "changes", "reason"),
    [
        ("Cluster", {"provider": "aws-eks"}, "needs region, version, nodePools"),
        ("Cluster", {"region": "r"}, "region has no meaning for provider local"),
        ("Cluster", {"provider": "onprem"}, "hosts belong to provider onprem"),
        ("Cluster", {"hosts": [AZURE_HOST]}, "hosts belong to provider onprem"),
        ("Cluster", {"provider": "onprem", "hosts": [AZURE_HOST]}, "needs a whole version"),
        ("Cluster", {**ONPREM, "hosts": [AZURE_HOST, OTHER_HOST]}, "etcd needs an odd number"),
        ("Cluster", {**ONPREM, "hosts": [AZURE_HOST] * 3}, "must differ in address or port"),
        ("Cluster", {"provider": "existing"}, "needs credentials"),
        ("Cluster", {"nodePools": NODES}, "sells no instanceType"),
        ("Cluster", {**CLOUD, "nodePools": [POOL]}, "needs an instanceType"),
        ("Cluster", {"nodePools": [POOL, POOL]}, "names must differ: p, p"),
        ("Cluster", {"nodePools": [{**POOL, "gpu": "g", "instanceType": "i"}]}, "not both"),
        ("Cluster", {"nodePools": [{**POOL, "gpusPerNode": 1}]}, "gpusPerNode needs gpu"),
        ("Cluster", {"nodePools": [{"name": "p"}]}, "say how many"),
        ("Cluster", {"nodePools": [{**POOL, "min": 1}]}, "mutually exclusive"),
        ("Cluster", {"nodePools": [{"name": "p", "min": 2, "max": 1}]}, "min 2 is more than max 1"),
        ("Model", {"source": {}}, "exactly one of hf, s3, path, package"),
        ("Model", {"source": {"s3": S3, "path": {"path": "/a"}}}, "exactly one of"),
        ("Model", {"source": {"s3": S3}}, "architecture is needed"),
        ("Model", {"source": {"package": PACKAGE}}, "parts .* or root"),
        ("Model", {"source": {"package": {**PACKAGE, "parts": ["a"], "root": "b"}}}, "parts .* or root"),
        ("Model", {"source": {"hf": {"repo": "a/b", "revision": "main"}}}, "pattern"),
        ("Endpoint", {"cluster": ...}, "name a cluster, or a placement"),
        ("Endpoint", {"placement": {"a": "b"}}, "name a cluster, or a placement"),
        ("Endpoint", {"replicas": 1, "scaling": {"max": 2, "queueDepth": 1}}, "mutually exclusive"),
        ("Endpoint", {"scaling": {"max": 2}}, "scale on something"),
        ("Endpoint", {"scaling": {"min": 3, "max": 2, "queueDepth": 1}}, "min 3 is more than max 2"),
        ("Endpoint", {"context": 109}, "shorter than the workload's own 100 . 10"),
        ("Endpoint", {"gpuShare": 50, "parallelism": {"tensor": 2}}, "a slice of one GPU"),
        ("Endpoint", {"engine": {"name": "vllm", "rehearses": "sglang"}}, "belongs to the simulator"),
        ("Route", {"targets": [{"weight": 1}]}, "exactly one of endpoint, provider"),
        ("Route", {"targets": [{"provider": "p"}]}, "a provider serves many models"),
        ("Route", {"targets": [{"endpoint": "e", "weight": 0}]}, "nobody would answer"),
        ("Route", {"targets": [{"endpoint": "e"}, {"endpoint": "e"}]}, "named twice"),
        ("Route", {"models": ["a", "a"]}, "models must differ"),
        ("Route", {"models": []}, "at least 1"),
        ("Route", {"fallbacks": [{"route": "r", "endpoint": "e"}]}, "exactly one of endpoint, provider, route"),
        ("Route", {"cache": {"mode": "semantic"}}, "embeddings belongs to mode semantic"),
        ("Route", {"cache": {"embeddings": "e"}}, "embeddings belongs to mode semantic"),
        ("Route", {"guardrails": [{"name": "g"}]}, "exactly one of regex, pii, moderation"),
        ("Provider", {"baseUrl": "https://me:secret@example.com"}, "pattern"),
        ("Policy", {"rules": {}}, "a policy that limits nothing misleads"),
        ("Policy", {"effect": "approve"}, "approvers belong to effect approve"),
        ("Policy", {"approvers": ["ann"]}, "approvers belong to effect approve"),
        ("ApiKey", {"hash": "bud-1234"}, "pattern"),
        ("ApiKey", {"expires": "2027-01-31T00:00:00"}, "a time needs its zone"),
        ("ApiKey", {"expires": "tomorrow"}, "cannot read 'tomorrow' as a time"),
        ("Environment", {"take": []}, "at least 1"),
        ("Environment", {"take": ["endpoint/*"]}, "pattern"),
    ],
)  # fmt: skip
def test_what_cannot_be_true_is_refused_with_the_reason(kind, changes, reason):
    with pytest.raises(ValidationError, match=reason):
        made(kind, **changes)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("Cluster", CLOUD),
        ("Cluster", {"provider": "onprem", "version": "1.33.5", "hosts": [AZURE_HOST]}),
        ("Model", {"source": {"package": {**PACKAGE, "root": "model"}}, "architecture": "a"}),
        ("Endpoint", {"cluster": ..., "placement": {"tier": "gold"}}),
        ("Endpoint", {"scaling": {"max": 2, "kvCache": 80}}),
        ("Endpoint", {"slo": {"e2e": {"target": "5s"}}}),
        ("Route", {"targets": [{"endpoint": "e"}, {"endpoint": "e", "model": "french"}]}),
        ("ApiKey", {"expires": "2027-01-31T00:00:00Z"}),
    ],
)  # fmt: skip
def test_what_may_be_said_is_taken(kind, changes):
    assert made(kind, **changes)


@pytest.mark.parametrize("value", ["2", 2.0, True, None])
def test_a_scalar_is_never_coerced(value):
    with pytest.raises(ValidationError):
        made("Endpoint", replicas={"wrapped": value})
    if value is not None:
        with pytest.raises(ValidationError):
            made("Endpoint", replicas=value)


def test_a_kind_that_does_not_exist_is_a_key_error():
    with pytest.raises(KeyError):
        parse({"kind": "Pod"})


def test_references_are_found_wherever_they_are_written():
    route = made(
        "Route",
        targets=[{"endpoint": "a"}, {"provider": "b", "model": "m"}],
        fallbacks=[{"endpoint": "c"}, {"route": "d"}],
        cache={"mode": "semantic", "embeddings": "e"},
        guardrails=[{"name": "g", "moderation": "f"}],
        canary={"endpoint": "g"},
    )
    assert dict(references(route)) == {
        "spec.targets[0].endpoint": Ref("Endpoint", "p", "a"),
        "spec.targets[1].provider": Ref("Provider", "p", "b"),
        "spec.fallbacks[0].endpoint": Ref("Endpoint", "p", "c"),
        "spec.fallbacks[1].route": Ref("Route", "p", "d"),
        "spec.cache.embeddings": Ref("Endpoint", "p", "e"),
        "spec.guardrails[0].moderation": Ref("Provider", "p", "f"),
        "spec.canary.endpoint": Ref("Endpoint", "p", "g"),
    }


def test_a_list_of_references_gives_each_its_place():
    assert dict(references(made("Model", prefetch=["a", "b"]))) == {
        "spec.prefetch[0]": Ref("Cluster", "p", "a"),
        "spec.prefetch[1]": Ref("Cluster", "p", "b"),
    }


def test_what_is_written_in_camel_case_is_read_back_so():
    content = made("Route").model_dump(mode="json", by_alias=True)
    assert content["spec"]["timeouts"]["firstToken"] == "60s"
    assert parse(content) == made("Route")


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_reads_back_what_it_says(kind):
    item = made(kind)
    assert parse(item.model_dump(mode="json", by_alias=True)) == item
