"""The host side of the Triton kernels: how a weight is read, pairs sorted by expert, and what is launched.

Nothing here waits for the device: the pairs (token, expert) are sorted and cut into blocks there, and the number of
blocks that is launched is a bound that holds for any choice of experts; blocks that are not needed end at once. Knows
tensors; `prefill` knows whether this may run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn.functional import pad

from laguna_agent.backend.kernels.cuda import matrices
from laguna_agent.backend.kernels.formats import Format, Fp8, GroupInt, Nvfp4, PackedTensor, Plain, Weight

if TYPE_CHECKING:
    from types import ModuleType

WORD = 4
"""Bytes that hold the columns of all planes."""
WORKSPACE = 512 << 20
"""Bytes of activations between the products of experts; more tokens are computed in several turns."""
SERVED = torch.bfloat16
"""Activations that these products are compiled and checked for; under the interpreter fp32."""
_PLAIN = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}


def interpreted() -> bool:
    """Whether Triton, where it was imported or will be, runs its programs on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


class Reading(NamedTuple):
    """How the kernels read a row: the constants by their names there, and the type of its scales and minimums."""

    codes: str
    per: int
    words: int
    group: int
    groups: int
    minimums: bool
    scale_type: torch.dtype | None

    @property
    def constants(self) -> dict[str, object]:
        """What every product takes."""
        return {
            "CODES": self.codes,
            "MINIMUMS": self.minimums,
            "PER": self.per,
            "WORDS": self.words,
            "GROUP": self.group,
            "GROUPS": self.groups,
        }


def reading_of(format: Format, columns: int) -> Reading | None:
    """How rows of `columns` columns in that format are read; None where they are not."""
    encoding = matrices.encoding_of(format, columns)
    if encoding is None:
        return None
    kind = matrices.MatrixKind(encoding, 1, columns)
    words, per = kind.row_bytes // WORD, WORD * 8 // encoding.bits
    match format:
        case Plain(dtype):
            return Reading(_PLAIN[dtype], per, words, 1, 0, False, None)
        case GroupInt(bits, group, scale_type, minimums):
            return Reading(f"int{bits}", per, words, group, kind.groups, minimums, scale_type)
        case Fp8(_, scale_type):
            return Reading("fp8", per, words, encoding.group, kind.groups, False, scale_type)
        case Nvfp4():
            return Reading("nvfp4", per, words, encoding.group, kind.groups, False, torch.uint8)
    return None


@dataclass(frozen=True, eq=False)
class Readable:
    """A weight [*, rows, columns] as the kernels take it."""

    reading: Reading
    matrix: matrices.DeviceMatrix

    @cached_property
    def pointers(self) -> tuple[Tensor, Tensor, Tensor]:
        """Words int32, scales, and minimums or divisors; what a format has not is never read."""
        codes = self.matrix.codes.view(torch.int32)
        scales, extra, stored = self.matrix.scales, self.matrix.extra, self.reading.scale_type
        if scales is not None and stored is not None:
            scales = scales.view(stored)
        if extra is not None:
            extra = extra.view(stored if stored is not None and self.reading.minimums else torch.float32)
        return codes, codes if scales is None else scales, codes if extra is None else extra


_read: WeakKeyDictionary[PackedTensor, Readable] = WeakKeyDictionary()


def readable(weight: Weight) -> Readable | None:
    """`weight` as the kernels take it, sharing memory where its rows are whole loads; None where they cannot."""
    if isinstance(weight, PackedTensor) and weight in _read:
        return _read[weight]
    format = weight.format if isinstance(weight, PackedTensor) else Plain(weight.dtype)
    reading = reading_of(format, weight.shape[-1])
    matrix = None if reading is None else matrices.placed(weight, weight.device)
    if reading is None or matrix is None:
        return None
    found = Readable(reading, matrix)
    if isinstance(weight, PackedTensor):
        _read[weight] = found
    return found


def planes(x: Tensor, reading: Reading) -> Tensor:
    """x [n, columns] -> contiguous [n, per, words], zeros where a row is padded."""
    missing = reading.per * reading.words - x.shape[-1]
    x = pad(x, (0, missing)) if missing else x
    return x.reshape(len(x), reading.words, reading.per).transpose(1, 2).contiguous()


class Aligned(NamedTuple):
    """Pairs sorted by expert, int32 on the device: `order` [pairs], and for each block of rows its expert (as many as
    there are where the block is not needed), first and behind-the-last sorted pair."""

    order: Tensor
    experts: Tensor
    firsts: Tensor
    ends: Tensor


def align(picked: Tensor, experts: int, block: int) -> Aligned:
    """Blocks of at most `block` pairs of one expert, for `picked` int [tokens, k] of 0..experts-1, at least one.

    An expert with c pairs has 1 + (c - 1) // block blocks, so all have no more than the bound below.
    """
    flat = picked.flatten()
    found, order = torch.sort(flat, stable=True)
    numbers = torch.arange(experts, device=flat.device, dtype=flat.dtype)
    ends = torch.searchsorted(found, numbers, right=True)
    begins = torch.searchsorted(found, numbers)
    last_blocks = ((ends - begins + block - 1) // block).cumsum(0)
    active = min(experts, len(flat))
    blocks = torch.arange(active + (len(flat) - active) // block, device=flat.device)
    expert = torch.searchsorted(last_blocks, blocks, right=True)
    held = expert.clamp(max=experts - 1)
    before = torch.where(held > 0, last_blocks[held - 1], 0)
    firsts = begins[held] + (blocks - before) * block
    return Aligned(order.int(), expert.int(), firsts.int(), ends[held].int())


class Blocks(NamedTuple):
    """A program's share: `rows` of x times `columns` of the result, `words` of a weight's row at a time."""

    rows: int
    columns: int
    words: int
    warps: int
    stages: int

    @property
    def constants(self) -> dict[str, int]:
        """As the kernels name them."""
        return {"BM": self.rows, "BN": self.columns, "BW": self.words}

    @property
    def options(self) -> dict[str, object]:
        """As Triton's compiler names them. Fused multiply-add is asked for: later versions of it do not by default."""
        return {"num_warps": self.warps, "num_stages": self.stages, "enable_fp_fusion": True}


def blocks_for(reading: Reading, rows: float, *, gated: bool) -> Blocks:
    """The shape for products where a weight meets about so many rows; `gated` ones hold two sums.

    The offline compile (tests/cuda/test_triton.py) holds every one of these against a table of registers.
    """
    few = rows <= 16
    # With more planes a turn is long as it is. Few rows leave room for whole lines of 128 bytes; where one product has
    # 8 bits in small groups, ptxas spills 8 bytes then for sm_90 and sm_120.
    words = 16 if reading.per > 4 or (reading.per == 4 and not (few and gated)) else 32
    return Blocks(16 if few else 64, 32 if gated and not few else 64, words, 4, 3)


class TritonProducts:
    """The products, by the kernels of a module: `triton_kernels`, or in the tests one with a fault."""

    def __init__(self, kernels: ModuleType) -> None:
        self._kernels = kernels

    def empty(self, x: Tensor, *shape: int) -> Tensor:
        """Room for numbers of x's type on its device; the tests fence it."""
        return x.new_empty(shape)

    def linear(self, x: Tensor, weight: Readable, bias: Tensor | None = None) -> Tensor:
        """x [n, columns] times weight [rows, columns], plus bias [rows]: [n, rows] in x's dtype."""
        rows = weight.matrix.kind.rows
        out = self.empty(x, len(x), rows)
        if not out.numel():
            return out
        blocks = blocks_for(weight.reading, len(x), gated=False)
        self._launch(
            "linear",
            (-(-len(x) // blocks.rows), -(-rows // blocks.columns)),
            blocks,
            (
                planes(x, weight.reading),
                *weight.pointers,
                out if bias is None else bias.contiguous(),
                out,
                len(x),
                rows,
            ),
            {"BIAS": bias is not None, **weight.reading.constants, "DOT": x.dtype},
        )
        return out

    def experts(self, x: Tensor, gate_up: Readable, down: Readable, picked: Tensor, share: Tensor) -> Tensor:
        """Sum over each token's experts of share * down(silu(gate x) * up x): [tokens, hidden] in x's dtype.

        x [tokens, hidden], gate_up [E, 2 * inner, hidden], down [E, hidden, inner], picked int, share [tokens, k].
        """
        out = self.empty(x, *x.shape)
        per_token = picked.shape[1]
        step = max(1, WORKSPACE // (per_token * workspace_of(down.reading, x.shape[1], x.dtype)))
        for start in range(0, len(x), step):
            turn = slice(start, start + step)
            self._turn(x[turn], gate_up, down, picked[turn], share[turn].contiguous(), out[turn])
        return out

    def _turn(self, x: Tensor, gate_up: Readable, down: Readable, picked: Tensor, share: Tensor, out: Tensor) -> None:
        (tokens, per_token), hidden = picked.shape, x.shape[1]
        count = gate_up.matrix.kind.experts
        rows = picked.numel() / count
        inside = blocks_for(gate_up.reading, rows, gated=True)
        outside = blocks_for(down.reading, rows, gated=False)
        aligned = align(picked, count, inside.rows)
        padded = down.reading.per * down.reading.words
        act = self.empty(x, picked.numel(), padded)
        self._launch(
            "gate_up",
            (len(aligned.experts), -(-padded // inside.columns)),
            inside,
            (planes(x, gate_up.reading), *gate_up.pointers, *aligned, act),
            {
                "PER_TOKEN": per_token,
                "INNER": gate_up.matrix.kind.rows // 2,
                "COUNT": count,
                "OUT_PER": down.reading.per,
                "OUT_WORDS": down.reading.words,
                **gate_up.reading.constants,
                "DOT": x.dtype,
            },
        )
        parts = self.empty(x, picked.numel(), hidden)
        self._launch(
            "down",
            (len(aligned.experts), -(-hidden // outside.columns)),
            outside,
            (act, *down.pointers, *aligned, parts),
            {"ROWS": hidden, "COUNT": count, **down.reading.constants, "DOT": x.dtype},
        )
        wide = Blocks(1, COMBINED, 1, 4, 1)
        grid = (tokens, -(-hidden // COMBINED))
        constants = {"PER_TOKEN": per_token, "COLUMNS": hidden, "BN": COMBINED}
        self._kernels.combine[grid](parts, share, out, **constants, **wide.options)

    def _launch(
        self,
        name: str,
        grid: tuple[int, int],
        blocks: Blocks,
        given: tuple[object, ...],
        constants: Mapping[str, object],
    ) -> None:
        import triton.language as tl

        dots = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}
        constants = {**constants, **blocks.constants, "DOT": dots[constants["DOT"]]}  # type: ignore[index]
        getattr(self._kernels, name)[grid](*given, **constants, **blocks.options)


COMBINED = 256
"""Columns that one program adds up."""


def workspace_of(down: Reading, hidden: int, dtype: torch.dtype) -> int:
    """Bytes that one pair of a token and an expert takes between the products, down's input and output."""
    return (down.per * down.words + hidden) * dtype.itemsize
