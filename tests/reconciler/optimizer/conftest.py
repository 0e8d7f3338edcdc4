"""Tasks over real GPUs of the catalog and the shapes of real models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from reconciler.optimizer.device import Device
from reconciler.optimizer.task import Goal, Goals, Pool, Task
from schemas.architecture import Architecture, Precision, architecture_from_config
from schemas.catalog import catalog

DENSE_8B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
DENSE_70B = {
    **DENSE_8B,
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
}
LATENT_671B = {
    "model_type": "deepseek_v3",
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 61,
    "first_k_dense_replace": 3,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "vocab_size": 129280,
    "max_position_embeddings": 163840,
    "tie_word_embeddings": False,
    "quantization_config": {"quant_method": "fp8"},
}


@pytest.fixture(scope="session")
def dense_8b() -> Architecture:
    return architecture_from_config(DENSE_8B)


@pytest.fixture(scope="session")
def dense_70b() -> Architecture:
    return architecture_from_config(DENSE_70B)


@pytest.fixture(scope="session")
def latent_671b() -> Architecture:
    return architecture_from_config(LATENT_671B)


@pytest.fixture(scope="session")
def gpu_pool() -> Callable[..., Pool]:
    def make(
        gpu: str = "H100",
        *,
        per_node: int = 8,
        nodes: int = 1,
        usd_per_h: float | None = None,
        name: str | None = None,
    ) -> Pool:
        found = catalog().gpus.find(gpu)
        return Pool(
            cluster="c",
            name=name or gpu.lower(),
            device=Device.of_gpu(found),
            gpu=found.key,
            gpus_per_node=per_node,
            nodes=nodes,
            price_usd_per_h=usd_per_h,
        )

    return make


@pytest.fixture(scope="session")
def chat_task(dense_8b: Architecture, gpu_pool: Callable[..., Pool]) -> Task:
    """An 8B model, 1,000 tokens in and 200 out, 16 at once, one node of H100."""
    return Task(
        name="Endpoint/default/chat",
        model="meta-llama/Llama-3.1-8B-Instruct",
        architecture=dense_8b,
        precisions=(Precision.BF16,),
        kv_precision=Precision.BF16,
        engine="vllm",
        engine_version="0.19.0",
        input_tokens=1000,
        output_tokens=200,
        concurrency=16,
        pools=(gpu_pool(),),
        goals=Goals(ttft_ms=Goal(value=2000, percentile=95)),
    )


@pytest.fixture(scope="session")
def large_task(chat_task: Task, dense_70b: Architecture) -> Task:
    return replace(chat_task, architecture=dense_70b, model="meta-llama/Llama-3.1-70B")
