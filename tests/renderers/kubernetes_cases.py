"""Endpoints and models of every shape, as a team would write them."""

from collections.abc import Callable, Mapping
from typing import Any

from renderers.kubernetes import render_endpoint, render_model
from schemas.cluster import Cluster
from schemas.endpoint import Endpoint
from schemas.model import Model
from schemas.objects import API_VERSION, FoundryObject
from schemas.resolution import Resolution

REVISION = "a" * 40
KEDA = {"name": "keda", "version": "2.18.1"}
PROMETHEUS = {"name": "kube-prometheus-stack", "version": "79.0.0"}
H100S = {"name": "h100", "gpu": "h100-sxm-80gb", "gpusPerNode": 8, "count": 4}


def make(
    kind: type[FoundryObject],
    name: str,
    spec: Mapping[str, Any],
    project: str = "default",
) -> Any:
    return kind.model_validate(
        {
            "apiVersion": API_VERSION,
            "kind": kind.__name__,
            "metadata": {"name": name, "project": project},
            "spec": spec,
        },
        strict=False,
    )


def model(project: str = "default", repo: str = "Qwen/Qwen3-8B", **spec: Any) -> Model:
    said = {
        "source": {"hf": {"repo": repo, "revision": REVISION}},
        "precision": "bf16",
        "licence": {"id": "apache-2.0"},
    }
    name = repo.rpartition("/")[2].lower().replace(".", "-")
    made: Model = make(Model, name, {**said, **spec}, project)
    return made


def cluster(**spec: Any) -> Cluster:
    said = {
        "provider": "existing",
        "credentials": {"env": "KUBECONFIG_PROD"},
        "nodePools": [H100S],
        "storageClass": "kwok-volume",
    }
    made: Cluster = make(Cluster, "prod", {**said, **spec})
    return made


def eks(pool: Mapping[str, Any], **spec: Any) -> Cluster:
    said = {
        "provider": "aws-eks",
        "version": "1.34",
        "region": "us-east-1",
        "nodePools": [pool],
    }
    made: Cluster = make(Cluster, "eks", {**said, **spec})
    return made


def endpoint(name: str, project: str = "default", **spec: Any) -> Endpoint:
    said = {
        "model": "qwen3-8b",
        "cluster": "prod",
        "engine": {"name": "vllm"},
        "workload": {"inputTokens": 1000, "outputTokens": 200, "concurrency": 10},
    }
    made: Endpoint = make(Endpoint, name, {**said, **spec}, project)
    return made


def resolution(**changed: Any) -> Resolution:
    said = {
        "cluster": "prod",
        "node_pool": "h100",
        "gpu": "h100-sxm-80gb",
        "tensor": 1,
        "pipeline": 1,
        "data": 1,
        "expert": 1,
        "max_batch": 64,
        "context": 8192,
        "precision": "bf16",
        "replicas": 1,
    }
    return Resolution(**{**said, **changed})


SGLANG = {"name": "sglang"}
ADAPTERS = [
    {
        "name": "support",
        "rank": 24,
        "source": {
            "hf": {
                "repo": "acme/support-lora",
                "revision": "b" * 40,
                "credentials": {"env": "HF_TOKEN"},
            }
        },
    },
    {
        "name": "sales",
        "source": {
            "s3": {"uri": "s3://acme-models/sales.safetensors", "sha256": "c" * 64}
        },
    },
]

STORE = {"externalSecret": {"store": "vault", "key": "hub", "property": "token"}}
KEPT_ELSEWHERE = [
    {
        "name": "support",
        "source": {
            "hf": {
                "repo": "acme/support-lora",
                "revision": "b" * 40,
                "credentials": STORE,
            }
        },
    }
]


def _endpoint(
    name: str,
    spec: Mapping[str, Any],
    resolved: Mapping[str, Any],
    *,
    of: Model | None = None,
    at: Cluster | None = None,
) -> Callable[[], bytes]:
    return lambda: render_endpoint(
        endpoint(name, **spec), of or model(), at or cluster(), resolution(**resolved)
    )


V3 = model(repo="deepseek-ai/DeepSeek-V3", precision="fp8")
BIG = {"tensor": 8, "pipeline": 2, "expert": 8, "precision": "fp8"}

CASES: Mapping[str, Callable[[], bytes]] = {
    "dense": _endpoint("chat", {}, {"replicas": 3}),
    "dense-tensor-4": _endpoint(
        "chat", {"rollout": {"floor": 2, "maxSurge": 2}}, {"tensor": 4, "replicas": 3}
    ),
    "dense-sglang": _endpoint(
        "chat",
        {"engine": {**SGLANG, "args": {"schedule-policy": "lpm"}}},
        {"tensor": 2, "data": 2},
    ),
    "moe-experts": _endpoint(
        "moe",
        {"parsers": {"tool": "hermes", "reasoning": "qwen3"}},
        {"tensor": 4, "data": 2, "expert": 8},
        of=model(repo="Qwen/Qwen3-30B-A3B"),
    ),
    "moe-experts-sglang": _endpoint(
        "moe",
        {"engine": SGLANG},
        {"tensor": 2, "data": 4, "expert": 8, "chunk": 8192},
        of=model(repo="Qwen/Qwen3-30B-A3B"),
    ),
    "moe-two-nodes": _endpoint("v3", {}, BIG, of=V3),
    "moe-two-nodes-sglang": _endpoint("v3", {"engine": SGLANG}, BIG, of=V3),
    "shared-gpu": _endpoint("small", {"gpuShare": 40}, {}),
    "lora": _endpoint("tuned", {"adapters": ADAPTERS}, {}),
    "lora-external-secret": _endpoint("tuned", {"adapters": KEPT_ELSEWHERE}, {}),
    "lora-sglang": _endpoint("tuned", {"engine": SGLANG, "adapters": ADAPTERS}, {}),
    "cpu-vllm": _endpoint("slow", {"cpus": 16}, {"gpu": None}),
    "cpu-llamacpp": _endpoint(
        "slow",
        {"engine": {"name": "llamacpp"}, "cpus": 8},
        {"gpu": None, "precision": "q4_k_m", "max_batch": 4},
        of=model(precision="q4_k_m", format="gguf"),
    ),
    "scaled-by-keda": _endpoint(
        "busy",
        {
            "scaling": {
                "min": 0,
                "max": 8,
                "queueDepth": 5,
                "kvCache": 80,
                "ttft": "800ms",
            }
        },
        {"replicas": None},
        at=cluster(addons=[KEDA, PROMETHEUS]),
    ),
    "scaled-by-hpa": _endpoint(
        "busy",
        {"scaling": {"min": 2, "max": 8, "queueDepth": 5, "kvCache": 80}},
        {"replicas": None},
    ),
    "ingress": _endpoint(
        "chat", {}, {}, at=cluster(ingress={"host": "llm.example.com"})
    ),
    "gateway-api": _endpoint(
        "chat",
        {},
        {},
        at=cluster(
            ingress={"kind": "gateway-api", "className": "bud"}, addons=[PROMETHEUS]
        ),
    ),
    "spot-on-eks": _endpoint(
        "cheap",
        {"rollout": {"strategy": "recreate", "drainTimeout": "2m"}},
        {"node_pool": "l4", "gpu": "l4-24gb"},
        at=eks(
            {
                "name": "l4",
                "instanceType": "g6.12xlarge",
                "min": 0,
                "max": 4,
                "spot": True,
                "taints": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}],
                "labels": {"tier": "spot"},
            }
        ),
    ),
    "amd": _endpoint(
        "chat",
        {},
        {"node_pool": "mi", "gpu": "mi300x-192gb", "tensor": 2},
        at=cluster(
            nodePools=[
                {"name": "mi", "gpu": "mi300x-192gb", "gpusPerNode": 8, "count": 1}
            ]
        ),
    ),
    "model-hub": lambda: render_model(
        model(
            source={
                "hf": {
                    "repo": "Qwen/Qwen3-8B",
                    "revision": REVISION,
                    "credentials": {"env": "HF_TOKEN"},
                }
            }
        ),
        cluster(),
    ),
    "model-external-secret": lambda: render_model(
        model(
            source={
                "hf": {
                    "repo": "Qwen/Qwen3-8B",
                    "revision": REVISION,
                    "credentials": {
                        "externalSecret": {
                            "store": "team",
                            "storeKind": "SecretStore",
                            "key": "hub-token",
                        }
                    },
                }
            }
        ),
        cluster(),
    ),
    "model-s3": lambda: render_model(
        model(
            source={
                "s3": {
                    "uri": "s3://acme-models/qwen3-8b.gguf",
                    "sha256": "d" * 64,
                    "endpoint": "https://minio.example.com",
                    "credentials": {"secret": "secrets/s3.yaml#models"},
                }
            },
            architecture="Qwen/Qwen3-8B",
            format="gguf",
            precision="q4_k_m",
        ),
        cluster(storageClass="efs"),
    ),
}
