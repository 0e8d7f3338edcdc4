"""Acto's oracles over our schema: however a state is reached, it is a fresh deploy's.

Each property of an Endpoint that a cluster can see is added, changed, taken away, made
invalid and valid again; after each step what lives equals what the same declaration
makes where nothing was. (Acto, SOSP 2023.)
"""

import os
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import ValidationError

from reconciler.values import Unit
from schemas.endpoint import EndpointSpec
from tests.reconciler.targets.kubernetes.foundry import World, world_of
from tests.reconciler.targets.kubernetes.plane import Plane
from tests.reconciler.targets.kubernetes.test_perturbed import state
from tests.renderers.kubernetes_cases import endpoint

# All take minutes; `BUD_ACTO_STRIDE=1` runs them.
STRIDE = int(os.environ.get("BUD_ACTO_STRIDE", "8"))


@dataclass(frozen=True)
class Case:
    one: Any
    other: Any
    wrong: Any


def adapter(**changed: Any) -> list[dict[str, Any]]:
    source = {
        "hf": {"repo": "acme/lora", "revision": changed.pop("revision", "b" * 40)}
    }
    return [{"name": "a", "source": source, **changed}]


def scaling(**changed: Any) -> dict[str, Any]:
    return {"min": 1, "max": 2, "queueDepth": 5, **changed}


VLLM = {"name": "vllm"}
CASES = {
    "engine.name": Case({"name": "sglang"}, VLLM, {"name": "tgi"}),
    "engine.version": Case(
        {**VLLM, "version": "0.18.0"}, {**VLLM, "version": "0.19.0"}, {"version": 1}
    ),
    "engine.args": Case(
        {**VLLM, "args": {"seed": 1}},
        {**VLLM, "args": {"seed": 2, "enforce-eager": True}},
        {**VLLM, "args": {"A b": 1}},
    ),
    "engine.env": Case(
        {**VLLM, "env": {"A": "1"}},
        {**VLLM, "env": {"A": "2", "B": "1"}},
        {**VLLM, "env": {"A": 1}},
    ),
    "maxBatch": Case(8, 16, 0),
    "context": Case(2048, 4096, 0),
    "precision": Case("fp8", "bf16", "fp3"),
    "replicas": Case(2, 0, -1),
    "parallelism.tensor": Case({"tensor": 2}, {"tensor": 4}, {"tensor": 0}),
    "scaling.max": Case(scaling(), scaling(max=3), scaling(max=0)),
    "scaling.min": Case(scaling(), scaling(min=2), scaling(min=3)),
    "scaling.queueDepth": Case(scaling(), scaling(queueDepth=9), {"min": 1, "max": 2}),
    "scaling.kvCache": Case(
        scaling(kvCache=50), scaling(kvCache=80), scaling(kvCache=101)
    ),
    "scaling.cooldown": Case(
        scaling(cooldown="1m"), scaling(cooldown="2m"), scaling(cooldown="soon")
    ),
    "gpuShare": Case(20, 40, 0),
    "rollout.strategy": Case(
        {"strategy": "recreate"}, {"strategy": "rolling"}, {"strategy": "none"}
    ),
    "rollout.maxSurge": Case({"maxSurge": 2}, {"maxSurge": 3}, {"maxSurge": 0}),
    "rollout.floor": Case({"floor": 1}, {"floor": 0}, {"floor": -1}),
    "rollout.drainTimeout": Case(
        {"drainTimeout": "10s"}, {"drainTimeout": "20s"}, {"drainTimeout": 10}
    ),
    "adapters.name": Case(adapter(), adapter(name="b"), adapter(name="B")),
    "adapters.rank": Case(adapter(), adapter(rank=32), adapter(rank=0)),
    "adapters.source": Case(
        adapter(), adapter(revision="c" * 40), adapter(revision="main")
    ),
    "parsers.tool": Case({"tool": "hermes"}, {"tool": "mistral"}, {"tool": 1}),
    "parsers.reasoning": Case(
        {"reasoning": "qwen3"}, {"reasoning": "deepseek_r1"}, {"reasoning": 1}
    ),
}
# What a cluster never sees, or sees only through a resolution.
RESOLVED = {"cluster", "model", "placement", "workload", "slo", "optimizer", "cpus"}
# What the optimizer would make of a property, which here decides itself.
RESOLUTION = {
    "maxBatch": "max_batch",
    "context": "context",
    "precision": "precision",
    "replicas": "replicas",
}


def test_every_property_that_a_cluster_sees_has_its_case() -> None:
    seen = {name.partition(".")[0] for name in CASES} | RESOLVED
    assert {f.alias or n for n, f in EndpointSpec.model_fields.items()} == seen


def unit(world: World, name: str, value: Any) -> Unit:
    """The endpoint with one property set; None where it is left out."""
    field = name.partition(".")[0]
    spec = {} if value is None else {field: value}
    resolved: dict[str, Any] = {"replicas": 1}
    if field == "scaling" and value is not None:
        resolved = {"replicas": None}
    elif field == "parallelism" and value is not None:
        resolved |= value
    elif field in RESOLUTION and value is not None:
        resolved |= {RESOLUTION[field]: value}
    return world.render("a", spec, **resolved)


async def seen(world: World) -> str:
    """What lives; how many an autoscaler asks for is its own business."""
    said = await state(world)
    return (
        said.replace("'replicas': 2, ", "'replicas': 1, ")
        if "horizontalpodautoscalers" in said
        else said
    )


@pytest.fixture(scope="module")
def fresh() -> dict[tuple[str, str], str]:
    """What a declaration makes where nothing was; the bare one is shared."""
    return {}


async def deployed(
    plane: Plane, known: dict[tuple[str, str], str], label: str, name: str, value: Any
) -> str:
    key = ("", "") if value is None else (name, repr(value))
    if key not in known:
        place = f"acto-{label}-{len(known)}"
        async with world_of(plane, place) as world:
            await world.create(unit(world, name, value))
            known[key] = await seen(world)
    return known[key]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*CASES][::STRIDE])
async def test_however_it_is_reached_a_state_is_a_fresh_deploys(
    control_plane: Plane, fresh: dict[tuple[str, str], str], name: str
) -> None:
    case = CASES[name]
    label = name.replace(".", "-").lower()
    async with world_of(control_plane, f"acto-{label}") as world:
        live = await world.create(unit(world, name, None))
        for value in (case.one, case.other, None, case.wrong, case.one):
            if value == case.wrong:
                writes = world.writes
                with pytest.raises((ValidationError, ValueError)):
                    endpoint("a", world.project, **{name.partition(".")[0]: value})
                assert world.writes == writes
                continue
            wanted = unit(world, name, value)
            if wanted.digest != live.digest:
                live = await world.change(wanted, live)
            expected = await deployed(control_plane, fresh, label, name, value)
            assert await seen(world) == expected, value
