"""Random small models made by transformers, the oracle: odd sizes, every option, weights that make every part count."""

from __future__ import annotations

import json
import random
from typing import Any

import torch
from torch import Tensor, nn

FULL, SLIDING = "full_attention", "sliding_attention"


def rope(rng: random.Random, head_dim: int) -> dict[str, Any]:
    """Rope settings whose rotated part of the head is even, as it must be, though the head is odd."""
    rotated = rng.randrange(2, head_dim + 1, 2)
    settings: dict[str, Any] = {
        "rope_type": "default",
        "rope_theta": rng.choice([10000.0, 500000.0, 997.0]),
        "partial_rotary_factor": (rotated + 0.5) / head_dim if rotated < head_dim else 1.0,
    }
    if rng.random() < 0.6:
        settings |= {
            "rope_type": "yarn",
            "factor": rng.choice([2.0, 7.5, 32.0]),
            "original_max_position_embeddings": rng.choice([7, 16, 33, 512]),
            "beta_fast": rng.choice([32.0, 64.0]),
            "beta_slow": rng.choice([1.0, 2.0]),
        }
        settings |= rng.choice([{}, {"attention_factor": 1.3}, {"mscale": 1.1, "mscale_all_dim": 0.7}])
    return settings


def laguna_settings(seed: int) -> dict[str, Any]:
    """Arguments for `LagunaConfig`."""
    rng = random.Random(seed)
    layers, kv_heads = rng.randint(1, 4), rng.choice([1, 3])
    # The settings that an absent rope_parameters stands for rotate whole heads, so those must be even.
    no_rope = rng.random() < 0.2
    head_dim = 8 if no_rope else rng.choice([5, 7, 9, 11])
    experts = rng.choice([1, 3, 7, 13])
    return {
        "vocab_size": rng.randrange(31, 99, 2),
        "hidden_size": rng.randrange(13, 47, 2),
        "intermediate_size": rng.randrange(5, 37, 2),
        "head_dim": head_dim,
        "num_key_value_heads": kv_heads,
        "num_attention_heads": kv_heads,
        "num_attention_heads_per_layer": [kv_heads * rng.choice([1, 2, 3, 5]) for _ in range(layers)],
        "num_hidden_layers": layers,
        "layer_types": [rng.choice([FULL, SLIDING]) for _ in range(layers)],
        "mlp_layer_types": rng.choice([None, [rng.choice(["dense", "sparse", "sparse"]) for _ in range(layers)]]),
        "sliding_window": rng.choice([1, 2, 3, 5, 8, 13]),
        "max_position_embeddings": 512,
        "gating": rng.choice([True, "per-head", "per-element"]),
        "attention_bias": rng.random() < 0.3,
        "rms_norm_eps": rng.choice([1e-6, 1e-3]),
        "tie_word_embeddings": rng.random() < 0.3,
        "num_experts": experts,
        "num_experts_per_tok": rng.randint(1, min(5, experts)),
        "moe_intermediate_size": rng.randrange(3, 21, 2),
        "shared_expert_intermediate_size": rng.randrange(1, 21, 2),
        "moe_routed_scaling_factor": rng.choice([1.0, 2.5]),
        "moe_router_logit_softcapping": rng.choice([0.0, 1.5]),
        "rope_parameters": None if no_rope else {FULL: rope(rng, head_dim), SLIDING: rope(rng, head_dim)},
    }


def qwen2_settings(seed: int) -> dict[str, Any]:
    """Arguments for `Qwen2Config`."""
    rng = random.Random(seed)
    kv_heads, groups, head_dim = rng.choice([1, 3]), rng.choice([1, 2, 5]), rng.choice([2, 6, 10])
    layers = rng.randint(1, 3)
    rotated = {**rope(rng, head_dim), "partial_rotary_factor": 1.0}
    return {
        "vocab_size": rng.randrange(31, 99, 2),
        "hidden_size": kv_heads * groups * head_dim,
        "intermediate_size": rng.randrange(5, 37, 2),
        "num_hidden_layers": layers,
        "num_attention_heads": kv_heads * groups,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": 512,
        "tie_word_embeddings": rng.random() < 0.5,
        "rope_parameters": rotated,
        "use_sliding_window": rng.random() < 0.4,
        "sliding_window": 5,
        "max_window_layers": rng.randrange(layers + 1),
    }


def randomise(model: nn.Module, seed: int) -> None:
    """Weights under which every part of the model moves the logits and the logits are about 1."""
    source = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        noise = torch.randn(tensor.shape, generator=source)
        if name.endswith("norm.weight"):
            tensor.copy_(1 + 0.3 * noise)
        elif name.endswith(("bias",)):
            tensor.copy_(0.3 * noise)
        elif "embed_tokens" in name:
            tensor.copy_(noise if "lm_head.weight" in model.state_dict() else 0.5 * noise)
        else:
            tensor.copy_(1.5 * noise * tensor.shape[-1] ** -0.5)


def as_json(config: Any) -> dict[str, Any]:
    """A transformers config as its config.json would be read."""
    found: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    # The oracle's defaults name ids that these small vocabularies do not have.
    return {key: value for key, value in found.items() if key not in ("bos_token_id", "eos_token_id", "pad_token_id")}


def lengths(seed: int, window: int) -> list[int]:
    """Prompt lengths around the window's edges, and one past it."""
    rng = random.Random(seed)
    return [rng.choice([1, max(1, window - 1), window]), rng.choice([window + 1, 2 * window, 2 * window + 3, 29])]


def chunks(ids: Tensor, rng: random.Random) -> list[Tensor]:
    """The ids in random pieces, of which some have one token or none."""
    parts: list[Tensor] = []
    at = 0
    while at < len(ids):
        size = rng.choice([0, 1, 1, 2, 5, 11])
        parts.append(ids[at : at + size])
        at += size
    return [*parts, ids[:0]]
