import pytest

from schemas.architecture import Architecture, Precision, architecture_from_config
from schemas.errors import SpecError

LLAMA_8B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
DEEPSEEK_V3 = {
    "model_type": "deepseek_v3",
    "first_k_dense_replace": 3,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "kv_lora_rank": 512,
    "max_position_embeddings": 163840,
    "moe_intermediate_size": 2048,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_attention_heads": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 61,
    "num_key_value_heads": 128,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "vocab_size": 129280,
    "quantization_config": {"quant_method": "fp8", "fmt": "e4m3"},
}
GPT_OSS = {
    "model_type": "gpt_oss",
    "attention_bias": True,
    "head_dim": 64,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "layer_types": ["sliding_attention", "full_attention"] * 18,
    "max_position_embeddings": 131072,
    "num_attention_heads": 64,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "num_local_experts": 128,
    "sliding_window": 128,
    "vocab_size": 201088,
    "quantization_config": {
        "quant_method": "mxfp4",
        "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"],
    },
}


def without(config: dict[str, object], *names: str) -> dict[str, object]:
    return {key: value for key, value in config.items() if key not in names}


def test_a_dense_model_is_counted_to_the_last_parameter() -> None:
    llama = architecture_from_config(LLAMA_8B)
    # The hub's own count of the published safetensors.
    assert llama.parameters.total == 8_030_261_248
    assert (llama.layers, llama.heads, llama.kv_heads, llama.head_dim) == (
        32,
        32,
        8,
        128,
    )
    assert llama.weight_bytes() == 2 * 8_030_261_248


def test_grouped_query_attention_caches_two_vectors_for_each_kv_head() -> None:
    llama = architecture_from_config(LLAMA_8B)
    assert llama.kv_bytes_per_token(Precision.BF16) == 32 * 8 * 128 * 2 * 2
    assert llama.kv_bytes_per_token(Precision.FP8) == 32 * 8 * 128 * 2


@pytest.mark.parametrize(("tensor", "heads"), [(1, 8), (2, 4), (8, 1), (16, 1)])
def test_kv_heads_are_split_until_there_is_one_and_then_replicated(
    tensor: int, heads: int
) -> None:
    llama = architecture_from_config(LLAMA_8B)
    assert llama.kv_bytes_per_token(tensor=tensor) == 32 * heads * 128 * 2 * 2


def test_latent_attention_caches_one_vector_that_no_rank_can_split() -> None:
    deepseek = architecture_from_config(DEEPSEEK_V3)
    assert deepseek.kv_bytes_per_token() == 61 * (512 + 64) * 2
    assert deepseek.kv_bytes_per_token(tensor=8) == deepseek.kv_bytes_per_token()
    assert deepseek.latent is not None
    assert deepseek.latent.kv_rank == 512


def test_experts_that_a_token_skips_are_not_active() -> None:
    deepseek = architecture_from_config(DEEPSEEK_V3)
    assert deepseek.parameters.total == 671_026_419_200
    # arXiv 2412.19437: 671B of which 37B are activated for each token.
    assert deepseek.active_parameters == pytest.approx(37e9, rel=0.02)
    assert deepseek.experts is not None
    assert (deepseek.experts.routed, deepseek.experts.top_k) == (256, 8)
    assert deepseek.expert_layers == 58


def test_a_native_format_keeps_what_its_config_keeps() -> None:
    gpt = architecture_from_config(GPT_OSS)
    assert gpt.native is Precision.MXFP4
    # arXiv 2508.10925, table 1: 116.83B parameters, 5.13B active, 60.8 GiB checkpoint.
    assert gpt.parameters.total == pytest.approx(116.83e9, rel=0.0001)
    assert gpt.active_parameters == pytest.approx(5.13e9, rel=0.001)
    assert gpt.weight_bytes() / 1024**3 == pytest.approx(60.8, rel=0.01)


def test_a_window_bounds_the_cache_of_the_layers_that_slide() -> None:
    gpt = architecture_from_config(GPT_OSS)
    per_layer = 8 * 64 * 2 * 2
    assert (gpt.window, gpt.window_layers) == (128, 18)
    assert gpt.kv_bytes(100) == 100 * 36 * per_layer
    assert gpt.kv_bytes(1000) == (1000 * 18 + 128 * 18) * per_layer


def test_every_missing_key_is_named_at_once_with_the_way_out() -> None:
    with pytest.raises(SpecError) as caught:
        architecture_from_config(
            without(LLAMA_8B, "num_hidden_layers", "vocab_size"), file="m/config.json"
        )
    problems = caught.value.problems
    assert [problem.field for problem in problems] == [
        "num_hidden_layers",
        "vocab_size",
    ]
    assert {problem.file for problem in problems} == {"m/config.json"}
    assert all("config.json published with the weights" in p.hint for p in problems)


def test_a_layer_that_is_not_known_is_refused_not_counted_as_another() -> None:
    strange = {**GPT_OSS, "layer_types": ["sliding_attention", "hyena"] * 18}
    with pytest.raises(SpecError, match="cannot count layers of kind hyena"):
        architecture_from_config(strange)


def test_a_count_that_is_no_number_is_refused() -> None:
    with pytest.raises(SpecError, match="'many' is not a count"):
        architecture_from_config({**LLAMA_8B, "num_attention_heads": "many"})


def test_an_unknown_family_is_counted_as_llama_and_says_so() -> None:
    new: Architecture = architecture_from_config({**LLAMA_8B, "model_type": "llama9"})
    assert new.parameters.total == 8_030_261_248
    assert new.assumed == (
        "model_type llama9 is not a known family: counted as Llama's layers",
    )
    assert architecture_from_config(LLAMA_8B).assumed == ()
