"""Small known products of long prompts: what the self-test runs on a GPU, and the tests under Triton's interpreter.

Weights are random codes under random scales, so that every code is met; what must come out is worked out in fp64 from
the same numbers. Knows tensors and formats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Generator, Tensor

from laguna_agent.backend.kernels.cuda.cases import TOLERANCE, Put, relative_error
from laguna_agent.backend.kernels.cuda.geometry import Geometry
from laguna_agent.backend.kernels.cuda.triton_products import Readable, TritonProducts, interpreted, readable
from laguna_agent.backend.kernels.formats import Format, Fp8, GroupInt, Nvfp4, PackedTensor, Plain, parse_format
from laguna_agent.backend.kernels.reference import dequantise

ROUNDED = 2e-2
"""Tolerance on a GPU, where operands, weights and what lies between two products are rounded to 8 bits."""
FORMATS = (
    "f32",
    "f16",
    "bf16",
    "int4:32:bf16",
    "int4:32:f16:min",
    "int4:128:bf16",
    "int4:16:f32:min",
    "int4:4:f16:min",
    "int8:32:f16",
    "int8:128:bf16:min",
    "int8:16:f32",
    "fp8:128:f32",
    "fp8:4096:bf16",
    "nvfp4",
)
PUBLISHED_FORMATS = ("int4:32:bf16", "bf16", "nvfp4", "fp8:128:f32", "int8:128:bf16")
"""What a model's own shapes are tried with; under the interpreter only the first two have more than one expert."""
FEW_EXPERTS = 2
"""Experts of a published shape: under the interpreter each costs half a minute and more."""


@dataclass(frozen=True, eq=False)
class PrefillCase:
    """`run(products, put)` computes on the device to which `put` copies; `expected` fp64 of the same shape."""

    label: str
    run: Callable[[TritonProducts, Put], Tensor]
    expected: Tensor
    tolerance: float


def error_of(case: PrefillCase, products: TritonProducts, put: Put) -> float:
    """The relative error of what came out; infinite where it is no number."""
    return relative_error(case.run(products, put).cpu(), case.expected)


def cases(geometry: Geometry | None, seed: int = 0) -> Iterator[PrefillCase]:
    """Small and odd sizes in all formats; with a geometry its own shapes, with few experts and rows.

    On a GPU activations are bf16, under the interpreter fp32.
    """
    made = Generator().manual_seed(seed)
    if geometry is not None:
        yield from _of_geometry(geometry, made)
        return
    for spelling in FORMATS:
        columns = {"nvfp4": 208, "fp8:4096:bf16": 208}.get(spelling, 200)
        yield linear_case(spelling, 19, 70, columns, made, bias=True)
    yield linear_case("int4:32:bf16", 1, 64, 37, made, bias=False)
    yield linear_case("int8:128:bf16", 70, 130, 128, made, bias=False)
    for spelling in FORMATS:
        yield experts_case(spelling, spelling, (5, 3), (11, 48, 80), made)
    # Many rows for each expert, one expert that has them all, one token, all experts, and formats that differ.
    yield experts_case("int4:32:bf16", "int4:32:bf16", (2, 2), (70, 40, 72), made)
    yield experts_case("int8:32:f16", "int4:32:f16:min", (6, 1), (40, 32, 64), made, only=4)
    yield experts_case("bf16", "nvfp4", (9, 3), (1, 48, 64), made)
    yield experts_case("nvfp4", "bf16", (16, 16), (3, 32, 64), made)
    yield experts_case("fp8:128:f32", "int8:128:bf16:min", (300, 10), (3, 33, 65), made)


def _of_geometry(geometry: Geometry, made: Generator) -> Iterator[PrefillCase]:
    for spelling in PUBLISHED_FORMATS:
        if geometry.experts:
            # The interpreter takes half a minute for an expert that a GPU has done at once.
            few = 1 if interpreted() and spelling not in PUBLISHED_FORMATS[:2] else FEW_EXPERTS
            count = min(geometry.experts, few)
            shape = (9, geometry.inner, geometry.hidden)
            yield experts_case(spelling, spelling, (count, min(geometry.per_token, count)), shape, made)
        yield linear_case(spelling, 9, 192, geometry.hidden, made, bias=False)


def linear_case(spelling: str, tokens: int, rows: int, columns: int, made: Generator, *, bias: bool) -> PrefillCase:
    """x [tokens, columns] times a random weight [rows, columns]."""
    weight = random_weight(parse_format(spelling), (rows, columns), made)
    x = _activations(made, tokens, columns)
    added = _activations(made, rows) if bias else None

    def run(products: TritonProducts, put: Put) -> Tensor:
        return products.linear(put(x), _placed(weight, put), None if added is None else put(added))

    expected = x.double() @ _exact(weight).T + (0.0 if added is None else added.double())
    label = f"linear {tokens}x{columns} {rows} {spelling}{' bias' if bias else ''}"
    return PrefillCase(label, run, expected, tolerance())


def experts_case(
    gates: str,
    downs: str,
    picks: tuple[int, int],
    sizes: tuple[int, int, int],
    made: Generator,
    *,
    only: int | None = None,
) -> PrefillCase:
    """Tokens through experts. picks: experts, of which a token picks so many; sizes: tokens, inner, hidden.

    `only`: every token picks that one.
    """
    (count, per_token), (tokens, inner, hidden) = picks, sizes
    gate_up = random_weight(parse_format(gates), (count, 2 * inner, hidden), made)
    down = random_weight(parse_format(downs), (count, hidden, inner), made)
    x = _activations(made, tokens, hidden)
    share = _activations(made, tokens, per_token)
    order = torch.rand(tokens, count, generator=made).argsort(1)
    picked = order[:, :per_token] if only is None else torch.full((tokens, 1), only)

    def run(products: TritonProducts, put: Put) -> Tensor:
        stacks = _placed(gate_up, put), _placed(down, put)
        return products.experts(put(x), *stacks, put(picked), put(share))

    expected = expected_of(x, gate_up, down, picked, share)
    label = f"experts {tokens}x{hidden} {inner} {per_token} of {count} {gates} {downs}"
    return PrefillCase(label, run, expected, tolerance())


def expected_of(x: Tensor, gate_up: PackedTensor, down: PackedTensor, picked: Tensor, share: Tensor) -> Tensor:
    """fp64 [tokens, hidden]: sum of share * down(silu(gate x) * up x), one pair after the other."""
    out = torch.zeros(x.shape, dtype=torch.float64)
    inside, outside = {}, {}
    for expert in set(picked.flatten().tolist()):
        inside[expert], outside[expert] = _exact(gate_up[expert]), _exact(down[expert])
    for token, experts in enumerate(picked.tolist()):
        for which, expert in enumerate(experts):
            gate, up = (inside[expert] @ x[token].double()).chunk(2)
            out[token] += share[token, which].double() * (outside[expert] @ (torch.nn.functional.silu(gate) * up))
    return out


def tolerance() -> float:
    """Largest relative error here: fp32 throughout under the interpreter."""
    return TOLERANCE if interpreted() else ROUNDED


def random_weight(format: Format, shape: tuple[int, ...], made: Generator) -> PackedTensor:
    """Random codes; scales such that products with numbers of unit size have about unit size."""
    drawn = partial(torch.rand, generator=made)
    *lead, columns = shape
    unit = columns**-0.5
    parts: dict[str, Tensor] = {}
    for part in format.parts(columns):
        size = (*lead, part.columns)
        match format, part.name:
            case Plain(), _:
                parts[part.name] = (torch.randn(size, generator=made) * unit).to(part.dtype)
            case _, "codes":
                codes = torch.randint(0, 256, size, generator=made).to(torch.uint8)
                if isinstance(format, Fp8):
                    # 0x7f and 0xff are no numbers.
                    codes = torch.where(codes & 127 == 127, codes - 1, codes)
                parts[part.name] = codes.view(part.dtype)
            case Nvfp4(), "scales":
                parts[part.name] = (drawn(size) * 2 + 0.25).to(part.dtype)
            case Nvfp4(), _:
                parts[part.name] = (drawn(size) + 0.5) * 3 / unit
            case GroupInt(bits=4), "scales":
                parts[part.name] = ((drawn(size) + 0.5) * unit / 5).to(part.dtype)
            case _, "minimums":
                parts[part.name] = ((drawn(size) - 0.5) * unit).to(part.dtype)
            case _:
                parts[part.name] = ((drawn(size) + 0.5) * unit / 75).to(part.dtype)
    return PackedTensor(format, shape, parts)


def _exact(weight: PackedTensor) -> Tensor:
    return dequantise(weight).double()


def _activations(made: Generator, *shape: int) -> Tensor:
    x = torch.randn(shape, generator=made)
    return x if interpreted() else x.bfloat16()


def _placed(weight: PackedTensor, put: Put) -> Readable:
    """The weight where `put` copies to, as the kernels read it."""
    found = readable(weight)
    assert found is not None
    matrix = found.matrix
    moved = [None if part is None else put(part) for part in (matrix.codes, matrix.scales, matrix.extra)]
    assert moved[0] is not None
    return Readable(found.reading, type(matrix)(matrix.kind, moved[0], moved[1], moved[2]))
