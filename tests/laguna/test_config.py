"""config.json into ModelConfig: every quirk that a released file has, and every refusal with its words."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from laguna_agent.backend.laguna.config import LayerConfig
from laguna_agent.backend.laguna.config_json import load_config, parse_config
from laguna_agent.errors import ConfigError

FULL, SLIDING = "full_attention", "sliding_attention"
YARN = {
    "rope_type": "yarn",
    "rope_theta": 500000.0,
    "factor": 32.0,
    "original_max_position_embeddings": 4096,
    "beta_fast": 64.0,
    "beta_slow": 1.0,
    "attention_factor": 1.0,
    "partial_rotary_factor": 0.5,
}
PLAIN = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0}


def xs2(**changes: Any) -> dict[str, Any]:
    """A config in the shape of XS.2's; a change to `...` takes the key away."""
    values: dict[str, Any] = {
        "model_type": "laguna",
        "vocab_size": 100352,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 4,
        "num_attention_heads": 48,
        "num_attention_heads_per_layer": [48, 64, 64, 64],
        "num_key_value_heads": 8,
        "head_dim": 128,
        "layer_types": [FULL, SLIDING, SLIDING, SLIDING],
        "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
        "sliding_window": 512,
        "gating": True,
        "num_experts": 256,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 512,
        "shared_expert_intermediate_size": 512,
        "moe_routed_scaling_factor": 2.5,
        "moe_router_logit_softcapping": 0.0,
        "rope_parameters": {FULL: YARN, SLIDING: PLAIN, "original_max_position_embeddings": 4096},
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "attention_bias": False,
        "torch_dtype": "bfloat16",
        "bos_token_id": 2,
        "eos_token_id": [2, 24],
        "pad_token_id": 9,
    }
    return {key: value for key, value in (values | changes).items() if value is not ...}


def qwen(**changes: Any) -> dict[str, Any]:
    """A config in the shape of Qwen2.5-Coder-1.5B's."""
    values: dict[str, Any] = {
        "model_type": "qwen2",
        "vocab_size": 151936,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 3,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
        "max_window_layers": 2,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "use_sliding_window": False,
        "tie_word_embeddings": True,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
    }
    return {key: value for key, value in (values | changes).items() if value is not ...}


def test_the_released_shape() -> None:
    config = parse_config(xs2())
    assert [layer.heads for layer in config.layers] == [48, 64, 64, 64]
    assert config.layers[0] == LayerConfig(heads=48, attention=FULL, mlp="dense", gate="per-head")
    assert config.layers[1] == LayerConfig(heads=64, attention=SLIDING, mlp="sparse", gate="per-head")
    assert (config.rope[FULL].rotary_dim, config.rope[SLIDING].rotary_dim) == (64, 128)
    assert (config.rope[FULL].attention_factor, config.rope[SLIDING].kind) == (1.0, "default")
    assert (config.eos_token_ids, config.bos_token_id, config.pad_token_id) == ((2, 24), 2, 9)
    assert (config.routed_scale, config.normalize_top_k, config.tied, config.query_key_norm) == (2.5, True, False, True)


@pytest.mark.parametrize(
    ("changes", "dense"),
    [
        ({"mlp_layer_types": ...}, [0]),
        ({"mlp_layer_types": ..., "mlp_only_layers": [0, 1, 2], "decoder_sparse_step": 1}, [0, 1, 2]),
        ({"mlp_layer_types": ..., "mlp_only_layers": []}, []),
        ({"mlp_only_layers": [3]}, [0]),
    ],
)
def test_which_layers_are_dense(changes: dict[str, Any], dense: list[int]) -> None:
    config = parse_config(xs2(**changes))
    assert [index for index, layer in enumerate(config.layers) if layer.mlp == "dense"] == dense


def test_defaults_of_absent_keys() -> None:
    config = parse_config(
        xs2(
            layer_types=...,
            num_attention_heads_per_layer=...,
            shared_expert_intermediate_size=...,
            moe_router_logit_softcapping=...,
            rope_parameters=...,
            sliding_window=0,
            norm_topk_prob=False,
            pad_token_id=...,
            eos_token_id=2,
        )
    )
    assert {layer.attention for layer in config.layers} == {FULL}
    assert {layer.heads for layer in config.layers} == {48}
    assert (config.shared_expert_size, config.router_softcap, config.normalize_top_k) == (0, 0.0, False)
    assert (config.rope[FULL].theta, config.rope[FULL].rotary_dim) == (500000.0, 64)
    assert (config.pad_token_id, config.eos_token_ids) == (None, (2,))


def test_rope_of_sliding_layers_when_absent() -> None:
    rope = parse_config(xs2(rope_parameters=None)).rope[SLIDING]
    assert (rope.theta, rope.rotary_dim, rope.kind) == (10000.0, 128, "default")


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_parameters": {"global_attention": YARN, SLIDING: PLAIN}},
        {"rope_parameters": YARN, "swa_rope_parameters": PLAIN},
        {
            "rope_parameters": {key: value for key, value in YARN.items() if key != "partial_rotary_factor"},
            "swa_rope_parameters": PLAIN,
            "partial_rotary_factor": 0.5,
        },
        {
            "rope_parameters": {"type": "yarn", **{key: value for key, value in YARN.items() if key != "rope_type"}},
            "swa_rope_parameters": {"type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0},
        },
        {"layer_types": ["global_attention", SLIDING, SLIDING, SLIDING]},
    ],
)
def test_every_spelling_of_the_same_rope(changes: dict[str, Any]) -> None:
    found = parse_config(xs2(**changes))
    assert found.rope == parse_config(xs2()).rope
    assert found.layers == parse_config(xs2()).layers


def test_attention_factor() -> None:
    def factor(**changes: Any) -> float:
        rope = {key: value for key, value in (YARN | changes).items() if value is not ...}
        return parse_config(xs2(rope_parameters={FULL: rope, SLIDING: PLAIN})).rope[FULL].attention_factor

    assert factor(attention_factor=1.25) == 1.25
    assert factor(attention_factor=...) == pytest.approx(1.3465735902799727, abs=1e-12)
    assert factor(attention_factor=None, factor=128.0) == pytest.approx(1.4852030263919618, abs=1e-12)
    assert factor(attention_factor=..., factor=0.5) == 1.0
    assert factor(attention_factor=..., mscale=2.0, mscale_all_dim=1.0) == pytest.approx(1.6931471806 / 1.3465735903)
    # Without a factor it is the ratio of the two lengths: 131072 / 4096 = 32.
    assert factor(attention_factor=..., factor=...) == pytest.approx(1.3465735902799727, abs=1e-12)


def test_truncate_is_read_beside_the_layer_types() -> None:
    inside = {FULL: {**YARN, "truncate": False}, SLIDING: PLAIN}
    assert parse_config(xs2(rope_parameters=inside)).rope[FULL].truncate
    beside = {FULL: YARN, SLIDING: PLAIN, "truncate": False}
    assert not parse_config(xs2(rope_parameters=beside)).rope[FULL].truncate


@pytest.mark.parametrize(
    ("changes", "gates"),
    [
        ({"gating": "per-head", "gating_types": ["per_head"] * 4}, ["per-head"] * 4),
        ({"gating": "per-element"}, ["per-element"] * 4),
        ({"gating": "per-head", "gating_types": ["per_head", "per_element"] * 2}, ["per-head", "per-element"] * 2),
        ({"gating": ...}, ["per-head"] * 4),
        ({"gating": False}, [None] * 4),
    ],
)
def test_gates(changes: dict[str, Any], gates: list[str | None]) -> None:
    assert [layer.gate for layer in parse_config(xs2(**changes)).layers] == gates


def test_the_shape_of_the_gate_decides() -> None:
    config = parse_config(xs2()).with_gate_rows({0: 48 * 128, 1: 64, 2: 64 * 128, 3: 64})
    assert [layer.gate for layer in config.layers] == ["per-element", "per-head", "per-element", "per-head"]
    assert [config.gate_rows(index) for index in range(4)] == [6144, 64, 8192, 64]
    with pytest.raises(
        ConfigError, match=r"x\.safetensors: model\.layers\.1\..* has 63 rows, expected 64 \(per head\)"
    ):
        parse_config(xs2()).with_gate_rows({0: 48, 1: 63, 2: 64, 3: 64}, "x.safetensors")
    with pytest.raises(ConfigError, match=r"layers\.3\.self_attn\.g_proj\.weight is missing"):
        parse_config(xs2()).with_gate_rows({0: 48, 1: 64, 2: 64})
    with pytest.raises(ConfigError, match="the config says no gate"):
        parse_config(xs2(gating=False)).with_gate_rows({0: 48})


def test_qwen2() -> None:
    config = parse_config(qwen())
    assert (config.head_dim, config.qkv_bias, config.output_bias, config.query_key_norm) == (128, True, False, False)
    assert (config.rope[FULL].theta, config.rope[FULL].rotary_dim, config.tied) == (1000000.0, 128, True)
    assert [layer.attention for layer in config.layers] == [FULL] * 3
    slides = parse_config(qwen(use_sliding_window=True, sliding_window=77))
    assert [layer.attention for layer in slides.layers] == [FULL, FULL, SLIDING]
    stretched = parse_config(qwen(rope_scaling={"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 99}))
    assert (stretched.rope[FULL].factor, stretched.rope[FULL].theta) == (4.0, 1000000.0)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"moe_apply_router_weight_on_input": True}, "moe_apply_router_weight_on_input is True, expected False"),
    ({"swa_attention_sink_enabled": True}, "swa_attention_sink_enabled is True, expected False"),
    ({"moe_router_score_func": "sqrtsoftplus"}, "moe_router_score_func is 'sqrtsoftplus', expected 'sigmoid'"),
    ({"hidden_act": "gelu"}, "hidden_act is 'gelu', expected 'silu'"),
    ({"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0, expected 0"),
    ({"model_type": "llama"}, "model_type is 'llama', expected 'laguna' or 'qwen2'"),
    ({"model_type": ...}, "model_type is missing"),
    ({"layer_types": [FULL, "chunked_attention", FULL, FULL]}, r"layer_types\[1\] is 'chunked_attention'"),
    ({"layer_types": [FULL]}, r"the length of layer_types is 1, expected num_hidden_layers \(4\)"),
    ({"mlp_layer_types": ["dense", "sparse", "moe", "sparse"]}, r"mlp_layer_types\[2\] is 'moe'"),
    ({"mlp_layer_types": ..., "mlp_only_layers": [4]}, r"mlp_only_layers is \[4\]"),
    ({"mlp_layer_types": ..., "decoder_sparse_step": 2}, "decoder_sparse_step is 2"),
    ({"num_attention_heads_per_layer": [48, 64]}, "the length of num_attention_heads_per_layer is 2"),
    ({"num_attention_heads_per_layer": [48, 63, 64, 64]}, r"layer 1 is 63, expected a multiple of .* \(8\)"),
    ({"num_attention_heads_per_layer": [48, 0, 64, 64]}, "layer 1 is 0"),
    ({"num_key_value_heads": 0}, "num_key_value_heads is 0"),
    ({"gating": "both"}, "gating is 'both'"),
    ({"gating_types": ["per_head", "per_token"] * 2}, r"gating_types\[1\] is 'per_token'"),
    ({"sliding_window": 0}, "sliding_window is 0, expected at least 1"),
    ({"sliding_window": None}, "sliding_window is 0, expected at least 1"),
    ({"num_experts_per_tok": 257}, r"num_experts_per_tok is 257, expected 1 to num_experts \(256\)"),
    ({"num_experts": 0}, "num_experts is 0"),
    ({"num_experts": ...}, "num_experts is missing, expected an integer"),
    ({"moe_intermediate_size": 0}, "moe_intermediate_size is 0"),
    ({"intermediate_size": ...}, "intermediate_size is missing"),
    ({"head_dim": 127}, "partial_rotary_factor is 63, expected an even number"),
    ({"hidden_size": "2048"}, "hidden_size is '2048', expected an integer"),
    ({"hidden_size": True}, "hidden_size is True, expected an integer"),
    ({"hidden_size": -1}, "hidden_size is -1, expected an integer from 0"),
    ({"hidden_size": 1 << 40}, "hidden_size is 1099511627776, expected an integer from 0 to 2"),
    ({"num_hidden_layers": 1 << 30}, "num_hidden_layers is 1073741824, expected 1 to 4096"),
    ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan, expected a finite number"),
    ({"rms_norm_eps": 0}, "rms_norm_eps is 0.0, expected a positive number"),
    ({"eos_token_id": [2, 100352]}, "eos_token_id is 100352, expected a token id below vocab_size"),
    ({"rope_parameters": YARN}, "swa_rope_parameters is missing"),
    ({"rope_parameters": {FULL: YARN}}, "rope_parameters is .*, expected an entry for sliding_attention"),
    (
        {"rope_parameters": {FULL: YARN, SLIDING: PLAIN, "linear_attention": PLAIN}},
        "linear_attention is .*, expected one",
    ),
    ({"rope_parameters": {FULL: {**YARN, "rope_type": "llama3"}, SLIDING: PLAIN}}, "rope_type is 'llama3', expected"),
    ({"rope_parameters": {FULL: {"rope_type": "default"}, SLIDING: PLAIN}}, r"full_attention\.rope_theta is missing"),
    ({"rope_parameters": {FULL: {**YARN, "factor": 0}, SLIDING: PLAIN}}, r"full_attention\.factor is 0.0"),
    (
        {"rope_parameters": {FULL: {**YARN, "rope_theta": 1}, SLIDING: PLAIN}},
        r"rope_theta is 1.0, expected a number above",
    ),
    ({"rope_parameters": []}, r"rope_parameters is \[\], expected an object"),
    ({"moe_router_logit_softcapping": -1.0}, "moe_router_logit_softcapping is -1.0"),
]


@pytest.mark.parametrize(("changes", "words"), REFUSED, ids=[str(sorted(changes)[0]) for changes, _ in REFUSED])
def test_refusals(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as refused:
        parse_config(xs2(**changes), "there/config.json")
    assert str(refused.value).startswith("there/config.json: ")
    assert "\n" not in str(refused.value)


def test_a_qwen2_that_does_not_divide() -> None:
    with pytest.raises(ConfigError, match="hidden_size is 1537, expected a multiple of num_attention_heads"):
        parse_config(qwen(hidden_size=1537))


def _folder(tmp_path: Path, config: str, generation: str | None = None) -> Path:
    (tmp_path / "config.json").write_text(config)
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(generation)
    return tmp_path


def test_generation_config_adds_ends(tmp_path: Path) -> None:
    folder = _folder(tmp_path, json.dumps(xs2(eos_token_id=2)), '{"eos_token_id": [2, 24]}')
    assert load_config(folder).eos_token_ids == (2, 24)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[1]", "holds list, expected a JSON object"),
        ("[" * 200000, "not JSON"),
        ('{"model_type": 3}', "model_type is 3, expected a string"),
    ],
)
def test_files_that_are_no_config(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_config(_folder(tmp_path, text))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json: cannot be read: No such file"):
        load_config(tmp_path)


def test_reading_a_config_loads_no_torch() -> None:
    code = "import sys, laguna_agent.backend.laguna.config_json; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
