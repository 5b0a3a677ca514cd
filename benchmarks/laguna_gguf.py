"""Writing GGUF files: a Laguna's config.json as keys (specification section 7), and a copy of a file in fp32.

The `gguf` package writes; what our engine reads is not written by our engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from laguna_agent.backend.kernels.formats import Ggml
from laguna_agent.backend.laguna.weights.gguf_file import GgufFile

FULL, SLIDING = "full_attention", "sliding_attention"
WRITERS_OWN = ("general.architecture", "general.file_type", "general.quantization_version")


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


def add_keys(writer: gguf.GGUFWriter, keys: Mapping[str, Any]) -> None:
    """Give the writer each key with the type that its value has in Python; whole numbers are uint32."""
    for name, value in keys.items():
        if isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        elif isinstance(value, float):
            writer.add_float32(name, value)
        else:
            (writer.add_string if isinstance(value, str) else writer.add_array)(name, value)


def write_exact_copy(source: Path, copy: Path) -> None:
    """The model of `source` with every tensor in fp32, dequantised by the `gguf` package, one at a time in memory."""
    file = GgufFile(source)
    writer = gguf.GGUFWriter(str(copy), file.keys["general.architecture"])
    kept = {name: value for name, value in file.keys.items() if name not in WRITERS_OWN}
    add_keys(writer, kept)
    for name, entry in file.entries.items():
        writer.add_tensor_info(name, entry.shape, np.dtype(np.float32), 4 * int(np.prod(entry.shape)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, entry in file.entries.items():
        stored = file.parts(name).numpy()
        if isinstance(entry.format, Ggml):
            stored = gguf.quants.dequantize(stored, gguf.GGMLQuantizationType[entry.format.kind])
        writer.write_tensor_data(stored.astype(np.float32).reshape(entry.shape))
    writer.close()
