"""All small cases of the Triton kernels under its interpreter, in a process of its own (`TRITON_INTERPRET=1`).

usage: python -m tests.cuda.prefill_battery [--kernels FILE] [--geometry NAME] [--only TEXT]

Prints a line for each case and ends with 0 where every one is right, with 3 at the first that is not. `FILE` stands for
`triton_kernels.py`. All memory lies between protected pages and holds NaN before it is written.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import torch
from torch import Generator, Tensor

from laguna_agent.backend.kernels.cuda import prefill_cases, triton_products
from laguna_agent.backend.kernels.cuda.geometry import PUBLISHED
from laguna_agent.backend.kernels.cuda.matrices import DeviceMatrix, kind_of
from laguna_agent.backend.kernels.cuda.prefill_cases import PrefillCase
from laguna_agent.backend.kernels.cuda.triton_products import Readable, TritonProducts, reading_of
from laguna_agent.backend.kernels.formats import PackedTensor, parse_format
from tests.cuda.emulator import fence, fenced

WRONG = 3
MANY = 40_000
"""Experts of a stack whose last ones lie behind 2^31 words: memory that nobody touches takes none."""


class FencedProducts(TritonProducts):
    """The products over memory that begins as NaN and ends at a protected page."""

    def empty(self, x: Tensor, *shape: int) -> Tensor:
        return fenced(*shape, dtype=x.dtype).fill_(math.nan)


def distant_case(*, gates_are_wide: bool, made: Generator) -> PrefillCase:
    """Experts whose words lie 2^31 and more from the first one's."""
    inner, hidden, tokens = 16 if gates_are_wide else 32, 2048, 3
    gates, downs = ("f32", "int4:32:bf16") if gates_are_wide else ("int4:32:bf16", "f32")
    picked = torch.tensor([[MANY - 1, 0], [MANY - 2, MANY - 1], [1, MANY - 2]])
    here = {expert: at for at, expert in enumerate(picked.unique().tolist())}
    gate_up, down = (
        prefill_cases.random_weight(parse_format(spelling), (len(here), *shape), made)
        for spelling, shape in ((gates, (2 * inner, hidden)), (downs, (hidden, inner)))
    )
    x, share = torch.randn(tokens, hidden, generator=made), torch.randn(tokens, 2, generator=made)
    near = torch.tensor([[here[expert] for expert in row] for row in picked.tolist()])
    expected = prefill_cases.expected_of(x, gate_up, down, near, share)

    def run(products: TritonProducts, put: object) -> Tensor:
        return products.experts(x, _spread(gate_up, here), _spread(down, here), picked, share)

    return PrefillCase(f"experts 2^31 words away {gates} {downs}", run, expected, prefill_cases.tolerance())


def _spread(weight: PackedTensor, here: dict[int, int]) -> Readable:
    """A stack of MANY experts, of which only those are there."""
    small = triton_products.readable(weight)
    kind = kind_of(weight.format, (MANY, *weight.shape[1:]))
    reading = reading_of(weight.format, weight.shape[-1])
    assert small is not None and kind is not None and reading is not None

    def spread(part: Tensor | None) -> Tensor | None:
        if part is None:
            return None
        large = fenced(MANY, *part.shape[1:], dtype=part.dtype)
        for expert, at in here.items():
            large[expert] = part[at]
        return large

    codes = spread(small.matrix.codes)
    assert codes is not None
    return Readable(reading, DeviceMatrix(kind, codes, spread(small.matrix.scales), spread(small.matrix.extra)))


def turned_case(made: Generator) -> PrefillCase:
    """More tokens than one turn's memory holds."""
    case = prefill_cases.experts_case("int4:32:bf16", "int8:32:f16", (4, 2), (9, 32, 64), made)

    def run(products: TritonProducts, put: prefill_cases.Put) -> Tensor:
        kept, triton_products.WORKSPACE = triton_products.WORKSPACE, 2 * 96 * 4 * 4
        try:
            return case.run(products, put)
        finally:
            triton_products.WORKSPACE = kept

    return PrefillCase(f"{case.label} in turns", run, case.expected, case.tolerance)


def all_cases(geometry: str | None) -> Iterator[PrefillCase]:
    """The package's cases, and those that need memory as only tests have it."""
    found = next((each for each in PUBLISHED if each.name == geometry), None)
    assert found is not None or geometry is None
    yield from prefill_cases.cases(found)
    if found is None:
        made = Generator().manual_seed(2)
        yield turned_case(made)
        yield distant_case(gates_are_wide=True, made=made)
        yield distant_case(gates_are_wide=False, made=made)


def kernels_of(file: Path | None) -> ModuleType:
    """The module of kernels, or another one in its place."""
    if file is None:
        from laguna_agent.backend.kernels.cuda import triton_kernels

        return triton_kernels
    spec = importlib.util.spec_from_file_location("planted", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kernels", type=Path)
    parser.add_argument("--geometry")
    parser.add_argument("--only", default="")
    given = parser.parse_args()
    assert os.environ.get("TRITON_INTERPRET") == "1"
    torch.set_num_threads(1)
    products = FencedProducts(kernels_of(given.kernels))
    for case in all_cases(given.geometry):
        if given.only in case.label:
            begun = time.monotonic()
            error = prefill_cases.error_of(case, products, fence)
            print(f"{error:.1e} {time.monotonic() - begun:5.1f}s {case.label}", flush=True)
            if not error <= case.tolerance:
                return WRONG
    return 0


if __name__ == "__main__":
    sys.exit(main())
