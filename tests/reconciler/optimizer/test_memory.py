from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.optimizer.layouts import Layouts
from reconciler.optimizer.memory import GIB, MemoryTable, memory_of
from schemas.architecture import Architecture, Precision


def table(
    shape: Architecture,
    layouts: Layouts,
    *,
    capacity: float = 79.65,
    tokens: int = 2048,
) -> MemoryTable:
    return memory_of(
        shape,
        layouts,
        precision=Precision.BF16,
        kv_precision=Precision.BF16,
        tokens=tokens,
        capacity_gib=capacity,
        engine="vllm",
    )


@given(capacity=st.floats(1, 500), more=st.floats(0, 500))
@settings(deadline=None)
def test_more_memory_never_makes_a_fit_worse(
    dense_8b: Architecture, capacity: float, more: float
) -> None:
    layouts = Layouts.one(max_batch=32)
    small = table(dense_8b, layouts, capacity=capacity)
    large = table(dense_8b, layouts, capacity=capacity + more)
    assert large.fits[0] or not small.fits[0]
    assert large.sequences[0] >= small.sequences[0]


@given(tokens=st.integers(1, 50_000), more=st.integers(0, 50_000))
@settings(deadline=None)
def test_more_tokens_never_take_less(
    dense_8b: Architecture, tokens: int, more: int
) -> None:
    layouts = Layouts.one(max_batch=32)
    few = table(dense_8b, layouts, tokens=tokens)
    many = table(dense_8b, layouts, tokens=tokens + more)
    assert many.needed[0] >= few.needed[0]


def test_tensor_ranks_split_heads_but_repeat_a_latent(
    dense_8b: Architecture, latent_671b: Architecture
) -> None:
    layouts = Layouts.of([(1, 1, 1, 1, 8, 2048), (8, 1, 1, 1, 8, 2048)])
    dense = table(dense_8b, layouts).sequence
    latent = table(latent_671b, layouts).sequence
    assert dense[1] == pytest.approx(dense[0] / 8)
    assert latent[1] == pytest.approx(latent[0])


def test_pipeline_stages_split_a_latent_by_layer(latent_671b: Architecture) -> None:
    layouts = Layouts.of([(1, 1, 1, 1, 8, 2048), (1, 2, 1, 1, 8, 2048)])
    whole, half = table(latent_671b, layouts).sequence
    assert half == pytest.approx(whole * 31 / 61)


def test_data_ranks_repeat_attention_and_split_experts(
    latent_671b: Architecture,
) -> None:
    layouts = Layouts.of([(8, 1, 1, 8, 8, 2048), (1, 1, 8, 8, 8, 2048)])
    tensor, data = table(latent_671b, layouts).weights
    repeated = latent_671b.parameters.attention * 2 / GIB
    assert data - tensor > repeated * 7 / 8 * 0.95


def test_kv_heads_fewer_than_ranks_are_repeated(dense_8b: Architecture) -> None:
    layouts = Layouts.of([(8, 1, 1, 1, 8, 2048), (16, 1, 1, 1, 8, 2048)])
    eight, sixteen = table(dense_8b, layouts).sequence
    assert sixteen == pytest.approx(eight)


def test_a_batch_that_does_not_fit_still_runs(dense_8b: Architecture) -> None:
    found = table(dense_8b, Layouts.one(max_batch=512), tokens=32_000)
    assert found.fits[0]
    assert found.sequences[0] < 512


def test_cache_of_a_70b_model_is_what_vllm_reports(dense_70b: Architecture) -> None:
    # 486,800 tokens at tensor 4 on H100, gpu_memory_utilization 0.9: the value that
    # the simulator BLIS carries for vLLM.
    found = table(dense_70b, Layouts.one(tensor=4, max_batch=256), tokens=1000)
    tokens = float(np.ravel(found.sequences)[0]) * 1000
    assert tokens == pytest.approx(486_800, rel=0.05)
