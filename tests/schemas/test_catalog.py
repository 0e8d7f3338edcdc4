import pytest

from schemas.catalog import Index, catalog, catalog_digest
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
def test_figures_are_dense_and_consistent(gpu) -> None:
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


def test_the_digest_is_of_the_content_and_stable() -> None:
    assert catalog_digest() == catalog_digest()
    assert len(catalog_digest()) == 64
