"""Decoder layers in the compiled library: a stack of weights and numbers in, a pass over all of them in one call.

Weights in tiles, and plain rows, are read where they lie; row-wise group integers are laid out in tiles here, in
memory. Activations meet packed weights in 8 bits, 32 columns to a scale. Knows tensors and the library's structs; must
not know a model's classes, nor who keeps the keys.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from laguna_agent.backend.kernels.cpu import abi
from laguna_agent.backend.kernels.formats import GroupInt, PackedTensor, Plain, Tiled, Weight
from laguna_agent.backend.kernels.tiles import STEP, padded_tiles, untile

SCALE_TYPES = {torch.float32: abi.SCALE_F32, torch.float16: abi.SCALE_F16, torch.bfloat16: abi.SCALE_BF16}
PLAIN_KINDS = {torch.float32: abi.PLAIN_F32, torch.bfloat16: abi.PLAIN_BF16, torch.float16: abi.PLAIN_F16}
KV_KINDS = {
    torch.float32: abi.KV_F32,
    torch.float16: abi.KV_F16,
    torch.bfloat16: abi.KV_BF16,
    torch.int8: abi.KV_INT8,
}
"""Dtypes of cached keys that the library reads and writes; int8 has a scale for every token and head."""
HEAD_MOST = 1024
"""Dimensions of a head that the library has room for (attention_half.h)."""
GATES = {None: abi.GATE_NONE, "per-head": abi.GATE_PER_HEAD, "per-element": abi.GATE_PER_ELEMENT}


class PassCancelled(Exception):
    """Somebody set the flag of a pass: it ended between two layers, and nothing of it counts."""


@dataclass(frozen=True)
class MlpWeights:
    """A dense MLP: gate and up [inner, hidden], down [hidden, inner]."""

    gate: Weight
    up: Weight
    down: Weight


@dataclass(frozen=True)
class ExpertWeights:
    """Routed experts: router [experts, hidden] and its bias, gate_up [experts, 2 inner, hidden] with the gate's rows
    first, down [experts, hidden, inner]; how many a token gets and how they are weighed (section 2i)."""

    router: Weight
    bias: Tensor
    gate_up: Weight
    down: Weight
    per_token: int
    normalize: bool
    scale: float
    softcap: float


@dataclass(frozen=True)
class LayerWeights:
    """One decoder layer. q, k, v, o and the gate as (weight, bias); `window` 0 where it sees everything; `mlp` is the
    dense MLP, or the shared expert beside `experts`."""

    heads: int
    kv_heads: int
    head_dim: int
    rotary: int
    window: int
    eps: float
    input_norm: Tensor
    post_norm: Tensor
    q_norm: Tensor | None
    k_norm: Tensor | None
    q: tuple[Weight, Tensor | None]
    k: tuple[Weight, Tensor | None]
    v: tuple[Weight, Tensor | None]
    o: tuple[Weight, Tensor | None]
    gate: Weight | None
    gate_kind: str | None
    mlp: MlpWeights | None
    experts: ExpertWeights | None

    def matrices(self) -> Iterator[Weight]:
        """Every weight that is multiplied with; all must be `served`."""
        yield from (weight for weight, _ in (self.q, self.k, self.v, self.o))
        if self.gate is not None:
            yield self.gate
        if self.mlp is not None:
            yield from (self.mlp.gate, self.mlp.up, self.mlp.down)
        if self.experts is not None:
            yield from (self.experts.router, self.experts.gate_up, self.experts.down)


@dataclass(frozen=True)
class Pass:
    """What a pass is about beside its activations.

    `spans`: 3 numbers (begin, end, first) of every sequence; `run_counts` int32 [layers, sequences], how many runs its
    keys lie in, and `runs` int64 [all of them, 7] (native/abi.h has the order); `turns`: cos and sin of every layer,
    fp32 [tokens, rotary / 2]; all without gaps. `kv` is the dtype of the keys.
    """

    spans: array[int]
    run_counts: Tensor
    runs: Tensor
    turns: Sequence[tuple[Tensor, Tensor]]
    kv: torch.dtype


class Stack:
    """Layers as the library takes them. The weights must stay as they are for as long as this is used.

    One thread at a time may run a pass; any thread may set `cancel`.
    """

    def __init__(self, opened: ctypes.CDLL, layers: Sequence[LayerWeights]) -> None:
        self._opened = opened
        self._kept: list[Tensor] = []
        self._layers = (abi.Layer * len(layers))(*(self._layer(layer) for layer in layers))
        self._cancel = ctypes.c_int32(0)

    @property
    def cancel(self) -> bool:
        """Whether the pass under way, and those to come, end before their next layer with PassCancelled."""
        return bool(self._cancel.value)

    @cancel.setter
    def cancel(self, on: bool) -> None:
        self._cancel.value = int(on)

    def run(self, h: Tensor, given: Pass) -> None:
        """All layers over h, fp32 [tokens, hidden] without gaps, in place; own keys are written into the runs.

        Raises PassCancelled, and MemoryError where there is none for scratch; h is worth nothing then.
        """
        assert h.dtype == torch.float32 and h.is_contiguous()
        turns = array("q", [part.data_ptr() for turn in given.turns for part in turn])
        forward = abi.Forward(
            layers=self._layers,
            layer_count=len(self._layers),
            hidden=h.shape[1],
            tokens=h.shape[0],
            span_count=len(given.spans) // 3,
            h=h.data_ptr(),
            spans=_pointer(given.spans.buffer_info()[0], abi.Span),
            run_counts=_pointer(given.run_counts.data_ptr(), ctypes.c_int32),
            runs=_pointer(given.runs.data_ptr(), abi.Run),
            turns=_pointer(turns.buffer_info()[0], abi.Turn),
            cancel=ctypes.addressof(self._cancel),
            kv_kind=KV_KINDS[given.kv],
            threads=torch.get_num_threads(),
        )
        _check(self._opened.laguna_forward(ctypes.byref(forward)))

    def _layer(self, given: LayerWeights) -> abi.Layer:
        layer = abi.Layer(
            heads=given.heads,
            kv_heads=given.kv_heads,
            head_dim=given.head_dim,
            rotary=given.rotary,
            window=given.window,
            gate_kind=GATES[given.gate_kind],
            eps=given.eps,
            input_norm=self._vector(given.input_norm),
            post_norm=self._vector(given.post_norm),
            q_norm=self._vector(given.q_norm),
            k_norm=self._vector(given.k_norm),
        )
        for name in ("q", "k", "v", "o"):
            weight, bias = getattr(given, name)
            setattr(layer, name, matrix(weight, self._kept))
            setattr(layer, f"{name}_bias", self._vector(bias))
        if given.gate is not None:
            layer.gate = matrix(given.gate, self._kept)
        if given.mlp is not None:
            layer.shared_inner = given.mlp.gate.shape[0]
            layer.shared_gate = matrix(given.mlp.gate, self._kept)
            layer.shared_up = matrix(given.mlp.up, self._kept)
            layer.shared_down = matrix(given.mlp.down, self._kept)
        if given.experts is not None:
            self._add_experts(layer, given.experts)
        return layer

    def _add_experts(self, layer: abi.Layer, given: ExpertWeights) -> None:
        layer.experts, _, layer.inner = given.down.shape
        layer.per_token, layer.normalize = given.per_token, int(given.normalize)
        layer.routed_scale, layer.softcap = given.scale, given.softcap
        layer.router, layer.router_bias = matrix(given.router, self._kept), self._vector(given.bias)
        layer.gate_up, layer.down = matrix(_halves(given.gate_up), self._kept), matrix(given.down, self._kept)

    def _vector(self, values: Tensor | None) -> int | None:
        """The address of the values in fp32, which are kept."""
        if values is None:
            return None
        self._kept.append(values.detach().float().contiguous())
        return self._kept[-1].data_ptr()


class Product:
    """y = x W^T with x in 8 bits where the weight is packed: the output head. The weight must stay as it is."""

    def __init__(self, opened: ctypes.CDLL, weight: Weight) -> None:
        self._opened = opened
        self._kept: list[Tensor] = []
        self._matrix = matrix(weight, self._kept)

    def __call__(self, x: Tensor) -> Tensor:
        """x fp32 [n, columns] -> fp32 [n, rows]. Raises MemoryError where there is none for scratch."""
        x = x.contiguous()
        y = torch.empty(x.shape[0], self._matrix.rows)
        product = abi.Product(
            matrix=self._matrix, x=x.data_ptr(), y=y.data_ptr(), n=x.shape[0], threads=torch.get_num_threads()
        )
        if x.shape[0]:
            _check(self._opened.laguna_product(ctypes.byref(product)))
        return y


def served(weight: Weight) -> bool:
    """Whether the library reads weights in this format; on the CPU only."""
    if weight.device.type != "cpu":
        return False
    if isinstance(weight, Tensor):
        return weight.dtype in PLAIN_KINDS
    match weight.format:
        case Plain(dtype):
            return dtype in PLAIN_KINDS
        case GroupInt(_, group) | Tiled(GroupInt(_, group)):
            return group % STEP == 0
    return False


def matrix(weight: Weight, kept: list[Tensor]) -> abi.Matrix:
    """A weight [rows, columns] or stack [count, rows, columns], which must be `served`, as the library is told of it.

    Everything that its address points to is put into `kept`.
    """
    *stack, rows, columns = weight.shape
    found = abi.Matrix(count=stack[0] if stack else 1, rows=rows, columns=columns)
    if isinstance(weight, Tensor) or isinstance(weight.format, Plain):
        data = (weight.detach() if isinstance(weight, Tensor) else weight.parts["values"]).contiguous()
        found.kind = PLAIN_KINDS[data.dtype]
    else:
        data, base = _tiles(weight)
        found.kind = abi.TILED_INT4 if base.bits == 4 else abi.TILED_INT8
        found.scale_type, found.minimums, found.group = SCALE_TYPES[base.scale_type], int(base.minimums), base.group
    kept.append(data)
    found.data = data.data_ptr()
    return found


def _halves(gate_up: Weight) -> Weight:
    """gate_up [experts, 2 inner, hidden] with both halves filled up to whole tiles by rows of zeros, as the library
    wants it; itself where nothing is missing."""
    inner = gate_up.shape[1] // 2
    missing = -inner % Tiled.rows_together
    if not missing:
        return gate_up
    if isinstance(gate_up, Tensor):
        return _filled(gate_up, missing)
    packed = untile(gate_up) if isinstance(gate_up.format, Tiled) else gate_up
    # Whatever the codes are, a scale and a minimum of zero make zeros.
    parts = {name: _filled(part, missing) for name, part in packed.parts.items()}
    return PackedTensor(packed.format, (packed.shape[0], 2 * (inner + missing), packed.shape[2]), parts)


def _filled(rows: Tensor, missing: int) -> Tensor:
    """[n, 2 inner, columns] -> [n, 2 (inner + missing), columns]."""
    halves = rows.view(rows.shape[0], 2, -1, rows.shape[2])
    return F.pad(halves, (0, 0, 0, missing)).flatten(1, 2)


def _tiles(weight: PackedTensor) -> tuple[Tensor, GroupInt]:
    if isinstance(weight.format, Tiled):
        return weight.parts["tiles"].contiguous(), weight.format.base
    assert isinstance(weight.format, GroupInt)
    return padded_tiles(weight), weight.format


def _pointer(address: int, kind: type[ctypes.Structure] | type[ctypes.c_int32]) -> Any:
    return ctypes.cast(address, ctypes.POINTER(kind))


def _check(result: int) -> None:
    if result == abi.CANCELLED:
        raise PassCancelled
    if result == abi.NO_MEMORY:
        raise MemoryError("no memory for a pass's scratch")
    if result != abi.DONE:
        raise IndexError(f"the CPU kernels refuse what they were given ({result})")
