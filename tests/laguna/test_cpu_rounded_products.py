"""The products with activations in 8 bits against torch: what is rounded, and that nothing else depends on anything."""

from __future__ import annotations

import ctypes
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from laguna_agent.backend.kernels import reference
from laguna_agent.backend.kernels.cpu import abi
from laguna_agent.backend.kernels.cpu.layers import matrix
from laguna_agent.backend.kernels.formats import GroupInt, PackedTensor
from laguna_agent.backend.kernels.quantise import quantise
from tests.laguna.kernel_variants import opened

STEP = 32
FORMATS = [
    GroupInt(bits, group, scale_type, minimums)
    for bits, group, scale_type in (
        (4, 32, torch.float16),
        (4, 128, torch.bfloat16),
        (8, 64, torch.float32),
        (8, 32, torch.float16),
    )
    for minimums in (False, True)
]


def packed(format: GroupInt, rows: int, columns: int) -> PackedTensor:
    return quantise(torch.randn(rows, columns), format)


def product(stored: PackedTensor, x: Tensor, bias: Tensor | None = None, threads: int = 2) -> Tensor:
    """The library's y [n, rows]; sizes need not be those of whole tiles."""
    kept: list[Tensor] = []
    y = torch.full((len(x), stored.shape[0]), math.nan)
    given = abi.Product(matrix=matrix(stored, kept), x=x.data_ptr(), y=y.data_ptr(), n=len(x), threads=threads)
    given.bias = None if bias is None else bias.data_ptr()
    assert opened().laguna_product(ctypes.byref(given)) == abi.DONE
    return y


def rounded(x: Tensor) -> Tensor:
    """Every 32 columns as codes of -127..127 times a scale, halves to even."""
    steps = torch.nn.functional.pad(x, (0, -x.shape[-1] % STEP)).unflatten(-1, (-1, STEP))
    most = steps.abs().amax(-1, keepdim=True)
    # Divided first, as the library does it: a product with 127 and one with its inverse round differently.
    inverse = torch.where(most < 1e-30, torch.zeros(()), torch.full((), 127.0) / most)
    values = (steps * inverse).round() * torch.where(most < 1e-30, torch.zeros(()), most / 127)
    return values.flatten(-2)[..., : x.shape[-1]]


@settings(max_examples=40)
@given(
    format=st.sampled_from(FORMATS),
    rows=st.integers(1, 100),
    columns=st.integers(1, 1100),
    n=st.one_of(st.integers(0, 20), st.sampled_from([25, 31, 64])),
    size=st.sampled_from([1.0, 1e-20, 1e20]),
    biased=st.booleans(),
    threads=st.integers(1, 3),
    seed=st.integers(0, 999),
)
def test_only_activations_are_rounded(format, rows, columns, n, size, biased, threads, seed, variant):
    torch.manual_seed(seed)
    stored, x = packed(format, rows, columns), torch.randn(n, columns) * size
    bias = torch.randn(rows) * size if biased else None
    y = product(stored, x, bias, threads)
    expected = rounded(x).double() @ reference.dequantise(stored).double().T + (0 if bias is None else bias)
    within = 1e-5 * columns**0.5 * size * (10 if format.minimums else 3)
    assert ((y - expected).abs() <= within).all()
    alone = [product(stored, row[None].contiguous(), bias, 1) for row in x]
    assert torch.equal(y, torch.cat([y[:0], *alone])), "a row depends on its neighbours or on the threads"


@pytest.mark.parametrize("format", FORMATS[::3], ids=lambda format: format.spelling)
def test_what_is_no_number_stays_none(format, variant):
    stored, x = packed(format, 40, 200), torch.randn(14, 200)
    x[1, 70], x[5, 199], x[9, 0] = math.nan, math.inf, -math.inf
    y = product(stored, x)
    wrong = torch.zeros(14, dtype=torch.bool)
    wrong[[1, 5, 9]] = True
    assert y[wrong].isnan().all() and y[~wrong].isfinite().all()


def test_zeros_and_what_is_too_small_to_matter(variant):
    stored = packed(FORMATS[0], 33, 96)
    x = torch.zeros(3, 96)
    x[1, 5], x[2, 40] = 1e-40, 9e-31
    assert torch.equal(product(stored, x), torch.zeros(3, 33))
    x[2, 40] = 1e-20
    assert (product(stored, x)[2] != 0).any()


def test_stacks_and_experts_are_a_layer_s_business():
    stored = quantise(torch.randn(2, 16, 32), FORMATS[0])
    kept: list[Tensor] = []
    given = abi.Product(matrix=matrix(stored, kept), n=0, threads=1)
    assert opened().laguna_product(ctypes.byref(given)) == abi.NO_SUCH_INDEX
