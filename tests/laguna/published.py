"""The published models as configs (specification section 1), for arithmetic on their sizes; no weights."""

from __future__ import annotations

import torch

from laguna_agent.backend.kernels.formats import Format, GroupInt, Plain
from laguna_agent.backend.laguna.config import AttentionType, Gate, LayerConfig, ModelConfig, RopeConfig, checked
from laguna_agent.backend.laguna.weights.canonical import Role

FULL: AttentionType = "full_attention"
SLIDING: AttentionType = "sliding_attention"
ROPE = {FULL: RopeConfig(theta=500000.0, rotary_dim=64), SLIDING: RopeConfig(theta=10000.0, rotary_dim=128)}


def mixed(count: int, full: int, sliding: int) -> tuple[LayerConfig, ...]:
    """Every fourth layer full; the first layer dense."""
    return tuple(
        LayerConfig(
            heads=sliding if index % 4 else full,
            attention=SLIDING if index % 4 else FULL,
            mlp="sparse" if index else "dense",
            gate="per-head",
        )
        for index in range(count)
    )


def published(
    layers: tuple[LayerConfig, ...], hidden: int, dense: int, per_token: int, inner: int, window: int = 512
) -> ModelConfig:
    """What the sizes of a model leave open is the same in all of them."""
    config = ModelConfig(
        architecture="laguna",
        vocab_size=100352,
        hidden_size=hidden,
        head_dim=128,
        kv_heads=8,
        context_length=131072,
        layers=layers,
        rope=ROPE if window else {FULL: ROPE[FULL]},
        dense_size=dense,
        sliding_window=window,
        experts=256,
        experts_per_token=per_token,
        expert_size=inner,
        shared_expert_size=inner,
    )
    return checked(config, "published")


ELEMENT: Gate = "per-element"
XS_2 = published(mixed(40, 48, 64), 2048, 8192, 8, 512)
S_2_1 = published(mixed(48, 48, 72), 3072, 12288, 10, 1024)
# The width of its dense layers is not published.
M_1 = published(
    tuple(LayerConfig(heads=64, mlp="sparse" if index > 2 else "dense", gate=ELEMENT) for index in range(70)),
    4096,
    12288,
    16,
    1024,
    0,
)
MODELS = {"XS.2": XS_2, "S 2.1": S_2_1, "M.1": M_1}


def bf16(name: str, role: Role) -> Format:
    """What the plain checkpoints store."""
    return Plain(torch.float32 if name.endswith("e_score_correction_bias") else torch.bfloat16)


def official_int4(name: str, role: Role) -> Format:
    """What the INT4 checkpoint of XS.2 stores: experts of layers 1 to 30 in 4 bits, of 31 to 39 in 8."""
    if role != "experts":
        return bf16(name, role)
    return GroupInt(4 if int(name.split(".")[2]) <= 30 else 8, 128)
