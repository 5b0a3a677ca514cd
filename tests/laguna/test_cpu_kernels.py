"""The compiled CPU kernels against the reference: every format they serve, odd sizes, threads, forks."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from laguna_agent.backend.kernels import reference
from laguna_agent.backend.kernels.cpu.library import library
from laguna_agent.backend.kernels.cpu.products import NEAR, CpuKernels
from laguna_agent.backend.kernels.formats import Fp8, GroupInt, PackedTensor, Plain
from laguna_agent.backend.kernels.quantise import quantise

FORMATS = [
    GroupInt(4, 32),
    GroupInt(4, 32, torch.float16, minimums=True),
    GroupInt(4, 128, torch.float32),
    GroupInt(4, 16),
    GroupInt(8, 128),
    GroupInt(8, 32, torch.float16, minimums=True),
    GroupInt(8, 8, torch.float32, minimums=True),
    Plain(torch.bfloat16),
    Plain(torch.float16),
]


@pytest.fixture(autouse=True)
def same_numbers_every_time():
    torch.manual_seed(5)


def kernels(threads: int = 2) -> CpuKernels:
    found = library()
    if found.opened is None:
        pytest.skip(f"the compiled kernels are not here: {found.says}")
    return CpuKernels(found.opened, threads)


def weight(format, *shape):
    values = torch.randn(shape)
    return values.to(format.dtype) if isinstance(format, Plain) else quantise(values, format)


def close(found, expected, columns: int) -> None:
    """Equal but for the order of the additions."""
    assert found.dtype == expected.dtype and found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5 * max(1, columns) ** 0.5)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("format", FORMATS, ids=lambda format: format.spelling)
def test_products_equal_the_reference(format, threads):
    ours = kernels(threads)
    for rows, columns in ((1, 1), (5, 45), (33, 256), (130, 333), (66, 512)):
        matrix, bias = weight(format, rows, columns), torch.randn(rows)
        for n in (0, 1, 2, 3, 4, 7, 16, 17, 40):
            x = torch.randn(n, columns)
            close(ours.linear(x, matrix, bias), reference.linear(x, matrix, bias), columns)


@pytest.mark.parametrize("format", FORMATS, ids=lambda format: format.spelling)
def test_many_rows_are_multiplied_in_blocks(format, monkeypatch):
    monkeypatch.setattr("laguna_agent.backend.kernels.cpu.products.BLOCK", 20_000)
    matrix, bias = weight(format, 70, 1000), torch.randn(70).bfloat16()
    x = torch.randn(NEAR // 1000 + 1, 1000)
    close(kernels().linear(x, matrix, bias), reference.linear(x, matrix, bias.float()), 1000)


@settings(max_examples=150)
@given(
    bits=st.sampled_from([4, 8]),
    group=st.one_of(st.sampled_from([8, 16, 32, 64, 128]), st.integers(1, 200)),
    scale_type=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    minimums=st.booleans(),
    rows=st.integers(1, 40),
    columns=st.integers(1, 300),
    n=st.integers(0, 40),
    experts=st.integers(1, 5),
    threads=st.integers(1, 3),
    seed=st.integers(0, 999),
)
def test_any_group_integers(bits, group, scale_type, minimums, rows, columns, n, experts, threads, seed):
    torch.manual_seed(seed)
    ours = kernels(threads)
    stack = weight(GroupInt(bits, group, scale_type, minimums), experts, rows, columns)
    x, chosen = torch.randn(n, columns), torch.randint(experts, (n,))
    close(ours.linear(x, stack[experts - 1]), reference.linear(x, stack[experts - 1]), columns)
    close(ours.expert_linear(x, stack, chosen), reference.expert_linear(x, stack, chosen), columns)
    ids = torch.randint(rows, (2, n))
    found, expected = (each.embedding(ids, stack[0], torch.float32) for each in (ours, reference))
    # The reference rounds after the multiplication too; that shows with scales of 24 bits only.
    assert torch.equal(found, expected) or (scale_type == torch.float32 and (found - expected).abs().max() < 1e-6)


@pytest.mark.parametrize("format", FORMATS, ids=lambda format: format.spelling)
def test_every_expert_sees_the_rows_that_chose_it(format):
    ours, stack = kernels(), weight(format, 6, 37, 70)
    for chosen in ([], [4], [5, 0, 5, 5, 2, 5, 5, 5, 5, 0], [3] * 23):
        experts = torch.tensor(chosen, dtype=torch.int64)
        x = torch.randn(len(chosen), 70)
        close(ours.expert_linear(x, stack, experts), reference.expert_linear(x, stack, experts), 70)
    for wrong in (6, -1):
        with pytest.raises(IndexError):
            ours.expert_linear(torch.randn(2, 70), stack, torch.tensor([0, wrong]))
        with pytest.raises(IndexError):
            ours.embedding(torch.tensor([wrong + 37 if wrong > 0 else wrong]), stack[0], torch.float32)


def test_inputs_of_any_layout_and_dtype():
    ours, matrix = kernels(), weight(GroupInt(4, 32), 20, 96)
    wide = torch.randn(96, 6, 2)
    for x in (wide[:, :, 0].T, wide.permute(2, 1, 0), wide[:, 0, 0], torch.randn(3, 192)[:, ::2]):
        close(ours.linear(x, matrix), reference.linear(x, matrix), 96)
    x = torch.randn(3, 96).bfloat16()
    found = ours.linear(x, matrix, torch.randn(20).bfloat16() * 0)
    assert found.dtype == torch.bfloat16
    # Rounded once, at the end.
    assert torch.equal(found, ours.linear(x.float(), matrix).bfloat16())
    assert ours.embedding(torch.tensor([[3]]), matrix, torch.bfloat16).dtype == torch.bfloat16


def test_halves_of_every_size():
    bits = torch.arange(-(1 << 15), 1 << 15).to(torch.int16)
    for dtype in (torch.float16, torch.bfloat16):
        table = bits.view(dtype).view(-1, 64)
        found = kernels().embedding(torch.arange(len(table)), table, torch.float32)
        assert torch.equal(found.nan_to_num(7.5, 8.5, 9.5), table.float().nan_to_num(7.5, 8.5, 9.5))


def test_what_they_do_not_serve_goes_to_the_reference():
    ours, x, experts = kernels(), torch.randn(3, 64), torch.tensor([1, 0, 1])
    for stack in (torch.randn(2, 8, 64), weight(Plain(torch.bfloat16), 2, 64, 8).mT, _fp8(2, 8, 64)):
        assert torch.equal(ours.linear(x, stack[1]), reference.linear(x, stack[1]))
        assert torch.equal(ours.expert_linear(x, stack, experts), reference.expert_linear(x, stack, experts))
        assert torch.equal(ours.embedding(experts, stack[0], torch.float32), reference.embedding(experts, stack[0]))
    whole = weight(GroupInt(8, 32), 2, 8, 64)
    every_second = PackedTensor(whole.format, (2, 4, 64), {name: part[:, ::2] for name, part in whole.parts.items()})
    close(ours.expert_linear(x, every_second, experts), reference.expert_linear(x, every_second, experts), 64)


def _fp8(*shape):
    parts = {"codes": torch.randn(shape).to(torch.float8_e4m3fn), "scales": torch.rand(*shape[:-1], 1)}
    return PackedTensor(Fp8(shape[-1]), shape, parts)


def test_several_threads_may_ask_at_once():
    """One has the workers, the others compute alone; all are right."""
    ours, matrix = kernels(3), weight(GroupInt(4, 32), 600, 512)
    inputs = [torch.randn(n, 512) for n in (1, 1, 5)]
    expected = [reference.linear(x, matrix) for x in inputs]
    wrong: list[int] = []

    def ask(which: int) -> None:
        for _ in range(60):
            if not torch.allclose(ours.linear(inputs[which], matrix), expected[which], rtol=1e-4, atol=1e-3):
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
ours, matrix, x = CpuKernels(library().opened, 2), quantise(torch.randn(900, 512), GroupInt(4, 32)), torch.randn(1, 512)
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
