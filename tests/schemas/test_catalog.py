import datetime as dt

import pytest

from schemas.catalog import (
    EngineEntry,
    Gpu,
    Index,
    Instance,
    ModelEntry,
    SpotShare,
    catalog,
    catalog_digest,
    registry,
)
from schemas.errors import PermanentError


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("h100-sxm-80gb", "h100-sxm-80gb"),
        ("H100", "h100-sxm-80gb"),
        ("h100_sxm", "h100-sxm-80gb"),
        ("NVIDIA-H100-80GB-HBM3", "h100-sxm-80gb"),
        ("nvidia-l40s", "l40s-48gb"),
        ("AMD MI300X GPU", "mi300x-192gb"),
    ],
)
def test_a_gpu_is_found_by_key_alias_and_label_in_any_case(name: str, key: str) -> None:
    assert catalog().gpus.find(name).key == key


def test_a_typo_is_answered_with_the_nearest_names() -> None:
    with pytest.raises(PermanentError) as caught:
        catalog().gpus.find("H10O")
    assert "cannot find GPU: 'H10O'" in str(caught.value)
    assert "h100-sxm-80gb" in caught.value.hint


def test_no_name_may_stand_for_two_entries() -> None:
    with pytest.raises(ValueError, match="GPU 'A' names both"):
        Index("GPU", {"a": 1, "b": 2}, {"b": ("A",)})


@pytest.mark.parametrize("gpu", catalog().gpus, ids=lambda gpu: gpu.key)
def test_figures_are_dense_and_consistent(gpu: Gpu) -> None:
    rates = gpu.tflops
    # Each narrower format at most doubles the rate; a sparse figure would show here.
    if rates.fp8 and rates.bf16:
        assert 1.0 <= rates.fp8 / rates.bf16 <= 2.03
    if rates.fp4 and rates.fp8:
        assert 1.9 <= rates.fp4 / rates.fp8 <= 3.01
    # Bytes and decimal gigabytes of the name agree within what a driver keeps.
    boxed = float(gpu.key.rsplit("-", 1)[1].removesuffix("gb"))
    assert 0.87 * boxed <= gpu.memory_gib <= 1.001 * boxed
    assert 250 <= gpu.memory_bandwidth_gb_per_s <= 8000


@pytest.mark.parametrize("machine", catalog().instances, ids=lambda item: item.key)
def test_a_machine_carries_gpus_of_the_catalog(machine: Instance) -> None:
    if machine.gpu is None:
        assert machine.gpus == 0
        return
    gpu = catalog().gpus.find(machine.gpu)
    assert machine.gpu == gpu.key
    # No machine has more devices than reach each other, or they would be two pools.
    assert machine.gpus <= gpu.interconnect.domain or machine.gpus <= 2


@pytest.mark.parametrize("machine", catalog().instances, ids=lambda item: item.key)
def test_a_price_is_dated_and_plausible_or_absent(machine: Instance) -> None:
    if machine.price is None:
        assert machine.price_usd_per_h is None
        return
    assert dt.date(2026, 1, 1) <= machine.price.as_of <= dt.date(2026, 12, 31)
    # Between 0.1 USD for a small T4's hour and 30 USD for a B200 or GB200.
    each = machine.price.usd_per_h / max(machine.gpus, machine.vcpus / 4)
    assert 0.05 <= each <= 30


def test_a_spot_machine_never_costs_more_than_its_list_price() -> None:
    for machine in catalog().instances:
        assert machine.spot_share is not None
        assert 0 < machine.spot_share.low <= machine.spot_share.high <= 1
    with pytest.raises(ValueError, match=r"low 0\.9 is more than high 0\.2"):
        SpotShare(low=0.9, high=0.2, source="made up for this test")


def test_larger_machines_of_a_family_cost_more() -> None:
    family = [f"g6.{size}xlarge" for size in ("", "2", "4", "8", "12", "24", "48")]
    prices = [catalog().instances.find(name).price_usd_per_h or 0.0 for name in family]
    assert prices == sorted(prices)


def test_a_machine_without_a_published_price_has_none_and_not_zero() -> None:
    assert catalog().instances.find("p5e.48xlarge").price_usd_per_h is None


@pytest.mark.parametrize("engine", catalog().engines, ids=lambda item: item.key)
def test_an_engine_names_its_metrics_and_its_image(engine: EngineEntry) -> None:
    assert {"chat", "completions", "embeddings"} <= set(engine.capabilities)
    assert ":" in engine.metrics.waiting
    image = engine.image_of(engine.versions[0])
    assert image is None or image.endswith(engine.versions[0])


def test_the_images_are_those_that_were_measured() -> None:
    assert catalog().engines.find("vllm").image_of("0.19.0") == (
        "vllm/vllm-openai:v0.19.0"
    )


@pytest.mark.parametrize("model", registry(), ids=lambda model: model.id)
def test_computed_parameters_are_the_published_ones(model: ModelEntry) -> None:
    computed = model.architecture.parameters.total
    assert computed == pytest.approx(model.published.total, rel=0.02)
    assert model.architecture.assumed == ()


@pytest.mark.parametrize(
    "model",
    [model for model in registry() if model.published.active],
    ids=lambda model: model.id,
)
def test_active_parameters_are_the_published_ones(model: ModelEntry) -> None:
    facts, published = model.architecture, model.published.active
    assert published is not None
    # Some makers count the embedding table that a token looks one row up in.
    both = (
        facts.active_parameters,
        facts.active_parameters + facts.hidden * facts.vocab,
    )
    assert 0.93 * both[0] <= published <= 1.10 * both[1]


MEASURED_MODELS = [
    "MiniMaxAI/MiniMax-M2.5",
    "Qwen/Qwen3-235B-A22B-FP8",
    "Qwen/Qwen3-32B",
    "Qwen/Qwen3.5-397B-A17B",
    "deepseek-ai/DeepSeek-R1",
    "deepseek-ai/DeepSeek-V3",
    "meta-llama/Llama-3.1-70B",
    "meta-llama/Llama-3.1-8B-Instruct",
    "nvidia/DeepSeek-R1-NVFP4",
    "nvidia/DeepSeek-V3.1-NVFP4",
    "nvidia/Llama-3.1-8B-Instruct-FP8",
    "nvidia/Qwen3-32B-NVFP4",
    "openai/gpt-oss-120b",
    "zhipuai/GLM-5",
    "EleutherAI/gpt-neox-20b",
    "Salesforce/codegen2-16B",
    "bigcode/starcoder",
    "bigscience/mt0-xxl",
    "google/flan-t5-xl",
    "google/flan-t5-xxl",
    "google/flan-ul2",
    "ibm/mpt-7b-instruct2",
    "llama-13b",
    "llama-7b",
    "bloom-176b",
    "llama2-70b",
]


@pytest.mark.parametrize("name", MEASURED_MODELS)
def test_every_model_with_measured_latencies_is_known(name: str) -> None:
    assert registry().find(name).architecture.layers > 0


def test_the_registry_spans_the_sizes_that_are_served() -> None:
    sizes = [model.architecture.parameters.total for model in registry()]
    assert len(sizes) >= 40
    assert min(sizes) < 0.3e9
    assert max(sizes) > 1e12


def test_a_model_s_typo_is_answered_with_the_nearest_models() -> None:
    with pytest.raises(PermanentError) as caught:
        registry().find("meta-lama/Llama-3.1-70B")
    assert "did you mean meta-llama/Llama-3.1-70B-Instruct" in caught.value.hint


def test_the_digest_is_of_the_content_and_stable() -> None:
    first = catalog_digest()
    catalog_digest.cache_clear()
    catalog.cache_clear()
    assert catalog_digest() == first
    assert len(first) == 64
