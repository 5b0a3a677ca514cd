"""Which tensors a model has: names and shapes, from its config (specification section 5).

Names are those of the hub's safetensors files, with the experts of a layer stacked: `experts.gate_up_proj`
[E, 2m, h] (rows 0..m-1 gate, m..2m-1 up) and `experts.down_proj` [E, h, m]. Knows no file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from laguna_agent.backend.laguna.config import ModelConfig

Role = Literal["embedding", "head", "matrix", "experts", "router", "gate", "vector"]


class Expected(NamedTuple):
    """One tensor of the model: canonical name, shape, and what it is for."""

    name: str
    shape: tuple[int, ...]
    role: Role


def layer_prefix(layer: int) -> str:
    """What the names of a layer's tensors start with."""
    return f"model.layers.{layer}."


def expected_tensors(config: ModelConfig) -> Iterator[Expected]:
    """Every tensor that the model needs, in the order of computation."""
    yield Expected("model.embed_tokens.weight", (config.vocab_size, config.hidden_size), "embedding")
    for layer in range(len(config.layers)):
        yield from _attention(config, layer)
        yield from _sparse(config, layer) if config.layers[layer].mlp == "sparse" else _dense(config, layer)
    yield Expected("model.norm.weight", (config.hidden_size,), "vector")
    if not config.tied:
        yield Expected("lm_head.weight", (config.vocab_size, config.hidden_size), "head")


def _attention(config: ModelConfig, layer: int) -> Iterator[Expected]:
    prefix, hidden = layer_prefix(layer), config.hidden_size
    queries, keys = config.layers[layer].heads * config.head_dim, config.kv_heads * config.head_dim
    yield Expected(prefix + "input_layernorm.weight", (hidden,), "vector")
    for letter, rows in (("q", queries), ("k", keys), ("v", keys)):
        yield Expected(f"{prefix}self_attn.{letter}_proj.weight", (rows, hidden), "matrix")
        if config.qkv_bias:
            yield Expected(f"{prefix}self_attn.{letter}_proj.bias", (rows,), "vector")
    if config.query_key_norm:
        yield Expected(prefix + "self_attn.q_norm.weight", (config.head_dim,), "vector")
        yield Expected(prefix + "self_attn.k_norm.weight", (config.head_dim,), "vector")
    if config.layers[layer].gate is not None:
        # A per-head gate has a few dozen rows: nothing to gain from packing it, and it scales whole heads.
        role: Role = "gate" if config.layers[layer].gate == "per-head" else "matrix"
        yield Expected(prefix + "self_attn.g_proj.weight", (config.gate_rows(layer), hidden), role)
    yield Expected(prefix + "self_attn.o_proj.weight", (hidden, queries), "matrix")
    if config.output_bias:
        yield Expected(prefix + "self_attn.o_proj.bias", (hidden,), "vector")
    yield Expected(prefix + "post_attention_layernorm.weight", (hidden,), "vector")


def _dense(config: ModelConfig, layer: int) -> Iterator[Expected]:
    yield from _mlp(layer_prefix(layer) + "mlp.", config.hidden_size, config.dense_size)


def _mlp(prefix: str, hidden: int, inner: int) -> Iterator[Expected]:
    yield Expected(prefix + "gate_proj.weight", (inner, hidden), "matrix")
    yield Expected(prefix + "up_proj.weight", (inner, hidden), "matrix")
    yield Expected(prefix + "down_proj.weight", (hidden, inner), "matrix")


def _sparse(config: ModelConfig, layer: int) -> Iterator[Expected]:
    prefix, hidden, count = layer_prefix(layer) + "mlp.", config.hidden_size, config.experts
    yield Expected(prefix + "gate.weight", (count, hidden), "router")
    yield Expected(prefix + "experts.e_score_correction_bias", (count,), "vector")
    yield Expected(prefix + "experts.gate_up_proj", (count, 2 * config.expert_size, hidden), "experts")
    yield Expected(prefix + "experts.down_proj", (count, hidden, config.expert_size), "experts")
    if config.shared_expert_size:
        yield from _mlp(prefix + "shared_expert.", hidden, config.shared_expert_size)
