"""The tensors of one quantised module (compressed-tensors) as a `StoredMatrix` in one of our formats.

Codes stay byte for byte as stored; scales are spread over rows, signs and zero points are expressed the way
`kernels/formats.py` says, with nothing rounded. Formulas: specification section 6.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from laguna_agent.backend.kernels.formats import DTYPE_NAMES, SCALE_TYPES, Format, Fp8, GroupInt, Nvfp4
from laguna_agent.backend.laguna.weights.compressed_config import Scheme
from laguna_agent.backend.laguna.weights.folder import SafetensorsFolder
from laguna_agent.backend.laguna.weights.stored import StoredMatrix
from laguna_agent.errors import WeightsError

QUANTISED = ("weight_packed", "weight_scale")
"""A module that has one of these is stored quantised, whatever else the config says."""


class CompressedModule:
    """The stored tensors of `module`, which must stand for a matrix [rows, columns]."""

    def __init__(self, folder: SafetensorsFolder, module: str, scheme: Scheme, rows: int, columns: int) -> None:
        self.folder, self.module, self.scheme = folder, module, scheme
        self.rows, self.columns = rows, columns

    def matrix(self) -> StoredMatrix:
        """The matrix. Raises WeightsError naming file and tensor where a part is missing or has another shape."""
        self._check_shape_tensor()
        if self._has("weight_g_idx"):
            raise WeightsError(
                f"{self._where('weight_g_idx')}: reordered groups (activation ordering) are not supported"
            )
        match self.scheme.kind:
            case "fp8":
                format, read = self._fp8()
            case "nvfp4":
                format, read = self._nvfp4()
            case _:
                format, read = self._integers()
        codes = "weight" if self._has("weight") else "weight_packed"
        return StoredMatrix(self._where(codes), format, self.rows, self.columns, read)

    def _has(self, part: str) -> bool:
        return f"{self.module}.{part}" in self.folder

    def _where(self, part: str) -> str:
        return self.folder.where(f"{self.module}.{part}")

    def _part(self, part: str, dtypes: tuple[torch.dtype, ...], shape: tuple[int, ...]) -> Tensor:
        """The part as a view of that shape; a scale of one value may be stored with any number of dimensions."""
        name = f"{self.module}.{part}"
        if name not in self.folder:
            raise WeightsError(f"{self.folder.folder}: tensor {name!r} is missing; its module is stored quantised")
        entry = self.folder.entry(name)
        if entry.dtype not in dtypes or (entry.shape != shape and math.prod(entry.shape) != 1 != math.prod(shape)):
            wanted = " or ".join(DTYPE_NAMES.get(dtype, str(dtype)) for dtype in dtypes)
            raise WeightsError(
                f"{self.folder.where(name)}: {entry.dtype} {list(entry.shape)}, expected {wanted} {list(shape)}"
            )
        if math.prod(entry.shape) != math.prod(shape):
            raise WeightsError(f"{self.folder.where(name)}: shape {list(entry.shape)}, expected {list(shape)}")
        return self.folder.tensor(name).view(shape)

    def _check_shape_tensor(self) -> None:
        if self._has("weight_shape"):
            found = self._part("weight_shape", (torch.int64, torch.int32), (2,)).tolist()
            if found != [self.rows, self.columns]:
                raise WeightsError(f"{self._where('weight_shape')}: {found}, expected {[self.rows, self.columns]}")

    def _fp8(self) -> tuple[Format, Callable[[int, int], Mapping[str, Tensor]]]:
        high, wide = self.scheme.block
        if self.scheme.strategy != "block":
            wide = self.columns
            high = self.rows if self.scheme.strategy == "tensor" else 1
        codes = self._part("weight", (torch.float8_e4m3fn,), (self.rows, self.columns))
        shape = (math.ceil(self.rows / high), math.ceil(self.columns / wide))
        scales = self._part("weight_scale", SCALE_TYPES, shape)

        def read(start: int, stop: int) -> Mapping[str, Tensor]:
            return {"codes": codes[start:stop], "scales": scales[torch.arange(start, stop) // high]}

        return Fp8(wide, scales.dtype), read

    def _nvfp4(self) -> tuple[Format, Callable[[int, int], Mapping[str, Tensor]]]:
        if self.columns % Nvfp4.GROUP:
            raise WeightsError(f"{self._where('weight_packed')}: {self.columns} columns, expected a multiple of 16")
        codes = self._part("weight_packed", (torch.uint8,), (self.rows, self.columns // 2))
        scales = self._part("weight_scale", (torch.float8_e4m3fn,), (self.rows, self.columns // Nvfp4.GROUP))
        divisor = self._part("weight_global_scale", (torch.float32,), (1,))

        def read(start: int, stop: int) -> Mapping[str, Tensor]:
            divisors = divisor.expand(stop - start).unsqueeze(1)
            return {"codes": codes[start:stop], "scales": scales[start:stop], "divisors": divisors}

        return Nvfp4(), read

    def _integers(self) -> tuple[Format, Callable[[int, int], Mapping[str, Tensor]]]:
        bits, group = self.scheme.bits, self.scheme.group or self.columns
        groups = math.ceil(self.columns / group)
        scales = self._part("weight_scale", SCALE_TYPES, (self.rows, groups))
        zeros = None if self.scheme.symmetric else self._zero_points(groups)
        # A zero point times a scale needs more bits than the scale has.
        scale_type = scales.dtype if zeros is None else torch.float32
        codes = self._codes()

        def read(start: int, stop: int) -> Mapping[str, Tensor]:
            parts = {"codes": codes(start, stop), "scales": scales[start:stop].to(scale_type)}
            if zeros is not None:
                # int4 codes count from -8, so the value of code 0 is (-8 - zero point) * scale.
                lowest = -8 if bits == 4 else 0
                parts["minimums"] = (lowest - zeros(start, stop)) * parts["scales"]
            return parts

        return GroupInt(bits, group, scale_type, minimums=zeros is not None), read

    def _codes(self) -> Callable[[int, int], Tensor]:
        bits = self.scheme.bits
        if self._has("weight") and bits == 8:
            whole = self._part("weight", (torch.int8,), (self.rows, self.columns))
            return lambda start, stop: whole[start:stop]
        words = self._part("weight_packed", (torch.int32,), (self.rows, math.ceil(self.columns * bits / 32)))

        def read(start: int, stop: int) -> Tensor:
            stored = words[start:stop].contiguous().view(torch.uint8)
            if bits == 4:
                # A little-endian word of eight codes is four bytes of two, the even column in the low nibble.
                return stored[:, : math.ceil(self.columns / 2)]
            return (stored[:, : self.columns] ^ 128).view(torch.int8)

        return read

    def _zero_points(self, groups: int) -> Callable[[int, int], Tensor]:
        """Signed zero points, fp32 [rows, groups]; packed along the rows where they are packed."""
        bits, name = self.scheme.bits, f"{self.module}.weight_zero_point"
        if name in self.folder and self.folder.entry(name).dtype == torch.int8:
            plain = self._part("weight_zero_point", (torch.int8,), (self.rows, groups))
            return lambda start, stop: plain[start:stop].float()
        shape = (math.ceil(self.rows * bits / 32), groups)
        words = self._part("weight_zero_point", (torch.int32,), shape)
        shifts = torch.arange(0, 32, bits, dtype=torch.int32).view(1, -1, 1)
        fields = ((words.unsqueeze(1) >> shifts) & ((1 << bits) - 1)) - (1 << (bits - 1))
        unpacked = fields.flatten(0, 1)[: self.rows].float()
        return lambda start, stop: unpacked[start:stop]
