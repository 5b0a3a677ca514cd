"""A small random Laguna of our own making, for tests of what stands around the model."""

from __future__ import annotations

import torch

from laguna_agent.backend.laguna.config import AttentionType, LayerConfig, ModelConfig, RopeConfig, checked
from laguna_agent.backend.laguna.model import CausalLM

FULL: AttentionType = "full_attention"
SLIDING: AttentionType = "sliding_attention"
MIXED = (FULL, SLIDING, SLIDING, FULL)


def small_config(kinds: tuple[AttentionType, ...] = MIXED, window: int = 3, context: int = 256) -> ModelConfig:
    """One dense layer, then sparse ones, with `kinds` of attention."""
    layers = tuple(
        LayerConfig(heads=4 if kind == FULL else 6, attention=kind, mlp="sparse" if index else "dense", gate="per-head")
        for index, kind in enumerate(kinds)
    )
    config = ModelConfig(
        architecture="laguna",
        vocab_size=41,
        hidden_size=22,
        head_dim=6,
        kv_heads=2,
        context_length=context,
        layers=layers,
        rope={FULL: RopeConfig(theta=500000.0, rotary_dim=4), SLIDING: RopeConfig(theta=10000.0, rotary_dim=6)},
        dense_size=18,
        sliding_window=window,
        experts=5,
        experts_per_token=2,
        expert_size=6,
        shared_expert_size=6,
    )
    return checked(config, "small")


def small_model(config: ModelConfig | None = None, seed: int = 7) -> CausalLM:
    """fp32, random weights, logits of about 1."""
    model = CausalLM(config or small_config()).requires_grad_(False)
    source = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if not name.endswith("norm.weight"):
            tensor.copy_(torch.randn(tensor.shape, generator=source) * 1.5 * tensor.shape[-1] ** -0.5)
    return model
