"""Packed formats: exact dequantisation against golden cases and the gguf package, and products over packed weights."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from laguna_agent.backend.kernels import dispatch, reference
from laguna_agent.backend.kernels.formats import (
    GGML_BLOCKS,
    Fp8,
    Ggml,
    GroupInt,
    Nvfp4,
    PackedTensor,
    Plain,
    bytes_needed,
    parse_format,
)
from laguna_agent.backend.kernels.quantise import carried, carried_format, pack_nibbles, quantise
from laguna_agent.backend.kernels.reference import dequantise, unpack_nibbles
from laguna_agent.backend.laguna.holders import Embedding, Linear
from laguna_agent.errors import WeightsError
from tests.laguna.weight_files import random_blocks

FORMATS = [
    Plain(torch.bfloat16),
    GroupInt(4, 32),
    GroupInt(4, 64, torch.float16, minimums=True),
    GroupInt(8, 128),
    Fp8(128),
    Fp8(7, torch.bfloat16),
    Nvfp4(),
    *(Ggml(kind) for kind in GGML_BLOCKS),
]


@pytest.fixture(autouse=True)
def same_numbers_every_time():
    torch.manual_seed(11)


def random_packed(kind: str, rows: int, blocks: int, seed: int = 3) -> PackedTensor:
    values, size = GGML_BLOCKS[kind]
    stored = random_blocks(kind, rows * blocks * size, seed).reshape(rows, -1)
    return PackedTensor(Ggml(kind), (rows, blocks * values), {"blocks": torch.from_numpy(stored)})


@pytest.mark.parametrize("format", FORMATS, ids=lambda format: format.spelling)
def test_a_format_is_read_back_from_its_spelling(format):
    assert parse_format(format.spelling) == format


@pytest.mark.parametrize(
    "spelling",
    [
        "",
        "int5:32:bf16",
        "int4:0:bf16",
        "int4:-1:bf16",
        "int4:32",
        "int4:32:i8",
        "int4:32:bf16:max",
        "ggml:Q9",
        "fp8:1",
    ],
)
def test_other_spellings_are_refused(spelling):
    with pytest.raises(WeightsError, match="not a format"):
        parse_format(spelling)


@pytest.mark.parametrize("kind", GGML_BLOCKS)
def test_ggml_blocks_dequantise_as_the_gguf_package_does(kind):
    """Every byte pattern counts, also the scales that no quantiser writes."""
    values, size = GGML_BLOCKS[kind]
    stored = np.random.default_rng(1).integers(0, 256, (40, 3 * size), dtype=np.uint8)
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(stored, gguf.GGMLQuantizationType[kind])
    packed = PackedTensor(Ggml(kind), (40, 3 * values), {"blocks": torch.from_numpy(stored)})
    assert np.array_equal(dequantise(packed).numpy(), expected, equal_nan=True)
    sizes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    assert (values, size) == sizes


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q8_0"])
def test_carried_codes_have_the_same_values(kind):
    packed = random_packed(kind, 5, 4)
    moved = carried(packed)
    assert moved.format == carried_format(packed.format)
    assert torch.equal(dequantise(moved), dequantise(packed))


def test_carried_q4_k_differs_by_the_rounding_of_its_factors_only():
    packed = random_packed("Q4_K", 6, 3)
    exact, moved = dequantise(packed), dequantise(carried(packed))
    largest = exact.view(-1, 32).abs().amax(1, keepdim=True)
    assert ((moved - exact).view(-1, 32).abs() <= largest * 3 * 2**-11 + 1e-6).all()
    assert carried_format(Ggml("Q6_K")) is None and carried_format(Plain(torch.float32)) is None


def test_a_packed_tensor_with_wrong_parts_is_refused():
    good = quantise(torch.randn(4, 40), GroupInt(4, 32))
    with pytest.raises(WeightsError, match="needs the parts"):
        PackedTensor(good.format, (4, 40), {"codes": good.parts["codes"]})
    with pytest.raises(WeightsError, match=r"codes of a int4:32:bf16 tensor \[4, 42\]"):
        PackedTensor(good.format, (4, 42), good.parts)
    with pytest.raises(WeightsError, match="scales"):
        PackedTensor(good.format, (4, 40), {**good.parts, "scales": good.parts["scales"].float()})
    with pytest.raises(WeightsError, match="multiple of 16"):
        Nvfp4().parts(24)


@settings(max_examples=60)
@given(
    rows=st.integers(1, 5),
    columns=st.integers(1, 150),
    group=st.sampled_from([1, 7, 32, 64, 128]),
    bits=st.sampled_from([4, 8]),
    minimums=st.booleans(),
    exponent=st.integers(-20, 20),
    seed=st.integers(0, 999),
)
def test_quantised_values_stay_within_a_step(rows, columns, group, bits, minimums, exponent, seed):
    """Of any size and scale, with constant and empty groups; the packed tensor has the bytes it was planned with."""
    source = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, columns, generator=source) * 2.0**exponent
    values[0] = 0
    format = GroupInt(bits, group, torch.bfloat16, minimums)
    packed = quantise(values, format)
    back = dequantise(packed)
    assert torch.equal(back[0], torch.zeros(columns))
    short = -columns % group
    padded = torch.nn.functional.pad(values, (0, short)).view(rows, -1, group)
    spread = padded.amax(-1) - padded.amin(-1) if minimums else 2 * padded.abs().amax(-1)
    # A step of the grid, plus what the rounding of scale and minimum to bf16 moves the far end of it.
    bound = spread / (15 if bits == 4 else 254) * 1.6 + padded.abs().amax(-1) * 2.0**-6 * (bits == 4 or minimums)
    error = torch.nn.functional.pad((back - values).abs(), (0, short)).view(rows, -1, group).amax(-1)
    assert (error <= bound * 1.01 + 1e-30).all()
    assert packed.nbytes == bytes_needed(format, (rows, columns))
    assert all(part.is_contiguous() for part in packed.parts.values())


def test_rounding_to_four_bits_finds_the_grid_that_values_lie_on():
    scales = torch.rand(6, 1) + 0.5
    codes = torch.randint(-8, 8, (6, 32), generator=torch.Generator().manual_seed(0))
    codes[:, 0] = -8
    values = codes * scales.bfloat16().float()
    assert torch.equal(dequantise(quantise(values, GroupInt(4, 32))), values)


def test_values_that_are_no_numbers_show_in_the_scales():
    for bad in (float("nan"), float("inf"), float("-inf")):
        values = torch.ones(2, 64)
        values[1, 40] = bad
        for format in (GroupInt(4, 32), GroupInt(4, 32, minimums=True), GroupInt(8, 64)):
            scales = quantise(values, format).parts["scales"]
            assert not torch.isfinite(scales[1]).all() and torch.isfinite(scales[0]).all()


@given(st.integers(1, 33))
def test_nibbles_are_unpacked_in_order(columns):
    codes = torch.arange(3 * columns).remainder(16).to(torch.uint8).view(3, columns)
    packed = pack_nibbles(codes)
    assert torch.equal(unpack_nibbles(packed, columns), codes)
    assert packed[0, 0] & 15 == codes[0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_equal_those_with_the_dequantised_weight(dtype, monkeypatch):
    monkeypatch.setattr(reference, "CHUNK", 100)  # several chunks of rows
    stack = quantise(torch.randn(4, 9, 45), GroupInt(4, 32))
    x, experts = torch.randn(7, 45).to(dtype), torch.tensor([3, 0, 3, 1, 1, 3, 0])
    dense = dequantise(stack, dtype)
    tolerance = {"rtol": 0.0, "atol": 1e-5 if dtype == torch.float32 else 0.1}
    one = dispatch.linear(x, stack[2])
    assert one.dtype == dtype
    torch.testing.assert_close(one, x @ dense[2].T, **tolerance)
    chosen = dispatch.expert_linear(x, stack, experts)
    torch.testing.assert_close(chosen, torch.einsum("ni,noi->no", x, dense[experts]), **tolerance)
    torch.testing.assert_close(dispatch.expert_linear(x, dense, experts), chosen, **tolerance)
    ids = torch.tensor([[0, 8], [3, 3]])
    assert dispatch.embedding(ids[:0], stack[1]).shape == (0, 2, 45)
    assert torch.equal(dispatch.embedding(ids, stack[1], dtype), dense[1][ids])


def test_a_packed_tensor_is_what_the_modules_of_the_model_take():
    packed = quantise(torch.randn(6, 40), GroupInt(8, 128))
    module = Linear(40, 6)
    module.put("weight", packed)
    x = torch.randn(2, 3, 40)
    torch.testing.assert_close(module(x), x @ dequantise(packed).T)
    table = Embedding(6, 40)
    table.put("weight", packed)
    assert torch.equal(table(torch.tensor([[5, 0]]), torch.float32), dequantise(packed)[[5, 0]][None])


def test_a_registered_kernel_serves_its_format_and_device_only(monkeypatch):
    class Doubling:
        def linear(self, x, weight, bias=None):
            return 2 * reference.linear(x, weight, bias)

        expert_linear, embedding = staticmethod(reference.expert_linear), staticmethod(reference.embedding)

    monkeypatch.setattr(dispatch, "_registered", {})
    x, four, eight = torch.randn(2, 32), quantise(torch.randn(3, 32), GroupInt(4, 32)), torch.randn(3, 32)
    dispatch.register(GroupInt, "cpu", Doubling())
    assert torch.equal(dispatch.linear(x, four), 2 * reference.linear(x, four))
    assert torch.equal(dispatch.linear(x, eight), reference.linear(x, eight))
    monkeypatch.setattr(dispatch, "_registered", {})
    dispatch.register(GroupInt, "cuda", Doubling())
    assert torch.equal(dispatch.linear(x, four), reference.linear(x, four))


def test_gradients_pass_through_the_reference_alone(monkeypatch):
    class Refusing:
        def linear(self, x, weight, bias=None):
            raise AssertionError("asked for a product that gradients pass through")

        expert_linear = embedding = linear

    monkeypatch.setattr(dispatch, "_registered", {(GroupInt, "cpu"): Refusing(), (Plain, "cpu"): Refusing()})
    packed = quantise(torch.randn(2, 3, 32), GroupInt(8, 32))
    stack, experts = dequantise(packed).requires_grad_(), torch.tensor([1, 0, 1])
    x = torch.randn(3, 32, requires_grad=True)
    dispatch.expert_linear(x, stack, experts).sum().backward()
    torch.testing.assert_close(x.grad, dequantise(packed)[experts].sum(1))
    torch.testing.assert_close(stack.grad[0], x[1].detach().expand(3, 32))
    other = x.detach().requires_grad_()
    dispatch.linear(other, packed[0]).sum().backward()
    torch.testing.assert_close(other.grad, dequantise(packed)[0].sum(0).expand(3, 32))
    table = stack[0].detach().requires_grad_()
    dispatch.embedding(torch.tensor([2, 2]), table).sum().backward()
    assert table.grad.sum(1).tolist() == [0, 0, 64]
