"""A Laguna's config.json as the keys of a GGUF file: what a converter writes (specification section 7).

Knows names; no tensor.
"""

from __future__ import annotations

from typing import Any

FULL, SLIDING = "full_attention", "sliding_attention"


def gguf_keys(config: dict[str, Any]) -> dict[str, Any]:
    """The keys without their prefix `laguna.`; yarn's attention factor is left to the reader, as llama.cpp has it."""
    dim = config["head_dim"]
    keys: dict[str, Any] = {
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "vocab_size": config["vocab_size"],
        "attention.head_count": config["num_attention_heads_per_layer"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": dim,
        "attention.value_length": dim,
        "attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "expert_count": config["num_experts"],
        "expert_used_count": config["num_experts_per_tok"],
        "expert_feed_forward_length": config["moe_intermediate_size"],
        "expert_shared_feed_forward_length": config["shared_expert_intermediate_size"],
        "expert_shared_count": 1,
        "expert_weights_norm": True,
        "expert_weights_scale": config["moe_routed_scaling_factor"],
        "expert_gating_func": 2,
        "leading_dense_block_count": config["mlp_layer_types"].count("dense"),
    }
    return keys | _rope(config)


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    full, sliding = (config["rope_parameters"][kind] for kind in (FULL, SLIDING))
    dim = config["head_dim"]
    keys: dict[str, Any] = {
        "rope.freq_base": full["rope_theta"],
        "rope.dimension_count": int(dim * full["partial_rotary_factor"]),
    }
    if config["sliding_window"]:
        keys |= {
            "attention.sliding_window": config["sliding_window"],
            "attention.sliding_window_pattern": [kind == SLIDING for kind in config["layer_types"]],
            "rope.freq_base_swa": sliding["rope_theta"],
            "rope.dimension_count_swa": int(dim * sliding["partial_rotary_factor"]),
        }
    if full["rope_type"] == "yarn":
        keys |= {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": full["factor"],
            "rope.scaling.original_context_length": full["original_max_position_embeddings"],
            "rope.scaling.yarn_beta_fast": full["beta_fast"],
            "rope.scaling.yarn_beta_slow": full["beta_slow"],
        }
    return keys
