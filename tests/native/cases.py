"""Calls of every function of the kernel library on small odd shapes, and what torch says of those that it can say.

The tiles are laid out here once more, by the text of `native/tiles.h`, and not by the program's own code.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from laguna_agent.backend.kernels.cpu import abi
from tests.native.arena import Arena, FunctionCall

ROWS, STEP, THREADS = 16, 32, 2
SCALES = {torch.float32: abi.SCALE_F32, torch.float16: abi.SCALE_F16, torch.bfloat16: abi.SCALE_BF16}
PLAIN = {torch.float32: abi.PLAIN_F32, torch.bfloat16: abi.PLAIN_BF16, torch.float16: abi.PLAIN_F16}
KEYS = {torch.float32: abi.KV_F32, torch.float16: abi.KV_F16, torch.bfloat16: abi.KV_BF16, torch.int8: abi.KV_INT8}


class Cases:
    """An arena full of calls, and the expected values of some of its outputs."""

    def __init__(self) -> None:
        self.arena, self.expected = Arena(), dict[str, Tensor]()
        self._random = torch.Generator().manual_seed(11)
        self._functions()
        for bits, group, scale, minimums in (
            (4, 32, torch.float16, False),
            (4, 128, torch.bfloat16, True),
            (4, 64, torch.float32, False),
            (8, 32, torch.float16, False),
            (8, 64, torch.float32, True),
        ):
            name = f"int{bits} g{group} {str(scale)[6:]}{' min' * minimums}"
            matrix, values = self.tiled(bits, group, scale, minimums, 3, 37, 160)
            self._exact(name, matrix, values)
            for n in (1, 3, 21):
                self._product(f"{name}, {n} rows", *self.tiled(bits, group, scale, minimums, 1, 67, 200), n)
        for dtype in PLAIN:
            self._exact(str(dtype), *self.plain(dtype, 3, 21, 45))
            self._product(f"{dtype}, 5 rows", *self.plain(dtype, 1, 33, 45), 5)
        self._routing()
        for dtype in KEYS:
            self._attention(dtype)
            self._forward(dtype)

    def numbers(self, *shape: int) -> Tensor:
        """Random fp32 numbers, the same in every process."""
        return torch.randn(*shape, generator=self._random)

    def tiled(
        self, bits: int, group: int, scale: torch.dtype, minimums: bool, count: int, rows: int, columns: int
    ) -> tuple[abi.Matrix, Tensor]:
        """A stack of random matrices in tiles, and its values, fp64 [count, rows, columns]."""
        blocks, groups, zero = -(-rows // ROWS), -(-columns // group), 0 if minimums and bits == 4 else 1 << bits - 1
        shape = (count, blocks * ROWS, groups * group)
        codes = torch.randint(0, 1 << bits, shape, generator=self._random)
        codes[:, rows:], codes[:, :, columns:] = zero, zero
        scales, lows = ((self.numbers(*shape[:2], groups) / (1 << bits)).to(scale) for _ in range(2))
        scales[:, rows:], lows[:, rows:] = 0, 0
        parts = [scales, lows] if minimums else [scales]
        values = (codes - zero).view(*shape[:2], groups, group) * scales.double()[..., None]
        if minimums:
            values = values + lows.double()[..., None]
        # [count, block, row, group, step, column]
        split = codes.to(torch.uint8).view(count, blocks, ROWS, groups, group // STEP, STEP)
        if bits == 4:
            split = split[..., :16] | split[..., 16:] << 4
        words = split.unflatten(-1, (-1, 4)).permute(0, 1, 3, 4, 5, 2, 6)
        pieces = [words.reshape(count, blocks, groups, -1)]
        for part in parts:
            ordered = part.view(count, blocks, ROWS, groups).transpose(2, 3).contiguous()
            pieces.append(ordered.view(torch.uint8))
        stored = torch.cat(pieces, -1).contiguous()
        kind = abi.TILED_INT4 if bits == 4 else abi.TILED_INT8
        matrix = abi.Matrix(kind, SCALES[scale], minimums, group, count, rows, columns, self.arena.put(stored))
        return matrix, values.reshape(shape)[:, :rows, :columns]

    def plain(self, dtype: torch.dtype, count: int, rows: int, columns: int) -> tuple[abi.Matrix, Tensor]:
        """A stack of random matrices of plain numbers, and its values in fp64."""
        values = self.numbers(count, rows, columns).to(dtype)
        return abi.Matrix(PLAIN[dtype], 0, 0, 0, count, rows, columns, self.arena.put(values)), values.double()

    def _functions(self) -> None:
        x = torch.cat([torch.linspace(-95, 95, 997), torch.tensor([math.inf, math.nan, 0.0])])
        softplus = torch.nn.functional.softplus
        for which, function in enumerate((torch.exp, torch.sigmoid, torch.nn.functional.silu, softplus)):
            name = f"function {which}"
            y = self.arena.result(name, x.shape)
            self.arena.call("function", FunctionCall(which, len(x), self.arena.put(x), y))
            self.expected[name] = function(x.double()).float()

    def _exact(self, name: str, matrix: abi.Matrix, values: Tensor) -> None:
        """Products of a stack with chosen experts in fp32, and its rows."""
        count, rows, columns = values.shape
        experts = torch.tensor([2, 0, 2, 1, 0])
        x = self.numbers(len(experts), columns)
        called = f"exact {name}"
        y = self.arena.result(called, (len(experts), rows))
        of = self.arena.put(experts)
        self.arena.call("exact_product", abi.Product(matrix, self.arena.put(x), None, y, of, len(experts), THREADS))
        self.expected[called] = torch.einsum("nc,nrc->nr", x.double(), values[experts])
        ids = torch.tensor([0, count * rows - 1, 5, 17, 5])
        called = f"rows {name}"
        out = self.arena.result(called, (len(ids), columns))
        self.arena.call("rows", abi.Rows(matrix, self.arena.put(ids), out, 0, len(ids), THREADS))
        self.expected[called] = values.flatten(0, 1)[ids]

    def _product(self, name: str, matrix: abi.Matrix, values: Tensor, n: int) -> None:
        """A product with activations in 8 bits, which here are numbers that 8 bits hold: codes times a power of two."""
        _, rows, columns = values.shape
        x = torch.randint(-126, 127, (n, columns), generator=self._random).float()
        x[:, ::STEP] = 127
        x = x * torch.exp2(torch.arange(n)[:, None] - 8.0)
        bias = self.numbers(rows)
        called = f"product {name}"
        y = self.arena.result(called, (n, rows))
        given = abi.Product(matrix, self.arena.put(x), self.arena.put(bias), y, None, n, THREADS)
        self.arena.call("product", given)
        self.expected[called] = x.double() @ values[0].T + bias.double()

    def _routing(self) -> None:
        logits, bias = self.numbers(6, 256) * 2, self.numbers(256) / 4
        picked = self.arena.result("picked", (6, 8), torch.int32)
        share = self.arena.result("share", (6, 8))
        given = abi.Routing(self.arena.put(logits), self.arena.put(bias), picked, share, 6, 256, 8, 1, 0.0)
        self.arena.call("routing", given)
        scores = logits.double().sigmoid()
        best = (scores + bias).topk(8).indices.sort().values
        self.expected["picked"] = best
        chosen = scores.gather(1, best)
        self.expected["share"] = chosen / chosen.sum(1, keepdim=True)

    def _keys(self, dtype: torch.dtype, shape: tuple[int, int, int], name: str = "") -> abi.Run:
        """A run with random keys and values [kv_heads, capacity, dim]; with a name they are results."""
        codes, scales = [], []
        for part in ("k", "v"):
            x = self.numbers(*shape)
            scale = x.abs().amax(2) / 127
            stored = (x / scale[..., None]).round().to(dtype) if dtype == torch.int8 else x.to(dtype)
            keep = self.arena.changed if name else lambda _, values: self.arena.put(values)
            codes.append(keep(f"{name} {part}", stored))
            scales.append(keep(f"{name} {part} scale", scale) if dtype == torch.int8 else None)
        return abi.Run(*codes, *scales, shape[1], 0, shape[1])

    def _spans(self, dtype: torch.dtype, kv_heads: int, dim: int, name: str = "") -> tuple[int, int, int]:
        """Addresses of two sequences, one row and 19 rows, of their counts of runs, and of the runs: two and one."""
        old = self._keys(dtype, (kv_heads, 20, dim))
        runs = [old, *(self._keys(dtype, (kv_heads, size, dim), name and f"{name}, run {size}") for size in (7, 32))]
        runs[1].start, runs[1].count, runs[2].count = 20, 5, 30
        spans = self.arena.structs(abi.Span(0, 1, 24), abi.Span(1, 20, 11))
        return spans, self.arena.put(torch.tensor([2, 1], dtype=torch.int32)), self.arena.structs(*runs)

    def _attention(self, dtype: torch.dtype) -> None:
        for window in (0, 9):
            name = f"attention {dtype}, window {window}"
            heads, kv_heads, dim = 6, 2, 48
            spans, counts, runs = self._spans(dtype, kv_heads, dim)
            out = self.arena.result(name, (20, heads, dim))
            q = self.arena.put(self.numbers(20, heads, dim))
            given = abi.Attention(q, out, tokens=20, span_count=2, heads=heads, kv_heads=kv_heads, head_dim=dim)
            given.window, given.kv_kind, given.threads = window, KEYS[dtype], THREADS
            _point(given, spans=spans, run_counts=counts, runs=runs)
            self.arena.call("attention", given)

    def _forward(self, dtype: torch.dtype) -> None:
        """A dense layer with a gate for each head, then a sparse one with a gate for each element."""
        hidden, heads, kv_heads, dim, rotary = 96, 4, 2, 32, 16
        layers, counts, runs = [], [], []
        for index in range(2):
            layer = self._layer(index, hidden, heads, kv_heads, dim, rotary)
            layers.append(layer)
            name = f"forward {dtype}, layer {index}"
            spans, count, of_layer = self._spans(dtype, kv_heads, dim, name)
            counts.append(count)
            runs.append(of_layer)
        angle = torch.rand(20, rotary // 2, generator=self._random) * 6
        turn = abi.Turn(self.arena.put(angle.cos()), self.arena.put(angle.sin()))
        h = self.arena.changed(f"forward {dtype}", self.numbers(20, hidden))
        given = abi.Forward(layer_count=2, hidden=hidden, tokens=20, span_count=2, h=h)
        given.kv_kind, given.threads = KEYS[dtype], THREADS
        # Those of both layers one behind the other.
        both = self.arena.put(torch.tensor([2, 1, 2, 1], dtype=torch.int32))
        all_runs = self.arena.structs(*(each for at in runs for each in (abi.Run * 3).from_address(at)))
        _point(given, layers=self.arena.structs(*layers), spans=spans, run_counts=both)
        _point(given, runs=all_runs, turns=self.arena.structs(turn, turn))
        self.arena.call("forward", given)

    def _layer(self, index: int, hidden: int, heads: int, kv_heads: int, dim: int, rotary: int) -> abi.Layer:
        def weight(rows: int, columns: int, count: int = 1) -> abi.Matrix:
            return self.tiled(4, 32, torch.float16, False, count, rows, columns)[0]

        def vector(size: int) -> int:
            return self.arena.put(1 + self.numbers(size) / 8)

        layer = abi.Layer(heads=heads, kv_heads=kv_heads, head_dim=dim, rotary=rotary, window=9 * index, eps=1e-6)
        layer.gate_kind = (abi.GATE_PER_HEAD, abi.GATE_PER_ELEMENT)[index]
        layer.input_norm, layer.post_norm = vector(hidden), vector(hidden)
        layer.q_norm, layer.k_norm = vector(dim), vector(dim)
        layer.q, layer.o = weight(heads * dim, hidden), weight(hidden, heads * dim)
        layer.k, layer.v = weight(kv_heads * dim, hidden), weight(kv_heads * dim, hidden)
        layer.gate = weight((heads, heads * dim)[index], hidden)
        layer.shared_inner = 48
        layer.shared_gate, layer.shared_up, layer.shared_down = (
            weight(48, hidden),
            weight(48, hidden),
            weight(hidden, 48),
        )
        if index:
            layer.experts, layer.per_token, layer.inner, layer.normalize, layer.routed_scale = 8, 3, 32, 1, 2.5
            layer.router, _ = self.plain(torch.float32, 1, 8, hidden)
            layer.router_bias = self.arena.put(self.numbers(8) / 4)
            layer.gate_up, layer.down = weight(64, hidden, 8), weight(hidden, 32, 8)
        return layer


def _point(struct: abi.Forward | abi.Attention, **fields: int) -> None:
    """Set fields that are pointers to addresses."""
    kinds = dict(type(struct)._fields_)  # type: ignore[arg-type]
    for name, address in fields.items():
        setattr(struct, name, abi.ctypes.cast(address, kinds[name]))
