"""The exact products of the compiled CPU kernels against the reference: every format, odd sizes, threads, forks."""

from __future__ import annotations

import ctypes
import math
import subprocess
import sys
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from laguna_agent.backend.kernels import reference
from laguna_agent.backend.kernels.cpu import abi
from laguna_agent.backend.kernels.cpu.layers import matrix
from laguna_agent.backend.kernels.cpu.products import NEAR, CpuKernels
from laguna_agent.backend.kernels.formats import Fp8, GroupInt, PackedTensor, Plain, Tiled, Weight
from laguna_agent.backend.kernels.quantise import quantise
from laguna_agent.backend.kernels.tiles import tile
from tests.laguna.kernel_variants import opened

SCALE_TYPES = (torch.float32, torch.float16, torch.bfloat16)
INTEGERS = [
    GroupInt(bits, group, scale_type, minimums)
    for bits in (4, 8)
    for group in (32, 64, 96, 128)
    for scale_type in SCALE_TYPES
    for minimums in (False, True)
]
PLAIN = [Plain(torch.float32), Plain(torch.bfloat16), Plain(torch.float16)]
SERVED = [
    Tiled(GroupInt(4, 32)),
    Tiled(GroupInt(4, 32, torch.float16, minimums=True)),
    Tiled(GroupInt(8, 64, torch.float32)),
    *PLAIN,
]


@pytest.fixture(autouse=True)
def same_numbers_every_time():
    torch.manual_seed(5)


def kernels(threads: int = 2) -> CpuKernels:
    return CpuKernels(opened(), threads)


def weight(format, *shape) -> Weight:
    values = torch.randn(shape)
    if isinstance(format, Plain):
        return values.to(format.dtype)
    return tile(quantise(values, format.base)) if isinstance(format, Tiled) else quantise(values, format)


def close(found, expected, columns: int) -> None:
    """Equal but for the order of the additions."""
    assert found.dtype == expected.dtype and found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5 * max(1, columns) ** 0.5)


def multiplied(stored: Weight, x: Tensor, bias=None, experts=None, threads: int = 2) -> tuple[int, Tensor]:
    """The library's answer and y [n, rows]; sizes need not be those of whole tiles."""
    kept: list[Tensor] = []
    y = torch.full((len(x), stored.shape[-2]), math.nan)
    addresses = {
        name: None if part is None else part.data_ptr()
        for name, part in (("x", x), ("bias", bias), ("y", y), ("experts", experts))
    }
    product = abi.Product(matrix=matrix(stored, kept), n=len(x), threads=threads, **addresses)
    return opened().laguna_exact_product(ctypes.byref(product)), y


def rows(stored: Weight, ids: Tensor | None, first: int, n: int, threads: int = 2) -> tuple[int, Tensor]:
    kept: list[Tensor] = []
    out = torch.full((n, stored.shape[-1]), math.nan)
    where = None if ids is None else ids.data_ptr()
    asked = abi.Rows(matrix=matrix(stored, kept), ids=where, out=out.data_ptr(), first=first, n=n, threads=threads)
    return opened().laguna_rows(ctypes.byref(asked)), out


@settings(max_examples=40)
@given(
    format=st.sampled_from([*INTEGERS, *PLAIN]),
    size=st.tuples(st.integers(1, 70), st.integers(1, 300)),
    n=st.one_of(st.sampled_from([0, 1, 2, 3, 4, 5, 8, 9, 16, 17]), st.integers(0, 40)),
    experts=st.integers(1, 5),
    biased=st.booleans(),
    threads=st.integers(1, 3),
    seed=st.integers(0, 999),
)
def test_products_and_rows_of_odd_sizes(format, size, n, experts, biased, threads, seed, variant):
    torch.manual_seed(seed)
    stack, x, bias = weight(format, experts, *size), torch.randn(n, size[1]), torch.randn(size[0])
    chosen, last = torch.randint(experts, (n,)), stack[experts - 1]
    values = reference.dequantise(stack).flatten(0, 1)
    ids = torch.randint(len(values), (n,))
    first, count = seed % len(values), len(values) - seed % len(values)
    done, y = multiplied(last, x, bias if biased else None, None, threads)
    by_expert, each = multiplied(stack, x, None, chosen, threads)
    named, found = rows(stack, ids, 0, n, threads)
    following, block = rows(stack, None, first, count, threads)
    assert (done, by_expert, named, following) == (abi.DONE,) * 4
    close(y, reference.linear(x, last, bias if biased else None), size[1])
    close(each, reference.expert_linear(x, stack, chosen), size[1])
    # Bit for bit.
    assert torch.equal(found, values[ids]) and torch.equal(block, values[first:])


@pytest.mark.parametrize("format", SERVED, ids=lambda format: format.spelling)
def test_larger_products_in_many_tasks(format, variant):
    stack, bias = weight(format, 3, 272, 1152), torch.randn(272)
    for n in (1, 2, 7, 40):
        x, chosen = torch.randn(n, 1152), torch.randint(3, (n,))
        close(kernels().linear(x, stack[1], bias), reference.linear(x, stack[1], bias), 1152)
        close(kernels().expert_linear(x, stack, chosen), reference.expert_linear(x, stack, chosen), 1152)


@pytest.mark.parametrize("format", SERVED, ids=lambda format: format.spelling)
def test_many_rows_are_multiplied_in_blocks(format, monkeypatch):
    monkeypatch.setattr("laguna_agent.backend.kernels.cpu.products.BLOCK", 20_000)
    stored, bias = weight(format, 80, 960), torch.randn(80).bfloat16()
    x = torch.randn(NEAR // 960 + 1, 960)
    close(kernels().linear(x, stored, bias), reference.linear(x, stored, bias.float()), 960)


@pytest.mark.parametrize("format", SERVED, ids=lambda format: format.spelling)
def test_every_expert_sees_the_rows_that_chose_it(format):
    ours, stack = kernels(), weight(format, 6, 48, 64)
    for chosen in ([], [4], [5, 0, 5, 5, 2, 5, 5, 5, 5, 0], [3] * 23):
        experts = torch.tensor(chosen, dtype=torch.int64)
        x = torch.randn(len(chosen), 64)
        close(ours.expert_linear(x, stack, experts), reference.expert_linear(x, stack, experts), 64)
    for wrong in (6, -1):
        with pytest.raises(IndexError):
            ours.expert_linear(torch.randn(2, 64), stack, torch.tensor([0, wrong]))
        with pytest.raises(IndexError):
            ours.embedding(torch.tensor([wrong + 48 if wrong > 0 else wrong]), stack[0], torch.float32)


@pytest.mark.parametrize("first, n", [(-1, 2), (0, 41), (40, 1)])
def test_rows_that_are_not_there(first, n, variant):
    assert rows(torch.randn(2, 20, 8), None, first, n)[0] == abi.NO_SUCH_INDEX


@pytest.mark.parametrize("format", SERVED, ids=lambda format: format.spelling)
@pytest.mark.parametrize("wrong", [math.inf, -math.inf, math.nan])
def test_what_is_no_number_stays_none(wrong, format, variant):
    for n in (1, 3):
        stored, x = weight(format, 32, 128), torch.randn(n, 128)
        x[-1, 77] = wrong
        found, expected = kernels().linear(x, stored), reference.linear(x, stored)
        close(found[:-1], expected[:-1], 128)
        assert not found[-1].isfinite().any() and not expected[-1].isfinite().any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_of_every_size(dtype, variant):
    bits = torch.arange(-(1 << 15), 1 << 15).to(torch.int16)
    table = bits.view(dtype).view(-1, 64)
    found = kernels().embedding(torch.arange(len(table)), table, torch.float32)
    assert torch.equal(found.nan_to_num(7.5, 8.5, 9.5), table.float().nan_to_num(7.5, 8.5, 9.5))


def test_inputs_of_any_layout_and_dtype():
    ours, stored = kernels(), weight(SERVED[0], 32, 96)
    wide = torch.randn(96, 6, 2)
    for x in (wide[:, :, 0].T, wide.permute(2, 1, 0), wide[:, 0, 0], torch.randn(3, 192)[:, ::2]):
        close(ours.linear(x, stored), reference.linear(x, stored), 96)
    x = torch.randn(3, 96).bfloat16()
    found = ours.linear(x, stored, torch.randn(32).bfloat16() * 0)
    assert found.dtype == torch.bfloat16
    # Rounded once, at the end.
    assert torch.equal(found, ours.linear(x.float(), stored).bfloat16())
    assert ours.embedding(torch.tensor([[3]]), stored, torch.bfloat16).dtype == torch.bfloat16


def test_what_they_do_not_serve_goes_to_the_reference():
    ours, x, experts = kernels(), torch.randn(3, 64), torch.tensor([1, 0, 1])
    for stack in (weight(GroupInt(8, 32), 2, 16, 64), torch.randn(2, 64, 8).mT, torch.randn(2, 8, 64).double()):
        assert torch.equal(ours.linear(x, stack[1]), reference.linear(x, stack[1]))
        assert torch.equal(ours.expert_linear(x, stack, experts), reference.expert_linear(x, stack, experts))
        assert torch.equal(ours.embedding(experts, stack[0], torch.float32), reference.embedding(experts, stack[0]))
    fp8 = _fp8(2, 8, 64)
    assert torch.equal(ours.expert_linear(x, fp8, experts), reference.expert_linear(x, fp8, experts))
    whole = weight(SERVED[0], 4, 16, 64)
    every_second = PackedTensor(whole.format, (2, 16, 64), {"tiles": whole.parts["tiles"][::2]})
    close(ours.expert_linear(x, every_second, experts), reference.expert_linear(x, every_second, experts), 64)


def _fp8(*shape):
    parts = {"codes": torch.randn(shape).to(torch.float8_e4m3fn), "scales": torch.rand(*shape[:-1], 1)}
    return PackedTensor(Fp8(shape[-1]), shape, parts)


def test_several_threads_may_ask_at_once():
    """One has the workers, the others compute alone; all are right."""
    ours, stored = kernels(3), weight(SERVED[0], 608, 512)
    inputs = [torch.randn(n, 512) for n in (1, 1, 5)]
    expected = [reference.linear(x, stored) for x in inputs]
    wrong: list[int] = []

    def ask(which: int) -> None:
        for _ in range(60):
            if not torch.allclose(ours.linear(inputs[which], stored), expected[which], rtol=1e-4, atol=1e-3):
                wrong.append(which)

    threads = [threading.Thread(target=ask, args=(which,)) for which in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


FORKING = """
import os, sys, torch
torch.set_num_threads(1)
from laguna_agent.backend.kernels.cpu.library import library
from laguna_agent.backend.kernels.cpu.products import CpuKernels
from laguna_agent.backend.kernels.formats import GroupInt
from laguna_agent.backend.kernels.quantise import quantise
from laguna_agent.backend.kernels.tiles import tile
matrix, x = tile(quantise(torch.randn(912, 512), GroupInt(4, 32))), torch.randn(1, 512)
ours = CpuKernels(library().opened, 2)
before = ours.linear(x, matrix)
child = os.fork()
same = torch.equal(ours.linear(x, matrix), before)
if not child:
    os._exit(0 if same else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), same)
"""


def test_a_forked_child_makes_its_own_workers():
    kernels()
    done = subprocess.run([sys.executable, "-c", FORKING], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["0", "True"], done.stderr
