"""Small random checkpoints written by other people's libraries: safetensors in both layouts, and GGUF.

The tensors are made once under the hub's names; what the engine must read back is `canonical` of them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from laguna_gguf import add_keys
from safetensors.torch import save_file
from torch import Tensor

HIDDEN, DENSE, EXPERT, SHARED_SIZE, VOCAB, EXPERTS, DIM, KV = 64, 96, 32, 32, 50, 3, 16, 2
HEADS = (4, 6, 4)
CONFIG: dict[str, Any] = {
    "model_type": "laguna",
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": DENSE,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_attention_heads_per_layer": list(HEADS),
    "num_key_value_heads": KV,
    "head_dim": DIM,
    "layer_types": ["full_attention", "sliding_attention", "full_attention"],
    "mlp_layer_types": ["dense", "sparse", "sparse"],
    "sliding_window": 8,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "num_experts": EXPERTS,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": EXPERT,
    "shared_expert_intermediate_size": SHARED_SIZE,
    "moe_routed_scaling_factor": 2.5,
    "gating": "per-head",
    "bos_token_id": 2,
    "eos_token_id": [2, 24],
    "pad_token_id": 9,
    "rope_parameters": {
        "full_attention": {
            "rope_type": "yarn",
            "rope_theta": 500000.0,
            "factor": 32.0,
            "original_max_position_embeddings": 32,
            "beta_fast": 64.0,
            "beta_slow": 1.0,
            "attention_factor": 1.3465735902799727,
            "partial_rotary_factor": 0.5,
        },
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0},
    },
}


def hub_shapes(hidden: int = HIDDEN) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the model of `CONFIG` in the hub's layout, written out from the specification."""
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCAB, hidden),
        "model.norm.weight": (hidden,),
        "lm_head.weight": (VOCAB, hidden),
    }
    for layer, heads in enumerate(HEADS):
        at = f"model.layers.{layer}."
        shapes |= {at + "input_layernorm.weight": (hidden,), at + "post_attention_layernorm.weight": (hidden,)}
        shapes |= {at + "self_attn.q_norm.weight": (DIM,), at + "self_attn.k_norm.weight": (DIM,)}
        for letter, rows in (("q", heads * DIM), ("k", KV * DIM), ("v", KV * DIM), ("g", heads)):
            shapes[f"{at}self_attn.{letter}_proj.weight"] = (rows, hidden)
        shapes[at + "self_attn.o_proj.weight"] = (hidden, heads * DIM)
        mlps = {"mlp.": DENSE} if layer == 0 else {"mlp.shared_expert.": SHARED_SIZE}
        if layer:
            shapes |= {
                at + "mlp.gate.weight": (EXPERTS, hidden),
                at + "mlp.experts.e_score_correction_bias": (EXPERTS,),
            }
            mlps |= {f"mlp.experts.{expert}.": EXPERT for expert in range(EXPERTS)}
        for prefix, inner in mlps.items():
            shapes |= {
                at + prefix + "gate_proj.weight": (inner, hidden),
                at + prefix + "up_proj.weight": (inner, hidden),
            }
            shapes[at + prefix + "down_proj.weight"] = (hidden, inner)
    return shapes


def random_tensors(dtype: torch.dtype = torch.float32, hidden: int = HIDDEN) -> dict[str, Tensor]:
    """Tensors of the model of `CONFIG`, or of one with another hidden size, under the hub's names."""
    source = torch.Generator().manual_seed(5)
    return {name: (torch.randn(shape, generator=source) * 0.1).to(dtype) for name, shape in hub_shapes(hidden).items()}


def fused(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same model in transformers' own layout: stacked experts, other names for two things."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if ".mlp.experts." not in name:
            found[name.replace(".shared_expert.", ".shared_experts.")] = tensor
        elif name.endswith("e_score_correction_bias"):
            found[name.replace(".experts.", ".gate.")] = tensor
    first = ".0.gate_proj.weight"
    for prefix in [name.removesuffix(first[1:]) for name in tensors if name.endswith(".mlp.experts" + first)]:
        count = sum(name.startswith(prefix) and name.endswith(".gate_proj.weight") for name in tensors)
        gates, ups, downs = (
            torch.stack([tensors[f"{prefix}{expert}.{part}_proj.weight"] for expert in range(count)])
            for part in ("gate", "up", "down")
        )
        found[prefix + "gate_up_proj"] = torch.cat((gates, ups), 1)
        found[prefix + "down_proj"] = downs
    return found


def write_folder(
    folder: Path, tensors: dict[str, Tensor], config: dict[str, Any] | None = None, shards: int = 1
) -> Path:
    """A checkpoint folder: config.json and one file, or shards with an index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG if config is None else config))
    if shards == 1:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
        return folder
    names, weight_map = sorted(tensors), {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        mine = names[shard::shards]
        save_file({name: tensors[name].contiguous() for name in mine}, folder / file)
        weight_map |= dict.fromkeys(mine, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


GGUF_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "self_attn.g_proj.weight": "attn_gate.weight",
    "self_attn.q_norm.weight": "attn_q_norm.weight",
    "self_attn.k_norm.weight": "attn_k_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
    "mlp.gate.weight": "ffn_gate_inp.weight",
    "mlp.gate.e_score_correction_bias": "exp_probs_b.bias",
    "mlp.shared_experts.gate_proj.weight": "ffn_gate_shexp.weight",
    "mlp.shared_experts.up_proj.weight": "ffn_up_shexp.weight",
    "mlp.shared_experts.down_proj.weight": "ffn_down_shexp.weight",
    "mlp.experts.down_proj": "ffn_down_exps.weight",
}


def gguf_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same model under GGUF's names."""
    found: dict[str, Tensor] = {}
    for name, tensor in fused(tensors).items():
        parts = name.split(".", 3)
        prefix, tail = (f"blk.{parts[2]}.", parts[3]) if parts[1] == "layers" else ("", name)
        if tail == "mlp.experts.gate_up_proj":
            found[prefix + "ffn_gate_exps.weight"], found[prefix + "ffn_up_exps.weight"] = tensor.chunk(2, 1)
        else:
            found[prefix + GGUF_NAMES[tail]] = tensor
    return found


def gguf_keys() -> dict[str, Any]:
    """The keys of `CONFIG` as a converter writes them (specification section 7)."""
    return {
        "block_count": 3,
        "context_length": 512,
        "embedding_length": HIDDEN,
        "feed_forward_length": DENSE,
        "attention.head_count": list(HEADS),
        "attention.head_count_kv": KV,
        "attention.key_length": DIM,
        "attention.value_length": DIM,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "attention.sliding_window": 8,
        "attention.sliding_window_pattern": [False, True, False],
        "expert_count": EXPERTS,
        "expert_used_count": 2,
        "expert_feed_forward_length": EXPERT,
        "expert_shared_feed_forward_length": SHARED_SIZE,
        "expert_weights_norm": True,
        "expert_weights_scale": 2.5,
        "expert_gating_func": 2,
        "leading_dense_block_count": 1,
        "rope.freq_base": 500000.0,
        "rope.freq_base_swa": 10000.0,
        "rope.dimension_count": DIM // 2,
        "rope.dimension_count_swa": DIM,
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": 32.0,
        "rope.scaling.original_context_length": 32,
        "rope.scaling.yarn_beta_fast": 64.0,
        "rope.scaling.yarn_beta_slow": 1.0,
    }


VOCABULARY = {
    "tokenizer.ggml.bos_token_id": 2,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.eot_token_id": 24,
    "tokenizer.ggml.padding_token_id": 9,
    "tokenizer.ggml.tokens": [f"token-{number}-é" for number in range(VOCAB)],
}


def write_gguf(
    path: Path,
    tensors: dict[str, Tensor],
    keys: dict[str, Any] | None = None,
    kinds: dict[str, str] | None = None,
    vocabulary: dict[str, Any] | None = None,
) -> Path:
    """A GGUF file by the `gguf` package. `tensors` have GGUF's names; `kinds` says which are not F32, by type name.

    `vocabulary`: the tokenizer's keys, in full; without them there is a list of words that no tokenizer can use.
    """
    writer = gguf.GGUFWriter(str(path), "laguna")
    described = {f"laguna.{key}": value for key, value in (gguf_keys() if keys is None else keys).items()}
    add_keys(writer, described | (VOCABULARY if vocabulary is None else vocabulary))
    for name, tensor in tensors.items():
        kind = gguf.GGMLQuantizationType[(kinds or {}).get(name, "F32")]
        data = tensor.float().numpy()
        if kind == gguf.GGMLQuantizationType.F32:
            writer.add_tensor(name, data)
        else:
            writer.add_tensor(name, quantised(data, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def quantised(data: Any, kind: gguf.GGMLQuantizationType) -> Any:
    """The bytes of `data` in that type; for the types that the package cannot write, random blocks that are sound."""
    try:
        return gguf.quants.quantize(data, kind)
    except NotImplementedError:
        shape = gguf.quant_shape_to_byte_shape(data.shape, kind)
        return random_blocks(kind.name, int(np.prod(shape)), seed=len(shape)).reshape(shape)


def random_blocks(kind: str, count: int, seed: int) -> Any:
    """`count` bytes of random blocks of that type whose fp16 scales are small finite numbers."""
    size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][1]
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 256, (count // size, size), dtype=np.uint8)
    for at in {"Q4_1": (0, 2), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}.get(kind, (0,)):
        scale = (random.random(len(blocks)) * 0.02 - 0.01).astype(np.float16)
        blocks[:, at : at + 2] = scale.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(-1)
