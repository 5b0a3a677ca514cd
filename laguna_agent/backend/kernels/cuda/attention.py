"""Decode attention on a GPU: tokens into the cache, the keys that they see in pieces, and the pieces joined.

The sources are `attention.cuh` and `kv.cuh`. The kernels reach the cache through addresses (`laguna/cache_storage.py`,
`Run.places`), so that one launch, and the graph it is part of, serves caches that come and go. Torch cannot read by
address: where `place` or `attend` is found wrong on a GPU, whoever has the cache's tensors computes the layer with
`kernels/attention.py` instead; `turned`, `encoded` and `merged` below are what these kernels mean. Knows formats and
addresses of keys; must not know caches or layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from laguna_agent.backend.kernels.cuda.cases import Case
from laguna_agent.backend.kernels.cuda.geometry import GateKind, Geometry
from laguna_agent.backend.kernels.cuda.launch import Kernel, Pointer, Value

MOST_RUNS = 8
"""Places at most in which the keys of one sequence may lie."""
RUN_FIELDS = 7
"""Of each: addresses of k, v and their scales, slots from one head to the next, first position, count of positions."""
PIECE = 32
"""The keys that a row sees are divided into pieces of a multiple of so many."""
SOURCE = "attention.cuh"
_LOAD, _WARP, _WARPS = 16, 32, 4
_MOST_SHARED = 48 << 10
_ACCUMULATORS = 48
"""Numbers that a lane holds for the values of all its heads."""

_RESIDENT = 512
"""Threads that should fit on a multiprocessor: 128 registers for each, which is what no shape needs to spill."""

KVName = Literal["f32", "f16", "bf16", "int8", "fp8"]


class KVKind(NamedTuple):
    """A cache format as the kernels know it; `largest` and `scaled` as `laguna/cache_format.py` has them."""

    spelled: str
    dtype: torch.dtype
    largest: float
    scaled: bool = False


KINDS: dict[KVName, KVKind] = {
    "f32": KVKind("laguna::KvF32", torch.float32, torch.finfo(torch.float32).max),
    "f16": KVKind("laguna::KvF16", torch.float16, torch.finfo(torch.float16).max),
    "bf16": KVKind("laguna::KvBf16", torch.bfloat16, torch.finfo(torch.bfloat16).max),
    "int8": KVKind("laguna::KvInt8", torch.int8, 127, scaled=True),
    "fp8": KVKind("laguna::KvFp8", torch.float8_e4m3fn, torch.finfo(torch.float8_e4m3fn).max, scaled=True),
}


def _places(tokens: int) -> tuple[Pointer, Pointer, Pointer]:
    return (
        Pointer("runs", "long long", tokens * MOST_RUNS * RUN_FIELDS),
        Pointer("counts", "int", tokens),
        Pointer("positions", "int", tokens),
    )


def place(tokens: int, heads: int, kv_heads: int, head_dim: int, rotary: int, kv: KVName, *, norms: bool) -> Kernel:
    """Norm, rope and the cache (sections 2c, 2d, 3 and 4) for `tokens` rows.

    q fp32 [tokens, heads, head_dim] is turned in place; k and v [tokens, kv_heads, head_dim] go, encoded, into the last
    run of their row, at its position; with `norms`, q and k are normed with q_norm and k_norm [head_dim] before. cos
    and sin: fp32 [tokens, rotary / 2]. A row whose `counts` is 0 is left alone. Raises ValueError where rotary is odd
    or more than a head.
    """
    if rotary % 2 or not 0 <= rotary <= head_dim:
        raise ValueError(f"{rotary} of {head_dim} dimensions cannot turn: expected an even number of them")
    own = tokens * kv_heads * head_dim
    parameters: tuple[Pointer | Value, ...] = (
        Pointer("q", "float", tokens * heads * head_dim, "update"),
        Pointer("k", "float", own),
        Pointer("v", "float", own),
        Pointer("cos", "float", tokens * rotary // 2),
        Pointer("sin", "float", tokens * rotary // 2),
        *_places(tokens),
    )
    if norms:
        weights = (Pointer("q_norm", "float", head_dim), Pointer("k_norm", "float", head_dim))
        parameters = (*parameters, *weights, Value("eps", "float"))
    flag = "true" if norms else "false"
    call = f"laguna::place<{KINDS[kv].spelled}, {heads}, {kv_heads}, {head_dim}, {rotary}, {flag}>"
    grid = (-(-(heads + 2 * kv_heads) // _WARPS), tokens, 1)
    return Kernel("place", SOURCE, call, parameters, grid, _WARPS * _WARP, shared=_WARPS * head_dim * 4)


class _Lay(NamedTuple):
    """How a block of `attend` divides its work: see `attention.cuh`."""

    lanes: int
    sets: int
    warps: int
    shared: int


def _lay(group: int, head_dim: int, kv: KVName) -> _Lay:
    row = head_dim * KINDS[kv].dtype.itemsize
    if row % _LOAD:
        raise ValueError(f"keys of {head_dim} {kv} numbers are not whole loads of {_LOAD} bytes")
    loads = row // _LOAD
    lanes = min(_WARP, 1 << (loads - 1).bit_length())
    own = -(-loads // lanes) * _LOAD // KINDS[kv].dtype.itemsize
    sets = -(-group // min(9, max(1, _ACCUMULATORS // own)))
    held, warps, staged = -(-group // sets), max(1, _WARPS // sets), lanes * own
    shared = max(sets * held * staged, sets * warps * held * (staged + 4)) * 4
    if shared > _MOST_SHARED or sets * warps > _WARP:
        raise ValueError(f"{group} heads of {head_dim} dimensions on one KV head do not fit into a block")
    return _Lay(lanes, sets, warps, shared)


def attend(tokens: int, heads: int, kv_heads: int, head_dim: int, window: int, splits: int, kv: KVName) -> Kernel:
    """Attention of q fp32 [tokens, heads, head_dim] over the runs of each row (section 2e), in `splits` pieces.

    A row sees the positions p <= its own, with a `window` (0: none) those with position - p < window. partial fp32
    [tokens, heads, splits, 2 + head_dim]: of each piece the largest score, the sum of the weights relative to it, and
    the values summed with these; -inf, 0 and zeros where a piece is empty or the row dead. Raises ValueError for a
    geometry that the kernel cannot have.
    """
    if heads % kv_heads:
        raise ValueError(f"{heads} query heads cannot share {kv_heads} KV heads")
    lay = _lay(heads // kv_heads, head_dim, kv)
    parameters = (
        Pointer("q", "float", tokens * heads * head_dim),
        *_places(tokens),
        Pointer("partial", "float", tokens * heads * splits * (head_dim + 2), "write"),
    )
    sizes = f"{heads}, {kv_heads}, {head_dim}, {window}, {splits}, {lay.sets}, {lay.warps}, {lay.lanes}"
    call = f"laguna::attend<{KINDS[kv].spelled}, {sizes}>"
    threads = lay.sets * lay.warps * _WARP
    grid, blocks = (kv_heads, splits, tokens), max(1, _RESIDENT // threads)
    return Kernel("attend", SOURCE, call, parameters, grid, threads, shared=lay.shared, blocks=blocks)


def merge(tokens: int, heads: int, head_dim: int, splits: int, gate: GateKind | None) -> Kernel:
    """out fp32 [tokens, heads, head_dim] of the pieces of `attend`, times softplus(gate) (section 2f) where there is
    one, gate fp32 [tokens, heads] or [tokens, heads * head_dim]; zeros for a row all of whose pieces are empty."""
    rows = {None: 0, "per-head": 1, "per-element": head_dim}[gate]
    parameters: tuple[Pointer, ...] = (
        Pointer("partial", "float", tokens * heads * splits * (head_dim + 2)),
        Pointer("out", "float", tokens * heads * head_dim, "write"),
    )
    if rows:
        parameters = (*parameters, Pointer("gate", "float", tokens * heads * rows))
    call = f"laguna::merge<{heads}, {head_dim}, {splits}, {rows}>"
    threads = -(-head_dim // _WARP) * _WARP
    return Kernel("merge", SOURCE, call, parameters, (heads, tokens, 1), threads, shared=(splits + 1) * 4)


def turned(x: Tensor, cos: Tensor, sin: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """What `place` makes of q or k [tokens, heads, head_dim], in x's dtype: the norm where it has a weight, and rope
    with cos and sin [tokens, rotary / 2]."""
    if weight is not None:
        x = weight.to(x.dtype) * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps))
    cos, sin = cos.to(x.dtype)[:, None, :], sin.to(x.dtype)[:, None, :]
    half = cos.shape[-1]
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat((a * cos - b * sin, b * cos + a * sin, rest), dim=-1)


def encoded(x: Tensor, kv: KVName) -> tuple[Tensor, Tensor | None]:
    """What `place` stores of x fp32 [..., head_dim]: codes, and where the format has them scales fp32 [...]."""
    kind = KINDS[kv]
    if not kind.scaled:
        return (x.clamp(-kind.largest, kind.largest) if kv == "f16" else x).to(kind.dtype), None
    scale = x.abs().amax(-1) / kind.largest
    codes = x / scale.clamp_min(1e-30)[..., None]
    if kv == "int8":
        return codes.round().to(kind.dtype), scale
    return codes.clamp(-kind.largest, kind.largest).to(kind.dtype), scale


def pieces(q: Tensor, k: Tensor, v: Tensor, splits: int) -> Tensor:
    """What `attend` makes of a row: q [heads, head_dim] and all keys and values that it sees, [kv_heads, n, head_dim],
    give [heads, splits, 2 + head_dim]; the first of them is the first of the first piece."""
    heads, seen = q.shape[0], k.shape[1]
    groups = heads // k.shape[0]
    k, v = k.repeat_interleave(groups, 0), v.repeat_interleave(groups, 0)
    scores = (k @ q[..., None])[..., 0] * q.shape[1] ** -0.5
    out = q.new_zeros(heads, splits, 2 + q.shape[1])
    out[..., 0] = -torch.inf
    each = -(-seen // splits)
    size = -(-each // PIECE) * PIECE
    for split in range(-(-seen // size)):
        part = slice(split * size, (split + 1) * size)
        largest = scores[:, part].amax(-1, keepdim=True)
        weights = torch.exp(scores[:, part] - largest)
        values = (weights[:, None] @ v[:, part])[:, 0]
        out[:, split] = torch.cat((largest, weights.sum(-1, keepdim=True), values), dim=-1)
    return out


def merged(partial: Tensor, gate: Tensor | None = None) -> Tensor:
    """What `merge` makes of partial [tokens, heads, splits, 2 + head_dim] and gate [tokens, heads, 1 or head_dim]:
    [tokens, heads, head_dim] in partial's dtype."""
    largest, sums, values = partial[..., 0], partial[..., 1], partial[..., 2:]
    whole = largest.amax(-1, keepdim=True)
    factor = torch.exp(largest - torch.where(whole == -torch.inf, 0.0, whole))
    total = (factor * sums).sum(-1)[..., None]
    out = torch.where(total == 0, 0.0, (factor[..., None] * values).sum(-2) / total)
    return out if gate is None else out * torch.nn.functional.softplus(gate.to(out.dtype))


def cases(geometry: Geometry | None, seed: int = 0) -> Iterator[Case]:
    """Known calls of the three kernels; see `cases.py`."""
    from laguna_agent.backend.kernels.cuda.attention_cases import attention_cases

    yield from attention_cases(geometry, seed)
