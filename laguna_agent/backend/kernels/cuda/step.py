"""One decode step of a whole model as launches: which kernels, in which order, on which buffers.

The plan of a step is made of names only, so its kernels are known without weights (`decode_kernels`); a `DecodeStep`
binds the names to tensors. Knows kernels and sizes; must not know models, caches or who asks.

    ids ─embed─> h ┌ joined(norm) ─> q k v gate ─place─> cache ─attend─> pieces ─merge─> seen ─joined(add)─> h
                   │ dense:  gated(norm) ─> inner ─joined(add)─> h
                   └ sparse: joined(norm) ─> normed, router ─pick─> picked, share; gated ─> inner (shared expert)
                             expert_gate_up ─> act ─expert_down(picked, share, inner)─> h        (layer after layer)
    h ─joined(norm)─> logits ─sample─> chosen
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from laguna_agent.backend.kernels.cuda import fallback
from laguna_agent.backend.kernels.cuda.attention import KVName, attend, merge, place
from laguna_agent.backend.kernels.cuda.experts import expert_down, expert_gate_up, pick
from laguna_agent.backend.kernels.cuda.fallback import Meaning, work_of
from laguna_agent.backend.kernels.cuda.geometry import Geometry, LayerGeometry
from laguna_agent.backend.kernels.cuda.launch import Argument, Device, HostWork, Kernel, Launch
from laguna_agent.backend.kernels.cuda.linear import Segment, embed, gated, joined
from laguna_agent.backend.kernels.cuda.matrices import DeviceMatrix, MatrixKind, kind_of
from laguna_agent.backend.kernels.cuda.sampling import sample
from laguna_agent.backend.kernels.formats import Format, Plain

FULL_SPLITS = 32
"""Pieces of a full layer's keys: with eight KV heads two blocks or so for each multiprocessor of a large GPU."""
WINDOW_SPLITS = 16
LEAST_KEYS = 32
"""A piece of a window has at least so many keys."""
ATTENTION = frozenset({"place", "attend"})
"""Kernels that reach keys by their addresses; no tensor stands in for them."""

Kinds = Mapping[str, MatrixKind]
"""A model's matrices by name: embed, head, and of each layer LAYER.q, .k, .v, .g, .o; .gate, .up, .down of its dense
layer or shared expert; .router, .experts_gate_up, .experts_down."""
Named = Mapping[str, Argument]


@dataclass(frozen=True)
class Operation:
    """A kernel and the names of what it is given. `stands_in`: what it means in torch."""

    kernel: Kernel
    given: Mapping[str, str]
    stands_in: Meaning | None = None


@dataclass(frozen=True)
class Hosted:
    """The experts of a layer, which somebody else computes: from "normed", "picked" and "share" he adds to "h"."""

    layer: int


@dataclass(frozen=True)
class Plan:
    """A step: `operations` up to the logits, then `sampling` where tokens are drawn on the device."""

    tokens: int
    operations: tuple[Operation | Hosted, ...]
    sampling: Operation

    @property
    def kernels(self) -> list[Kernel]:
        """Every kernel once, in order of first use."""
        every = (*self.operations, self.sampling)
        return list(dict.fromkeys(each.kernel for each in every if isinstance(each, Operation)))


def splits_of(window: int) -> int:
    """Pieces that the keys of a layer are read in."""
    return min(WINDOW_SPLITS, -(-window // LEAST_KEYS)) if window else FULL_SPLITS


def kinds_of(
    geometry: Geometry, backbone: Format, experts: Format | None = None, small: Format | None = None
) -> dict[str, MatrixKind]:
    """The kinds of a model's matrices in given formats: of experts' (default: the backbone's), and of `small` ones, the
    table, gates of a row a head and routers (default: bf16). Raises ValueError where no kernel reads a format."""
    small, experts = small or Plain(torch.bfloat16), experts or backbone
    shapes = dict(_shapes(geometry))

    def kind(name: str) -> MatrixKind:
        last = name.rpartition(".")[2]
        stacked, plain = last.startswith("experts_"), last in ("embed", "router")
        if last == "g":
            plain = geometry.layers[int(name.partition(".")[0])].gate == "per-head"
        found = kind_of(experts if stacked else small if plain else backbone, shapes[name])
        if found is None:
            raise ValueError(f"{geometry.name}: no kernel reads {name} of shape {shapes[name]} in that format")
        return found

    return {name: kind(name) for name in shapes}


def _shapes(geometry: Geometry) -> list[tuple[str, tuple[int, ...]]]:
    hidden, keys = geometry.hidden, geometry.kv_heads * geometry.head_dim
    found: list[tuple[str, tuple[int, ...]]] = [(name, (geometry.vocabulary, hidden)) for name in ("embed", "head")]
    for index, layer in enumerate(geometry.layers):
        wide = layer.heads * geometry.head_dim
        inner = layer.dense or geometry.shared
        of: dict[str, tuple[int, ...]] = {"q": (wide, hidden), "k": (keys, hidden), "v": (keys, hidden)}
        of["o"] = (hidden, wide)
        if layer.gate:
            of["g"] = (geometry.gate_rows(layer), hidden)
        if inner:
            of |= {"gate": (inner, hidden), "up": (inner, hidden), "down": (hidden, inner)}
        if not layer.dense:
            of["router"] = (geometry.experts, hidden)
            of["experts_gate_up"] = (geometry.experts, 2 * geometry.inner, hidden)
            of["experts_down"] = (geometry.experts, hidden, geometry.inner)
        found += [(f"{index}.{name}", shape) for name, shape in of.items()]
    return found


def decode_kernels(geometry: Geometry, tokens: int, kinds: Kinds, kv: KVName = "f16") -> list[Kernel]:
    """Every kernel of a step of so many tokens (1, 2, 4 or 8), each once; `kv`: how keys are kept."""
    return plan_of(geometry, tokens, kinds, kv).kernels


def plan_of(
    geometry: Geometry, tokens: int, kinds: Kinds, kv: KVName = "f16", hosted: frozenset[int] = frozenset()
) -> Plan:
    """The whole step; `hosted`: layers whose experts somebody else computes."""
    planner = _Planner(geometry, tokens, kinds, kv)
    planner.add(
        embed(tokens, kinds["embed"]),
        fallback.embed(kinds["embed"]),
        _matrix("table", "embed"),
        ids="ids",
        out="h",
    )
    for index, layer in enumerate(geometry.layers):
        planner.attention(index, layer)
        if layer.dense:
            planner.dense(index, "h", norm=True)
        else:
            planner.sparse(index, index in hosted)
    planner.joined((Segment("head", kinds["head"]),), {"head": "head"}, {"head": "logits"}, norm="norm")
    operations = tuple(planner.operations)
    planner.add(
        sample(tokens, geometry.vocabulary),
        fallback.sample(tokens, geometry.vocabulary),
        logits="logits",
        settings="settings",
        top_k="top_k",
        out="chosen",
    )
    last = planner.operations[-1]
    assert isinstance(last, Operation)
    return Plan(tokens, operations, last)


def _matrix(parameter: str, name: str) -> dict[str, str]:
    return {f"{parameter}_{part}": f"{name}.{part}" for part in ("codes", "scales", "extra")}


@dataclass
class _Planner:
    geometry: Geometry
    tokens: int
    kinds: Kinds
    kv: KVName
    operations: list[Operation | Hosted] = field(default_factory=list)

    def add(self, kernel: Kernel, stands_in: Meaning | None, *more: Mapping[str, str], **given: str) -> None:
        names = {key: name for each in (given, *more) for key, name in each.items()}
        self.operations.append(Operation(kernel, names, stands_in))

    def joined(
        self,
        segments: tuple[Segment, ...],
        weights: Mapping[str, str],
        outs: Mapping[str, str],
        *,
        x: str = "h",
        norm: str | None = None,
        add: bool = False,
        normed: bool = False,
    ) -> None:
        """`weights`, `outs`: what each segment's matrix is called, and the buffer that it writes."""
        columns = segments[0].kind.columns
        kernel = joined(self.tokens, columns, segments, norm=norm is not None, add=add, normed=normed)
        given = {"x": x}
        if norm is not None:
            given |= {"norm_weight": norm, "eps": "eps"}
        if normed:
            given["normed_out"] = "normed"
        for segment in segments:
            given |= _matrix(segment.name, weights[segment.name])
            given[f"{segment.name}_out"] = outs[segment.name]
            if segment.bias:
                given[f"{segment.name}_bias"] = f"{weights[segment.name]}_bias"
        self.add(kernel, fallback.joined(self.tokens, segments, norm=norm is not None, add=add, normed=normed), given)

    def attention(self, index: int, layer: LayerGeometry) -> None:
        tokens, model = self.tokens, self.geometry
        bias, buffers = model.qkv_bias, {"q": "q", "k": "k", "v": "v", "g": "gate"}
        segments = [Segment(name, self.kinds[f"{index}.{name}"], bias) for name in "qkv"]
        if layer.gate:
            segments.append(Segment("g", self.kinds[f"{index}.g"]))
        self.joined(tuple(segments), {name: f"{index}.{name}" for name in "qkvg"}, buffers, norm=f"{index}.input_norm")
        heads, dim, splits = (layer.heads, model.kv_heads), model.head_dim, splits_of(layer.window)
        sort = "sliding" if layer.window else "full"
        seen = {"runs": f"{index}.runs", "counts": f"{sort}.counts", "positions": "positions"}
        turned = {"q": "q", "k": "k", "v": "v", "cos": f"{sort}.cos", "sin": f"{sort}.sin"}
        if model.query_key_norm:
            turned |= {"q_norm": f"{index}.q_norm", "k_norm": f"{index}.k_norm", "eps": "eps"}
        self.add(place(tokens, *heads, dim, layer.rotary, self.kv, norms=model.query_key_norm), None, turned, seen)
        self.add(
            attend(tokens, *heads, dim, layer.window, splits, self.kv), None, {"q": "q", "partial": "partial"}, seen
        )
        gate = {"gate": "gate"} if layer.gate else {}
        joins = fallback.merge(self.tokens, layer.heads, dim, splits, layer.gate)
        self.add(merge(tokens, layer.heads, dim, splits, layer.gate), joins, gate, partial="partial", out="seen")
        output = Segment("o", self.kinds[f"{index}.o"], model.output_bias)
        self.joined((output,), {"o": f"{index}.o"}, {"o": "h"}, x="seen", add=True)

    def dense(self, index: int, x: str, *, norm: bool) -> None:
        """A dense layer over h, or the shared expert over what was normed already; the result is added to h."""
        self._inner(index, x, norm=norm)
        down = Segment("down", self.kinds[f"{index}.down"])
        self.joined((down,), {"down": f"{index}.down"}, {"down": "h"}, x="inner", add=True)

    def _inner(self, index: int, x: str, *, norm: bool) -> None:
        gate, up = self.kinds[f"{index}.gate"], self.kinds[f"{index}.up"]
        given = {"x": x, "out": "inner", **_matrix("gate", f"{index}.gate"), **_matrix("up", f"{index}.up")}
        if norm:
            given |= {"norm_weight": f"{index}.post_norm", "eps": "eps"}
        self.add(gated(self.tokens, gate, up, norm=norm), fallback.gated(self.tokens, gate, up, norm=norm), given)

    def sparse(self, index: int, hosted: bool) -> None:
        model, kinds = self.geometry, self.kinds
        router = Segment("router", kinds[f"{index}.router"])
        names = {"router": f"{index}.router"}
        self.joined((router,), names, {"router": "router"}, norm=f"{index}.post_norm", normed=True)
        sizes = (self.tokens, model.experts, model.per_token)
        chosen = {"picked": "picked", "share": "share"}
        stands_in = fallback.pick(self.tokens, model.experts, model.per_token, normalize=model.normalize)
        given = {"logits": "router", "bias": f"{index}.selection", "softcap": "softcap", **chosen}
        self.add(pick(*sizes, normalize=model.normalize), stands_in, given)
        if hosted:
            if model.shared:
                self.dense(index, "normed", norm=False)
            self.operations.append(Hosted(index))
            return
        if model.shared:
            self._inner(index, "normed", norm=False)
        self._experts(index, chosen)

    def _experts(self, index: int, chosen: Mapping[str, str]) -> None:
        first, second = self.kinds[f"{index}.experts_gate_up"], self.kinds[f"{index}.experts_down"]
        shared = self.kinds[f"{index}.down"] if self.geometry.shared else None
        per_token = self.geometry.per_token
        self.add(
            expert_gate_up(self.tokens, per_token, first),
            fallback.expert_gate_up(self.tokens, per_token, first),
            _matrix("weights", f"{index}.experts_gate_up"),
            x="normed",
            picked="picked",
            out="act",
        )
        given = {"act": "act", "scale": "scale", "out": "h", **chosen}
        given |= _matrix("weights", f"{index}.experts_down")
        if shared is not None:
            given |= {"shared_act": "inner", **_matrix("shared", f"{index}.down")}
        kernel = expert_down(self.tokens, per_token, second, shared)
        self.add(kernel, fallback.expert_down(self.tokens, per_token, second, shared), given)


def buffer_sizes(geometry: Geometry, tokens: int) -> dict[str, tuple[int, torch.dtype]]:
    """What a step of so many tokens writes: elements and type by name."""
    model, dim = geometry, geometry.head_dim
    heads = max(layer.heads for layer in model.layers)
    pieces = max(layer.heads * splits_of(layer.window) for layer in model.layers)
    floats = {
        "h": model.hidden,
        "q": heads * dim,
        "k": model.kv_heads * dim,
        "v": model.kv_heads * dim,
        "gate": max(model.gate_rows(layer) for layer in model.layers),
        "partial": pieces * (dim + 2),
        "seen": heads * dim,
        "normed": model.hidden,
        "router": model.experts,
        "share": model.per_token,
        "inner": max(layer.dense or model.shared for layer in model.layers),
        "act": model.per_token * model.inner,
        "logits": model.vocabulary,
    }
    sizes = {name: (tokens * each, torch.float32) for name, each in floats.items()}
    return sizes | {"picked": (tokens * model.per_token, torch.int32), "chosen": (tokens, torch.int32)}


class DecodeStep:
    """A plan whose names are bound to tensors, compiled and ready.

    `named`: every buffer, input, vector and number of the plan, and the parts of matrices (`named_parts`). Kernels of
    the families `faulty` are replaced by torch on the same tensors. `hosts`: by layer, who computes its experts. Raises
    KernelError where the device cannot compile it, and ValueError where a faulty kernel has nothing that stands in.
    """

    def __init__(
        self,
        device: Device,
        plan: Plan,
        named: Named,
        *,
        faulty: frozenset[str] = frozenset(),
        hosts: Mapping[int, Callable[[], None]] | None = None,
    ) -> None:
        self.plan, self.device = plan, device
        device.prepare(kernel for kernel in plan.kernels if kernel.family not in faulty)
        bound = [_bound(each, named, faulty, hosts or {}) for each in plan.operations]
        self.pieces = _recorded(device, bound)
        self.sampling = _recorded(device, [_bound(plan.sampling, named, faulty, {})])

    def run(self) -> None:
        """From the inputs on the device to the logits there; returns before it is done."""
        for piece in self.pieces:
            piece()

    def choose(self) -> None:
        """From the logits to the chosen tokens, after `run`."""
        for piece in self.sampling:
            piece()


def named_parts(matrices: Mapping[str, DeviceMatrix]) -> dict[str, Argument]:
    """The parts of matrices by the names that a plan has for them."""
    parts: dict[str, Argument] = {}
    for name, matrix in matrices.items():
        parts |= zip((f"{name}.codes", f"{name}.scales", f"{name}.extra"), matrix.arguments, strict=True)
    return parts


def _bound(
    each: Operation | Hosted, named: Named, faulty: frozenset[str], hosts: Mapping[int, Callable[[], None]]
) -> Launch | HostWork:
    if isinstance(each, Hosted):
        return HostWork(f"experts of layer {each.layer}", hosts[each.layer])
    given = {parameter: named[name] for parameter, name in each.given.items()}
    launch = Launch.of(each.kernel, **given)
    if each.kernel.family not in faulty:
        return launch
    if each.stands_in is None:
        raise ValueError(f"nothing stands in for the kernel {each.kernel.family}")
    return HostWork(each.kernel.family, work_of(each.kernel, each.stands_in, given))


def _recorded(device: Device, bound: Sequence[Launch | HostWork]) -> list[Callable[[], None]]:
    """Launches that follow one another as one graph, and what the CPU does between them."""
    pieces: list[Callable[[], None]] = []
    waiting: list[Launch] = []
    for each in bound:
        if isinstance(each, Launch):
            waiting.append(each)
            continue
        if waiting:
            pieces.append(device.record(waiting))
        pieces.append(each.call)
        waiting = []
    return [*pieces, device.record(waiting)] if waiting else pieces
