"""Matrices made orthogonal by Newton-Schulz: U S V^T becomes nearly U V^T, by products alone.

The result of a matrix is the same bits whatever else is in the stack, on whichever rank it is computed. BLAS does not
promise that: how a library splits a product among threads depends on how many products it was given (MKL's batched one
splits inside the matrices where they are fewer than the threads, and so rounds otherwise). So every call here has a
shape that follows from the shape of one matrix: groups of a fixed size, the last one filled up with zeros. What may
still change bits is another number of threads, another processor or another library; ranks that compare bits must
agree in those. Knows stacks of matrices; must not know parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from laguna_agent.errors import UsageError
from laguna_agent.training.optim.coefficients import Coefficients, Step, steps

GROUP_BYTES = {torch.float32: 1 << 20, torch.bfloat16: 2 << 20}
"""What the buffers of a group may take on the CPU. A matrix of more than half of it is taken alone, by a loop: the
cut-off. Measured in processor time of one thread (Xeon with AMX and 2 MB of second-level cache a core, torch 2.13), for
matrices from 32 x 64 to 512 x 512 in groups of 1 to 32: fp32 was fastest in groups of 1 to 1.3 MB, and as fast or
faster in a loop from 192 x 192 on; bf16 was fastest in groups of 1.3 to 2.4 MB, and in a loop from 512 x 512 on. At
32 x 64 a group of 16 is 3.8 times as fast as the loop in fp32, and 12 times in bf16."""
CUDA_GROUP_BYTES = 128 << 20
"""The same on CUDA, where a group must fill the device. Nobody measured it."""
MOST = 32
"""Matrices in a group at most: the calls are paid for by then."""
TINY = 1e-37
"""A matrix with no number above this counts as zeros: the reciprocal of a smaller one is no fp32."""


def default_dtype(device: torch.device) -> torch.dtype:
    """What is computed in: bf16 on CUDA, as published; fp32 elsewhere, where most processors have no units for bf16."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def fastest_dtype(device: torch.device) -> torch.dtype:
    """What takes least time: bf16 on CUDA and on processors with AMX, fp32 on others. Nobody gets it unasked: bf16
    rounds as torch.optim.Muon always does, a few hundredths of a singular value.

    Measured over the 282 matrices of a Laguna of 7.15 M (one thread; torch.optim.Muon's step over ours): with AMX 1.94
    in bf16 and 0.99 in fp32; kept to AVX512-BF16 1.26 and 2.05; kept to AVX512 1.07 and 4.36.
    """
    # Older torch cannot say; what it does not say is not there.
    capabilities: dict[str, object] = dict(getattr(torch.cpu, "get_capabilities", dict)())
    return torch.bfloat16 if device.type == "cpu" and capabilities.get("amx_bf16") else default_dtype(device)


def group_size(rows: int, columns: int, dtype: torch.dtype, device: torch.device, batched: bool | None = None) -> int:
    """How many matrices of a shape are multiplied by one call; 1 means a loop over them.

    A function of the matrix alone, not of how many there are. `batched` overrules the measured cut-off.
    """
    small, large = sorted((rows, columns))
    room = CUDA_GROUP_BYTES if device.type == "cuda" else GROUP_BYTES.get(dtype, GROUP_BYTES[torch.float32])
    fits = room // (2 * small * (small + large) * dtype.itemsize)
    if batched is False or (batched is None and fits < 2):
        return 1
    # A power of two, as the numbers of experts are.
    return 1 << min(max(fits, 2), MOST).bit_length() - 1


def orthogonalise(
    stack: Tensor,
    coefficients: Coefficients = "polar5",
    dtype: torch.dtype | None = None,
    *,
    batched: bool | None = None,
) -> Tensor:
    """[n, rows, columns] -> the same shape and dtype: each matrix with its singular values near 1.

    Computed in `dtype` (None: `default_dtype`); norms in fp32, whatever their scale. A matrix of zeros stays zero. How
    near 1: `coefficients.INTERVALS`. `batched` chooses between one product of many matrices and a loop over them; None
    takes what was measured to be faster for the shape. Raises UsageError for anything but a stack, or an unknown name.
    """
    return orthogonalise_all([stack], coefficients, dtype, batched=batched)[0]


def orthogonalise_all(
    stacks: Sequence[Tensor],
    coefficients: Coefficients = "polar5",
    dtype: torch.dtype | None = None,
    *,
    batched: bool | None = None,
    in_place: bool = False,
) -> list[Tensor]:
    """The same for stacks [n_i, rows, columns] of one shape, dtype and device: as if they were one stack, without
    copying them together. `in_place` writes over them, and returns them: fresh memory costs more than it seems."""
    sequence = steps(coefficients)
    for stack in stacks:
        if stack.dim() != 3:
            raise UsageError(
                f"Newton-Schulz takes stacks [n, rows, columns], not a tensor of shape {list(stack.shape)}"
            )
        if stack.shape[1:] != stacks[0].shape[1:]:
            raise UsageError(f"one stack has matrices {list(stack.shape[1:])}, another {list(stacks[0].shape[1:])}")
    results = list(stacks)
    if not in_place:
        results = [torch.empty_like(stack, memory_format=torch.contiguous_format) for stack in stacks]
    if not stacks or stacks[0].shape[1:].numel() == 0:
        return results
    _, rows, columns = stacks[0].shape
    # The smaller side first: the products are of that side.
    wide = [(_wide(stack), _wide(result)) for stack, result in zip(stacks, results, strict=True)]
    dtype = dtype or default_dtype(stacks[0].device)
    size = group_size(rows, columns, dtype, stacks[0].device, batched)
    buffers = _Buffers.of(size, min(rows, columns), max(rows, columns), dtype, stacks[0])
    with torch.no_grad():
        for group in _groups(wide, size):
            _orthogonalise_group(group, buffers, sequence)
    return results


class _Buffers(NamedTuple):
    """What one group is computed in: given [size, rows, columns] in fp32 at least; x and y alike, and the Gram matrix
    and its polynomial [size, rows, rows], in the working dtype. `given` is x where the dtypes are one."""

    given: Tensor
    x: Tensor
    y: Tensor
    gram: Tensor
    polynomial: Tensor

    @classmethod
    def of(cls, size: int, rows: int, columns: int, dtype: torch.dtype, like: Tensor) -> _Buffers:
        x, y = (like.new_empty(size, rows, columns, dtype=dtype) for _ in range(2))
        gram, polynomial = (like.new_empty(size, rows, rows, dtype=dtype) for _ in range(2))
        exact = torch.promote_types(like.dtype, torch.float32)
        given = x if dtype == exact else like.new_empty(size, rows, columns, dtype=exact)
        return cls(given, x, y, gram, polynomial)


class _Piece(NamedTuple):
    """Some matrices of a group: where they lie in it, in their stack, and where the result goes."""

    at: int
    given: Tensor
    result: Tensor


def _wide(stack: Tensor) -> Tensor:
    return stack.mT if stack.shape[1] > stack.shape[2] else stack


def _groups(stacks: Sequence[tuple[Tensor, Tensor]], size: int) -> Iterator[list[_Piece]]:
    """The matrices of all stacks in order, `size` at a time; the last group may hold fewer."""
    group: list[_Piece] = []
    filled = 0
    for given, result in stacks:
        start = 0
        while start < len(given):
            count = min(size - filled, len(given) - start)
            group.append(_Piece(filled, given[start : start + count], result[start : start + count]))
            start += count
            filled += count
            if filled == size:
                yield group
                group, filled = [], 0
    if group:
        yield group


def _orthogonalise_group(group: Sequence[_Piece], buffers: _Buffers, sequence: Sequence[Step]) -> None:
    filled = 0
    for at, given, _ in group:
        filled = at + len(given)
        buffers.given[at:filled].copy_(given)
    buffers.given[filled:].zero_()
    _normalise(buffers.given, buffers.x)
    x = _iterate(buffers, sequence)
    for at, given, result in group:
        result.copy_(x[at : at + len(given)])


def _normalise(given: Tensor, out: Tensor) -> None:
    """Each matrix over its Frobenius norm. `given` is overwritten, and may be `out`.

    First over its largest number, for the squares of 1e30 and of 1e-30 are no fp32; the norm is then 1 at least, but
    that of zeros. Products, for quotients take twice as long.
    """
    flat = given.flatten(1)
    largest = torch.maximum(flat.amax(dim=1, keepdim=True), -flat.amin(dim=1, keepdim=True))
    flat.mul_(largest.clamp_(min=TINY).reciprocal_())
    norm = torch.linalg.vector_norm(flat, dim=1, keepdim=True)
    flat.mul_(norm.clamp_(min=1.0).reciprocal_())
    if out is not given:
        out.copy_(given)


def _iterate(buffers: _Buffers, sequence: Sequence[Step]) -> Tensor:
    """The steps; the result [size, rows, columns] lies in one of the buffers."""
    _, x, y, gram, polynomial = buffers
    product: Callable[..., Tensor] = torch.bmm
    added: Callable[..., Tensor] = torch.baddbmm
    if len(x) == 1:
        x, y, gram, polynomial = x[0], y[0], gram[0], polynomial[0]
        product, added = torch.mm, torch.addmm
    for a, b, c in sequence:
        product(x, x.mT, out=gram)
        added(gram, gram, gram, beta=b, alpha=c, out=polynomial)
        added(x, polynomial, x, beta=a, out=y)
        x, y = y, x
    return x.view_as(buffers.x)
