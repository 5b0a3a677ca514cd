"""Products of a few tokens with whole matrices, their source run on a CPU under the shim."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from laguna_agent.backend.kernels.cuda import linear_torch
from laguna_agent.backend.kernels.cuda.cases import Case, error_of, relative_error
from laguna_agent.backend.kernels.cuda.geometry import PUBLISHED, S_2_1
from laguna_agent.backend.kernels.cuda.launch import Kernel, Launch
from laguna_agent.backend.kernels.cuda.linear import Segment, cases, embed, gated, joined
from laguna_agent.backend.kernels.cuda.matrices import MatrixKind, kind_of
from laguna_agent.backend.kernels.cuda.random_weights import every_format, published_formats, random_weight
from laguna_agent.backend.kernels.formats import Format, GroupInt, Plain
from tests.cuda.emulator import Emulator, fence, fenced

INT4, F32 = GroupInt(4, 32), Plain(torch.float32)
QUICK = (
    "joined int4:16",
    "joined bf16",
    "joined int8:64:f32:min",
    "gated f16",
    "embed nvfp4",
    "embed ids",
    "joined kept",
)


def kind(format: Format, rows: int, columns: int) -> MatrixKind:
    found = kind_of(format, (rows, columns))
    assert found is not None
    return found


def wrong(emulator: Emulator, some: list[Case]) -> dict[str, float]:
    """The errors of the cases that are not right."""
    emulator.prepare([case.kernel for case in some])
    errors = {case.label: error_of(case, emulator, fence) for case in some}
    return {case.label: errors[case.label] for case in some if not errors[case.label] <= case.tolerance}


def test_a_few_small_cases_are_right():
    some = [case for case in cases(None, seed=5) if case.label.startswith(QUICK)]
    assert {case.kernel.family for case in some} == {"joined", "gated", "embed"} and len(some) >= len(QUICK)
    assert wrong(Emulator(seed=2), some) == {}


def test_a_token_has_the_same_numbers_alone_and_among_others():
    # Alone x is one tile of three steps, among eight it is three tiles.
    columns, matrix = 2112, random_weight(INT4, (5, 2112), torch.Generator().manual_seed(1))
    x, weight = torch.randn(8, columns, generator=torch.Generator().manual_seed(2)), torch.rand(columns)
    many, one = (joined(tokens, columns, (Segment("w", kind(INT4, 5, columns)),), norm=True) for tokens in (8, 1))
    assert many.call.split(",")[2] != one.call.split(",")[2]
    emulator = Emulator()
    emulator.prepare([many, one])

    def multiplied(kernel: Kernel, rows: Tensor) -> Tensor:
        out = fenced(len(rows), 5)
        given = {"x": fence(rows), "norm_weight": fence(weight), "eps": 1e-5, "w_out": out}
        stored = {"w_codes": fence(matrix.parts["codes"]), "w_scales": fence(matrix.parts["scales"])}
        emulator.run([Launch.of(kernel, **given, **stored)])
        return out.clone()

    together = multiplied(many, x)
    assert torch.equal(together[3:4], multiplied(one, x[3:4])) and torch.equal(together[7:], multiplied(one, x[7:]))


def test_rows_behind_four_gigabytes_are_found():
    # Memory that nobody touches costs nothing.
    rows, columns = 270_000, 4096
    kernel = embed(2, kind(F32, rows, columns))
    table, out = fenced(rows, columns), fenced(2, columns)
    assert table.nbytes > 1 << 32
    table[-1], table[rows // 2 + 1] = 1.5, 2.5
    emulator = Emulator()
    emulator.prepare([kernel])
    ids = fence(torch.tensor([rows - 1, rows // 2 + 1], dtype=torch.int32))
    emulator.run([Launch.of(kernel, ids=ids, table_codes=table, out=out)])
    assert bool((out[0] == 1.5).all()) and bool((out[1] == 2.5).all())


def test_what_a_kernel_means_in_fp32_is_near_what_it_means_in_fp64():
    table = kind(INT4, 6, 64)
    weight = random_weight(INT4, (6, 64), torch.Generator().manual_seed(4))
    given = {"ids": torch.tensor([5, -1, 0], dtype=torch.int32), "x": torch.randn(2, 64), "eps": 1e-6}
    for name in ("table", "gate", "up"):
        given |= {f"{name}_codes": weight.parts["codes"], f"{name}_scales": weight.parts["scales"]}
    given["norm_weight"] = torch.rand(64)
    for dtype in (torch.float32, torch.float64):
        rows = linear_torch.embed(given, table, dtype=dtype)["out"]
        assert rows.dtype == dtype and bool(rows[1].isnan().all()) and not bool(rows[[0, 2]].isnan().any())
    narrow = linear_torch.gated(given, 2, table, table, norm=True)["out"]
    wide = linear_torch.gated(given, 2, table, table, norm=True, dtype=torch.float64)["out"]
    assert relative_error(narrow, wide) < 1e-5


@pytest.mark.parametrize("tokens", [1, 2, 4, 8])
@pytest.mark.parametrize("columns", [1, 512, 2048, 8192, 12288])
def test_blocks_stay_within_what_a_multiprocessor_has(tokens, columns):
    for format in (INT4, Plain(torch.bfloat16), F32):
        matrix = kind(format, 1024, columns)
        for kernel in (joined(tokens, columns, (Segment("w", matrix),), norm=True), gated(tokens, matrix, matrix)):
            assert kernel.shared <= 40 << 10 and kernel.threads == 128
            assert columns < 2048 or kernel.grid[0] >= 128


def test_large_matrices_give_blocks_more_rows():
    head = joined(1, 3072, (Segment("logits", kind(INT4, S_2_1.vocabulary, 3072)),), norm=True)
    assert 1024 <= head.grid[0] <= 4096


def test_what_does_not_fit_together_is_refused():
    matrix, other = kind(INT4, 8, 64), kind(INT4, 8, 96)
    for segments in ((), (Segment("a", matrix), Segment("b", other)), (Segment("a", matrix),) * 5):
        with pytest.raises(ValueError, match="1 to 4 matrices of 64 columns"):
            joined(1, 64, segments)
    with pytest.raises(ValueError, match="kept only where there is one"):
        joined(1, 64, (Segment("a", matrix),), normed=True)
    with pytest.raises(ValueError, match="a gate of 8 x 64 beside 8 x 96"):
        gated(1, matrix, other)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_all_small_cases_are_right(seed):
    some = list(cases(None, seed))
    # A segment's spelling is its format's, so that none is missed.
    for format in every_format():
        assert any(format.spelling in case.label for case in some)
    assert wrong(Emulator(seed=seed), some) == {}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("geometry", PUBLISHED, ids=lambda geometry: geometry.name)
def test_the_published_sizes_are_right(geometry):
    emulator, labels = Emulator(), []
    for case in cases(geometry):
        assert wrong(emulator, [case]) == {}
        labels.append(case.label)
    assert all(any(format.spelling in label for label in labels) for format in published_formats())
