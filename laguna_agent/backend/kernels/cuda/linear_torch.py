"""What the kernels of `linear.py` mean, in plain torch on the same tensors: the expected values of their cases in
fp64, and in fp32 what runs in a kernel's place on a GPU where that is found wrong.

Every function takes a launch's arguments by name and returns what it would write, by name; nothing is written and
nothing waits for the device. Knows matrices; must not know kernels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import silu

from laguna_agent.backend.kernels.cuda.launch import Argument
from laguna_agent.backend.kernels.cuda.matrices import MatrixKind, stored
from laguna_agent.backend.kernels.formats import PackedTensor
from laguna_agent.backend.kernels.reference import dequantise, linear

Given = Mapping[str, Argument]


def matrix_of(given: Given, name: str, kind: MatrixKind) -> PackedTensor:
    """The matrix whose parameters begin with `name`."""
    codes, scales, extra = (cast("Tensor | None", given.get(f"{name}_{part}")) for part in ("codes", "scales", "extra"))
    assert codes is not None
    return stored(kind, codes, scales, extra)


def normed_x(given: Given, tokens: int, columns: int, norm: bool, dtype: torch.dtype) -> Tensor:
    """x [tokens, columns] in `dtype`, through the RMS norm where there is one (specification, section 2)."""
    x = cast(Tensor, given["x"]).reshape(-1)[: tokens * columns].view(tokens, columns).to(dtype)
    if not norm:
        return x
    eps, weight = cast(float, given["eps"]), cast(Tensor, given["norm_weight"])
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight[:columns].to(dtype)


def joined(
    given: Given,
    tokens: int,
    segments: Sequence[tuple[str, MatrixKind, bool]],
    *,
    norm: bool = False,
    add: bool = False,
    normed: bool = False,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """`linear.joined`; `segments`: name, kind and whether it has a bias."""
    columns = segments[0][1].columns
    x = normed_x(given, tokens, columns, norm, dtype)
    written = {"normed_out": x} if normed else {}
    for name, kind, bias in segments:
        out = linear(x, matrix_of(given, name, kind), cast(Tensor, given[f"{name}_bias"]) if bias else None)
        if add:
            out = out + cast(Tensor, given[f"{name}_out"]).view_as(out).to(dtype)
        written[f"{name}_out"] = out
    return written


def gated(
    given: Given,
    tokens: int,
    gate: MatrixKind,
    up: MatrixKind,
    *,
    norm: bool = False,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """`linear.gated`."""
    x = normed_x(given, tokens, gate.columns, norm, dtype)
    return {"out": silu(linear(x, matrix_of(given, "gate", gate))) * linear(x, matrix_of(given, "up", up))}


def embed(given: Given, table: MatrixKind, *, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """`linear.embed`."""
    ids = cast(Tensor, given["ids"])
    known = (ids >= 0) & (ids < table.rows)
    rows = dequantise(matrix_of(given, "table", table)[torch.where(known, ids, 0).long()], dtype)
    return {"out": torch.where(known[:, None], rows, torch.nan)}
