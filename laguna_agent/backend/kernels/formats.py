"""What a packed tensor is: its format, its parts, and the shape it stands for.

A matrix [rows, columns] is stored as a few parts, each with `rows` rows, so that a range of rows (one expert of a
stack, a slice of a vocabulary) is a slice of every part, and a file can be written row by row; `Tiled` alone takes its
rows in sixteens. A stack of experts [E, rows, columns] only adds a leading dimension to every part. Scales that a
checkpoint keeps per block of rows or per tensor are spread over the rows when it is read. Knows layout, not maths
(`reference.py`) and not files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from laguna_agent.errors import WeightsError

DTYPES: dict[str, torch.dtype] = {
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "f8_e4m3": torch.float8_e4m3fn,
    "i8": torch.int8,
    "u8": torch.uint8,
}
DTYPE_NAMES: dict[torch.dtype, str] = {dtype: name for name, dtype in DTYPES.items()}
SCALE_TYPES = (torch.float32, torch.float16, torch.bfloat16)


class Part(NamedTuple):
    """One tensor of a packed matrix: [rows, columns] of `dtype`."""

    name: str
    dtype: torch.dtype
    columns: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.columns * self.dtype.itemsize


class Format(Protocol):
    """How the values of a matrix are stored. Formats are equal where their fields are.

    `rows_together`: so many rows lie interleaved, so a matrix, and a range of its rows, has a multiple of them.
    """

    rows_together: ClassVar[int]

    @property
    def spelling(self) -> str:
        """The format in one word; `parse_format` reads it back."""
        ...

    def parts(self, columns: int) -> tuple[Part, ...]:
        """The parts of a matrix with that many columns. Raises WeightsError where no such matrix can exist."""
        ...


@dataclass(frozen=True)
class Plain:
    """The values themselves, in one of f32, f16, bf16."""

    rows_together: ClassVar[int] = 1
    dtype: torch.dtype

    @property
    def spelling(self) -> str:
        return DTYPE_NAMES[self.dtype]

    def parts(self, columns: int) -> tuple[Part, ...]:
        return (Part("values", self.dtype, columns),)


@dataclass(frozen=True)
class GroupInt:
    """4- or 8-bit integers with one scale (and, where `minimums`, one offset) for each `group` columns of a row.

    int4: `codes` uint8 [rows, ceil(columns/2)], low nibble = even column, unsigned u = 0..15;
          value = (u - 8) * scale, or u * scale + minimum.
    int8: `codes` int8 [rows, columns]; value = code * scale, or code * scale + minimum.
    `scales`, `minimums`: `scale_type` [rows, ceil(columns/group)]. The last group may be short.
    """

    rows_together: ClassVar[int] = 1
    bits: int
    group: int
    scale_type: torch.dtype = torch.bfloat16
    minimums: bool = False

    @property
    def spelling(self) -> str:
        tail = ":min" if self.minimums else ""
        return f"int{self.bits}:{self.group}:{DTYPE_NAMES[self.scale_type]}{tail}"

    def parts(self, columns: int) -> tuple[Part, ...]:
        groups = math.ceil(columns / self.group)
        codes = Part("codes", torch.uint8, math.ceil(columns / 2))
        found = [codes if self.bits == 4 else Part("codes", torch.int8, columns)]
        found.append(Part("scales", self.scale_type, groups))
        if self.minimums:
            found.append(Part("minimums", self.scale_type, groups))
        return tuple(found)


@dataclass(frozen=True)
class Tiled:
    """The numbers of `base`, sixteen rows interleaved as the CPU kernels read them (`native/tiles.h`, `tiles.py`).

    `tiles` uint8 [rows, bytes of a row]: each sixteen rows are one stream, so a single row of it means nothing. A
    matrix has a multiple of 16 rows and of `base.group` columns.
    """

    rows_together: ClassVar[int] = 16
    STEP: ClassVar[int] = 32
    base: GroupInt

    @property
    def spelling(self) -> str:
        return f"tile16:{self.base.spelling}"

    def parts(self, columns: int) -> tuple[Part, ...]:
        group = self.base.group
        if columns % group or group % self.STEP:
            raise WeightsError(
                f"a {self.spelling} matrix has {columns} columns; they must be a multiple of {group}, and that of 32"
            )
        return (Part("tiles", torch.uint8, columns // group * self.group_bytes),)

    @property
    def group_bytes(self) -> int:
        """Bytes of one group of one row: codes, scale, minimum."""
        base = self.base
        return base.group * base.bits // 8 + base.scale_type.itemsize * (2 if base.minimums else 1)

    def holds(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of that shape can be stored so."""
        group = self.base.group
        return len(shape) > 1 and not (shape[-2] % self.rows_together or shape[-1] % group or group % self.STEP)


@dataclass(frozen=True)
class Fp8:
    """E4M3 values with one scale for each `group` columns of a row: value = float(code) * float(scale).

    `codes` float8_e4m3fn [rows, columns]; `scales` `scale_type` [rows, ceil(columns/group)]. Per-channel and
    per-tensor checkpoints have one group as wide as the row; 128 x 128 blocks have their scale on each of the rows.
    """

    rows_together: ClassVar[int] = 1
    group: int
    scale_type: torch.dtype = torch.float32

    @property
    def spelling(self) -> str:
        return f"fp8:{self.group}:{DTYPE_NAMES[self.scale_type]}"

    def parts(self, columns: int) -> tuple[Part, ...]:
        codes = Part("codes", torch.float8_e4m3fn, columns)
        return (codes, Part("scales", self.scale_type, math.ceil(columns / self.group)))


@dataclass(frozen=True)
class Nvfp4:
    """E2M1 values in groups of 16 with an E4M3 scale, divided by an fp32 scale.

    `codes` uint8 [rows, columns/2], low nibble = even column, bit 3 = sign, bits 0-2 = index into 0 .5 1 1.5 2 3 4 6;
    `scales` float8_e4m3fn [rows, columns/16]; `divisors` fp32 [rows, 1]: value = fp4 * (float(scale) / divisor).
    """

    rows_together: ClassVar[int] = 1
    GROUP: ClassVar[int] = 16

    @property
    def spelling(self) -> str:
        return "nvfp4"

    def parts(self, columns: int) -> tuple[Part, ...]:
        if columns % self.GROUP:
            raise WeightsError(f"an NVFP4 matrix has {columns} columns; they must be a multiple of {self.GROUP}")
        scales = Part("scales", torch.float8_e4m3fn, columns // self.GROUP)
        return (Part("codes", torch.uint8, columns // 2), scales, Part("divisors", torch.float32, 1))


GGML_BLOCKS: dict[str, tuple[int, int]] = {
    "Q4_0": (32, 18),
    "Q4_1": (32, 20),
    "Q5_0": (32, 22),
    "Q8_0": (32, 34),
    "Q4_K": (256, 144),
    "Q5_K": (256, 176),
    "Q6_K": (256, 210),
}
"""ggml tensor types that are read: values in a block, bytes of a block."""


@dataclass(frozen=True)
class Ggml:
    """A ggml block type, byte for byte as a GGUF file has it: `blocks` uint8 [rows, bytes of a row]."""

    rows_together: ClassVar[int] = 1
    kind: str

    @property
    def spelling(self) -> str:
        return f"ggml:{self.kind}"

    def parts(self, columns: int) -> tuple[Part, ...]:
        values, size = GGML_BLOCKS[self.kind]
        if columns % values:
            raise WeightsError(f"a {self.kind} matrix has {columns} columns; they must be a multiple of {values}")
        return (Part("blocks", torch.uint8, columns // values * size),)


def parse_format(spelling: str) -> Format:
    """The format that has this spelling; WeightsError where none has."""
    head, *fields = spelling.split(":")
    try:
        if head == "tile16" and isinstance(base := parse_format(":".join(fields)), GroupInt):
            return Tiled(base)
        if head in ("int4", "int8") and fields[2:] in ([], ["min"]):
            found: Format = GroupInt(int(head[3:]), int(fields[0]), DTYPES[fields[1]], bool(fields[2:]))
        elif head == "fp8":
            found = Fp8(int(fields[0]), DTYPES[fields[1]])
        elif head == "ggml" and fields[0] in GGML_BLOCKS:
            found = Ggml(fields[0])
        else:
            found = Nvfp4() if head == "nvfp4" else Plain(DTYPES[head])
    except (KeyError, ValueError, IndexError):
        raise WeightsError(f"{spelling!r} is not a format of packed weights") from None
    group = getattr(found, "group", 1)
    if found.spelling != spelling or group < 1 or getattr(found, "scale_type", torch.float32) not in SCALE_TYPES:
        raise WeightsError(f"{spelling!r} is not a format of packed weights")
    return found


def bytes_needed(format: Format, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor of that shape in that format, without padding."""
    return math.prod(shape[:-1]) * sum(part.row_bytes for part in format.parts(shape[-1]))


@dataclass(frozen=True, eq=False)
class PackedTensor:
    """A matrix [rows, columns], or a stack [E, rows, columns], in a packed format.

    `parts` has exactly the parts of the format, each [*shape[:-1], part.columns] of the part's dtype; WeightsError
    where it has not. Immutable; the tensors may lie in a read-only mapping of a file and must not be written to.
    """

    format: Format
    shape: tuple[int, ...]
    parts: Mapping[str, Tensor] = field(repr=False)

    def __post_init__(self) -> None:
        wanted, together = self.format.parts(self.shape[-1]), self.format.rows_together
        if together > 1 and (len(self.shape) < 2 or self.shape[-2] % together):
            raise WeightsError(
                f"a {self.format.spelling} tensor is {list(self.shape)}, its rows must be a multiple of {together}"
            )
        if set(self.parts) != {part.name for part in wanted}:
            raise WeightsError(
                f"{self.format.spelling} needs the parts {[p.name for p in wanted]}, got {list(self.parts)}"
            )
        for part in wanted:
            tensor, shape = self.parts[part.name], (*self.shape[:-1], part.columns)
            if tuple(tensor.shape) != shape or tensor.dtype != part.dtype:
                found = f"{tensor.dtype} {list(tensor.shape)}"
                raise WeightsError(
                    f"{part.name} of a {self.format.spelling} tensor {list(self.shape)} is {found}, "
                    f"expected {part.dtype} {list(shape)}"
                )

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return sum(tensor.nbytes for tensor in self.parts.values())

    @property
    def bits_per_weight(self) -> float:
        """Stored bits for each value, scales included."""
        return 8 * self.nbytes / math.prod(self.shape)

    @property
    def device(self) -> torch.device:
        """Where the parts lie."""
        return next(iter(self.parts.values())).device

    def to(self, device: torch.device | str) -> PackedTensor:
        """The same tensor on `device`; itself where it is there already."""
        parts = {name: tensor.to(device) for name, tensor in self.parts.items()}
        return PackedTensor(self.format, self.shape, parts)

    def __getitem__(self, index: int | slice | Tensor) -> PackedTensor:
        """Entries of the leading dimension (rows of a matrix, experts of a stack); views for ints and slices.

        Raises ValueError for rows of a matrix other than whole blocks of `format.rows_together`.
        """
        if self.format.rows_together > 1 and len(self.shape) == 2:
            _check_blocks(index, self.shape[0], self.format.rows_together)
        parts = {name: tensor[index] for name, tensor in self.parts.items()}
        lead = next(iter(parts.values())).shape[:-1]
        return PackedTensor(self.format, (*lead, self.shape[-1]), parts)


def _check_blocks(index: int | slice | Tensor, rows: int, together: int) -> None:
    if isinstance(index, slice):
        start, stop, step = index.indices(rows)
        if step == 1 and not (start % together or stop % together):
            return
    raise ValueError(f"rows {index} were asked of a matrix whose rows lie {together} together")


Weight = Tensor | PackedTensor
"""What a linear multiplies with: a plain tensor or a packed one."""
