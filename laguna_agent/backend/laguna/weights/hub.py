"""A safetensors checkpoint (hub or fused layout, plain or compressed-tensors) as canonical tensors.

Knows how names of files and names of the model differ (specification section 5). Everything that is wrong with the
set of tensors is found here, from headers alone: what is missing, has another shape, or belongs to no part of the
model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from laguna_agent.backend.kernels.formats import Plain
from laguna_agent.backend.laguna.config import ModelConfig
from laguna_agent.backend.laguna.config_json import load_config
from laguna_agent.backend.laguna.weights.canonical import Expected, expected_tensors
from laguna_agent.backend.laguna.weights.compressed import QUANTISED, CompressedModule
from laguna_agent.backend.laguna.weights.compressed_config import QuantizationConfig
from laguna_agent.backend.laguna.weights.folder import SafetensorsFolder
from laguna_agent.backend.laguna.weights.stored import (
    CanonicalTensor,
    Checkpoint,
    Piece,
    StoredMatrix,
    checkpoint_identity,
)
from laguna_agent.errors import WeightsError

PLAIN_TYPES = (torch.float32, torch.float16, torch.bfloat16)
GATE = re.compile(r"model\.layers\.(\d+)\.self_attn\.g_proj\.(weight|weight_packed)")
# Present in files, of no use to weight-only inference (specification section 6).
UNUSED = re.compile(
    r".*\.(input_scale|input_global_scale|input_zero_point|k_scale|v_scale|k_zero_point|v_zero_point|rotary_emb\.inv_freq)"
)
PARTS = ("weight", "weight_packed", "weight_scale", "weight_global_scale", "weight_zero_point", "weight_shape")


def open_hub(folder: Path) -> Checkpoint:
    """The checkpoint in `folder`, its headers read and every tensor accounted for. Raises WeightsError, ConfigError."""
    config = load_config(folder)
    files = SafetensorsFolder(folder)
    config = config.with_gate_rows(_gate_rows(files), str(folder)) if config.architecture == "laguna" else config
    reader = _HubReader(files, config)
    tensors = {expected.name: reader.canonical(expected) for expected in expected_tensors(config)}
    reader.refuse_leftovers()
    identity = checkpoint_identity(files.identity(), config)
    return Checkpoint(str(folder), identity, msgspec.structs.replace(config, quantization=None), tensors)


def _gate_rows(files: SafetensorsFolder) -> dict[int, int]:
    found = ((GATE.fullmatch(name), name) for name in files.names())
    return {int(match[1]): (files.entry(name).shape or (0,))[0] for match, name in found if match}


class _HubReader:
    def __init__(self, files: SafetensorsFolder, config: ModelConfig) -> None:
        self.files, self.config = files, config
        self.used: set[str] = set()
        quantization = config.quantization
        source = str(files.folder / "config.json")
        self.schemes = QuantizationConfig(quantization, source) if quantization else None

    def canonical(self, expected: Expected) -> CanonicalTensor:
        """The tensor, as pieces of what lies in the files."""
        if expected.role == "experts":
            pieces = tuple(self._experts(expected))
        elif expected.name.endswith(".e_score_correction_bias"):
            pieces = (self._bias(expected),)
        else:
            matrix = self._matrix(self._stored_name(expected.name), expected.shape)
            pieces = (Piece(matrix, 0, matrix.rows),)
        return CanonicalTensor(expected.name, expected.shape, pieces)

    def _stored_name(self, name: str) -> str:
        """The file's spelling of a canonical name."""
        fused = name.replace(".shared_expert.", ".shared_experts.")
        module = fused.removesuffix(".weight")
        return fused if any(f"{module}.{part}" in self.files for part in PARTS) else name

    def _bias(self, expected: Expected) -> Piece:
        fused = expected.name.replace(".experts.e_score", ".gate.e_score")
        name = next((name for name in (expected.name, fused) if name in self.files), None)
        if name is not None:
            return Piece(self._matrix(name, expected.shape), 0, 1)
        zeros = torch.zeros(1, expected.shape[0])

        def read(start: int, stop: int) -> dict[str, Tensor]:
            return {"values": zeros[start:stop]}

        where = f"{self.files.folder}: {expected.name} (absent: zeros)"
        return Piece(StoredMatrix(where, Plain(torch.float32), 1, expected.shape[0], read), 0, 1)

    def _experts(self, expected: Expected) -> Iterator[Piece]:
        count, rows, columns = expected.shape
        if expected.name in self.files:
            whole = self._matrix(expected.name, expected.shape)
            yield Piece(whole, 0, whole.rows)
            return
        prefix, _, part = expected.name.rpartition(".")
        names = ("gate_proj", "up_proj") if part == "gate_up_proj" else ("down_proj",)
        for expert in range(count):
            for name in names:
                matrix = self._matrix(f"{prefix}.{expert}.{name}.weight", (rows // len(names), columns))
                yield Piece(matrix, 0, matrix.rows)

    def _matrix(self, name: str, shape: tuple[int, ...]) -> StoredMatrix:
        """The stored tensor `name` as a matrix: a vector is one row, a stack lies row under row."""
        module = name.removesuffix(".weight")
        if any(f"{module}.{part}" in self.files for part in QUANTISED):
            return self._quantised(module, shape)
        if name not in self.files:
            raise WeightsError(f"{self.files.folder}: tensor {name!r} {list(shape)} is missing{self._similar(name)}")
        self.used.add(name)
        entry = self.files.entry(name)
        if entry.shape != shape:
            raise WeightsError(f"{self.files.where(name)}: shape {list(entry.shape)}, expected {list(shape)}")
        if entry.dtype not in PLAIN_TYPES:
            raise WeightsError(f"{self.files.where(name)}: {entry.dtype} without a scale, expected bf16, f16 or f32")

        def read(start: int, stop: int) -> dict[str, Tensor]:
            return {"values": self.files.tensor(name).view(-1, shape[-1])[start:stop]}

        return StoredMatrix(self.files.where(name), Plain(entry.dtype), math.prod(shape[:-1]), shape[-1], read)

    def _quantised(self, module: str, shape: tuple[int, ...]) -> StoredMatrix:
        scheme = self.schemes.scheme(module) if self.schemes else None
        if scheme is None or len(shape) != 2:
            stored = next(f"{module}.{part}" for part in QUANTISED if f"{module}.{part}" in self.files)
            raise WeightsError(f"{self.files.where(stored)}: quantised, but no group of quantization_config names it")
        self.used.update(f"{module}.{part}" for part in PARTS)
        return CompressedModule(self.files, module, scheme, *shape).matrix()

    def _similar(self, name: str) -> str:
        """A hint where a tensor of the same last names is there, for checkpoints that were renamed."""
        tail = name.rsplit(".layers.", 1)[-1]
        alike = [other for other in self.files.names() if other.endswith(tail) and other not in self.used]
        return f"; there is {alike[0]!r}" if alike else ""

    def refuse_leftovers(self) -> None:
        """A tensor that belongs to nothing means that the config describes another model."""
        left = [name for name in self.files.names() if name not in self.used and not self._spare(name)]
        if left:
            more = f" and {len(left) - 1} more" if len(left) > 1 else ""
            raise WeightsError(f"{self.files.where(left[0])}: the model has no such tensor (config.json){more}")

    def _spare(self, name: str) -> bool:
        return UNUSED.fullmatch(name) is not None or (self.config.tied and name == "lm_head.weight")
