"""A checkpoint's config.json, read into a `ModelConfig` (specification section 1).

Knows the keys and quirks of the released Laguna configs and of Qwen2's, and refuses what the model does not compute.
Must not know tensors. Where files of one family differ, the reference is transformers 5.23 unless the specification
says otherwise. Sizes have no defaults: released values have changed, so a missing one is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec

from laguna_agent.backend.laguna.config import (
    AttentionType,
    Gate,
    LayerConfig,
    MlpType,
    ModelConfig,
    RopeConfig,
    checked,
    refuse,
)
from laguna_agent.backend.laguna.config_fields import Fields, read_object
from laguna_agent.backend.laguna.rope_json import DEFAULT_ROPE, laguna_rope, one_rope

Kind = TypeVar("Kind")

# Keys that would change the maths, with the only value that leaves it as we compute it.
ONLY: tuple[tuple[str, object], ...] = (
    ("hidden_act", "silu"),
    ("moe_apply_router_weight_on_input", False),
    ("swa_attention_sink_enabled", False),
    ("moe_router_score_func", "sigmoid"),
    ("moe_router_use_sigmoid", True),
    ("qk_norm", True),
    ("use_qk_norm", True),
    ("mlp_bias", False),
)
NO_SOFTCAP = ("attn_logit_softcapping", "final_logit_softcapping")

ATTENTION: dict[str, AttentionType] = {
    "full_attention": "full_attention",
    "global_attention": "full_attention",
    "sliding_attention": "sliding_attention",
}
MLP: dict[str, MlpType] = {"dense": "dense", "sparse": "sparse"}
GATES: dict[object, Gate] = {"per-head": "per-head", "per-element": "per-element"}


def load_config(folder: Path) -> ModelConfig:
    """The config of the checkpoint in `folder`; generation_config.json adds end-of-text ids where it has any.

    Raises ConfigError naming file, key, value and what is supported.
    """
    path = folder / "config.json"
    config = parse_config(read_object(path), str(path))
    generation = folder / "generation_config.json"
    if not generation.is_file():
        return config
    more = _token_ids(Fields(read_object(generation), str(generation)), "eos_token_id")
    ids = tuple(dict.fromkeys(config.eos_token_ids + more))
    return checked(msgspec.structs.replace(config, eos_token_ids=ids), str(generation))


def parse_config(values: Mapping[str, Any], source: str = "config.json") -> ModelConfig:
    """The config that the JSON object `values` describes; `source` names it in errors. Raises ConfigError."""
    fields = Fields(values, source)
    kind = fields.text("model_type")
    for key, only in ONLY:
        if fields.has(key) and (
            fields.values[key] != only or isinstance(fields.values[key], bool) != isinstance(only, bool)
        ):
            fields.refuse(key, f"{only!r}, which is all that is supported")
    for key in NO_SOFTCAP:
        if fields.number(key, 0.0) != 0:
            fields.refuse(key, "0, which is all that is supported")
    if kind == "laguna":
        return checked(_laguna(fields), source)
    if kind == "qwen2":
        return checked(_qwen2(fields), source)
    return cast(ModelConfig, fields.refuse("model_type", "'laguna' or 'qwen2'"))


def _laguna(fields: Fields) -> ModelConfig:
    layers = _laguna_layers(fields)
    head_dim = fields.integer("head_dim")
    sparse = any(layer.mlp == "sparse" for layer in layers)
    bias = fields.flag("attention_bias", False)
    return ModelConfig(
        architecture="laguna",
        head_dim=head_dim,
        layers=layers,
        rope=laguna_rope(fields, head_dim, {layer.attention for layer in layers}),
        kv_heads=fields.integer("num_key_value_heads"),
        dense_size=fields.integer("intermediate_size", 0 if all(layer.mlp == "sparse" for layer in layers) else None),
        sliding_window=fields.integer("sliding_window", 0),
        qkv_bias=bias,
        output_bias=bias,
        experts=fields.integer("num_experts") if sparse else 0,
        experts_per_token=fields.integer("num_experts_per_tok") if sparse else 0,
        expert_size=fields.integer("moe_intermediate_size") if sparse else 0,
        shared_expert_size=fields.integer("shared_expert_intermediate_size", 0) if sparse else 0,
        routed_scale=fields.number("moe_routed_scaling_factor", 1.0),
        router_softcap=fields.number("moe_router_logit_softcapping", 0.0),
        normalize_top_k=fields.flag("norm_topk_prob", True),
        **_shared(fields),
    )


def _laguna_layers(fields: Fields) -> tuple[LayerConfig, ...]:
    count = _layer_count(fields)
    heads = fields.integers("num_attention_heads_per_layer", count)
    if heads is None:
        heads = [fields.integer("num_attention_heads")] * count
    attention = _kinds(fields, "layer_types", count, ATTENTION) or ["full_attention"] * count
    mlp = _mlp_types(fields, count)
    gates = _gates(fields, count)
    return tuple(
        LayerConfig(heads=heads[index], attention=attention[index], mlp=mlp[index], gate=gates[index])
        for index in range(count)
    )


def _layer_count(fields: Fields) -> int:
    count = fields.integer("num_hidden_layers")
    if not 0 < count <= 4096:
        fields.refuse("num_hidden_layers", "1 to 4096")
    return count


def _kinds(fields: Fields, key: str, count: int, names: Mapping[str, Kind]) -> list[Kind] | None:
    found = fields.entries(key, count)
    if found is None:
        return None
    for index, name in enumerate(found):
        if not isinstance(name, str) or name not in names:
            refuse(fields.source, f"{key}[{index}]", name, f"one of {', '.join(names)}")
    return [names[name] for name in found]


def _mlp_types(fields: Fields, count: int) -> list[MlpType]:
    found = _kinds(fields, "mlp_layer_types", count, MLP)
    if found is not None:
        return found
    if fields.integer("decoder_sparse_step", 1) > 1:
        fields.refuse("decoder_sparse_step", "0 or 1 where mlp_layer_types is absent")
    dense = fields.integers("mlp_only_layers")
    for index in dense or ():
        if not 0 <= index < count:
            fields.refuse("mlp_only_layers", f"layer numbers below num_hidden_layers ({count})")
    only = {0} if dense is None else set(dense)
    return ["dense" if index in only else "sparse" for index in range(count)]


def _gates(fields: Fields, count: int) -> list[Gate | None]:
    """The declared gate of every layer; the shape of g_proj decides in the end (`ModelConfig.with_gate_rows`)."""
    listed = fields.entries("gating_types", count)
    if listed is not None:
        spelled = [item.replace("_", "-") if isinstance(item, str) else item for item in listed]
        for index, item in enumerate(spelled):
            if not isinstance(item, str) or item not in GATES:
                refuse(fields.source, f"gating_types[{index}]", listed[index], "per_head or per_element")
        return [GATES[item] for item in spelled]
    found = fields.values.get("gating")
    if found is False:
        return [None] * count
    if found is None or found is True:
        return ["per-head"] * count
    if isinstance(found, str) and found.replace("_", "-") in GATES:
        return [GATES[found.replace("_", "-")]] * count
    return cast("list[Gate | None]", fields.refuse("gating", "true, false, 'per-head' or 'per-element'"))


def _qwen2(fields: Fields) -> ModelConfig:
    count = _layer_count(fields)
    heads = fields.integer("num_attention_heads")
    hidden = fields.integer("hidden_size")
    if heads and not fields.has("head_dim") and hidden % heads:
        fields.refuse("hidden_size", f"a multiple of num_attention_heads ({heads}), because head_dim is absent")
    head_dim = fields.integer("head_dim", hidden // max(heads, 1))
    slides = fields.flag("use_sliding_window", False)
    window = fields.integer("sliding_window", 0) if slides else 0
    first = fields.integer("max_window_layers", 28) if window else count
    attention = _kinds(fields, "layer_types", count, ATTENTION) or [
        "sliding_attention" if index >= first else "full_attention" for index in range(count)
    ]
    rope = _qwen2_rope(fields, head_dim)
    return ModelConfig(
        architecture="qwen2",
        head_dim=head_dim,
        layers=tuple(LayerConfig(heads=heads, attention=kind) for kind in attention),
        rope=dict.fromkeys(attention, rope),
        kv_heads=fields.integer("num_key_value_heads", heads),
        dense_size=fields.integer("intermediate_size"),
        sliding_window=window,
        query_key_norm=False,
        qkv_bias=True,
        **_shared(fields),
    )


def _qwen2_rope(fields: Fields, head_dim: int) -> RopeConfig:
    theta = fields.number("rope_theta", 10000.0)
    own = fields.object("rope_scaling") or fields.object("rope_parameters")
    return one_rope(fields, own or Fields({}, fields.source), head_dim, {**DEFAULT_ROPE, "rope_theta": theta})


def _shared(fields: Fields) -> dict[str, Any]:
    """The arguments of `ModelConfig` that both architectures read from the same keys."""
    quantization = fields.object("quantization_config")
    return {
        "vocab_size": fields.integer("vocab_size"),
        "hidden_size": fields.integer("hidden_size"),
        "context_length": fields.integer("max_position_embeddings"),
        "norm_eps": fields.number("rms_norm_eps", 1e-6),
        "tied": fields.flag("tie_word_embeddings", False),
        "bos_token_id": fields.optional_integer("bos_token_id"),
        "pad_token_id": fields.optional_integer("pad_token_id"),
        "eos_token_ids": _token_ids(fields, "eos_token_id"),
        "dtype": fields.text("dtype" if fields.has("dtype") else "torch_dtype", "bfloat16").removeprefix("torch."),
        "quantization": None if quantization is None else dict(quantization.values),
    }


def _token_ids(fields: Fields, key: str) -> tuple[int, ...]:
    if isinstance(fields.values.get(key), list):
        return tuple(fields.integers(key) or ())
    found = fields.optional_integer(key)
    return () if found is None else (found,)
