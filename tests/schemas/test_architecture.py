from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.architecture import Architecture, Precision, architecture_from_config
from schemas.catalog import registry
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


# Parameters of the model that transformers 5.23 builds from the same config, one or
# more for each family. Where it keeps the router's correction bias outside of its
# parameters (DeepSeek-V3, GLM, MiniMax, Nemotron 3), the bias is the difference.
REFERENCE = {
    "meta-llama/Llama-3.1-405B-Instruct": 405_853_388_800,
    "meta-llama/Llama-3.2-1B-Instruct": 1_235_814_400,
    "mistralai/Mistral-Nemo-Instruct-2407": 12_247_782_400,
    "mistralai/Mixtral-8x7B-Instruct-v0.1": 46_702_792_704,
    "Qwen/Qwen2.5-7B-Instruct": 7_615_616_512,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-235B-A22B": 235_093_634_560,
    "Qwen/Qwen3-Next-80B-A3B-Instruct": 79_674_391_296,
    "Qwen/Qwen3-VL-8B-Instruct": 8_767_123_696,
    "Qwen/Qwen3.5-397B-A17B": 396_802_360_816,
    "deepseek-ai/DeepSeek-V2-Lite": 15_706_484_224,
    "deepseek-ai/DeepSeek-V2": 235_741_434_880,
    "deepseek-ai/DeepSeek-V3": 671_026_404_352,
    "deepseek-ai/DeepSeek-V3.2": 671_877_929_216,
    "moonshotai/Kimi-K2-Instruct": 1_026_408_209_408,
    "zai-org/GLM-4.5-Air": 106_852_245_504,
    "zai-org/GLM-5": 743_911_199_232,
    "MiniMaxAI/MiniMax-M2.5": 228_689_748_992,
    "openai/gpt-oss-120b": 116_829_156_672,
    "google/gemma-2-9b-it": 9_241_705_984,
    "google/gemma-3-270m-it": 268_098_176,
    "microsoft/phi-4": 14_659_507_200,
    "microsoft/Phi-3.5-MoE-instruct": 41_873_121_280,
    "ibm-granite/granite-3.3-8b-instruct": 8_170_864_640,
    "allenai/OLMo-2-0325-32B-Instruct": 32_234_279_936,
    "allenai/OLMoE-1B-7B-0924-Instruct": 6_919_161_856,
    "CohereLabs/c4ai-command-r-08-2024": 32_296_476_672,
    "ai21labs/AI21-Jamba-Mini-1.5": 51_570_323_328,
    "tiiuae/falcon-7b-instruct": 6_921_720_704,
    "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": 31_577_937_344,
    "nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-BF16": 120_668_687_360,
    "nvidia/Nemotron-H-56B-Base-8K": 56_324_350_464,
    "nvidia/Nemotron-4-340B-Instruct": 341_029_195_776,
    "sentence-transformers/all-MiniLM-L6-v2": 22_713_216,
    "BAAI/bge-m3": 567_754_752,
    "EleutherAI/gpt-neox-20b": 20_554_567_680,
    "EleutherAI/gpt-j-6b": 6_050_882_784,
    "Salesforce/codegen2-16B": 16_032_155_648,
    "bigcode/starcoder": 15_517_456_384,
    "bigscience/bloom": 176_247_271_424,
    "facebook/opt-6.7b": 6_658_473_984,
    "mosaicml/mpt-7b-instruct": 6_649_286_656,
}
EVERY_MODEL = st.sampled_from([model.architecture for model in registry()])


@pytest.mark.parametrize(("name", "reference"), REFERENCE.items())
def test_every_family_is_counted_as_its_reference_implementation_does(
    name: str, reference: int
) -> None:
    counted = registry().find(name).architecture.parameters.total
    assert counted == pytest.approx(reference, rel=5e-6)


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


def test_a_hybrid_model_holds_a_state_and_caches_only_where_it_attends() -> None:
    hybrid = registry().find("Qwen/Qwen3-Next-80B-A3B-Instruct").architecture
    assert (hybrid.layers, hybrid.attention_layers, hybrid.state_layers) == (48, 12, 36)
    assert hybrid.kv_bytes_per_token() == 12 * 2 * 256 * 2 * 2
    # 32 value heads of 128 x 128, and 3 steps of a convolution over 8192 channels.
    assert hybrid.state_bytes() == 36 * 2 * (32 * 128 * 128 + 3 * 8192)


def test_an_encoder_caches_nothing() -> None:
    encoder = registry().find("BAAI/bge-m3").architecture
    assert encoder.kind == "encoder"
    assert encoder.kv_bytes_per_token() == 0


def test_an_encoder_decoder_caches_in_its_decoder_alone() -> None:
    t5 = registry().find("google/flan-t5-xl").architecture
    assert (t5.kind, t5.layers) == ("encoder-decoder", 48)
    assert t5.kv_bytes_per_token() == 24 * 32 * 64 * 2 * 2


def test_an_image_tower_counts_beside_the_language_model() -> None:
    gemma = registry().find("google/gemma-3-4b-it").architecture
    # The hub's count of the published safetensors; SigLIP has 417M of it.
    assert gemma.parameters.total == 4_300_079_472
    assert gemma.parameters.vision == pytest.approx(417e6, rel=0.01)


def test_layers_of_two_shapes_cache_each_their_own() -> None:
    gemma = registry().find("google/gemma-4-31B-it").architecture
    # transformers 5.23 builds 31,273,086,512 parameters from the same config.
    assert gemma.parameters.total == pytest.approx(31_273_086_512, rel=0.0005)
    windowed, whole = 50 * 16 * 256 * 2 * 2, 10 * 4 * 512 * 2 * 2
    assert gemma.kv_bytes_per_token() == windowed + whole
    assert gemma.kv_bytes(10_000) == 1024 * windowed + 10_000 * whole


def test_a_quantised_llama_cpp_file_is_sized_with_its_exceptions() -> None:
    # The file of Gemma 3 270M at Q4_K_M has 253,113,024 bytes, tokenizer included;
    # by 4.85 bits a weight it would have 163 million.
    gemma = registry().find("google/gemma-3-270m").architecture
    assert gemma.weight_bytes(Precision.Q4_K_M) == pytest.approx(253_113_024, rel=0.04)
    # 4.92 GB: the published file of Llama 3.1 8B.
    llama = architecture_from_config(LLAMA_8B)
    assert llama.weight_bytes(Precision.Q4_K_M) == pytest.approx(4.92e9, rel=0.01)


def test_attention_that_was_left_out_of_quantization_stays_at_16_bits() -> None:
    r1 = registry().find("nvidia/DeepSeek-R1-NVFP4").architecture
    by = r1.weight_bytes_by_term()
    assert by["attention"] == r1.parameters.attention * 2
    assert by["routed"] == r1.parameters.routed * 4.5 / 8


@given(EVERY_MODEL)
def test_the_terms_sum_to_the_total_and_blocks_to_the_layers(
    facts: Architecture,
) -> None:
    assert sum(asdict(facts.parameters).values()) == facts.parameters.total
    assert facts.layers == sum(block.count for block in facts.blocks)
    assert 0 < facts.active_parameters <= facts.parameters.total


@given(EVERY_MODEL, st.sampled_from([1, 2, 4, 8, 16]), st.integers(1, 200_000))
def test_a_rank_caches_no_less_than_its_share_and_no_more_than_the_whole(
    facts: Architecture, tensor: int, tokens: int
) -> None:
    whole, share = facts.kv_bytes(tokens), facts.kv_bytes(tokens, tensor=tensor)
    assert whole / tensor <= share <= whole
    assert whole <= tokens * facts.kv_bytes_per_token()


@given(EVERY_MODEL, st.integers(1, 100_000), st.integers(0, 100_000))
def test_more_tokens_never_cost_less_cache(
    facts: Architecture, tokens: int, more: int
) -> None:
    assert facts.kv_bytes(tokens) <= facts.kv_bytes(tokens + more)


@given(EVERY_MODEL)
def test_fewer_bits_never_weigh_more(facts: Architecture) -> None:
    order = (Precision.FP32, Precision.BF16, Precision.FP8, Precision.FP4)
    weights = [
        facts.weight_bytes(precision)
        for precision in order
        if precision != facts.native
    ]
    assert weights == sorted(weights, reverse=True)


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


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=5), inner, max_size=2)
    ),
    max_leaves=6,
)


def broken(config: dict[str, object]) -> st.SearchStrategy[dict[str, object]]:
    """The config with some values replaced, inside of its parts as well."""
    values = {
        key: st.one_of(
            st.just(value),
            broken(value) if isinstance(value, dict) else st.just(value),
            JUNK,
        )
        for key, value in config.items()
    }
    return st.fixed_dictionaries(values)


@pytest.mark.slow
@settings(max_examples=60)
@given(st.sampled_from([model.config for model in registry()]).flatmap(broken))
def test_a_broken_config_is_a_problem_or_a_model_and_never_a_crash(
    config: dict[str, object],
) -> None:
    hints = ["none needed"]
    try:
        architecture_from_config(config)
    except SpecError as error:
        hints = [problem.hint for problem in error.problems]
    assert all(hints)


def test_a_config_cannot_make_its_reader_count_for_ever() -> None:
    with pytest.raises(SpecError, match="cannot count 90000000 layers"):
        architecture_from_config({**LLAMA_8B, "num_hidden_layers": 90_000_000})


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("block_configs", [{}], "each have their own shape"),
        ("linear_attn_config", {"num_heads": 96}, "Kimi delta attention"),
        ("compress_ratios", [0, 4, 128], "compressed attention"),
        ("attn_type_list", [0, 1], "lightning attention"),
    ],
)
def test_a_mechanism_that_cannot_be_counted_is_refused(
    key: str, value: object, reason: str
) -> None:
    with pytest.raises(SpecError, match=reason):
        architecture_from_config({**LLAMA_8B, key: value})


def test_a_pattern_shorter_than_the_stack_is_refused() -> None:
    with pytest.raises(SpecError, match="20 entries, 36 layers"):
        architecture_from_config({**GPT_OSS, "layer_types": ["full_attention"] * 20})


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
