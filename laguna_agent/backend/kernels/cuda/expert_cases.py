"""Known calls of the experts' kernels: small and odd sizes in every format, and the sizes of a model.

Knows the kernels, what they mean (`experts_torch.py`), and how weights are stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from laguna_agent.backend.kernels.cuda import experts, experts_torch
from laguna_agent.backend.kernels.cuda.cases import Case, Put
from laguna_agent.backend.kernels.cuda.geometry import Geometry
from laguna_agent.backend.kernels.cuda.launch import Argument, Kernel
from laguna_agent.backend.kernels.cuda.matrices import MatrixKind, kind_of, placed
from laguna_agent.backend.kernels.cuda.random_weights import every_format, published_formats, random_weight
from laguna_agent.backend.kernels.formats import Format, GroupInt, Nvfp4, Plain
from laguna_agent.backend.kernels.reference import dequantise

_WIDE = torch.float64
_SCALE = 2.5
"""What the routed experts' sum is multiplied with."""


@dataclass(frozen=True, eq=False)
class _Maker:
    """Makes cases out of random numbers."""

    chance: Generator

    def normal(self, *shape: int) -> Tensor:
        """Random numbers around 0."""
        return torch.randn(*shape, generator=self.chance)

    def pick(
        self, label: str, logits: Tensor, bias: Tensor, per_token: int, *, normalize: bool, softcap: float
    ) -> Case:
        """One call of `pick`; logits [tokens, experts]. The choice may not hang on how scores are rounded."""
        tokens, count = logits.shape
        given: dict[str, Argument] = {"logits": logits, "bias": bias, "softcap": softcap}
        wanted = experts_torch.pick(given, tokens, count, per_token, normalize=normalize, dtype=_WIDE)
        given["picked"] = torch.full((tokens, per_token), -1, dtype=torch.int32)
        given["share"] = torch.full((tokens, per_token), torch.nan)
        return _case(f"pick {label}", experts.pick(tokens, count, per_token, normalize=normalize), given, wanted)

    def gate_up(self, label: str, format: Format, count: int, inner: int, columns: int, picked: Tensor) -> Case:
        """One call of `expert_gate_up`; picked [tokens, per_token] of `count` experts."""
        given: dict[str, Argument] = {"picked": picked.int()}
        kind, size = self._matrix(given, "weights", format, (count, 2 * inner, columns))
        tokens, per_token = picked.shape
        # Small gates, so that the SiLU is not all but a line.
        given["x"] = self.normal(tokens, columns) / (size * columns**0.5)
        wanted = experts_torch.expert_gate_up(given, tokens, per_token, kind, dtype=_WIDE)
        given["out"] = torch.full((tokens, per_token, inner), torch.nan)
        label = f"expert_gate_up {label}, {format.spelling}, {tokens} x {per_token} of {count}, {columns} -> {inner}"
        return _case(label, experts.expert_gate_up(tokens, per_token, kind), given, wanted)

    def down(
        self,
        label: str,
        format: Format,
        sizes: tuple[int, int, int],
        shared: tuple[Format, int] | None,
        picked: Tensor,
    ) -> Case:
        """One call of `expert_down`; `sizes`: experts, rows, columns; `shared`: its format and columns."""
        given: dict[str, Argument] = {"picked": picked.int(), "scale": _SCALE}
        (tokens, per_token), (count, rows, columns) = picked.shape, sizes
        kind, size = self._matrix(given, "weights", format, sizes)
        given["act"] = self.normal(tokens, per_token, columns) / size
        given["share"] = torch.rand(tokens, per_token, generator=self.chance) + 0.1
        other = None
        if shared is not None:
            other, size = self._matrix(given, "shared", shared[0], (rows, shared[1]))
            given["shared_act"] = self.normal(tokens, shared[1]) * (2 * _SCALE / size)
        given["out"] = self.normal(tokens, rows) * columns**0.5
        wanted = experts_torch.expert_down(given, tokens, per_token, kind, other, dtype=_WIDE)
        name = f"{format.spelling}" + (f" + {shared[0].spelling}" if shared else "")
        label = f"expert_down {label}, {name}, {tokens} x {per_token} of {count}, {columns} -> {rows}"
        return _case(label, experts.expert_down(tokens, per_token, kind, other), given, wanted)

    def picks(self, tokens: int, per_token: int, count: int) -> Tensor:
        """[tokens, per_token] of `count` experts, each at most once for a token; somebody goes to the last."""
        picked = torch.stack([torch.randperm(count, generator=self.chance)[:per_token] for _ in range(tokens)])
        if not bool((picked == count - 1).any()):
            picked[-1, -1] = count - 1
        return picked

    def router_numbers(self, tokens: int, count: int, per_token: int, softcap: float) -> tuple[Tensor, Tensor]:
        """Logits and a bias with equal experts among them; other neighbours in the order stand clear of each other."""
        while True:
            logits, bias = self.normal(tokens, count) * 3, self.normal(count) * 0.3
            for _ in range(count // 4):
                one, other = torch.randint(0, count, (2,), generator=self.chance).tolist()
                logits[:, other], bias[other] = logits[:, one], bias[one]
            capped = softcap * torch.tanh(logits.double() / softcap) if softcap else logits.double()
            wanted = (torch.sigmoid(capped) + bias.double()).sort(dim=-1, descending=True).values[:, : per_token + 1]
            gaps = wanted[:, :-1] - wanted[:, 1:]
            if bool(((gaps == 0) | (gaps > 1e-5)).all()):
                return logits, bias

    def _matrix(
        self, given: dict[str, Argument], name: str, format: Format, shape: tuple[int, ...]
    ) -> tuple[MatrixKind, float]:
        """A random matrix, given by name; its kind, and the size of its numbers."""
        weight = random_weight(format, shape, self.chance)
        matrix = placed(weight, torch.device("cpu"))
        assert matrix is not None, f"no kernel reads {format.spelling}"
        given |= {p.name: part for p, part in zip(matrix.kind.pointers(name), matrix.arguments, strict=True)}
        return matrix.kind, dequantise(weight[:1]).square().mean().sqrt().item()


def _case(label: str, kernel: Kernel, given: Mapping[str, Argument], wanted: Mapping[str, Tensor]) -> Case:
    def bind(put: Put) -> Mapping[str, Argument]:
        return {name: put(value) if isinstance(value, Tensor) else value for name, value in given.items()}

    return Case(label, kernel, bind, wanted)


def _random_picks(make: _Maker) -> Iterator[Case]:
    sizes = (
        (1, 256, 8, True, 0.0),
        (2, 256, 10, True, 5.0),
        (8, 256, 16, True, 0.0),
        (4, 37, 5, False, 2.0),
        (1, 33, 32, True, 0.0),
        (1, 1, 1, True, 0.0),
        (2, 1000, 32, False, 0.0),
    )
    for tokens, count, per_token, normalize, softcap in sizes:
        logits, bias = make.router_numbers(tokens, count, per_token, softcap)
        label = f"{per_token} of {count} for {tokens}, softcap {softcap:g}"
        yield make.pick(label, logits, bias, per_token, normalize=normalize, softcap=softcap)


def _odd_picks(make: _Maker) -> Iterator[Case]:
    zeros = torch.zeros(70)
    yield make.pick("all equal", torch.zeros(2, 70), zeros, 6, normalize=True, softcap=0.0)
    # In fp32 their scores are 1; the lowest experts win, whoever has the larger logit.
    yield make.pick("beyond 1", torch.linspace(30, 60, 70)[None], zeros, 4, normalize=False, softcap=0.0)
    wild = torch.linspace(-4, 4, 70).repeat(2, 1)
    wild[0, 3], wild[0, 41], wild[0, 7], wild[0, 8], wild[1, 66] = torch.nan, -torch.nan, torch.inf, -torch.inf, -300.0
    for normalize in (False, True):
        label = f"no numbers, {'shares' if normalize else 'scores'}"
        yield make.pick(label, wild, zeros, 5, normalize=normalize, softcap=0.0)
    below = torch.linspace(-3, -1, 70)
    below[5] = -torch.inf
    yield make.pick("below 0", torch.linspace(2, -2, 70)[None], below, 7, normalize=True, softcap=0.0)


def _every_format(make: _Maker) -> Iterator[Case]:
    formats = every_format()
    for one, other in zip(formats, (*formats[5:], *formats[:5]), strict=True):
        yield make.gate_up("rows of no whole warp", one, 4, 9, 288, make.picks(1, 2, 4))
        yield make.down("rows of no whole warp", one, (5, 9, 160), (other, 96), make.picks(1, 3, 5))


def _odd_gate_ups(make: _Maker) -> Iterator[Case]:
    int4, f16 = GroupInt(4, 32, torch.float16), Plain(torch.float16)
    odd: tuple[tuple[str, Format, int, int, int, int, int], ...] = (
        ("padding without a scale", GroupInt(4, 16), 40, 3, 1, 2, 3),
        ("padding without a scale", Nvfp4(), 48, 4, 1, 2, 3),
        ("a short group", int4, 100, 5, 2, 2, 3),
        ("odd columns", GroupInt(8, 16), 33, 3, 2, 1, 2),
        ("as wide as XS.2", int4, 2048, 3, 1, 3, 5),
        ("one column", f16, 1, 1, 2, 2, 3),
        ("one expert", Plain(torch.float32), 3, 2, 1, 1, 1),
        ("two rows at a time", Plain(torch.bfloat16), 256, 10, 8, 32, 40),
    )
    for label, format, columns, inner, tokens, per_token, count in odd:
        yield make.gate_up(label, format, count, inner, columns, make.picks(tokens, per_token, count))


def _odd_downs(make: _Maker) -> Iterator[Case]:
    int4, bf16 = GroupInt(4, 32, torch.float16), Plain(torch.bfloat16)
    f16, f32 = Plain(torch.float16), Plain(torch.float32)
    odd: tuple[tuple[str, Format, tuple[int, int, int], tuple[Format, int] | None, int, int], ...] = (
        ("padding without a scale", Nvfp4(), (3, 5, 48), (GroupInt(8, 32), 33), 4, 2),
        ("more than fit at once", int4, (12, 40, 768), (int4, 768), 2, 10),
        ("none shared", int4, (6, 11, 160), None, 2, 5),
        ("padding without a scale", GroupInt(4, 16), (3, 3, 40), (Nvfp4(), 48), 1, 2),
        ("odd columns", GroupInt(8, 16), (2, 1, 33), (f16, 1), 2, 1),
        ("one expert", f32, (1, 2, 1), None, 1, 1),
        ("as many as a warp has lanes", f16, (33, 3, 64), (f32, 3), 1, 32),
        ("as wide as XS.2", GroupInt(4, 128), (9, 9, 512), (bf16, 512), 1, 8),
        ("two rows at a time", f32, (4, 250, 128), (bf16, 64), 8, 3),
    )
    for label, format, sizes, shared, tokens, per_token in odd:
        yield make.down(label, format, sizes, shared, make.picks(tokens, per_token, sizes[0]))


def far_case(inner: int, columns: int, seed: int) -> Case:
    """A call of `expert_gate_up` on the last expert of a stack of more than 4 GiB, of which nothing else is touched."""
    chance = Generator().manual_seed(seed)
    last = torch.randn(1, 2 * inner, columns, generator=chance).bfloat16()
    count = (1 << 32) // last.nbytes + 3
    alone, whole = (kind_of(Plain(last.dtype), (experts, *last.shape[1:])) for experts in (1, count))
    assert alone is not None and whole is not None
    given = {"x": torch.randn(1, columns, generator=chance) / columns**0.5, "weights_codes": last}
    first = {**given, "picked": torch.zeros(1, 1, dtype=torch.int32)}
    wanted = experts_torch.expert_gate_up(first, 1, 1, alone, dtype=_WIDE)

    def bind(put: Put) -> Mapping[str, Argument]:
        x = put(given["x"])
        # `put` would copy it all; memory that nobody touches costs nothing.
        codes = torch.empty(count, last.nbytes, dtype=torch.uint8, device=x.device)
        codes[-1] = last.view(torch.uint8).flatten()
        picked = put(torch.tensor([[count - 1]], dtype=torch.int32))
        return {"x": x, "picked": picked, "weights_codes": codes, "out": put(torch.full((inner,), torch.nan))}

    return Case(f"expert_gate_up of {count} experts", experts.expert_gate_up(1, 1, whole), bind, wanted)


def small(seed: int) -> Iterator[Case]:
    """Odd sizes, what only large memory shows, all formats; first what shows most faults."""
    make = _Maker(Generator().manual_seed(seed))
    yield from _odd_downs(make)
    yield from _odd_gate_ups(make)
    yield far_case(4, 4096, seed)
    yield from _random_picks(make)
    yield from _odd_picks(make)
    yield from _every_format(make)


def of_model(geometry: Geometry, seed: int) -> Iterator[Case]:
    """A model's own sizes with one more expert than a token takes; 1 token in every published format, 8 in int4, and
    the shared expert in the experts' format or, as the published int4 has it, in bf16."""
    count, per_token, hidden, inner = geometry.experts, geometry.per_token, geometry.hidden, geometry.inner
    if not count:
        return
    make, bf16 = _Maker(Generator().manual_seed(seed)), Plain(torch.bfloat16)
    softcap, stack = 5.0 if geometry.softcap else 0.0, per_token + 1
    int4: tuple[Format, ...] = (GroupInt(4, 128), GroupInt(4, 32, torch.float16, minimums=True))
    for tokens, formats in ((1, (*published_formats(), int4[1])), (8, int4[:1])):
        name = f"{geometry.name}, {tokens} tokens"
        logits, bias = make.router_numbers(tokens, count, per_token, softcap)
        yield make.pick(name, logits, bias, per_token, normalize=geometry.normalize, softcap=softcap)
        for format in formats:
            picked = make.picks(tokens, per_token, stack)
            yield make.gate_up(name, format, stack, inner, hidden, picked)
            other = bf16 if format in int4 else format
            shared = (other, geometry.shared) if geometry.shared else None
            yield make.down(name, format, (stack, hidden, inner), shared, picked)
