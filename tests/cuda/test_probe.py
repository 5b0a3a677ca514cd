"""The twins that the shim has of a GPU's own instructions, against torch: every half, and every rounding."""

from __future__ import annotations

import pytest
import torch

from laguna_agent.backend.kernels.cuda import probe
from laguna_agent.backend.kernels.cuda.cases import Case, error_of
from tests.cuda.emulator import Emulator, fence


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return list(probe.cases(None))


@pytest.fixture(scope="module")
def emulator(cases: list[Case]) -> Emulator:
    made = Emulator()
    made.prepare(case.kernel for case in cases)
    return made


def test_every_function_of_the_shim_does_what_torch_does(cases: list[Case], emulator: Emulator) -> None:
    errors = {case.label: error_of(case, emulator, fence) for case in cases}
    assert {
        label for case, (label, error) in zip(cases, errors.items(), strict=True) if error > case.tolerance
    } == set()


def test_the_table_of_halves_has_every_rounding() -> None:
    near = probe.near_halves(0)
    assert near.numel() > 8 * 0x7C00
    halves = near.half()
    # All halves are reached, and infinity from numbers on both sides of where it begins.
    assert halves[halves.isfinite()].view(torch.int16).unique().numel() == 2 * 0x7C00
    beyond = near[halves.isinf() & near.isfinite()].abs()
    largest = near[halves.isfinite()].abs().max().item()
    assert largest < 65520.0 == beyond.min().item()
    # Numbers that are no halves, on both sides and exactly between.
    wide = near[near.isfinite() & halves.isfinite()].double()
    rounded = wide.float().half().double()
    assert all(int(found.sum()) > 60000 for found in (rounded > wide, rounded < wide))


def test_cases_fail_where_a_function_is_wrong(cases: list[Case], emulator: Emulator) -> None:
    halves, nearest = cases[0], cases[1]
    off = halves.expected["out"].clone()
    off[1] *= 2
    wrong = Case("one denormal", halves.kernel, halves.bind, {"out": off}, 0.0)
    assert error_of(wrong, emulator, fence) > 0
    bits = nearest.expected["out"].clone()
    bits[12345] += 1
    assert error_of(Case("one bit", nearest.kernel, nearest.bind, {"out": bits}, 0.0), emulator, fence) > 0
