"""Exact dequantisation, and products with packed weights in plain torch: what every fast kernel is held against.

Dequantised values are the format's formula in fp32 with nothing rounded on the way, so they equal what the
checkpoint's maker computed. Products dequantise first and multiply in `x`'s dtype: correct everywhere, fast nowhere,
and never more than `CHUNK` values are dequantised at a time, so that a vocabulary needs no copy in fp32.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from laguna_agent.backend.kernels.formats import Fp8, Ggml, GroupInt, Nvfp4, PackedTensor, Plain, Tiled, Weight
from laguna_agent.backend.kernels.ggml_blocks import decode
from laguna_agent.backend.kernels.tiles import rows_of, untile

CHUNK = 1 << 24
FP4_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)


def unpack_nibbles(codes: Tensor, columns: int) -> Tensor:
    """uint8 [..., ceil(columns/2)] -> uint8 [..., columns]: low nibble = even column."""
    return torch.stack((codes & 15, codes >> 4), -1).flatten(-2)[..., :columns]


def spread(scales: Tensor, group: int, columns: int) -> Tensor:
    """[..., groups] -> fp32 [..., columns]: each scale on the columns of its group."""
    # A group may be wider than the row that it is meant for as a whole.
    return scales.float().repeat_interleave(min(group, columns), -1)[..., :columns]


def dequantise(weight: Weight, dtype: torch.dtype = torch.float32) -> Tensor:
    """The values of `weight`, computed in fp32 and rounded once to `dtype`; same shape."""
    if isinstance(weight, Tensor):
        return weight.to(dtype)
    columns, parts = weight.shape[-1], weight.parts
    match weight.format:
        case Plain():
            values = parts["values"]
        case GroupInt(bits, group, _, minimums):
            codes = parts["codes"] if bits == 8 else unpack_nibbles(parts["codes"], columns)
            # Without a minimum the zero of int4 is 8: codes are offset binary.
            zeroed = codes.float() - (8 if bits == 4 and not minimums else 0)
            values = zeroed * spread(parts["scales"], group, columns)
            if minimums:
                values += spread(parts["minimums"], group, columns)
        case Tiled():
            return dequantise(untile(weight), dtype)
        case Fp8(group):
            values = parts["codes"].float() * spread(parts["scales"], group, columns)
        case Nvfp4():
            table = torch.tensor(FP4_VALUES, device=weight.device)
            scales = parts["scales"].float() / parts["divisors"]
            values = table[unpack_nibbles(parts["codes"], columns).long()] * spread(scales, Nvfp4.GROUP, columns)
        case Ggml(kind):
            values = decode(kind, parts["blocks"])
        case other:
            raise TypeError(f"no dequantisation for {other!r}")
    return values.to(dtype)


def linear(x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
    """y = x W^T + b: x [..., columns], weight [rows, columns], bias [rows] -> [..., rows] in x's dtype."""
    bias = None if bias is None else bias.to(x.dtype)
    if isinstance(weight, Tensor):
        return torch.nn.functional.linear(x, weight.to(x.dtype), bias)
    rows, columns = weight.shape
    together = weight.format.rows_together
    step = max(1, CHUNK // columns // together) * together
    pieces = [
        torch.nn.functional.linear(x, dequantise(weight[start : start + step], x.dtype))
        for start in range(0, rows, step)
    ]
    y = pieces[0] if len(pieces) == 1 else torch.cat(pieces, -1)
    return y if bias is None else y + bias


def expert_linear(x: Tensor, weight: Weight, experts: Tensor) -> Tensor:
    """y[n] = x[n] W[experts[n]]^T: x [N, columns], weight [E, rows, columns], experts int [N] -> [N, rows].

    Every expert's rows are multiplied together, in ascending order of experts; experts that nobody chose are not
    touched.
    """
    if not len(experts):
        return x.new_empty(0, weight.shape[1])
    order = torch.argsort(experts, stable=True)
    counts = torch.bincount(experts).tolist()
    groups = zip(range(len(counts)), torch.split(x[order], counts), strict=True)
    grouped = torch.cat([linear(rows, weight[expert]) for expert, rows in groups if len(rows)])
    # Back from the experts' order to the caller's, without writing in place: gradients pass.
    return grouped[torch.argsort(order)]


def experts(
    x: Tensor,
    gate_up: Weight,
    down: Weight,
    picked: Tensor,
    share: Tensor,
    product: Callable[[Tensor, Weight, Tensor], Tensor] = expert_linear,
) -> Tensor:
    """Sum over each token's picked experts e of share_e * down_e(silu(gate_e x) * (up_e x)) (section 2i).

    x [tokens, hidden], gate_up [E, 2 * inner, hidden] with the gate's rows first, down [E, hidden, inner], picked int
    [tokens, k], share [tokens, k] in x's dtype. Returns [tokens, hidden]. `product` multiplies as `expert_linear`.
    """
    tokens, per_token = picked.shape
    pairs = picked.flatten()
    gate, up = product(x.repeat_interleave(per_token, 0), gate_up, pairs).chunk(2, dim=-1)
    y = product(torch.nn.functional.silu(gate) * up, down, pairs)
    return (y.view(tokens, per_token, x.shape[-1]) * share[..., None]).sum(1)


def embedding(ids: Tensor, weight: Weight, dtype: torch.dtype = torch.float32) -> Tensor:
    """Rows of weight [rows, columns] for ids int [...] -> [..., columns] in `dtype`."""
    flat = ids.flatten()
    if isinstance(weight, PackedTensor) and isinstance(weight.format, Tiled):
        rows: Weight = rows_of(weight, flat)
    else:
        rows = weight[flat]
    return dequantise(rows, dtype).reshape(*ids.shape, weight.shape[-1])
