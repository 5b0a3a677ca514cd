"""How weights lie for the kernels: whole loads, shared where the layout allows, and the same numbers as before."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from laguna_agent.backend.kernels.cuda.launch import ALIGNED
from laguna_agent.backend.kernels.cuda.matrices import DeviceMatrix, encoding_of, kind_of, placed, stored
from laguna_agent.backend.kernels.cuda.random_weights import every_format, random_weight
from laguna_agent.backend.kernels.formats import Format, Fp8, Ggml, GroupInt, Nvfp4, PackedTensor, Plain, Weight
from laguna_agent.backend.kernels.reference import dequantise
from laguna_agent.backend.kernels.tiles import tile

CPU = torch.device("cpu")
INT4 = GroupInt(4, 32)


def made(format: Format, *shape: int) -> PackedTensor:
    if isinstance(format, Nvfp4):
        shape = (*shape[:-1], -(-shape[-1] // 16) * 16)
    return random_weight(format, shape, torch.Generator().manual_seed(3))


def put(weight: Weight) -> DeviceMatrix:
    matrix = placed(weight, CPU)
    assert matrix is not None
    return matrix


def sizes(matrix: DeviceMatrix) -> list[int]:
    return [0 if tensor is None else tensor.nbytes for tensor in (matrix.codes, matrix.scales, matrix.extra)]


def address(tensor: Tensor | None) -> int:
    assert tensor is not None
    return tensor.data_ptr()


@pytest.mark.parametrize("format", every_format(), ids=lambda format: format.spelling)
@pytest.mark.parametrize("shape", [(3, 1), (2, 5, 33), (4, 100), (5, 256)], ids=str)
def test_placed_matrices_have_whole_loads_and_the_same_numbers(format, shape):
    weight = made(format, *shape)
    matrix = put(weight)
    kind = matrix.kind
    assert kind == kind_of(weight.format, weight.shape)
    assert (kind.rows, kind.columns, kind.experts) == (*weight.shape[-2:], shape[0] if len(shape) == 3 else 0)
    assert kind.row_bytes % 16 == 0 and matrix.codes.shape[-1] == kind.row_bytes
    assert sizes(matrix) == [pointer.nbytes for pointer in kind.pointers("m")]
    assert kind.nbytes == sum(sizes(matrix))
    assert all(address(tensor) % ALIGNED == 0 for tensor in matrix.arguments if isinstance(tensor, Tensor))
    assert torch.equal(dequantise(stored(kind, *_tensors(matrix))), dequantise(weight))


def _tensors(matrix: DeviceMatrix) -> tuple[Tensor, Tensor | None, Tensor | None]:
    return matrix.codes, matrix.scales, matrix.extra


def test_padding_is_of_zeros_and_only_behind_the_columns():
    matrix = put(made(GroupInt(8, 32), 2, 33))
    assert matrix.kind.row_bytes == 48 and not matrix.codes[:, 33:].any()


def test_what_has_the_layout_is_shared():
    weight = made(INT4, 3, 64)
    matrix = put(weight)
    assert address(matrix.codes) == address(weight.parts["codes"])
    assert address(matrix.scales) == address(weight.parts["scales"])
    plain = torch.randn(4, 8)
    assert address(put(plain).codes) == plain.data_ptr()


def test_what_begins_anywhere_is_copied():
    plain = torch.randn(33)[1:].view(4, 8)
    matrix = put(plain)
    assert address(matrix.codes) % ALIGNED == 0
    assert torch.equal(matrix.codes.view(torch.float32), plain)


def test_tiles_are_taken_apart():
    weight = made(INT4, 32, 64)
    tiled = tile(weight)
    assert put(tiled).kind == put(weight).kind
    assert torch.equal(put(tiled).codes, put(weight).codes)
    scales = put(tiled).scales
    assert scales is not None and torch.equal(scales, put(weight).scales)


def test_stacks_are_matrices_one_behind_the_other():
    stack, kind = put(made(INT4, 3, 5, 96)), put(made(INT4, 3, 5, 96)).kind
    one = put(made(INT4, 3, 5, 96)[1])
    assert kind.experts == 3 and stack.codes[1].equal(one.codes)
    assert kind.pointers("w")[0].elements == 3 * 5 * kind.row_bytes


@pytest.mark.parametrize(
    "format",
    [Ggml("Q4_0"), GroupInt(4, 48), GroupInt(8, 24), GroupInt(4, 6), Fp8(24), Plain(torch.float64)],
    ids=str,
)
def test_what_no_kernel_reads_is_none(format):
    assert encoding_of(format, 256) is None and kind_of(format, (4, 256)) is None


def test_one_scale_of_a_row_reaches_over_its_padding():
    encoding = encoding_of(Fp8(1 << 20), 100)
    assert encoding is not None and encoding.group == 112
