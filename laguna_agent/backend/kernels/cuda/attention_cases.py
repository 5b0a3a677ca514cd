"""Known calls of `place`, `attend` and `merge`: caches in several runs, made and read in plain torch in fp64.

What a row must not see is NaN, what it must not follow are addresses of nothing, and some runs have most of their slots
cut off in front, so that what is seen lies gigabytes behind the address that the kernel is given. Knows what the
kernels mean; must not know who calls them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from laguna_agent.backend.kernels.cuda.attention import (
    KINDS,
    MOST_RUNS,
    RUN_FIELDS,
    KVName,
    attend,
    encoded,
    merge,
    merged,
    pieces,
    place,
    turned,
)
from laguna_agent.backend.kernels.cuda.cases import Case, Put
from laguna_agent.backend.kernels.cuda.geometry import GateKind, Geometry
from laguna_agent.backend.kernels.cuda.launch import Argument

NOWHERE = 16
"""An address that nobody may read."""
EPS = 1e-6
_CANDIDATES = 64


class Heads(NamedTuple):
    """Sizes of an attention layer."""

    heads: int
    kv_heads: int
    head_dim: int


class Stretch(NamedTuple):
    """Positions `first` to `first + length` in one run, with `spare` slots behind them; of these positions the first
    `hidden` have no memory."""

    first: int
    length: int
    spare: int = 0
    hidden: int = 0


class Row(NamedTuple):
    """A token at `position` that sees the runs numbered `runs`; dead where there are none."""

    position: int
    runs: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Kept:
    """One run: codes [kv_heads, slots, head_dim] and scales [kv_heads, slots] or None."""

    stretch: Stretch
    parts: Mapping[str, Tensor | None]

    def numbers(self, name: str) -> Tensor:
        """Keys ("k") or values ("v") in fp64."""
        codes, scale = self.parts[name], self.parts[f"{name}_scale"]
        assert codes is not None
        return codes.double() if scale is None else codes.double() * scale.double()[..., None]


def _kept(stretch: Stretch, sizes: Heads, kv: KVName, chance: Generator) -> Kept:
    """Random numbers in the positions that exist, no numbers in the spare slots."""
    slots = stretch.length - stretch.hidden + stretch.spare
    parts: dict[str, Tensor | None] = {}
    for name in "kv":
        codes, scale = encoded(torch.randn(sizes.kv_heads, slots, sizes.head_dim, generator=chance), kv)
        if stretch.spare:
            (codes if scale is None else scale)[:, slots - stretch.spare :] = torch.nan
        parts |= {name: codes, f"{name}_scale": scale}
    return Kept(stretch, parts)


def _address(tensor: Tensor | None, hidden: int) -> int:
    """Where slot 0 would be if the hidden ones were there."""
    return 0 if tensor is None else tensor.data_ptr() - hidden * tensor[0, 0].nbytes


def _placed(kept: Sequence[Kept], rows: Sequence[Row], put: Put) -> dict[str, Argument]:
    """The runs' tensors by name, and the three tensors that lead the kernels to them."""
    found: dict[str, Argument] = {}
    places = []
    for index, run in enumerate(kept):
        parts = {name: None if part is None else put(part) for name, part in run.parts.items()}
        found |= {f"run{index}_{name}": part for name, part in parts.items() if part is not None}
        first, count, _, hidden = run.stretch
        at = [_address(parts[name], hidden) for name in ("k", "v", "k_scale", "v_scale")]
        assert run.parts["k"] is not None
        places.append([*at, run.parts["k"].shape[1], first, count])
    runs = torch.full((len(rows), MOST_RUNS, RUN_FIELDS), NOWHERE, dtype=torch.int64)
    for t, row in enumerate(rows):
        for index, number in enumerate(row.runs):
            runs[t, index] = torch.tensor(places[number])
    counts = torch.tensor([len(row.runs) for row in rows], dtype=torch.int32)
    positions = torch.tensor([row.position for row in rows], dtype=torch.int32)
    return found | {"runs": put(runs), "counts": put(counts), "positions": put(positions)}


def _seen(kept: Sequence[Kept], row: Row, low: int) -> tuple[Tensor, Tensor]:
    """Keys and values fp64 [kv_heads, n, head_dim] of the positions `low` to the row's own."""
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    for number in row.runs:
        first, count, _, hidden = kept[number].stretch
        begin, end = max(low, first), min(row.position + 1, first + count)
        if begin < end:
            for name, parts in zip("kv", found, strict=True):
                parts.append(kept[number].numbers(name)[:, begin - first - hidden : end - first - hidden])
    return torch.cat(found[0], dim=1), torch.cat(found[1], dim=1)


def attend_case(
    label: str,
    sizes: Heads,
    kv: KVName,
    stretches: Sequence[Stretch],
    rows: Sequence[Row],
    *,
    window: int = 0,
    splits: int = 3,
    seed: int = 0,
) -> Case:
    """Rows over runs; what is expected are the pieces."""
    chance = torch.Generator().manual_seed(seed)
    kept = [_kept(stretch, sizes, kv, chance) for stretch in stretches]
    q = 2 * torch.randn(len(rows), sizes.heads, sizes.head_dim, generator=chance)
    wanted = torch.zeros(len(rows), sizes.heads, splits, sizes.head_dim + 2, dtype=torch.float64)
    wanted[..., 0] = -torch.inf
    for t, row in enumerate(rows):
        if row.runs:
            low = max(0, row.position - window + 1) if window else 0
            wanted[t] = pieces(q[t].double(), *_seen(kept, row, low), splits)

    def bind(put: Put) -> Mapping[str, Argument]:
        partial = torch.full(wanted.shape, torch.nan)
        return _placed(kept, rows, put) | {"q": put(q), "partial": put(partial)}

    kernel = attend(len(rows), *sizes, window, splits, kv)
    return Case(f"attend {label}: {kv}", kernel, bind, {"partial": wanted})


def _reach(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The sum of the sizes of what rope adds up: roundings are relative to that."""
    x, c, s = x.abs(), cos.double().abs()[..., None, :], sin.double().abs()[..., None, :]
    half = cos.shape[-1]
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat((a * c + b * s, b * c + a * s, rest), dim=-1)


def _steady(x: Tensor, reach: Tensor, kv: KVName) -> Tensor:
    """Of heads [..., head_dim] whether roundings cannot change a code: the kernel computes in fp32."""
    kind = KINDS[kv]
    scale = x.abs().amax(-1, keepdim=True) / kind.largest if kind.scaled else torch.ones(1, dtype=torch.float64)
    both = [((x + sign * 5e-7 * reach) / scale).float().clamp(-kind.largest, kind.largest) for sign in (-1, 1)]
    low, high = ((each.round() if kv == "int8" else each).to(kind.dtype).double() for each in both)
    return (low == high).all(-1)


def _steady_keys(
    shape: tuple[int, int, int], weight: Tensor | None, cos: Tensor, sin: Tensor, kv: KVName, chance: Generator
) -> Tensor:
    """Random keys fp32 [tokens, kv_heads, head_dim] that no two right ways of rounding encode differently."""
    drawn = torch.randn(_CANDIDATES, *shape, generator=chance)
    if kv == "f32":
        return drawn[0]
    normed = drawn.double() if weight is None else turned(drawn.double(), cos[:, :0], sin[:, :0], weight, EPS)
    steady = _steady(turned(normed, cos, sin, None, EPS), _reach(normed, cos, sin), kv)
    assert bool(steady.any(0).all()), "no candidate is far enough from where its codes change"
    index = steady.int().argmax(0)
    return drawn.gather(0, index[None, ..., None].expand(1, *shape))[0]


def place_case(
    label: str,
    sizes: Heads,
    rotary: int,
    kv: KVName,
    stretches: Sequence[Stretch],
    rows: Sequence[Row],
    *,
    norms: bool = True,
    size: float = 1.0,
    seed: int = 0,
) -> Case:
    """Rows into the last of their runs; what is expected are q and everything that these runs hold. Values are `size`
    large."""
    chance = torch.Generator().manual_seed(seed)
    kept = [_kept(stretch, sizes, kv, chance) for stretch in stretches]
    tokens, own = len(rows), (len(rows), sizes.kv_heads, sizes.head_dim)
    weights = [1 + 0.2 * torch.randn(sizes.head_dim, generator=chance) if norms else None for _ in "qk"]
    angles = 6.3 * torch.rand(tokens, rotary // 2, generator=chance)
    cos, sin = 1.3 * angles.cos(), 1.3 * angles.sin()
    q = torch.randn(tokens, sizes.heads, sizes.head_dim, generator=chance)
    k = _steady_keys(own, weights[1], cos, sin, kv, chance)
    v = size * torch.randn(own, generator=chance)
    v[0, 0] = 0.0
    wanted = {"q": torch.where(_alive(rows), turned(q.double(), cos, sin, weights[0], EPS), q.double())}
    turned_k = turned(k.double(), cos, sin, weights[1], EPS)
    for index, run in enumerate(kept):
        wanted |= {f"run{index}_{name}": part.double() for name, part in run.parts.items() if part is not None}
    for t, row in enumerate(rows):
        if row.runs:
            _write(wanted, row, kept[row.runs[-1]].stretch, {"k": turned_k[t], "v": v[t].double()}, kv)

    def bind(put: Put) -> Mapping[str, Argument]:
        given = {"q": put(q), "k": put(k), "v": put(v), "cos": put(cos), "sin": put(sin)}
        normed = {f"{name}_norm": put(weight) for name, weight in zip("qk", weights, strict=True) if weight is not None}
        return _placed(kept, rows, put) | given | normed | ({"eps": EPS} if norms else {})

    kernel = place(tokens, *sizes, rotary, kv, norms=norms)
    return Case(f"place {label}: {kv}", kernel, bind, wanted)


def _alive(rows: Sequence[Row]) -> Tensor:
    return torch.tensor([bool(row.runs) for row in rows])[:, None, None]


def _write(wanted: dict[str, Tensor], row: Row, stretch: Stretch, own: Mapping[str, Tensor], kv: KVName) -> None:
    """Put a row's keys and values fp64 [kv_heads, head_dim] where they are expected."""
    slot = row.position - stretch.first - stretch.hidden
    for name, x in own.items():
        codes, _ = encoded(x.float(), kv)
        wanted[f"run{row.runs[-1]}_{name}"][:, slot] = x if kv == "f32" else codes.double()
        if KINDS[kv].scaled:
            wanted[f"run{row.runs[-1]}_{name}_scale"][:, slot] = x.abs().amax(-1) / KINDS[kv].largest


def merge_case(
    label: str, tokens: int, heads: int, head_dim: int, splits: int, gate: GateKind | None, *, seed: int = 0
) -> Case:
    """Random pieces, some of them empty, all of them of one head of the last row."""
    chance = torch.Generator().manual_seed(seed)
    partial = torch.randn(tokens, heads, splits, head_dim + 2, generator=chance)
    partial[..., 0] *= 5
    partial[..., 1] = 1 + 30 * partial[..., 1].abs()
    empty = torch.rand(tokens, heads, splits, generator=chance) < 0.2
    empty[-1, -1] = True
    partial[empty] = torch.tensor([-torch.inf] + [0.0] * (head_dim + 1))
    rows = {None: 0, "per-head": 1, "per-element": head_dim}[gate]
    opened = 12 * torch.randn(tokens, heads, rows, generator=chance)
    wanted = merged(partial.double(), opened.double() if rows else None)

    def bind(put: Put) -> Mapping[str, Argument]:
        out = put(torch.full(wanted.shape, torch.nan))
        return {"partial": put(partial), "out": out} | ({"gate": put(opened)} if rows else {})

    return Case(f"merge {label}: {gate}", merge(tokens, heads, head_dim, splits, gate), bind, {"out": wanted})


FULL_SPLITS, WINDOW_SPLITS = 32, 16


def attention_cases(geometry: Geometry | None, seed: int = 0) -> Iterator[Case]:
    """See `cases.py`."""
    if geometry is None:
        yield from _small_merge(seed)
        yield from _small_place(seed)
        yield from _small_attend(seed)
        return
    sizes = dict.fromkeys((layer.heads, layer.rotary, layer.window, layer.gate) for layer in geometry.layers)
    for heads, rotary, window, gate in sizes:
        splits, shape = WINDOW_SPLITS if window else FULL_SPLITS, Heads(heads, geometry.kv_heads, geometry.head_dim)
        yield from _real(shape, rotary, window, gate, splits, seed)


def _real(sizes: Heads, rotary: int, window: int, gate: GateKind | None, splits: int, seed: int) -> Iterator[Case]:
    """A layer of a model: two rows of one sequence, one of another, and a dead one."""
    label = f"{sizes.heads} heads, window {window}"
    stretches = (Stretch(0, 400), Stretch(400, 411, 5), Stretch(0, 90, 6))
    rows = (Row(809, (0, 1)), Row(810, (0, 1)), Row(89, (2,)), Row(7, ()))
    for kv in KINDS:
        yield place_case(label, sizes, rotary, kv, stretches, rows, seed=seed)
        yield attend_case(label, sizes, kv, stretches, rows, window=window, splits=splits, seed=seed)
    yield merge_case(label, len(rows), sizes.heads, sizes.head_dim, splits, gate, seed=seed)


def _small_attend(seed: int) -> Iterator[Case]:
    # A draft of one sequence over three runs, whose last token's keys lie there already; a sequence of its own; a dead.
    stretches = (Stretch(0, 37), Stretch(37, 1, 2), Stretch(38, 60), Stretch(0, 5, 3))
    rows = (Row(94, (0, 1, 2)), Row(97, (0, 1, 2)), Row(4, (3,)), Row(9, ()))
    for kv in KINDS:
        yield attend_case("runs", Heads(4, 2, 16), kv, stretches, rows, seed=seed)
        yield attend_case("window", Heads(6, 2, 32), kv, stretches, rows, window=41, splits=2, seed=seed + 1)
    yield attend_case("nine heads", Heads(18, 2, 64), "int8", stretches, rows[1:2], splits=1, seed=seed + 2)
    yield attend_case("odd heads", Heads(7, 1, 80), "f16", stretches, rows[1:2], splits=2, seed=seed + 3)
    yield attend_case("idle lanes", Heads(3, 1, 96), "fp8", stretches, rows[:1], splits=4, seed=seed + 4)
    yield attend_case("two loads a lane", Heads(2, 1, 256), "f32", stretches, rows[:1], splits=2, seed=seed + 5)
    # The bytes before what is seen are more than 31 bits can count, with one head's slots few or many.
    far = 140_000_000
    for kv in ("f16", "int8"):
        stretch = Stretch(0, far + 70, 2, far)
        yield attend_case(
            "far", Heads(2, 2, 16), kv, (stretch,), (Row(far + 66, (0,)),), window=64, splits=2, seed=seed + 6
        )
    eight = tuple(Stretch(9 * index, 9) for index in range(MOST_RUNS))
    yield attend_case(
        "eight runs", Heads(2, 1, 16), "bf16", eight, (Row(71, tuple(range(8))),), splits=2, seed=seed + 7
    )
    edges = tuple(Row(position, (0,)) for position in (0, 31, 32, 63, 64, 95, 96, 99))
    yield attend_case("edges", Heads(1, 1, 16), "f16", (Stretch(0, 100),), edges, splits=2, seed=seed + 8)
    yield attend_case("edges", Heads(1, 1, 16), "f32", (Stretch(0, 100),), edges, window=32, splits=1, seed=seed + 9)


def _small_place(seed: int) -> Iterator[Case]:
    stretches = (Stretch(0, 9), Stretch(9, 6, 3), Stretch(0, 3, 1), Stretch(5, 2))
    rows = (Row(13, (0, 1)), Row(14, (0, 1)), Row(2, (2,)), Row(6, ()), Row(6, (2, 3)))
    for kv in KINDS:
        yield place_case("half turns", Heads(4, 2, 32), 16, kv, stretches, rows, seed=seed)
        yield place_case("no norms", Heads(3, 3, 80), 80, kv, stretches, rows[:2], norms=False, seed=seed + 1)
    yield place_case("widest", Heads(2, 1, 256), 64, "int8", stretches, rows[:2], seed=seed + 2)
    yield place_case("large numbers", Heads(1, 1, 16), 8, "f16", stretches, rows[:2], size=1e5, seed=seed + 3)
    yield place_case("odd width", Heads(2, 1, 50), 6, "fp8", stretches, rows[:1], seed=seed + 4)
    far = 140_000_000
    for kv in ("f16", "fp8"):
        stretch = Stretch(0, far + 70, 2, far)
        yield place_case("far", Heads(2, 2, 16), 16, kv, (stretch,), (Row(far + 66, (0,)),), seed=seed + 5)


def _small_merge(seed: int) -> Iterator[Case]:
    yield merge_case("one piece", 2, 3, 16, 1, None, seed=seed)
    yield merge_case("few pieces", 2, 5, 80, 7, "per-head", seed=seed + 1)
    yield merge_case("a warp's pieces and more", 1, 2, 128, 41, "per-element", seed=seed + 2)
    yield merge_case("rows", 3, 2, 50, 33, "per-head", seed=seed + 3)
