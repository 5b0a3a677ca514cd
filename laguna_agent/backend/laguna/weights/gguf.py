"""A GGUF file of arch `laguna` or `qwen2` as canonical tensors (specification section 7).

Knows how GGUF names the model's tensors. As with safetensors, whatever is wrong with the set of tensors is found here
from the header alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from laguna_agent.backend.kernels.formats import Plain
from laguna_agent.backend.laguna.config import ModelConfig
from laguna_agent.backend.laguna.weights.canonical import Expected, expected_tensors
from laguna_agent.backend.laguna.weights.gguf_config import gguf_config
from laguna_agent.backend.laguna.weights.gguf_file import GgufFile
from laguna_agent.backend.laguna.weights.stored import (
    CanonicalTensor,
    Checkpoint,
    Piece,
    StoredMatrix,
    checkpoint_identity,
)
from laguna_agent.errors import WeightsError

NAMES: dict[str, str] = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.g_proj": "attn_gate",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp",
}
EXPERTS: dict[str, tuple[str, ...]] = {
    "mlp.experts.gate_up_proj": ("ffn_gate_exps", "ffn_up_exps"),
    "mlp.experts.down_proj": ("ffn_down_exps",),
}
BIAS = "mlp.experts.e_score_correction_bias"
LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
GATE = re.compile(r"blk\.(\d+)\.attn_gate\.weight")


def open_gguf(path: Path, attention_factor: float | None = None) -> Checkpoint:
    """The model in the file, its header read and every tensor accounted for. Raises WeightsError, ConfigError.

    `attention_factor` overrides yarn's factor A, which GGUF files do not say reliably (see `gguf_config`).
    """
    file = GgufFile(path)
    if file.keys.get("split.count", 1) not in (0, 1):
        raise WeightsError(
            f"{path}: part of a split model (split.count); join the parts with `llama-gguf-split --merge`"
        )
    tied = "output.weight" not in file.entries
    embedding = file.entries.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise WeightsError(f"{path}: tensor 'token_embd.weight' of two dimensions is missing")
    config = gguf_config(
        file.keys, str(path), vocab_size=embedding.shape[0], tied=tied, attention_factor=attention_factor
    )
    gates = ((GATE.fullmatch(name), entry.shape[0]) for name, entry in file.entries.items())
    if config.architecture == "laguna":
        config = config.with_gate_rows({int(match[1]): rows for match, rows in gates if match}, str(path))
    reader = _GgufReader(file)
    tensors = {expected.name: reader.canonical(expected) for expected in expected_tensors(config)}
    reader.refuse_leftovers()
    return Checkpoint(str(path), _identity(file, config), config, tensors, file.keys)


def _identity(file: GgufFile, config: ModelConfig) -> str:
    status = file.path.stat()
    return checkpoint_identity(f"{file.path.name} {status.st_size} {status.st_mtime_ns} {file.digest}", config)


def gguf_names(canonical: str) -> tuple[str, ...]:
    """What a GGUF file calls that tensor: one name, or two that are stacked expert by expert."""
    match = LAYER.fullmatch(canonical)
    prefix, name = (f"blk.{match[1]}.", match[2]) if match else ("", canonical)
    if name == BIAS:
        return (f"{prefix}exp_probs_b.bias",)
    if name in EXPERTS:
        return tuple(f"{prefix}{part}.weight" for part in EXPERTS[name])
    stem, _, suffix = name.rpartition(".")
    return (f"{prefix}{NAMES[stem]}.{suffix}",)


class _GgufReader:
    def __init__(self, file: GgufFile) -> None:
        self.file = file
        self.used: set[str] = set()

    def canonical(self, expected: Expected) -> CanonicalTensor:
        """The tensor, as pieces of what lies in the file."""
        names = gguf_names(expected.name)
        if expected.name.endswith(BIAS) and names[0] not in self.file.entries:
            pieces: tuple[Piece, ...] = (Piece(self._zeros(expected), 0, 1),)
        elif expected.role == "experts":
            pieces = tuple(self._experts(expected, names))
        else:
            matrix = self._matrix(names[0], expected.shape)
            pieces = (Piece(matrix, 0, matrix.rows),)
        return CanonicalTensor(expected.name, expected.shape, pieces)

    def _zeros(self, expected: Expected) -> StoredMatrix:
        zeros = torch.zeros(1, expected.shape[0])

        def read(start: int, stop: int) -> dict[str, Tensor]:
            return {"values": zeros[start:stop]}

        return StoredMatrix(f"{self.file.path}: {expected.name}", Plain(torch.float32), 1, expected.shape[0], read)

    def _experts(self, expected: Expected, names: tuple[str, ...]) -> Iterator[Piece]:
        count, rows, columns = expected.shape
        each = rows // len(names)
        matrices = [self._matrix(name, (count, each, columns)) for name in names]
        for expert in range(count):
            for matrix in matrices:
                yield Piece(matrix, expert * each, (expert + 1) * each)

    def _matrix(self, name: str, shape: tuple[int, ...]) -> StoredMatrix:
        entry = self.file.entries.get(name)
        if entry is None:
            raise WeightsError(f"{self.file.path}: tensor {name!r} {list(shape)} is missing")
        self.used.add(name)
        if entry.shape != shape:
            raise WeightsError(f"{self.file.where(name)}: shape {list(entry.shape)}, expected {list(shape)}")
        if len(shape) == 1 and not isinstance(entry.format, Plain):
            raise WeightsError(f"{self.file.where(name)}: {entry.format.spelling}, expected F32, F16 or BF16")
        whole = self.file.parts(name)
        (part,) = entry.format.parts(shape[-1])

        def read(start: int, stop: int) -> dict[str, Tensor]:
            return {part.name: whole[start:stop]}

        return StoredMatrix(self.file.where(name), entry.format, len(whole), shape[-1], read)

    def refuse_leftovers(self) -> None:
        """A tensor that belongs to nothing means that the keys describe another model."""
        left = [name for name in self.file.entries if name not in self.used]
        if left:
            more = f" and {len(left) - 1} more" if len(left) > 1 else ""
            raise WeightsError(f"{self.file.where(left[0])}: the model has no such tensor{more}")
