"""Weights as the kernels read them: rows of whole 16-byte loads, and what C++ calls the format (`formats.cuh`).

A checkpoint's packed tensor has that layout already wherever its columns fill whole loads, and then it is shared;
otherwise its rows are padded with codes whose columns meet zeros. Tiles are for CPUs and are taken apart. Knows
layouts; must not know what is multiplied.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from laguna_agent.backend.kernels.cuda.launch import ALIGNED, Argument, Pointer
from laguna_agent.backend.kernels.cuda.page_locked import is_page_locked
from laguna_agent.backend.kernels.formats import Format, Fp8, GroupInt, Nvfp4, PackedTensor, Plain, Tiled, Weight
from laguna_agent.backend.kernels.tiles import untile

LOAD = 16
"""Bytes that a lane reads at a time."""
_SCALES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "Bf16"}


@dataclass(frozen=True)
class Encoding:
    """How rows of `format` are stored: `spelled` in C++, so many `bits` a column, one scale of `scale_bytes` for each
    `group` of columns (0: none); `minimums` beside the scales; `divided`: one fp32 divisor for each row."""

    spelled: str
    format: Format
    bits: int
    group: int = 0
    scale_bytes: int = 0
    minimums: bool = False
    divided: bool = False

    @property
    def together(self) -> int:
        """Columns of one load."""
        return LOAD * 8 // self.bits


@dataclass(frozen=True)
class MatrixKind:
    """All of a matrix but its numbers: `rows` and `columns`; a stack has `experts` of them, a matrix 0."""

    encoding: Encoding
    rows: int
    columns: int
    experts: int = 0

    @property
    def row_bytes(self) -> int:
        """Bytes from one row to the next."""
        return -(-self.columns // self.encoding.together) * LOAD

    @property
    def groups(self) -> int:
        """Scales of one row."""
        return -(-self.columns // self.encoding.group) if self.encoding.group else 0

    def pointers(self, name: str) -> tuple[Pointer, Pointer, Pointer]:
        """The three parameters that a kernel takes for such a matrix; in C++ together a `laguna::Matrix`."""
        rows = self.rows * max(1, self.experts)
        scales = rows * self.groups * self.encoding.scale_bytes
        extra = scales if self.encoding.minimums else rows * 4 if self.encoding.divided else 0
        return (
            Pointer(f"{name}_codes", "unsigned char", rows * self.row_bytes),
            Pointer(f"{name}_scales", "unsigned char", scales, optional=not scales),
            Pointer(f"{name}_extra", "unsigned char", extra, optional=not extra),
        )

    @property
    def nbytes(self) -> int:
        """Bytes of it all."""
        return sum(pointer.nbytes for pointer in self.pointers("m"))


@dataclass(frozen=True, eq=False)
class DeviceMatrix:
    """A matrix that kernels can read. `codes` uint8 [*, rows, row_bytes]; `scales`, `extra` as the format has them."""

    kind: MatrixKind
    codes: Tensor
    scales: Tensor | None
    extra: Tensor | None

    @property
    def arguments(self) -> tuple[Argument, Argument, Argument]:
        """What a launch takes for `MatrixKind.pointers`."""
        return self.codes, self.scales, self.extra


def encoding_of(format: Format, columns: int) -> Encoding | None:
    """How the kernels would read rows of `columns` columns in that format; None where they cannot."""
    match format:
        case Tiled(base):
            return encoding_of(base, columns)
        case Plain(dtype) if dtype in _SCALES:
            return Encoding(f"laguna::Plain<laguna::{_SCALES[dtype]}>", format, dtype.itemsize * 8)
        case GroupInt(bits, group, scale, minimums) if _divides(group, 128 // bits):
            flag = "true" if minimums else "false"
            spelled = f"laguna::Int{bits}<{group}, laguna::{_SCALES[scale]}, {flag}>"
            return Encoding(spelled, format, bits, group, scale.itemsize, minimums)
        case Fp8(group, scale):
            # One scale for a whole row reaches over its padding.
            whole = -(-columns // LOAD) * LOAD
            group = whole if group >= columns else group
            if _divides(group, LOAD):
                return Encoding(f"laguna::Fp8<{group}, laguna::{_SCALES[scale]}>", format, 8, group, scale.itemsize)
        case Nvfp4():
            return Encoding("laguna::Nvfp4", format, 4, Nvfp4.GROUP, 1, divided=True)
    return None


def _divides(group: int, load: int) -> bool:
    """Whether a load of so many columns has whole groups, or lies within one; columns are read in fours."""
    return group % load == 0 or (load % group == 0 and group % 4 == 0)


def kind_of(format: Format, shape: tuple[int, ...]) -> MatrixKind | None:
    """The kind of a weight [rows, columns] or [experts, rows, columns] in that format; None: no kernel reads it."""
    encoding = encoding_of(format, shape[-1])
    if encoding is None:
        return None
    return MatrixKind(encoding, shape[-2], shape[-1], shape[0] if len(shape) == 3 else 0)


def placed(weight: Weight, device: torch.device) -> DeviceMatrix | None:
    """`weight` on `device` as the kernels read it, sharing memory where it lies there already; None where they cannot.

    What is page-locked stays in the host's memory, where kernels read it over the bus. Tiles are taken apart on the
    device. Scales of padding do not exist: its columns belong to the row's last group.
    """
    if isinstance(weight, Tensor):
        weight = PackedTensor(Plain(weight.dtype), tuple(weight.shape), {"values": weight.detach()})
    kind = kind_of(weight.format, weight.shape)
    if kind is None:
        return None
    stays = is_page_locked(weight)
    if not stays:
        weight = weight.to(device)
    if isinstance(weight.format, Tiled):
        weight = untile(weight)
    parts = weight.parts
    stored = parts["values"] if "values" in parts else parts["codes"]
    codes = _bytes(stored)
    missing = kind.row_bytes - codes.shape[-1]
    if missing:
        codes = pad(codes, (0, missing))
    extra = parts.get("minimums", parts.get("divisors"))
    made = DeviceMatrix(kind, _aligned(codes), _shared(parts.get("scales")), _shared(extra))
    held = (part for part in (made.codes, made.scales, made.extra) if part is not None)
    # A copy of what is page-locked is ordinary host memory, which no kernel may touch.
    return None if stays and not all(is_page_locked(part) for part in held) else made


def stored(kind: MatrixKind, codes: Tensor, scales: Tensor | None, extra: Tensor | None) -> PackedTensor:
    """What `placed` was given, tiles taken apart: the three tensors of a launch as the format they are in."""
    lead = (kind.experts, kind.rows) if kind.experts else (kind.rows,)
    parts: dict[str, Tensor] = {}
    held = (codes, scales, extra)
    for part, tensor in zip(kind.encoding.format.parts(kind.columns), held, strict=False):
        assert tensor is not None
        rows = _bytes(tensor).reshape(*lead, -1)[..., : part.row_bytes]
        parts[part.name] = rows.contiguous().view(part.dtype)
    return PackedTensor(kind.encoding.format, (*lead, kind.columns), parts)


def _shared(part: Tensor | None) -> Tensor | None:
    return None if part is None else _aligned(_bytes(part))


def _bytes(part: Tensor) -> Tensor:
    # Flat first: an axis of one element may have any stride, and then it cannot be seen as bytes.
    return part.contiguous().view(-1).view(torch.uint8).view(*part.shape[:-1], part.shape[-1] * part.dtype.itemsize)


def _aligned(part: Tensor) -> Tensor:
    """The same bytes at a place that kernels may read: a view of a file may begin anywhere."""
    part = part.contiguous()
    return part.clone() if part.data_ptr() % ALIGNED else part
