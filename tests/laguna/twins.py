"""One random Laguna written twice, as a safetensors folder and as a GGUF file that llama.cpp can load too.

Both come from one config.json (`settings`) and one set of tensors under the hub's names. The vocabulary is a real
byte-level BPE, because llama.cpp loads no model without one that it understands.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from laguna_gguf import FULL, SLIDING, gguf_keys
from torch import Tensor

from tests.laguna.small_tokenizer import gguf_metadata, small_library
from tests.laguna.weight_files import gguf_tensors, write_folder, write_gguf

FACTOR, BETA_FAST = 32.0, 64.0
VOCABULARY = 400


def settings(**changes: Any) -> dict[str, Any]:
    """XS.2 in small: full layers before sliding ones, more heads where it slides, layer 0 dense, a shared expert.

    Heads are wide enough, and yarn's original length large enough, for every yarn setting to matter. `changes` replace
    keys of config.json.
    """
    kinds = [FULL, SLIDING, SLIDING, SLIDING, FULL, SLIDING]
    full = {
        "rope_type": "yarn",
        "rope_theta": 500000.0,
        "factor": FACTOR,
        "original_max_position_embeddings": 4096,
        "beta_fast": BETA_FAST,
        "beta_slow": 1.0,
        "attention_factor": 1 + 0.1 * math.log(FACTOR),
        "partial_rotary_factor": 0.5,
    }
    sliding = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0}
    return {
        "model_type": "laguna",
        "vocab_size": small_library(VOCABULARY).get_vocab_size(),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": len(kinds),
        "num_attention_heads": 4,
        "num_attention_heads_per_layer": [4 if kind == FULL else 6 for kind in kinds],
        "num_key_value_heads": 2,
        "head_dim": 64,
        "layer_types": kinds,
        "mlp_layer_types": ["dense"] + ["sparse"] * (len(kinds) - 1),
        "sliding_window": 16,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6,
        "num_experts": 8,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
        "moe_routed_scaling_factor": 2.5,
        "gating": "per-head",
        "rope_parameters": {FULL: full, SLIDING: sliding},
    } | changes


def shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes under the hub's names, written out from the specification (section 5)."""
    hidden, dim, kv = config["hidden_size"], config["head_dim"], config["num_key_value_heads"]
    rows = config["vocab_size"]
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (rows, hidden), "model.norm.weight": (hidden,)}
    if not config.get("tie_word_embeddings"):
        found["lm_head.weight"] = (rows, hidden)
    for layer, heads in enumerate(config["num_attention_heads_per_layer"]):
        at = f"model.layers.{layer}."
        gate = heads if config["gating"] == "per-head" else heads * dim
        for letter, out in (("q", heads * dim), ("k", kv * dim), ("v", kv * dim), ("g", gate)):
            found[f"{at}self_attn.{letter}_proj.weight"] = (out, hidden)
        found |= {at + "self_attn.o_proj.weight": (hidden, heads * dim)}
        found |= {f"{at}self_attn.{letter}_norm.weight": (dim,) for letter in "qk"}
        found |= {f"{at}{name}_layernorm.weight": (hidden,) for name in ("input", "post_attention")}
        for prefix, inner in _mlps(config, layer).items():
            found |= {f"{at}mlp.{prefix}{part}_proj.weight": (inner, hidden) for part in ("gate", "up")}
            found[f"{at}mlp.{prefix}down_proj.weight"] = (hidden, inner)
        if config["mlp_layer_types"][layer] == "sparse":
            found[at + "mlp.gate.weight"] = (config["num_experts"], hidden)
            found[at + "mlp.experts.e_score_correction_bias"] = (config["num_experts"],)
    return found


def _mlps(config: dict[str, Any], layer: int) -> dict[str, int]:
    if config["mlp_layer_types"][layer] == "dense":
        return {"": config["intermediate_size"]}
    experts = {f"experts.{expert}.": config["moe_intermediate_size"] for expert in range(config["num_experts"])}
    return {"shared_expert.": config["shared_expert_intermediate_size"], **experts}


def tensors(config: dict[str, Any], seed: int) -> dict[str, Tensor]:
    """Random weights under which every part moves the logits, and the logits are far from flat."""
    source = torch.Generator().manual_seed(seed)

    def made(name: str, shape: tuple[int, ...]) -> Tensor:
        noise = torch.randn(shape, generator=source)
        if name.endswith("norm.weight"):
            return 1 + 0.3 * noise
        if name.endswith("_bias"):
            return 0.3 * noise
        if "embed_tokens" in name:
            # Tied, it is the head too.
            return 0.3 * noise if config.get("tie_word_embeddings") else noise
        return 1.5 * noise * shape[-1] ** -0.5

    return {name: made(name, shape) for name, shape in shapes(config).items()}


def write_twins(folder: Path, config: dict[str, Any], seed: int, **keys: Any) -> tuple[Path, Path]:
    """The safetensors folder and the F32 GGUF file; `keys` are more keys of the GGUF file, dots written as `__`."""
    made = tensors(config, seed)
    more = {name.replace("__", "."): value for name, value in keys.items()}
    library = small_library(VOCABULARY)
    hub = write_folder(folder / "hub", made, config)
    path = write_gguf(
        folder / "twin.gguf", gguf_tensors(made), gguf_keys(config) | more, vocabulary=gguf_metadata(library)
    )
    return hub, path
