"""The compiled kernels under `dispatch`: torch tensors in, torch tensors out, the reference for what they do not serve.

They serve tiles, and plain numbers whose rows lie without gaps, and compute in fp32 with the exact dequantised values;
the result has x's dtype. Few rows are multiplied while the weights are read; many are worth a block of weights in fp32
and torch's matrix product. Knows tensors and the library's functions; must not know how it was built.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from laguna_agent.backend.kernels import dispatch, reference
from laguna_agent.backend.kernels.cpu import abi
from laguna_agent.backend.kernels.cpu.layers import PLAIN_KINDS, matrix
from laguna_agent.backend.kernels.cpu.library import library
from laguna_agent.backend.kernels.formats import Plain, Tiled, Weight

FEW_ROWS = 16
"""Up to so many rows of x the weights are always multiplied as they are read: the block would cost more."""
NEAR = 1 << 18
"""And with more rows for as long as x has no more numbers than these: 1 MiB, which a core's own cache holds."""
BLOCK = 1 << 21
"""Weights that are dequantised at a time otherwise: 8 MiB. Less makes more turns between our threads and torch's."""


def use() -> None:
    """Let the compiled kernels serve what they can on the CPU; where there are none the reference goes on serving."""
    found = library()
    if found.opened is not None:
        kernels = CpuKernels(found.opened)
        dispatch.register(Tiled, "cpu", kernels)
        dispatch.register(Plain, "cpu", kernels)


class CpuKernels:
    """The products of `dispatch.Kernels`, by the opened library. May be used from any thread."""

    def __init__(self, opened: ctypes.CDLL, threads: int | None = None) -> None:
        """`threads`: how many compute, the caller counted; None: as many as torch uses."""
        self._product, self._rows = opened.laguna_exact_product, opened.laguna_rows
        self._threads = threads

    def linear(self, x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
        """y = x W^T + b; shapes as in `reference.linear`."""
        found = _matrix(weight)
        rows, columns = weight.shape[-2:]
        if found is None or x.shape[-1] != columns or x.device.type != "cpu":
            return reference.linear(x, weight, bias)
        flat = x.reshape(-1, columns)
        if len(flat) <= FEW_ROWS or flat.numel() <= NEAR:
            y = self._multiplied(flat, found, bias, None)
        elif found.kind == abi.PLAIN_F32:
            # Nothing to dequantise.
            return reference.linear(x, weight, bias)
        else:
            y = self._by_blocks(flat, found, bias)
        return y.view(*x.shape[:-1], rows).to(x.dtype)

    def expert_linear(self, x: Tensor, weight: Weight, experts: Tensor) -> Tensor:
        """y[n] = x[n] W[experts[n]]^T; shapes as in `reference.expert_linear`."""
        found = _matrix(weight)
        if found is None or x.shape != (len(experts), weight.shape[-1]) or x.device.type != "cpu":
            return reference.expert_linear(x, weight, experts)
        return self._multiplied(x, found, None, experts.to(torch.int64).contiguous()).to(x.dtype)

    def embedding(self, ids: Tensor, weight: Weight, dtype: torch.dtype) -> Tensor:
        """Rows of the weight; shapes as in `reference.embedding`."""
        found = _matrix(weight)
        if found is None or ids.device.type != "cpu":
            return reference.embedding(ids, weight, dtype)
        flat = ids.to(torch.int64).flatten().contiguous()
        out = torch.empty(len(flat), found.columns)
        self._dequantise(found, flat.data_ptr(), 0, out)
        return out.view(*ids.shape, found.columns).to(dtype)

    def _multiplied(self, x: Tensor, weight: abi.Matrix, bias: Tensor | None, experts: Tensor | None) -> Tensor:
        """fp32 [n, rows]; weights are read once and become floats in registers."""
        y = torch.empty(len(x), weight.rows)
        # Bound to names, for the library gets their addresses only.
        wide = x.float().contiguous()
        added = None if bias is None else bias.float().contiguous()
        product = abi.Product(
            matrix=weight,
            x=wide.data_ptr(),
            bias=None if added is None else added.data_ptr(),
            y=y.data_ptr(),
            experts=None if experts is None else experts.data_ptr(),
            n=len(wide),
            threads=self._threads or torch.get_num_threads(),
        )
        _check(self._product(ctypes.byref(product)))
        return y

    def _by_blocks(self, x: Tensor, weight: abi.Matrix, bias: Tensor | None) -> Tensor:
        """fp32 [n, rows]; a block of weights is dequantised, then multiplied by torch."""
        y, wide = torch.empty(len(x), weight.rows), x.float()
        step = max(1, BLOCK // weight.columns)
        block = torch.empty(min(step, weight.rows), weight.columns)
        for start in range(0, weight.rows, step):
            values = block[: weight.rows - start]
            self._dequantise(weight, None, start, values)
            torch.mm(wide, values.T, out=y[:, start : start + step])
        return y if bias is None else y.add_(bias)

    def _dequantise(self, weight: abi.Matrix, ids: int | None, first: int, out: Tensor) -> None:
        """fp32 [n, columns]: the rows at the address `ids`, or `first` and those after."""
        threads = self._threads or torch.get_num_threads()
        rows = abi.Rows(matrix=weight, ids=ids, out=out.data_ptr(), first=first, n=len(out), threads=threads)
        _check(self._rows(ctypes.byref(rows)))


def _check(result: int) -> None:
    if result == abi.NO_SUCH_INDEX:
        raise IndexError("an index beyond the weight's rows or experts")
    if result:
        raise MemoryError("no memory for a product's scratch")


def _matrix(weight: Weight) -> abi.Matrix | None:
    """What the library is told of `weight`; None for what it does not serve. The weight must outlive the call."""
    if isinstance(weight, Tensor):
        stored, read = weight, weight.dtype in PLAIN_KINDS
    elif isinstance(weight.format, Tiled):
        stored, read = weight.parts["tiles"], True
    elif isinstance(weight.format, Plain):
        stored, read = weight.parts["values"], weight.format.dtype in PLAIN_KINDS
    else:
        return None
    # Without gaps nothing is copied, so that the addresses are those of the weight itself.
    return matrix(weight, []) if read and stored.is_contiguous() else None
