"""Products of 1 to 8 tokens with whole matrices, in any format, and the embedding's rows (`native/linear.cuh`).

Chooses the constants of a kernel from its sizes alone. Knows matrices; must not know what they mean to a model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import cycle
from typing import NamedTuple

import torch
from torch import Tensor

from laguna_agent.backend.kernels.cuda import linear_torch
from laguna_agent.backend.kernels.cuda.cases import Case, Put
from laguna_agent.backend.kernels.cuda.geometry import Geometry
from laguna_agent.backend.kernels.cuda.launch import Argument, Kernel, Pointer, Value
from laguna_agent.backend.kernels.cuda.matrices import LOAD, MatrixKind, placed
from laguna_agent.backend.kernels.cuda.random_weights import every_format, published_formats, random_weight
from laguna_agent.backend.kernels.formats import Format, GroupInt, Nvfp4, Plain

WARPS = 4
"""Of a block."""
STAGED = 40 << 10
"""Bytes of x that a block holds at most: 48 KiB are to be had without asking, and several blocks share 100."""
ENOUGH, MANY = 256, 1024
"""Blocks: with fewer than the first some of a card's 80 to 170 multiprocessors idle, so a block takes fewer rows; from
the second on it takes more, for each has to read x."""


class Segment(NamedTuple):
    """One of the matrices that share x; `{name}_...` are its parameters. `bias`: fp32 [rows] is added."""

    name: str
    kind: MatrixKind
    bias: bool = False


@dataclass(frozen=True)
class _Shape:
    """How blocks divide the work: see `Joined` in linear.cuh. `lanes` of each segment."""

    tile: int
    rows: int
    rounds: int
    lanes: tuple[int, ...]

    def blocks(self, kinds: tuple[MatrixKind, ...]) -> int:
        """Blocks for the rows of all segments."""
        each = WARPS * self.rows * self.rounds * 32
        return sum(-(-kind.rows // (each // lanes)) for kind, lanes in zip(kinds, self.lanes, strict=True))


def joined(
    tokens: int,
    columns: int,
    segments: tuple[Segment, ...],
    *,
    norm: bool = False,
    add: bool = False,
    normed: bool = False,
) -> Kernel:
    """W x for one to four matrices: x fp32 [tokens, columns] -> {name}_out fp32 [tokens, rows] each.

    `norm`: x goes through an RMS norm first (section 2 of the specification), and with `normed` that is kept too.
    `add`: out += W x. Raises ValueError for segments that do not fit.
    """
    if not 1 <= len(segments) <= 4 or any(segment.kind.columns != columns for segment in segments):
        raise ValueError(f"1 to 4 matrices of {columns} columns can be joined, got {segments}")
    if normed and not norm:
        raise ValueError("what comes out of the norm can be kept only where there is one")
    kinds = tuple(segment.kind for segment in segments)
    shape = _shape(tokens, columns, kinds)
    spelled = ", ".join(
        f"laguna::Segment<{kind.encoding.spelled}, {kind.rows}, {_flag(segment.bias)}, {lanes}>"
        for segment, kind, lanes in zip(segments, kinds, shape.lanes, strict=True)
    )
    sizes = f"{tokens}, {columns}, {shape.tile}, {WARPS}, {shape.rows}, {shape.rounds}, {_flag(norm)}, {_flag(add)}"
    entry = "of_kept" if normed else "of_normed" if norm else "of"
    parameters = [Pointer("x", "float", tokens * columns), *_norm(tokens, columns, norm, normed)]
    for segment in segments:
        parameters += segment.kind.pointers(segment.name)
        if segment.bias:
            parameters.append(Pointer(f"{segment.name}_bias", "float", segment.kind.rows))
        out = tokens * segment.kind.rows
        parameters.append(Pointer(f"{segment.name}_out", "float", out, "update" if add else "write"))
    return Kernel(
        "joined",
        "linear.cuh",
        f"laguna::Joined<{sizes}>::{entry}<{spelled}>",
        tuple(parameters),
        (shape.blocks(kinds), 1, 1),
        32 * WARPS,
        _shared(tokens, shape.tile, norm),
        _resident(tokens),
    )


def gated(tokens: int, gate: MatrixKind, up: MatrixKind, *, norm: bool = False) -> Kernel:
    """silu(gate x) * (up x): x fp32 [tokens, columns] -> out fp32 [tokens, rows]; `norm` as in `joined`.

    Raises ValueError for matrices of different sizes.
    """
    if (gate.rows, gate.columns) != (up.rows, up.columns):
        raise ValueError(f"a gate of {gate.rows} x {gate.columns} beside {up.rows} x {up.columns}")
    lanes = max(_lanes(gate), _lanes(up))
    shape = _shape(tokens, gate.columns, (gate, up), (lanes, lanes))
    # A block has the rows of both.
    grid = -(-gate.rows // (WARPS * shape.rows * shape.rounds * 32 // lanes))
    sizes = f"{tokens}, {gate.columns}, {shape.tile}, {WARPS}, {shape.rows}, {shape.rounds}, {_flag(norm)}"
    formats = f"{gate.encoding.spelled}, {up.encoding.spelled}"
    parameters = [Pointer("x", "float", tokens * gate.columns), *_norm(tokens, gate.columns, norm, False)]
    parameters += [*gate.pointers("gate"), *up.pointers("up"), Pointer("out", "float", tokens * gate.rows, "write")]
    return Kernel(
        "gated",
        "linear.cuh",
        f"laguna::Gated<{sizes}, {gate.rows}, {lanes}, {formats}>::{'of_normed' if norm else 'of'}",
        tuple(parameters),
        (grid, 1, 1),
        32 * WARPS,
        _shared(tokens, shape.tile, norm),
        _resident(tokens),
    )


def embed(tokens: int, table: MatrixKind) -> Kernel:
    """Rows of a matrix: ids int [tokens] -> out fp32 [tokens, columns]; NaN for an id that it has not."""
    loads = table.row_bytes // LOAD
    threads = min(128, -(-loads // 32) * 32)
    return Kernel(
        "embed",
        "linear.cuh",
        f"laguna::embed<{table.columns}, {table.rows}, {table.encoding.spelled}>",
        (
            Pointer("ids", "int", tokens),
            *table.pointers("table"),
            Pointer("out", "float", tokens * table.columns, "write"),
        ),
        (-(-loads // threads), tokens, 1),
        threads,
    )


def _flag(value: bool) -> str:
    return "true" if value else "false"


def _norm(tokens: int, columns: int, norm: bool, normed: bool) -> list[Pointer | Value]:
    found: list[Pointer | Value] = []
    if norm:
        found += [Pointer("norm_weight", "float", columns), Value("eps", "float")]
    if normed:
        found.append(Pointer("normed_out", "float", tokens * columns, "write"))
    return found


def _shared(tokens: int, tile: int, norm: bool) -> int:
    """Bytes: the tile with its gaps, and for the norm a number of each warp and token."""
    return 4 * tokens * (tile + tile // 32 * 4 + (WARPS if norm else 0))


def _resident(tokens: int) -> int:
    """Blocks that fit on a multiprocessor: 128 registers a thread, 168 where eight tokens have their sums in them; of
    those blocks shared memory lets no more in on most cards."""
    return 4 if tokens <= 4 else 3


def _lanes(kind: MatrixKind) -> int:
    """Lanes that work on a row: as many as possible among those that idle least."""
    loads = kind.row_bytes // LOAD
    return max((32, 16, 8, 4), key=lambda lanes: (loads / (-(-loads // lanes) * lanes), lanes))


def _shape(tokens: int, columns: int, kinds: tuple[MatrixKind, ...], lanes: tuple[int, ...] | None = None) -> _Shape:
    """`lanes`: of each matrix whose rows a block takes one by one; given where it takes a row of each together."""
    most = 2 if lanes else 4
    lanes = lanes or tuple(_lanes(kind) for kind in kinds)
    step = max(32, *(of * kind.encoding.together for of, kind in zip(lanes, kinds, strict=True)))
    room = STAGED // (4 * tokens) * 8 // 9
    whole = -(-columns // step) * step
    # A tile of whole steps of all threads: the order of no sum depends on it.
    tile = whole if whole <= room else room // 1024 * 1024
    # More rows at once would not leave the registers.
    rows = most if tokens <= 2 else most // 2
    while rows > 1 and _Shape(tile, rows, 1, lanes).blocks(kinds) < ENOUGH:
        rows //= 2
    rounds = 8 if tile == whole else 1
    while rounds > 1 and _Shape(tile, rows, rounds, lanes).blocks(kinds) < MANY:
        rounds //= 2
    return _Shape(tile, rows, rounds, lanes)


_EPS = 1e-6
_WIDE = torch.float64


@dataclass(frozen=True, eq=False)
class _Maker:
    """Makes cases out of random numbers."""

    chance: torch.Generator

    def joined(
        self,
        label: str,
        tokens: int,
        columns: int,
        matrices: Mapping[str, tuple[Format, int, bool]],
        *,
        norm: bool = False,
        add: bool = False,
        normed: bool = False,
    ) -> Case:
        """`matrices`: of each segment's name its format, rows, and whether it has a bias."""
        given = self._input(tokens, columns, norm)
        segments: list[Segment] = []
        for name, (format, rows, bias) in matrices.items():
            segments.append(Segment(name, self._matrix(given, name, format, rows, columns), bias))
            if bias:
                given[f"{name}_bias"] = torch.randn(rows, generator=self.chance)
            start = torch.randn(tokens, rows, generator=self.chance) * columns**0.5 if add else torch.nan
            given[f"{name}_out"] = torch.zeros(tokens, rows) + start
        kernel = joined(tokens, columns, tuple(segments), norm=norm, add=add, normed=normed)
        wanted = linear_torch.joined(given, tokens, segments, norm=norm, add=add, normed=normed, dtype=_WIDE)
        if normed:
            given["normed_out"] = torch.full((tokens, columns), torch.nan)
        return _case(f"joined {label}", kernel, given, wanted)

    def gated(
        self, label: str, tokens: int, columns: int, rows: int, gate: Format, up: Format, *, norm: bool = False
    ) -> Case:
        """A gate in one format, beside it the other matrix in another."""
        given = self._input(tokens, columns, norm)
        # Small gates, so that the SiLU is not all but a line.
        kinds = [self._matrix(given, "gate", gate, rows, columns), self._matrix(given, "up", up, rows, columns)]
        given["x"] = torch.randn(tokens, columns, generator=self.chance) / columns**0.5
        wanted = linear_torch.gated(given, tokens, *kinds, norm=norm, dtype=_WIDE)
        given["out"] = torch.full((tokens, rows), torch.nan)
        return _case(f"gated {label}", gated(tokens, kinds[0], kinds[1], norm=norm), given, wanted)

    def embed(self, label: str, ids: Tensor, columns: int, rows: int, format: Format) -> Case:
        """Some rows of a table."""
        given: dict[str, Argument] = {"ids": ids.int()}
        kind = self._matrix(given, "table", format, rows, columns)
        wanted = linear_torch.embed(given, kind, dtype=_WIDE)
        given["out"] = torch.zeros(len(ids), columns)
        return _case(f"embed {label}", embed(len(ids), kind), given, wanted)

    def _input(self, tokens: int, columns: int, norm: bool) -> dict[str, Argument]:
        given: dict[str, Argument] = {"x": torch.randn(tokens, columns, generator=self.chance)}
        if norm:
            given |= {"norm_weight": torch.rand(columns, generator=self.chance) + 0.5, "eps": _EPS}
        return given

    def _matrix(self, given: dict[str, Argument], name: str, format: Format, rows: int, columns: int) -> MatrixKind:
        matrix = placed(random_weight(format, (rows, columns), self.chance), torch.device("cpu"))
        assert matrix is not None
        for part, tensor in zip(("codes", "scales", "extra"), matrix.arguments, strict=True):
            given[f"{name}_{part}"] = tensor
        return matrix.kind


def _case(label: str, kernel: Kernel, given: Mapping[str, Argument], wanted: Mapping[str, Tensor]) -> Case:
    def bind(put: Put) -> Mapping[str, Argument]:
        return {name: put(value) if isinstance(value, Tensor) else value for name, value in given.items()}

    return Case(label, kernel, bind, wanted)


def cases(geometry: Geometry | None, seed: int = 0) -> Iterator[Case]:
    """Known calls of these kernels: of small and odd sizes in all formats, or of a model's sizes in those that
    published checkpoints have, the vocabulary cut."""
    make = _Maker(torch.Generator().manual_seed(seed))
    return _small(make) if geometry is None else _real(make, geometry)


def _small(make: _Maker) -> Iterator[Case]:
    int4, bf16, f32 = GroupInt(4, 32), Plain(torch.bfloat16), Plain(torch.float32)
    sizes = cycle(((1, 33), (2, 100), (4, 56), (8, 257), (1, 700), (2, 1)))
    for index, format in enumerate(every_format()):
        tokens, columns = next(sizes)
        columns = -(-columns // 16) * 16 if isinstance(format, Nvfp4) else columns
        name = f"{format.spelling}, {tokens} x {columns}"
        matrices: dict[str, tuple[Format, int, bool]]
        matrices = {"a": (format, 40, False), "b": (int4, 17, True), "c": (format, 11, True)}
        yield make.joined(name, tokens, columns, matrices, norm=index % 2 == 0, add=index % 3 == 0)
        yield make.embed(name, torch.tensor([0, 8, 3, 5]), columns, 9, format)
        if index % 2:
            yield make.gated(name, tokens, columns, 19, format, bf16 if index % 4 == 1 else format, norm=index % 4 == 3)
    yield make.embed("ids that are none", torch.tensor([-1, 4, 5, 1 << 30]), 70, 5, int4)
    for tokens in (1, 2, 4, 8):
        many: dict[str, tuple[Format, int, bool]]
        many = {"q": (int4, 70, True), "k": (bf16, 9, False), "v": (GroupInt(8, 32), 9, False), "gate": (f32, 3, False)}
        yield make.joined(f"four, kept, {tokens}", tokens, 1500, many, norm=True, normed=True)
    yield make.joined("kept by one block", 2, 300, {"w": (f32, 3, False)}, norm=True, normed=True)
    for format in (int4, bf16, Nvfp4()):
        yield make.joined(f"{format.spelling}, tiles", 8, 2112, {"w": (format, 21, True)}, norm=True, add=True)
    yield make.gated("tiles", 8, 2112, 21, int4, f32, norm=True)
    yield make.joined("many rows, four at once", 2, 32, {"w": (int4, 33000, True)})
    yield make.joined("rounds", 8, 128, {"w": (f32, 16500, False)}, norm=True)


def _real(make: _Maker, geometry: Geometry) -> Iterator[Case]:
    hidden, size, rows = geometry.hidden, geometry.head_dim, min(geometry.vocabulary, 8192)
    turns = cycle(((8, 1), (1, 8), (2, 4), (4, 2)))
    for format in published_formats():
        more, few = next(turns)
        name = f"{geometry.name}, {format.spelling}"
        for gates, heads in dict.fromkeys((geometry.gate_rows(layer), layer.heads) for layer in geometry.layers):
            label = f"{name}, {heads} heads"
            counts = {"q": heads * size, "k": geometry.kv_heads * size, "v": geometry.kv_heads * size, "gate": gates}
            matrices = {of: (format, count, geometry.qkv_bias) for of, count in counts.items() if count}
            yield make.joined(label, few, hidden, matrices, norm=True)
            out = {"o": (format, hidden, geometry.output_bias)}
            yield make.joined(f"{label}, out", more, heads * size, out, add=True)
        for dense in dict.fromkeys(layer.dense for layer in geometry.layers if layer.dense):
            yield make.gated(f"{name}, dense", few, hidden, dense, format, format, norm=True)
            yield make.joined(f"{name}, down", more, dense, {"down": (format, hidden, False)}, add=True)
        if geometry.experts:
            router = {"logits": (Plain(torch.float32), geometry.experts, False)}
            yield make.joined(f"{name}, router", few, hidden, router, norm=True, normed=True)
        if geometry.shared:
            yield make.gated(f"{name}, shared", more, hidden, geometry.shared, format, format)
        yield make.joined(f"{name}, head", more, hidden, {"logits": (format, rows, False)}, norm=True)
        yield make.embed(name, torch.arange(few) * (rows // few), hidden, rows, format)
