"""The functions of `native/maths.h` against torch in fp64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from laguna_agent.backend.kernels.cpu.abi import DONE, NO_SUCH_INDEX
from laguna_agent.backend.kernels.cpu.library import library

EXPONENTIAL, SIGMOID, SILU, SOFTPLUS = range(4)
REFERENCES = {
    EXPONENTIAL: torch.exp,
    SIGMOID: torch.sigmoid,
    SILU: torch.nn.functional.silu,
    SOFTPLUS: torch.nn.functional.softplus,
}
TOLERATED = {EXPONENTIAL: 2.0, SIGMOID: 3.0, SILU: 4.0, SOFTPLUS: 2.0}
"""Units in the last place."""
LEAST = 2.0**-126
INF, NAN = math.inf, math.nan
LIMITS = {
    EXPONENTIAL: [0.0, INF, NAN],
    SIGMOID: [0.0, 1.0, NAN],
    SILU: [NAN, INF, NAN],
    SOFTPLUS: [0.0, INF, NAN],
}
"""At minus infinity, at infinity, and of what is no number; x / (1 + e^-x) is none at minus infinity, in torch too."""


def computed(which: int, x: torch.Tensor) -> torch.Tensor:
    y, opened = torch.empty_like(x), library().opened
    assert opened is not None and opened.laguna_function(which, x.data_ptr(), y.data_ptr(), len(x)) == DONE
    return y


def errors(found: torch.Tensor, x: torch.Tensor, which: int) -> torch.Tensor:
    """How many units in the last place each result is off; results below the normal numbers are measured in theirs."""
    exact = REFERENCES[which](x.double())
    unit = torch.exp2(torch.floor(torch.log2(exact.abs().clamp(LEAST, 2.0**127))) - 23)
    return (found.double() - exact).abs() / unit


@pytest.mark.parametrize("which", REFERENCES)
def test_the_error_is_a_few_units_in_the_last_place(which, variant):
    x = torch.cat((torch.linspace(-87, 88.7, 60001), torch.linspace(-1, 1, 20001), torch.logspace(-38, 0, 999)))
    x = torch.cat((x, -x.clamp(max=87)))
    found = computed(which, x)
    assert found.isfinite().all()
    assert errors(found, x, which).max() <= TOLERATED[which]


@pytest.mark.parametrize("which", REFERENCES)
def test_limits(which, variant):
    found = computed(which, torch.tensor([-INF, INF, NAN]))
    assert torch.equal(found, torch.tensor(LIMITS[which])) or torch.allclose(
        found, torch.tensor(LIMITS[which]), rtol=0, atol=0, equal_nan=True
    )


def test_the_ends_of_the_exponential(variant):
    x = torch.tensor([-1e38, -104.0, -88.0, -87.4, 88.72, 88.73, 89.0, 1e38, 0.0, -0.0, 1e-45, -1e-45])
    found = computed(EXPONENTIAL, x).tolist()
    # No subnormal number is ever made.
    assert found[:4] == [0.0] * 4 and found[5:8] == [INF] * 3
    assert found[4] == pytest.approx(math.exp(torch.tensor(88.72).item()), rel=1e-6)
    assert found[8:] == [1.0] * 4


@given(
    which=st.sampled_from(list(REFERENCES)),
    values=st.lists(st.floats(width=32, allow_nan=True, allow_infinity=True), min_size=1, max_size=40),
)
@example(which=SIGMOID, values=[1e-45, -1e-45, 3e38, -3e38])
@example(which=SILU, values=[1e-45, -1e-45, 3e38, -3e38, -88.0])
def test_any_number_of_any_numbers(which, values, variant):
    x = torch.tensor(values)
    found, exact = computed(which, x), REFERENCES[which](x.double())
    assert torch.equal(found.isnan(), exact.isnan())
    # Beyond the largest float, and where e^-x is, results are infinite or zero.
    inside = exact.isfinite() & (exact.abs() < 3.4e38) & (x.abs() < 87)
    assert (errors(found, x, which)[inside] <= TOLERATED[which]).all()
    assert (found.double() - exact)[exact.isfinite() & ~inside & (exact.abs() < 1e37)].abs().le(1e-35).all()
    beyond = found[exact.isfinite() & (exact.abs() >= 3.41e38) | exact.isinf()]
    assert beyond.isinf().all()


def test_there_is_no_fifth_function(variant):
    x, opened = torch.zeros(3), library().opened
    assert opened is not None and opened.laguna_function(4, x.data_ptr(), x.data_ptr(), 3) == NO_SUCH_INDEX
