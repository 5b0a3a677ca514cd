"""The compiled kernels under `dispatch`: torch tensors in, torch tensors out, the reference for what they do not serve.

They serve group integers, bf16 and fp16 whose parts lie without gaps, and compute in fp32 with the exact dequantised
values; the result has x's dtype. Few rows are multiplied while the weights are read; many are worth a block of weights
in fp32 and torch's matrix product. Knows tensors and the library's functions; must not know how it was built.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from laguna_agent.backend.kernels import dispatch, reference
from laguna_agent.backend.kernels.cpu.library import Matrix, library
from laguna_agent.backend.kernels.formats import GroupInt, Plain, Weight

FEW_ROWS = 16
"""Up to so many rows of x the weights are always multiplied as they are read: the block would cost more."""
NEAR = 1 << 18
"""And with more rows for as long as x has no more numbers than these: 1 MiB, which a core's own cache holds."""
BLOCK = 1 << 21
"""Weights that are dequantised at a time otherwise: 8 MiB. Less makes more turns between our threads and torch's."""

SCALE_TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
PLAIN_KINDS = {torch.bfloat16: 2, torch.float16: 3}
OUT_OF_RANGE = 2


def use() -> None:
    """Let the compiled kernels serve what they can on the CPU; where there are none the reference goes on serving."""
    found = library()
    if found.opened is not None:
        kernels = CpuKernels(found.opened)
        dispatch.register(GroupInt, "cpu", kernels)
        dispatch.register(Plain, "cpu", kernels)


class CpuKernels:
    """The products of `dispatch.Kernels`, by the opened library. May be used from any thread."""

    def __init__(self, opened: ctypes.CDLL, threads: int | None = None) -> None:
        """`threads`: how many compute, the caller counted; None: as many as torch uses."""
        self._product, self._rows = opened.laguna_product, opened.laguna_rows
        self._threads = threads

    def linear(self, x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
        """y = x W^T + b; shapes as in `reference.linear`."""
        matrix = _matrix(weight)
        rows, columns = weight.shape[-2:]
        if matrix is None or x.shape[-1] != columns or x.device.type != "cpu":
            return reference.linear(x, weight, bias)
        flat = x.reshape(-1, columns)
        if len(flat) > FEW_ROWS and flat.numel() > NEAR:
            y = self._by_blocks(flat, matrix, bias)
        else:
            y = self._multiplied(flat, matrix, bias, None)
        return y.view(*x.shape[:-1], rows).to(x.dtype)

    def expert_linear(self, x: Tensor, weight: Weight, experts: Tensor) -> Tensor:
        """y[n] = x[n] W[experts[n]]^T; shapes as in `reference.expert_linear`."""
        matrix = _matrix(weight)
        if matrix is None or x.shape != (len(experts), weight.shape[-1]) or x.device.type != "cpu":
            return reference.expert_linear(x, weight, experts)
        return self._multiplied(x, matrix, None, experts.to(torch.int64).contiguous()).to(x.dtype)

    def embedding(self, ids: Tensor, weight: Weight, dtype: torch.dtype) -> Tensor:
        """Rows of the weight; shapes as in `reference.embedding`."""
        matrix = _matrix(weight)
        if matrix is None or ids.device.type != "cpu":
            return reference.embedding(ids, weight, dtype)
        flat = ids.to(torch.int64).flatten().contiguous()
        out = torch.empty(len(flat), matrix.columns)
        self._dequantise(matrix, flat.data_ptr(), 0, out)
        return out.view(*ids.shape, matrix.columns).to(dtype)

    def _multiplied(self, x: Tensor, matrix: Matrix, bias: Tensor | None, experts: Tensor | None) -> Tensor:
        """fp32 [n, rows]; weights are read once and become floats in registers."""
        y = torch.empty(len(x), matrix.rows)
        # Bound to names, for the library gets their addresses only.
        wide = x.float().contiguous()
        added = None if bias is None else bias.float().contiguous()
        _check(
            self._product(
                ctypes.byref(matrix),
                wide.data_ptr(),
                y.data_ptr(),
                None if added is None else added.data_ptr(),
                len(wide),
                None if experts is None else experts.data_ptr(),
                self._threads or torch.get_num_threads(),
            )
        )
        return y

    def _by_blocks(self, x: Tensor, matrix: Matrix, bias: Tensor | None) -> Tensor:
        """fp32 [n, rows]; a block of weights is dequantised, then multiplied by torch."""
        y, wide = torch.empty(len(x), matrix.rows), x.float()
        step = max(1, BLOCK // matrix.columns)
        block = torch.empty(min(step, matrix.rows), matrix.columns)
        for start in range(0, matrix.rows, step):
            values = block[: matrix.rows - start]
            self._dequantise(matrix, None, start, values)
            torch.mm(wide, values.T, out=y[:, start : start + step])
        return y if bias is None else y.add_(bias)

    def _dequantise(self, matrix: Matrix, rows: int | None, first: int, out: Tensor) -> None:
        threads = self._threads or torch.get_num_threads()
        _check(self._rows(ctypes.byref(matrix), rows, first, len(out), out.data_ptr(), threads))


def _check(result: int) -> None:
    if result == OUT_OF_RANGE:
        raise IndexError("an index beyond the weight's rows or experts")
    if result:
        raise MemoryError("no memory for a product's scratch")


def _matrix(weight: Weight) -> Matrix | None:
    """What the library is told of `weight`; None for what it does not serve. The tensors must outlive the call."""
    codes, scales, minimums, kind, scale_type, group = None, None, None, None, 0, 1
    if isinstance(weight, Tensor):
        codes, kind = weight, PLAIN_KINDS.get(weight.dtype)
    elif isinstance(weight.format, Plain):
        codes, kind = weight.parts["values"], PLAIN_KINDS.get(weight.format.dtype)
    elif isinstance(weight.format, GroupInt):
        codes, scales, minimums = weight.parts["codes"], weight.parts["scales"], weight.parts.get("minimums")
        kind, scale_type, group = (
            int(weight.format.bits == 8),
            SCALE_TYPES[weight.format.scale_type],
            weight.format.group,
        )
    if kind is None or codes is None or not codes.is_contiguous():
        return None
    if any(part is not None and not part.is_contiguous() for part in (scales, minimums)):
        return None
    *stack, rows, columns = weight.shape
    return Matrix(
        kind,
        scale_type,
        stack[0] if stack else 1,
        rows,
        columns,
        group,
        codes.data_ptr(),
        None if scales is None else scales.data_ptr(),
        None if minimums is None else minimums.data_ptr(),
    )
