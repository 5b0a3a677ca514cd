"""Newton-Schulz against the SVD in fp64: odd shapes, odd scales; and the same bits in whatever company."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from laguna_agent.errors import UsageError
from laguna_agent.training.optim import coefficients as sequences
from laguna_agent.training.optim.coefficients import INTERVALS, Coefficients, steps
from laguna_agent.training.optim.newton_schulz import fastest_dtype, group_size, orthogonalise, orthogonalise_all

NAMES: tuple[Coefficients, ...] = get_args(Coefficients)
CPU = torch.device("cpu")


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def randoms(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def applied(name: Coefficients, values: Tensor) -> Tensor:
    """The sequence on numbers, in fp64."""
    values = values.double()
    for a, b, c in steps(name):
        values = a * values + b * values**3 + c * values**5
    return values


def exact(stack: Tensor, name: Coefficients) -> Tensor:
    """What the iteration computes, in fp64 and by the SVD: U p(S / |S|) V^T."""
    u, s, vh = torch.linalg.svd(stack.double(), full_matrices=False)
    norm = torch.linalg.vector_norm(s, dim=-1, keepdim=True)
    values = applied(name, torch.where(norm > 0, s / norm.clamp(min=1e-300), 0.0))
    return (u * values.unsqueeze(-2)) @ vh


@pytest.mark.parametrize("name", NAMES)
def test_each_sequence_ends_where_it_says(name: Coefficients) -> None:
    smallest, low, high = INTERVALS[name]
    ends = applied(name, torch.logspace(torch.tensor(smallest).log10().item(), 0, 20_001, dtype=torch.float64))
    assert low <= ends.min().item() < low + 2e-3
    assert high - 2e-3 < ends.max().item() <= high
    assert applied(name, torch.tensor([0.0])).item() == 0.0


def test_the_sequences_are_the_published_ones() -> None:
    assert steps("kj5") == ((3.4445, -4.7750, 2.0315),) * 5
    assert steps("hybrid10") == ((3.4445, -4.7750, 2.0315),) * 8 + ((2.0, -1.5, 0.5),) * 2
    # Algorithm 1 of the paper divides by 1.01 times the norm, and takes each polynomial of an argument over 1.01.
    x = expected = torch.linspace(0, 1, 101, dtype=torch.float64)
    expected = expected / 1.01
    for a, b, c in sequences.POLAR_EXPRESS:
        expected = (a / 1.01) * expected + (b / 1.01**3) * expected**3 + (c / 1.01**5) * expected**5
    torch.testing.assert_close(applied("polar5", x), expected, rtol=1e-12, atol=1e-12)


SHAPES = [(1, 1), (1, 7), (7, 1), (3, 5), (5, 3), (16, 16), (33, 31), (64, 192), (129, 64), (64, 129), (200, 210)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_as_the_svd_says(rows: int, columns: int, name: Coefficients) -> None:
    stack = randoms(rows * 1000 + columns, 3, rows, columns)
    stack[1] *= 40.0
    found = orthogonalise(stack, name)
    assert found.shape == stack.shape
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact(stack, name), rtol=0, atol=2e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("rows", "columns"), [(20, 60), (60, 20), (128, 192)])
def test_near_the_polar_factor(rows: int, columns: int, name: Coefficients) -> None:
    """No singular value of the difference to U V^T is beyond the interval that the sequence promises."""
    stack = randoms(1, 2, rows, columns)
    u, s, vh = torch.linalg.svd(stack.double(), full_matrices=False)
    interval = INTERVALS[name]
    assert (s.amin(dim=-1) / torch.linalg.vector_norm(s, dim=-1)).min().item() > interval.smallest
    off = torch.linalg.matrix_norm(orthogonalise(stack, name).double() - u @ vh, ord=2)
    assert off.max().item() <= max(1 - interval.low, interval.high - 1) + 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_missing_ranks_stay_missing(name: Coefficients) -> None:
    stack = randoms(2, 4, 24, 3) @ randoms(3, 4, 3, 40)
    # Rounding leaves something where there was nothing, and each step multiplies it by its own a.
    noise = 1e-7 * math.prod(a for a, _, _ in steps(name))
    found = orthogonalise(stack, name)
    torch.testing.assert_close(found.double(), exact(stack, name), rtol=0, atol=max(2e-4, noise))
    values = torch.linalg.svdvals(found)
    assert values[:, 2].min().item() > 0.6
    assert values[:, 3:].max().item() < 10 * noise


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (200, 300)])
def test_the_scale_does_not_matter_and_zeros_stay(shape: tuple[int, int], dtype: torch.dtype) -> None:
    plain = randoms(4, *shape).clamp(-4, 4)
    # Powers of two, so that the scaled matrices are the same but for their exponents; about 1e-30 and 1e30.
    stack = torch.stack([plain, plain * 2.0**-100, plain * 2.0**100, torch.zeros(shape)])
    found = orthogonalise(stack, "kj5", dtype)
    assert found.isfinite().all()
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-5 if dtype == torch.float32 else 2e-2)
    torch.testing.assert_close(found[2], found[0], rtol=0, atol=1e-5 if dtype == torch.float32 else 2e-2)
    assert torch.count_nonzero(found[3]) == 0
    assert orthogonalise(torch.full((1, *shape), 1e-44)).isfinite().all()


def test_bf16_is_as_near_as_bf16_can_be() -> None:
    stack = randoms(5, 4, 64, 96)
    found = orthogonalise(stack.bfloat16(), "polar5", torch.bfloat16)
    assert found.dtype == torch.bfloat16
    values = torch.linalg.svdvals(found.double())
    assert values.min().item() > INTERVALS["polar5"].low - 0.03
    assert values.max().item() < INTERVALS["polar5"].high + 0.03


@settings(max_examples=10)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    count=st.integers(1, 40),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    cut=st.integers(0, 40),
)
def test_company_does_not_change_a_bit(rows: int, columns: int, count: int, dtype: torch.dtype, cut: int) -> None:
    stack = randoms(rows + 41 * columns, count, rows, columns)
    whole = orthogonalise(stack, dtype=dtype)
    assert torch.equal(torch.cat(orthogonalise_all([stack[:cut], stack[cut:]], dtype=dtype)), whole)
    assert torch.equal(orthogonalise(stack.flip(0), dtype=dtype).flip(0), whole)
    assert torch.equal(orthogonalise(stack[-1:], dtype=dtype)[0], whole[-1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(31, 33), (127, 191), (192, 128)])
def test_company_does_not_change_a_bit_of_large_ones(shape: tuple[int, int], dtype: torch.dtype, threads: int) -> None:
    stack = randoms(6, 9, *shape)
    whole = orthogonalise(stack, "kj5", dtype)
    assert torch.equal(orthogonalise(stack[:1], "kj5", dtype)[0], whole[0])
    assert torch.equal(orthogonalise(stack[6:9], "kj5", dtype), whole[6:9])
    # A view of every second, and the transposed memory of a stack: other strides, the same numbers.
    assert torch.equal(orthogonalise(stack[1::2], "kj5", dtype), whole[1::2])
    assert torch.equal(orthogonalise(stack.mT.contiguous().mT, "kj5", dtype), whole)


def test_tall_is_wide_transposed() -> None:
    stack = randoms(7, 5, 30, 50)
    assert torch.equal(orthogonalise(stack.mT), orthogonalise(stack).mT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loop_and_batch_agree(dtype: torch.dtype) -> None:
    stack = randoms(8, 5, 48, 80)
    loop = orthogonalise(stack, dtype=dtype, batched=False)
    batch = orthogonalise(stack, dtype=dtype, batched=True)
    torch.testing.assert_close(loop, batch, rtol=0, atol=1e-4 if dtype == torch.float32 else 3e-2)


def test_the_cut_off_looks_at_the_matrix_alone() -> None:
    assert group_size(128, 192, torch.float32, CPU) == group_size(192, 128, torch.float32, CPU) > 1
    assert group_size(512, 1024, torch.float32, CPU) == 1
    assert group_size(512, 1024, torch.float32, CPU, batched=True) == 2
    assert group_size(8, 8, torch.float32, CPU, batched=False) == 1
    assert group_size(8, 8, torch.float32, CPU) == 32


def test_what_is_fastest_is_something_that_works() -> None:
    assert fastest_dtype(CPU) in (torch.float32, torch.bfloat16)
    assert fastest_dtype(torch.device("cuda")) == torch.bfloat16


def test_nothing_is_written_to_and_nothing_is_empty_handed() -> None:
    stack = randoms(9, 3, 6, 8)
    before = stack.clone()
    orthogonalise(stack)
    assert torch.equal(stack, before)
    assert orthogonalise(torch.empty(0, 6, 8)).shape == (0, 6, 8)
    assert orthogonalise(torch.empty(2, 0, 8)).shape == (2, 0, 8)
    assert orthogonalise_all([]) == []
    expected = orthogonalise(stack)
    assert orthogonalise_all([stack], in_place=True)[0] is stack
    assert torch.equal(stack, expected)


def test_what_is_no_stack_is_refused() -> None:
    with pytest.raises(UsageError, match=r"\[n, rows, columns\].*\[3, 4\]"):
        orthogonalise(torch.ones(3, 4))
    with pytest.raises(UsageError, match=r"\[3, 4\].*another|another.*\[3, 4\]"):
        orthogonalise_all([torch.ones(1, 3, 4), torch.ones(1, 4, 3)])
    with pytest.raises(UsageError, match="'kj6' is unknown; use one of kj5, polar5, hybrid10"):
        orthogonalise(torch.ones(1, 3, 4), "kj6")  # type: ignore[arg-type]
