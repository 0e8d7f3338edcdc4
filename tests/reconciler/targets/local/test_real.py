"""From declared objects to real answers: a chat and an embedding, through the target."""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import openai
import orjson
import pytest

from reconciler.targets.local.weights import WeightStore
from reconciler.values import Health, Key, Unit
from renderers.local import render_endpoint, render_model
from schemas.endpoint import Endpoint
from schemas.local import Weights
from schemas.model import Model
from schemas.objects import FoundryObject
from schemas.resolution import Resolution
from tests.reconciler.engines.conftest import CHECKOUT, GEMMA, MINILM
from tests.reconciler.targets.contract import create, delete, look, silent
from tests.reconciler.targets.local.conftest import LocalWorld

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

RESOLUTION = Resolution(
    cluster="laptop",
    node_pool="cpus",
    gpu=None,
    tensor=1,
    pipeline=1,
    data=1,
    expert=1,
    max_batch=2,
    context=512,
    precision="q4_k_m",
    replicas=1,
)


async def cached(weights: Weights) -> str:
    """Where the weights are on this machine, fetched if they are not."""
    store = WeightStore(CHECKOUT / ".cache" / "models", CHECKOUT)
    await store.fetch(weights, lambda _: None)
    return str(store.place(weights, "as-is"))


def declared(kind: str, name: str, spec: Mapping[str, object]) -> bytes:
    head = {"apiVersion": "foundry.bud/v1", "kind": kind, "metadata": {"name": name}}
    return orjson.dumps({**head, "spec": spec})


def unit(item: FoundryObject, content: bytes) -> Unit:
    key = Key("local", item.ref)
    return Unit(key=key, content=content, digest=sha256(content).hexdigest())


def model(name: str, path: str, task: str, form: str) -> Model:
    return Model.model_validate_json(
        declared(
            "Model",
            name,
            {
                "source": {"path": {"path": path}},
                "task": task,
                "format": form,
                "architecture": name,
                "precision": "q4_k_m",
                "licence": {"id": "gemma", "accepted": True},
            },
        )
    )


def endpoint(name: str, of: str) -> Endpoint:
    return Endpoint.model_validate_json(
        declared(
            "Endpoint",
            name,
            {
                "model": of,
                "cluster": "laptop",
                "engine": {"name": "llamacpp"},
                "workload": {"inputTokens": 64, "outputTokens": 32, "concurrency": 2},
            },
        )
    )


async def test_a_declared_chat_endpoint_answers_with_a_real_model(
    world: LocalWorld,
) -> None:
    gemma = model("gemma", await cached(GEMMA), "chat", "gguf")
    chat = endpoint("chat", "gemma")
    for item, content in (
        (gemma, render_model(gemma)),
        (chat, render_endpoint(chat, gemma, RESOLUTION)),
    ):
        live = await world.target.apply(create(unit(item, content)), silent)
        assert live.health is Health.SERVABLE
    (url,) = world.addresses("chat")
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
        answer = await client.chat.completions.create(
            model="chat",
            messages=[{"role": "user", "content": "What is the capital of France?"}],
            max_tokens=16,
            temperature=0,
        )
    assert "Paris" in (answer.choices[0].message.content or "")
    await world.target.delete(delete(live), silent)
    assert world.running() == {}


async def test_a_declared_embedding_endpoint_knows_what_is_alike(
    world: LocalWorld, tmp_path: Path
) -> None:
    encoder = model("minilm", await cached(MINILM), "embedding", "safetensors")
    embed = endpoint("embed", "minilm")
    heard: list[str] = []
    await world.target.apply(create(unit(encoder, render_model(encoder))), silent)
    live = await world.target.apply(
        create(unit(embed, render_endpoint(embed, encoder, RESOLUTION))),
        lambda _, text: heard.append(text),
    )
    assert "converting the weights to GGUF" in heard
    assert await look(world.target, live.key) == live
    (url,) = world.addresses("embed")
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
        answer = await client.embeddings.create(
            model="embed",
            input=["A cat sits on the mat.", "The feline rests.", "Rates rose."],
        )
    cat, feline, rates = (item.embedding for item in answer.data)
    alike = sum(a * b for a, b in zip(cat, feline, strict=True))
    unlike = sum(a * b for a, b in zip(cat, rates, strict=True))
    assert alike > 0.4 > unlike
