"""Random weights in XS.2's exact geometry: as a GGUF file, or as a checkpoint that makes each row when it is read.

Knows sizes and how large random values must be. Values do not come from rounding: blocks of 4- and 8-bit codes are
drawn as they are, for rounding billions of values would take longer than what is measured.

How large: a matrix gives outputs of about the size of its inputs (1 / sqrt(inputs)); the head gives logits of
standard deviation 4, for which 100,352 tokens have an entropy of 4 to 5 nats, as real text has at its harder places;
norms are about 1. Routed experts give a quarter of what other matrices give: among 256 random scores the eighth and the
ninth are so close that whoever rounds activations to 8 bits picks another expert now and then, and with large experts
that alone makes another distribution.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from laguna_gguf import FULL, SLIDING, add_keys, gguf_keys
from torch import Tensor

from laguna_agent.backend.kernels.formats import GGML_BLOCKS, Format, Ggml, Plain
from laguna_agent.backend.laguna.config import ModelConfig
from laguna_agent.backend.laguna.config_json import parse_config
from laguna_agent.backend.laguna.weights.canonical import Expected, expected_tensors
from laguna_agent.backend.laguna.weights.gguf import gguf_names
from laguna_agent.backend.laguna.weights.stored import CanonicalTensor, Checkpoint, Piece, StoredMatrix

LOGITS = 4.0
"""Standard deviation of the logits."""
EXPERTS = 0.25
"""How large the last matrix of a routed expert is beside other matrices."""
YARN, BETA_FAST = 32.0, 64.0
Formats = Callable[[Expected], Format]
"""Which format a tensor, named as in `expected_tensors`, has in the files."""


def xs2_settings(layers: int) -> dict[str, Any]:
    """XS.2's config.json, cut to its first `layers` layers (specification section 1).

    The attention factor is what llama.cpp computes for a GGUF file of it.
    """
    kinds = [FULL if layer % 4 == 0 else SLIDING for layer in range(layers)]
    full = {"rope_type": "yarn", "rope_theta": 500000.0, "factor": YARN, "original_max_position_embeddings": 4096}
    full |= {"beta_fast": BETA_FAST, "beta_slow": 1.0, "attention_factor": 1 + 0.1 * math.log(YARN)}
    return {
        "model_type": "laguna",
        "vocab_size": 100352,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": layers,
        "num_attention_heads": 48,
        "num_attention_heads_per_layer": [48 if kind == FULL else 64 for kind in kinds],
        "num_key_value_heads": 8,
        "head_dim": 128,
        "layer_types": kinds,
        "mlp_layer_types": ["dense"] + ["sparse"] * (layers - 1),
        "sliding_window": 512,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-6,
        "num_experts": 256,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 512,
        "shared_expert_intermediate_size": 512,
        "moe_routed_scaling_factor": 2.5,
        "gating": "per-head",
        "rope_parameters": {
            FULL: {**full, "partial_rotary_factor": 0.5},
            SLIDING: {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0},
        },
    }


def stored_as(tensor: Expected, matrices: Format) -> Format:
    """The format of a tensor in the files: steering ones fp32, embedding and head in 8 bits, the rest `matrices`."""
    if tensor.role in {"vector", "router", "gate"} or isinstance(matrices, Plain):
        return Plain(torch.float32)
    return Ggml("Q8_0") if tensor.role in {"embedding", "head"} else matrices


def all_as(matrices: Format) -> Formats:
    """Every matrix as `stored_as` says."""

    def stored(tensor: Expected) -> Format:
        return stored_as(tensor, matrices)

    return stored


def as_llama_quantize(kind: str, layers: int) -> Formats:
    """What llama.cpp's own `llama-quantize` makes of a model of many experts: kind "Q4_0" or "Q4_K_M".

    The head is Q6_K in both; of Q4_K_M also the values and the last matrices of half the layers. Steering tensors are
    fp32, as in our packed files.
    """
    matrices = {"Q4_0": Ggml("Q4_0"), "Q4_K_M": Ggml("Q4_K")}[kind]

    def stored(tensor: Expected) -> Format:
        plain = stored_as(tensor, matrices)
        if isinstance(plain, Plain) or tensor.role == "embedding":
            return plain if isinstance(plain, Plain) else matrices
        found = re.match(r"model\.layers\.(\d+)\..*(v_proj|down_proj)", tensor.name)
        if tensor.role == "head" or (kind == "Q4_K_M" and found and _more_bits(int(found[1]), layers)):
            return Ggml("Q6_K")
        return matrices

    return stored


def _more_bits(layer: int, layers: int) -> bool:
    """Whether a mix gives that layer more bits: the first and the last eighth, and every third between them."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def size_of(tensor: Expected) -> float:
    """Standard deviation of a matrix's values."""
    if tensor.role == "embedding":
        return 1.0
    factor = {"head": LOGITS, "experts": EXPERTS if tensor.shape[-2] > tensor.shape[-1] else 1.0}.get(tensor.role, 1.0)
    return factor * tensor.shape[-1] ** -0.5


def random_rows(tensor: Expected, format: Format, start: int, stop: int) -> dict[str, Tensor]:
    """The parts of rows `start` to `stop` of the flattened tensor: the same at each call with the same rows."""
    source = np.random.Generator(np.random.SFC64([zlib.crc32(tensor.name.encode()), start]))
    columns = tensor.shape[-1]
    if isinstance(format, Ggml):
        return {"blocks": torch.from_numpy(_blocks(source, format.kind, stop - start, columns, size_of(tensor)))}
    noise = source.standard_normal((stop - start, columns), dtype=np.float32)
    if tensor.role != "vector":
        values = noise * np.float32(size_of(tensor))
    elif tensor.name.endswith("bias"):
        values = noise * np.float32(0.02)
    else:
        values = noise * np.float32(0.1) + np.float32(1.0)
    return {"values": torch.from_numpy(values)}


def _blocks(source: np.random.Generator, kind: str, rows: int, columns: int, size: float) -> Any:
    """Blocks of codes that are all equally likely, after a scale of either sign: values of that size, mean 0."""
    values, width = GGML_BLOCKS[kind]
    count = rows * columns // values
    blocks = np.frombuffer(source.bytes(count * width), np.uint8).reshape(count, width).copy()
    spread = _SPREAD[kind](blocks)
    signs = np.where(blocks[:, _SCALE_AT[kind]] & 1, 1.0, -1.0)
    scale = signs * (size / spread)
    _put_half(blocks, _SCALE_AT[kind], scale)
    if kind == "Q4_K":
        # Each group's minimum is its scale's seven and a half, so that its values lie around zero.
        _put_half(blocks, 2, 7.5 * scale)
    return blocks.reshape(rows, -1)


def _put_half(blocks: Any, at: int, values: Any) -> None:
    blocks[:, at : at + 2] = values.astype("<f2").view(np.uint8).reshape(len(blocks), 2)


def _q4_k(blocks: Any) -> float:
    """Scales of 32 to 63 for the eight groups of a block, in the 12 bytes of 6-bit fields, and minimums alike."""
    fields = blocks[:, 4:12] & 31 | 32
    low, high = fields[:, :4], fields[:, 4:]
    blocks[:, 4:8] = blocks[:, 8:12] = low | (high >> 4) << 6
    blocks[:, 12:16] = (high & 15) | (high & 15) << 4
    return _root_mean_square(np.arange(32, 64)) * _root_mean_square(np.arange(16) - 7.5)


def _q6_k(blocks: Any) -> float:
    """Signed scales of 16 to 31 for the sixteen groups of a block."""
    fields = blocks[:, 192:208]
    scales = (fields & 15 | 16).astype(np.int8)
    blocks[:, 192:208] = np.where(fields & 16, scales, -scales).view(np.uint8)
    return _root_mean_square(np.arange(16, 32)) * _root_mean_square(np.arange(64) - 32)


def _root_mean_square(values: Any) -> float:
    return math.sqrt(np.square(values, dtype=np.float64).mean())


_SPREAD: dict[str, Callable[[Any], float]] = {
    "Q4_0": lambda _: _root_mean_square(np.arange(16) - 8),
    "Q8_0": lambda _: _root_mean_square(np.arange(256) - 128),
    "Q4_K": _q4_k,
    "Q6_K": _q6_k,
}
"""Gives the fields of random blocks sane values; tells the standard deviation for a scale of 1."""
_SCALE_AT = {"Q4_0": 0, "Q8_0": 0, "Q4_K": 0, "Q6_K": 208}


def random_checkpoint(layers: int, formats: Formats, named: str) -> Checkpoint:
    """The model as a checkpoint of which nothing exists until it is read; `named` tells the formats apart."""
    config = parse_config(xs2_settings(layers), f"XS.2 of {layers} layers")

    def tensor(expected: Expected) -> CanonicalTensor:
        format, rows = formats(expected), math.prod(expected.shape[:-1])

        def read(start: int, stop: int) -> Mapping[str, Tensor]:
            return random_rows(expected, format, start, stop)

        matrix = StoredMatrix(f"random {expected.name}", format, rows, expected.shape[-1], read)
        return CanonicalTensor(expected.name, expected.shape, (Piece(matrix, 0, rows),))

    tensors = {expected.name: tensor(expected) for expected in expected_tensors(config)}
    return Checkpoint(f"random-xs2-{layers}", f"random-{layers}-{named}", config, tensors)


def write_gguf(path: Path, layers: int, formats: Formats) -> None:
    """The model as a GGUF file, one tensor in memory at a time."""
    settings = xs2_settings(layers)
    writer = gguf.GGUFWriter(str(path), "laguna")
    _write_keys(writer, settings)
    config: ModelConfig = parse_config(settings, str(path))
    # A stack of gate and up rows is two tensors there; each gets values of its own.
    parts = [
        (Expected(name, shape, one.role), formats(one))
        for one in expected_tensors(config)
        for name, shape in _split(one)
    ]
    for part, format in parts:
        raw = gguf.GGMLQuantizationType[format.kind if isinstance(format, Ggml) else "F32"]
        size = math.prod(part.shape[:-1]) * sum(one.row_bytes for one in format.parts(part.shape[-1]))
        writer.add_tensor_info(part.name, part.shape, np.dtype(np.float32), size, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for part, format in parts:
        (values,) = random_rows(part, format, 0, math.prod(part.shape[:-1])).values()
        writer.write_tensor_data(values.numpy())
    writer.close()


def _split(tensor: Expected) -> list[tuple[str, tuple[int, ...]]]:
    names = gguf_names(tensor.name)
    if len(names) == 1:
        return [(names[0], tensor.shape)]
    experts, rows, columns = tensor.shape
    return [(name, (experts, rows // len(names), columns)) for name in names]


def _write_keys(writer: gguf.GGUFWriter, settings: dict[str, Any]) -> None:
    # A vocabulary that llama.cpp takes: the bytes, a merge, and words that no text has.
    alphabet = sorted(_byte_characters())
    tokens = [*alphabet, "ab", *(f"<word {number}>" for number in range(settings["vocab_size"] - len(alphabet) - 1))]
    vocabulary = {
        "model": "gpt2",
        "pre": "laguna",
        "tokens": tokens,
        "merges": ["a b"],
        "token_type": [1] * len(tokens),
        "eos_token_id": len(tokens) - 1,
    }
    add_keys(writer, {f"laguna.{key}": value for key, value in gguf_keys(settings).items()})
    add_keys(writer, {f"tokenizer.ggml.{key}": value for key, value in vocabulary.items()})


def _byte_characters() -> set[str]:
    """The characters that stand for the 256 bytes in byte-level vocabularies."""
    from tokenizers import pre_tokenizers

    return set(pre_tokenizers.ByteLevel.alphabet())
