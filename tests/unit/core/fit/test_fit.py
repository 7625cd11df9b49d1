"""Numbers by hand: the guide's two models by their published configurations, and every kind."""

from dataclasses import replace

import pytest

from cahoots_vllm.core.amounts import GIB
from cahoots_vllm.core.evidence import Device
from cahoots_vllm.core.fit.estimate import Ask, Verdict, judge
from cahoots_vllm.core.fit.kv_cache import KvOptions, plan_kv_cache
from cahoots_vllm.core.fit.measured import Report, Seen, read_report, seen_in
from cahoots_vllm.core.fit.shape import ModelShape, read_shape
from cahoots_vllm.core.fit.weights import Tensor, weights_from_shape, weights_from_tensors
from cahoots_vllm.core.fit.words import remedy, sentence
from cahoots_vllm.core.launch import LaunchSpec

AWQ = {"bits": 4, "group_size": 128, "quant_method": "awq", "version": "gemm", "zero_point": True}
QWEN3_32B = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 5120,
    "intermediate_size": 25600, "num_hidden_layers": 64, "num_attention_heads": 64,
    "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "torch_dtype": "float16",
    "max_position_embeddings": 40960, "tie_word_embeddings": False, "sliding_window": None,
    "use_sliding_window": False, "quantization_config": AWQ,
}  # fmt: skip
CODER_32B = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 5120,
    "intermediate_size": 27648, "num_hidden_layers": 64, "num_attention_heads": 40,
    "num_key_value_heads": 8, "vocab_size": 152064, "torch_dtype": "float16",
    "max_position_embeddings": 32768, "tie_word_embeddings": False, "sliding_window": 131072,
    "use_sliding_window": False, "quantization_config": AWQ,
}  # fmt: skip
LAUNCH = LaunchSpec(
    model="m", source="o/m", engine="/e",
    options=(("max-model-len", 32768), ("gpu-memory-utilization", 0.9)),
)  # fmt: skip
RTX5090 = Device("GPU-1", "GPU 0", 32 * GIB, 32 * GIB)


def shape_of(config: dict[str, object], **more: object) -> ModelShape:
    shape = read_shape({**config, **more})
    assert shape is not None
    return shape


def test_qwen3_32b_awq_by_hand() -> None:
    # A layer: q and o 5120 x 8192, k and v 5120 x 1024, three of 5120 x 25600: 487,587,840 weights
    # of 4 bits with (16 + 4) / 128 of scale and zero point; two embeddings of 151936 x 5120 halves;
    # norms 64 x (2 x 5120 + 2 x 128) + 5120 halves.
    weights = 64 * 487_587_840 * 66.5 / 128 + 2 * 151_936 * 5120 * 2 + (64 * 10_496 + 5120) * 2
    assert weights == 19_325_298_688
    found = weights_from_shape(shape_of(QWEN3_32B), 2)
    assert found.total_bytes == 19_325_298_688
    kv = plan_kv_cache(shape_of(QWEN3_32B), KvOptions(2))
    assert kv is not None
    assert kv.per_token(32768) == 2 * 64 * 8 * 128 * 2 == 262_144
    assert kv.blocks(32768) * kv.block_bytes == 8 * GIB


def test_tables_of_positions_are_loaded_beside_the_weights() -> None:
    # 40960 positions of 128 halves; Gemma 3 has a second table for its windowed layers.
    found = judge(Ask(shape_of(QWEN3_32B), LAUNCH), (RTX5090,))
    assert found is not None
    assert found.need.weights_bytes - found.need.weights.total_bytes == 40_960 * 128 * 2
    local = judge(Ask(shape_of(QWEN3_32B, rope_local_base_freq=1e4), LAUNCH), (RTX5090,))
    assert local is not None
    assert local.need.weights_bytes - local.need.weights.total_bytes == 2 * 40_960 * 128 * 2


@pytest.mark.parametrize(
    ("config", "width"),
    [
        ({"partial_rotary_factor": 0.25}, 32),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, 64),
        ({"kv_lora_rank": 512, "qk_rope_head_dim": 64}, 64),
        ({"partial_rotary_factor": "much"}, 128),
    ],
)
def test_width_that_is_rotated(config: dict[str, object], width: int) -> None:
    assert shape_of(QWEN3_32B, **config).rotary_dim == width


def test_qwen25_coder_32b_awq_by_hand() -> None:
    # q and o 5120 x 5120, k and v 5120 x 1024, three of 5120 x 27648; biases are left out.
    layer = 2 * 5120 * 5120 + 2 * 5120 * 1024 + 3 * 5120 * 27648
    weights = 64 * layer * 66.5 / 128 + 2 * 152_064 * 5120 * 2 + (64 * 10_240 + 5120) * 2
    found = weights_from_shape(shape_of(CODER_32B), 2)
    assert found.total_bytes == round(weights)
    kv = plan_kv_cache(shape_of(CODER_32B), KvOptions(2))
    assert kv is not None  # head_dim is 5120 / 40; the window is switched off
    assert kv.per_token(32768) == 262_144


def test_the_guides_model_fits_its_card() -> None:
    fit = judge(Ask(shape_of(QWEN3_32B), LAUNCH), (RTX5090,))
    assert fit is not None
    assert fit.verdict is Verdict.FITS
    text = sentence(fit)
    assert text.startswith("18.0 GiB weights + 8.0 GiB KV for 32,768 tokens + ")
    assert " of 28.8 GiB: fits; " in text
    assert remedy(fit, is_cpu=False) == ""


def test_a_context_that_is_too_long_names_the_one_that_fits() -> None:
    card = replace(RTX5090, total_bytes=24 * GIB)
    fit = judge(Ask(shape_of(QWEN3_32B), LAUNCH), (card,))
    assert fit is not None
    assert fit.verdict is Verdict.SHORTER
    assert fit.need.kv is not None
    assert fit.longest is not None
    assert fit.need.kv.needed(fit.longest) <= fit.kv_room_bytes
    assert fit.need.kv.needed(fit.longest + 16) > fit.kv_room_bytes
    assert "max-model-len" in remedy(fit, is_cpu=False)


@pytest.mark.parametrize(
    ("gib", "verdict"), [(16, Verdict.IMPOSSIBLE), (19, Verdict.TOO_LARGE), (48, Verdict.FITS)]
)
def test_verdict_by_the_size_of_the_card(gib: int, verdict: Verdict) -> None:
    card = replace(RTX5090, total_bytes=gib * GIB)
    fit = judge(Ask(shape_of(QWEN3_32B), LAUNCH), (card,))
    assert fit is not None
    assert fit.verdict is verdict


def test_measured_figures_win_over_estimates() -> None:
    seen = Seen(weights_bytes=20 * GIB, overhead_bytes=2 * GIB)
    fit = judge(Ask(shape_of(QWEN3_32B), LAUNCH, seen=seen), (RTX5090,))
    assert fit is not None
    assert (fit.need.weights_bytes, fit.need.overhead_bytes) == (20 * GIB, 2 * GIB)
    assert "measured" in sentence(fit)
    assert fit.verdict is Verdict.SHORTER


def test_kv_heads_are_shared_out_and_then_replicated() -> None:
    def per_token(tensor_parallel: int) -> float:
        kv = plan_kv_cache(shape_of(QWEN3_32B), KvOptions(2, tensor_parallel=tensor_parallel))
        assert kv is not None
        return kv.per_token(32768)

    assert [per_token(n) for n in (1, 2, 8, 16)] == [262_144, 131_072, 32_768, 32_768]


def test_fp8_halves_the_cache() -> None:
    launch = LAUNCH.with_option("kv-cache-dtype", "fp8")
    fit = judge(Ask(shape_of(QWEN3_32B), launch), (RTX5090,))
    assert fit is not None
    assert fit.need.kv is not None
    assert fit.need.kv.per_token(32768) == 131_072


def test_mla_keeps_one_latent_vector() -> None:
    # DeepSeek-V2-Lite: 27 layers, 512 + 64.
    shape = shape_of(QWEN3_32B, num_hidden_layers=27, kv_lora_rank=512, qk_rope_head_dim=64)
    kv = plan_kv_cache(shape, KvOptions(2, tensor_parallel=4))
    assert kv is not None
    assert kv.per_token(32768) == 27 * 576 * 2


def test_windowed_layers_are_bounded() -> None:
    # Gemma 3's pattern: five of six layers keep 1024 tokens; 12 layers are 6 groups of 2.
    shape = shape_of(
        QWEN3_32B, num_hidden_layers=12, sliding_window=1024, sliding_window_pattern=6,
        use_sliding_window=True,
    )  # fmt: skip
    kv = plan_kv_cache(shape, KvOptions(2, in_flight=2048))
    assert kv is not None
    assert sorted(g.window or 0 for g in kv.groups) == [0, 1024, 1024, 1024, 1024, 1024]
    # 32768 / 16, and five times ceil((1023 + 2048) / 16) + 1.
    assert kv.blocks(32768) == 2048 + 5 * 193
    assert kv.block_bytes == 2 * 16 * 8 * 2 * 128 * 2


def test_gpt_oss_alternates() -> None:
    types = ["sliding_attention", "full_attention"] * 18
    shape = shape_of(
        QWEN3_32B, num_hidden_layers=36, sliding_window=128, layer_types=types,
        use_sliding_window=True,
    )  # fmt: skip
    kv = plan_kv_cache(shape, KvOptions(2))
    assert kv is not None
    assert len(kv.groups) == 2
    assert kv.block_bytes == 18 * 16 * 8 * 2 * 128 * 2


def test_layers_with_a_state_are_not_guessed() -> None:
    shape = shape_of(QWEN3_32B, layer_types=["linear_attention"] * 48 + ["full_attention"] * 16)
    assert plan_kv_cache(shape, KvOptions(2)) is None
    fit = judge(Ask(shape, LAUNCH), (RTX5090,))
    assert fit is not None
    assert fit.verdict is Verdict.UNKNOWN
    assert "cannot be told" in sentence(fit)


def test_tensors_are_counted_as_the_engine_holds_them() -> None:
    shape = shape_of(
        QWEN3_32B, tie_word_embeddings=True, quantization_config=None, vocab_size=100,
        num_hidden_layers=1,
    )  # fmt: skip
    tensors = (
        Tensor("model.embed_tokens.weight", "F32", (100, 8)),  # padded to 128 rows, halved
        Tensor("lm_head.weight", "F32", (100, 8)),  # tied: not twice
        Tensor("model.layers.0.mlp.up_proj.weight", "F32", (16, 8)),
        Tensor("model.layers.1.mlp.up_proj.weight", "F32", (16, 8)),  # beyond the layers: a draft
        Tensor("model.layers.0.mlp.down_proj.qweight", "I32", (4, 4)),
        Tensor("model.layers.0.self_attn.rotary_emb.inv_freq", "F32", (64,)),
    )
    found = weights_from_tensors(tensors, shape, 2)
    assert found.total_bytes == 128 * 8 * 2 + 16 * 8 * 2 + 16 * 4
    online = weights_from_tensors(tensors, shape, 2, "fp8")
    assert online.total_bytes == 128 * 8 * 2 + 16 * 8 + 16 * 4


def test_a_mixture_counts_every_expert() -> None:
    shape = shape_of(
        QWEN3_32B, num_experts=4, moe_intermediate_size=96, num_hidden_layers=2,
        quantization_config=None,
    )  # fmt: skip
    dense = shape_of(QWEN3_32B, num_hidden_layers=2, quantization_config=None)
    difference = 2 * (3 * 5120 * 4 * 96 + 4 * 5120 - 3 * 5120 * 25600) * 2
    found = weights_from_shape(shape, 2).total_bytes - weights_from_shape(dense, 2).total_bytes
    assert found == difference


@pytest.mark.parametrize(
    "config",
    [{}, {"num_hidden_layers": "x"}, {"num_hidden_layers": 10**9, "hidden_size": 1,
     "num_attention_heads": 1}, {"text_config": [], "hidden_size": True}],
)  # fmt: skip
def test_a_configuration_without_numbers_has_no_shape(config: dict[str, object]) -> None:
    assert read_shape(config) is None


def test_text_config_is_what_counts() -> None:
    shape = read_shape({"vision_config": {}, "hidden_size": 1, "text_config": QWEN3_32B})
    assert shape is not None
    assert shape.hidden == 5120
    assert shape.has_vision


def test_report_of_a_gpu_engine() -> None:
    report = Report()
    for line in (
        "(Worker_TP0 pid=1) INFO 04-09 20:28:40 [r.py:1] Model loading took 15.27 GiB and 8 s",
        "(Worker_TP1 pid=2) INFO 04-09 20:28:40 [w.py:1] Available KV cache memory: 7.90 GiB",
        "(Worker_TP0 pid=1) INFO 04-09 20:28:40 [w.py:1] Available KV cache memory: 3.50 GiB",
        "(EngineCore pid=3) INFO 04-09 20:28:41 [k.py:1] GPU KV cache size: 59,040 tokens",
        "INFO 04-09 20:28:41 [k.py:1] Maximum concurrency for 4,096 tokens per request: 14x",
    ):
        report = read_report(report, line)
    assert report.is_whole
    assert (report.kv_tokens, report.max_model_len) == (59_040, 4096)
    seen = seen_in(report, 20 * GIB)
    assert seen.overhead_bytes == pytest.approx((20 - 15.27 - 3.5) * GIB, rel=0.01)


def test_report_of_the_cpu_engine() -> None:
    line = (
        "(Worker pid=9709) INFO 11-22 22:59:47 [cpu_worker.py:260] Auto set (1.74/23.54) GiB for KV"
        " cache on node 0, with 2.35 GiB requested memory for the worker. 0.61 GiB memory was"
        " consumed by non-kv usages."
    )
    report = read_report(Report(), line)
    assert report.kv_bytes == round(1.74 * GIB)
    assert report.used_bytes == round(0.61 * GIB)
