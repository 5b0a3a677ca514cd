"""What a model is: sizes, layer kinds, rope and router settings, as one frozen value.

Everything in the engine reads `ModelConfig`; `config_json` makes one from a checkpoint's config.json, a GGUF reader
makes one from its keys. Knows no file format, no tensor and no torch. Whoever makes one passes it through `checked()`,
which refuses what the model cannot compute, naming the key as config.json spells it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, NoReturn

import msgspec

from laguna_agent.errors import ConfigError

Architecture = Literal["laguna", "qwen2"]
AttentionType = Literal["full_attention", "sliding_attention"]
MlpType = Literal["dense", "sparse"]
Gate = Literal["per-head", "per-element"]

LARGEST = 1 << 31
"""No size in a config may reach this: a hostile header must not become a huge allocation."""


def refuse(source: str, key: str, found: object, expected: str) -> NoReturn:
    """Raise the one kind of error that a bad config gets."""
    shown = repr(found)
    raise ConfigError(f"{source}: {key} is {shown if len(shown) <= 80 else shown[:77] + '...'}, expected {expected}")


class RopeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Rotary embedding of one layer type (specification section 3).

    `rotary_dim`: how many leading dimensions of a head rotate (even). `attention_factor`: the factor A on cos and sin,
    already resolved. `factor`, `original_length` (tokens), `beta_*` and `truncate` matter to yarn only.
    """

    theta: float
    rotary_dim: int
    kind: Literal["default", "yarn"] = "default"
    attention_factor: float = 1.0
    factor: float = 1.0
    original_length: int = 0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True


class LayerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One decoder layer. `heads` counts query heads; `gate` is the granularity of the output gate, None without one."""

    heads: int
    attention: AttentionType = "full_attention"
    mlp: MlpType = "dense"
    gate: Gate | None = None


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A whole model. Sizes are counts of elements; `context_length` and `sliding_window` are tokens.

    `sliding_window` is 0 where no layer slides. `expert_size`, `shared_expert_size` and `dense_size` are the inner
    widths of one routed expert, of the shared expert (0: there is none) and of a dense layer. `quantization` is the
    checkpoint's own `quantization_config`, unread. `eos_token_ids` all end an answer.
    """

    architecture: Architecture
    vocab_size: int
    hidden_size: int
    head_dim: int
    kv_heads: int
    context_length: int
    layers: tuple[LayerConfig, ...]
    rope: dict[AttentionType, RopeConfig]
    dense_size: int = 0
    sliding_window: int = 0
    norm_eps: float = 1e-6
    tied: bool = False
    query_key_norm: bool = True
    qkv_bias: bool = False
    output_bias: bool = False
    experts: int = 0
    experts_per_token: int = 0
    expert_size: int = 0
    shared_expert_size: int = 0
    routed_scale: float = 1.0
    router_softcap: float = 0.0
    normalize_top_k: bool = True
    bos_token_id: int | None = None
    pad_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    dtype: str = "bfloat16"
    quantization: dict[str, Any] | None = None

    def gate_rows(self, layer: int) -> int:
        """Rows of layer `layer`'s g_proj.weight; 0 without a gate."""
        at = self.layers[layer]
        return 0 if at.gate is None else at.heads if at.gate == "per-head" else at.heads * self.head_dim

    def with_gate_rows(self, rows: Mapping[int, int], source: str = "checkpoint") -> ModelConfig:
        """The config with every layer's gate decided from the rows of its stored g_proj.weight.

        `rows`: layer index -> number of rows; a layer without the tensor is left out. The shape decides, because
        `gating: true` means different things in different files (section 1); whether there is a gate at all is the
        config's word. Raises ConfigError where neither meaning fits.
        """
        layers = []
        for index, layer in enumerate(self.layers):
            name = f"model.layers.{index}.self_attn.g_proj.weight"
            found = rows.get(index)
            if (found is None) != (layer.gate is None):
                has = "missing" if found is None else f"there with {found} rows"
                wanted = "no gate" if layer.gate is None else f"a {layer.gate} gate"
                raise ConfigError(f"{source}: {name} is {has}, but the config says {wanted} (gating)")
            layers.append(msgspec.structs.replace(layer, gate=self._gate_of(layer, found, source, name)))
        return msgspec.structs.replace(self, layers=tuple(layers))

    def _gate_of(self, layer: LayerConfig, rows: int | None, source: str, name: str) -> Gate | None:
        by_rows: dict[int, Gate] = {layer.heads * self.head_dim: "per-element", layer.heads: "per-head"}
        if rows is None:
            return None
        if rows not in by_rows:
            options = f"{layer.heads} (per head) or {layer.heads * self.head_dim} (per element)"
            raise ConfigError(f"{source}: {name} has {rows} rows, expected {options}")
        # With one value a head the two meanings are one; what the config says keeps its name.
        return layer.gate if self.head_dim == 1 else by_rows[rows]


def checked(config: ModelConfig, source: str) -> ModelConfig:
    """`config` itself, or ConfigError in the name of `source` (a file) where the model could not compute it."""
    _check_sizes(config, source)
    for index, layer in enumerate(config.layers):
        if not 0 < layer.heads < LARGEST or layer.heads % config.kv_heads:
            refuse(
                source,
                f"the number of attention heads of layer {index}",
                layer.heads,
                f"a multiple of num_key_value_heads ({config.kv_heads})",
            )
    if any(layer.attention == "sliding_attention" for layer in config.layers) and config.sliding_window < 1:
        refuse(source, "sliding_window", config.sliding_window, "at least 1, because layer_types has sliding_attention")
    for kind in sorted({layer.attention for layer in config.layers}):
        if kind not in config.rope:
            refuse(source, "rope_parameters", sorted(config.rope), f"an entry for {kind}, which layer_types uses")
    for kind, rope in config.rope.items():
        _check_rope(config, kind, rope, source)
    _check_mlp(config, source)
    for name in ("bos_token_id", "pad_token_id"):
        value = getattr(config, name)
        if value is not None and not 0 <= value < config.vocab_size:
            refuse(source, name, value, f"a token id below vocab_size ({config.vocab_size})")
    for value in config.eos_token_ids:
        if not 0 <= value < config.vocab_size:
            refuse(source, "eos_token_id", value, f"a token id below vocab_size ({config.vocab_size})")
    return config


def _check_sizes(config: ModelConfig, source: str) -> None:
    sizes = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "head_dim": config.head_dim,
        "num_key_value_heads": config.kv_heads,
        "max_position_embeddings": config.context_length,
        "num_hidden_layers": len(config.layers),
    }
    for key, value in sizes.items():
        if not 0 < value < LARGEST:
            refuse(source, key, value, "a positive size below 2^31")
    if not math.isfinite(config.norm_eps) or config.norm_eps <= 0:
        refuse(source, "rms_norm_eps", config.norm_eps, "a positive number")
    if not 0 <= config.sliding_window < LARGEST:
        refuse(source, "sliding_window", config.sliding_window, "0 or a number of tokens below 2^31")


def _check_rope(config: ModelConfig, kind: str, rope: RopeConfig, source: str) -> None:
    key = f"rope_parameters.{kind}"
    if not 2 <= rope.rotary_dim <= config.head_dim or rope.rotary_dim % 2:
        refuse(
            source,
            f"{key}: head_dim * partial_rotary_factor",
            rope.rotary_dim,
            f"an even number in 2..{config.head_dim}",
        )
    if not math.isfinite(rope.theta) or rope.theta <= 1:
        refuse(source, f"{key}.rope_theta", rope.theta, "a number above 1")
    if not math.isfinite(rope.attention_factor) or rope.attention_factor <= 0:
        refuse(source, f"{key}.attention_factor", rope.attention_factor, "a positive number")
    if rope.kind == "default":
        return
    if not math.isfinite(rope.factor) or rope.factor <= 0:
        refuse(source, f"{key}.factor", rope.factor, "a positive number")
    if not 0 < rope.original_length < LARGEST:
        refuse(source, f"{key}.original_max_position_embeddings", rope.original_length, "a positive number of tokens")
    for name in ("beta_fast", "beta_slow"):
        value = getattr(rope, name)
        if not math.isfinite(value) or value <= 0:
            refuse(source, f"{key}.{name}", value, "a positive number")


def _check_mlp(config: ModelConfig, source: str) -> None:
    kinds = {layer.mlp for layer in config.layers}
    if "dense" in kinds and not 0 < config.dense_size < LARGEST:
        refuse(source, "intermediate_size", config.dense_size, "a positive size, because there are dense layers")
    if "sparse" not in kinds:
        return
    if not 0 < config.experts < LARGEST:
        refuse(source, "num_experts", config.experts, "a positive number, because there are sparse layers")
    if not 0 < config.experts_per_token <= config.experts:
        refuse(source, "num_experts_per_tok", config.experts_per_token, f"1 to num_experts ({config.experts})")
    if not 0 < config.expert_size < LARGEST:
        refuse(source, "moe_intermediate_size", config.expert_size, "a positive size, because there are sparse layers")
    if not 0 <= config.shared_expert_size < LARGEST:
        refuse(source, "shared_expert_intermediate_size", config.shared_expert_size, "0 (no shared expert) or a size")
    if not math.isfinite(config.routed_scale):
        refuse(source, "moe_routed_scaling_factor", config.routed_scale, "a number")
    if not math.isfinite(config.router_softcap) or config.router_softcap < 0:
        refuse(source, "moe_router_logit_softcapping", config.router_softcap, "0 (none) or a positive number")
