"""The router and the experts' kernels, run under the shim: all that they are known to give, and what they refuse."""

from __future__ import annotations

import pytest
import torch
from msgspec.structs import replace
from torch import Generator, Tensor
from torch.nn.functional import silu

from laguna_agent.backend.kernels.cuda import expert_cases, experts, experts_torch
from laguna_agent.backend.kernels.cuda.cases import Case, error_of, relative_error
from laguna_agent.backend.kernels.cuda.geometry import PUBLISHED, XS_2, Geometry
from laguna_agent.backend.kernels.cuda.launch import Argument, Kernel, Launch
from laguna_agent.backend.kernels.cuda.matrices import MatrixKind, kind_of, placed
from laguna_agent.backend.kernels.cuda.random_weights import random_weight
from laguna_agent.backend.kernels.formats import GroupInt, Nvfp4, Plain, Weight
from laguna_agent.backend.laguna.layers import SparseMLP
from tests.cuda.emulator import Emulator, fence, fenced
from tests.laguna.small_models import small_config

INT4, BF16, F32 = GroupInt(4, 128), Plain(torch.bfloat16), Plain(torch.float32)
QUICK = (
    "pick 10 of 256",
    "pick no numbers, shares",
    "pick below 0",
    "expert_gate_up padding without a scale, int4",
    "expert_gate_up as wide as XS.2",
    "expert_down more than fit at once",
    "expert_gate_up of 65539 experts",
)


def _wrong(cases: list[Case], *seeds: int) -> dict[str, float]:
    """The cases that are not right, and by how much."""
    emulator, found = Emulator(), dict[str, float]()
    emulator.prepare([case.kernel for case in cases])
    for emulator.seed in seeds:
        for case in cases:
            if not (error := error_of(case, emulator, fence)) <= case.tolerance:
                found[case.label] = error
    return found


def _matrix(name: str, weight: Weight) -> tuple[MatrixKind, dict[str, Argument]]:
    found = placed(weight, torch.device("cpu"))
    assert found is not None
    pointers = zip(found.kind.pointers(name), found.arguments, strict=True)
    return found.kind, {pointer.name: part for pointer, part in pointers}


def _run(emulator: Emulator, kernel: Kernel, given: dict[str, Argument], *written: str) -> list[Tensor]:
    """What a kernel writes."""
    placed = {name: fence(value) if isinstance(value, Tensor) else value for name, value in given.items()}
    emulator.prepare([kernel])
    emulator.run([Launch.of(kernel, **placed)])
    found = [placed[name] for name in written]
    return [tensor for tensor in found if isinstance(tensor, Tensor)]


def test_some_small_cases():
    some = [case for case in experts.cases(None) if any(part in case.label for part in QUICK)]
    assert len(some) == len(QUICK)
    assert _wrong(some, 1) == {}


def test_a_token_has_the_same_numbers_alone_and_among_others_whatever_the_order_of_threads():
    chance, emulator = Generator().manual_seed(5), Emulator()
    kind, weights = _matrix("weights", random_weight(INT4, (6, 40, 96), chance))
    x, picked = torch.randn(4, 96, generator=chance), torch.tensor([[0, 5], [5, 2], [3, 1], [4, 4]]).int()
    out: list[Tensor] = []
    for rows in (slice(0, 4), slice(0, 4), *(slice(at, at + 1) for at in range(4))):
        given = {"x": x[rows], "picked": picked[rows], "out": torch.zeros(len(x[rows]), 2, 20), **weights}
        out += _run(emulator, experts.expert_gate_up(len(x[rows]), 2, kind), given, "out")
    assert torch.equal(out[0], out[1])
    assert torch.equal(out[0], torch.cat(out[2:]))


@pytest.mark.parametrize("per_token, shared", [(2, 6), (3, 0)])
def test_the_three_kernels_together_are_the_sparse_layer(per_token, shared):
    config = small_config()
    config = replace(config, experts_per_token=per_token, shared_expert_size=shared)
    chance, emulator = Generator().manual_seed(7), Emulator()
    layer = SparseMLP(config).requires_grad_(False)
    for tensor in layer.state_dict().values():
        tensor.copy_(torch.randn(tensor.shape, generator=chance) * tensor.shape[-1] ** -0.5)
    x, h = torch.randn(2, config.hidden_size, generator=chance), torch.randn(2, config.hidden_size, generator=chance)

    routed = {"logits": x @ layer.gate.weight.T, "bias": layer.experts.e_score_correction_bias}
    empty = {"picked": torch.full((2, per_token), -1).int(), "share": torch.full((2, per_token), torch.nan)}
    picking = experts.pick(2, config.experts, per_token, normalize=True)
    picked, share = _run(emulator, picking, {**routed, "softcap": config.router_softcap, **empty}, "picked", "share")

    kind, weights = _matrix("weights", layer.experts.gate_up_proj)
    out = torch.full((2, per_token, config.expert_size), torch.nan)
    opening = experts.expert_gate_up(2, per_token, kind)
    (act,) = _run(emulator, opening, {"x": x, "picked": picked, **weights, "out": out}, "out")

    kind, weights = _matrix("weights", layer.experts.down_proj)
    given: dict[str, Argument] = {"act": act, "picked": picked, "share": share, "scale": layer.scale, **weights}
    other = None
    if (mlp := layer.shared_expert) is not None:
        other, matrix = _matrix("shared", mlp.down_proj.weight)
        given |= {"shared_act": silu(mlp.gate_proj(x)) * mlp.up_proj(x), **matrix}
    closing = experts.expert_down(2, per_token, kind, other)
    (y,) = _run(emulator, closing, {**given, "out": h}, "out")
    assert relative_error(y, h.double() + layer.double()(x.double())) < 1e-6


def test_what_stands_in_for_a_kernel_writes_what_it_would_into_longer_buffers():
    chance = Generator().manual_seed(3)
    kind, weights = _matrix("weights", random_weight(Nvfp4(), (4, 6, 48), chance))
    given: dict[str, Argument] = {
        "x": torch.randn(3, 48, generator=chance),
        "act": torch.randn(300, generator=chance),
        "picked": torch.tensor([3, 0, 1, 2, 9, 9]).int(),
        "share": torch.rand(6, generator=chance),
        "out": torch.randn(20, generator=chance),
        "scale": 2.5,
        **weights,
    }
    for found, wanted in (
        tuple(experts_torch.expert_gate_up(given, 2, 2, kind, dtype=of) for of in (torch.float32, torch.float64)),
        tuple(experts_torch.expert_down(given, 2, 2, kind, None, dtype=of) for of in (torch.float32, torch.float64)),
    ):
        assert found["out"].dtype == torch.float32
        assert relative_error(found["out"], wanted["out"]) < 1e-6


def test_what_cannot_be_is_refused():
    stack, one = kind_of(INT4, (5, 7, 64)), kind_of(INT4, (7, 64))
    wide, other = kind_of(INT4, (5, 6, 11000)), kind_of(INT4, (6, 64))
    assert stack and one and wide and other
    for count, experts_in_all in ((0, 8), (9, 8), (33, 256)):
        with pytest.raises(ValueError, match="cannot be picked"):
            experts.pick(1, experts_in_all, count, normalize=True)
    with pytest.raises(ValueError, match="odd"):
        experts.expert_gate_up(1, 2, stack)
    with pytest.raises(ValueError, match="shared memory"):
        experts.expert_gate_up(1, 2, wide)
    with pytest.raises(ValueError, match="stack"):
        experts.expert_down(1, 2, one, None)
    with pytest.raises(ValueError, match="1 to 32"):
        experts.expert_down(1, 33, stack, None)
    with pytest.raises(ValueError, match="the shared one 6"):
        experts.expert_down(1, 2, stack, other)


def test_no_lane_idles_where_a_row_is_half_a_warp_wide():
    kind = kind_of(INT4, (256, XS_2.hidden, XS_2.inner))
    assert kind is not None
    kernel = experts.expert_down(1, XS_2.per_token, kind, None)
    # 16 lanes of 16 bytes are a row of 512 columns; two rows to a warp.
    assert kernel.call.endswith("<laguna::Int4<128, laguna::Bf16, false>, 512, 2048, 8, 1, 16, 8>")
    assert kernel.grid == (2048 // 8, 1, 1)


@pytest.mark.parametrize("geometry", PUBLISHED, ids=lambda geometry: geometry.name)
@pytest.mark.parametrize("tokens", [1, 2, 4, 8])
def test_shared_memory_is_what_every_card_has(geometry: Geometry, tokens: int):
    for format in (INT4, BF16, Nvfp4()):
        both = kind_of(format, (geometry.experts, 2 * geometry.inner, geometry.hidden))
        down = kind_of(format, (geometry.experts, geometry.hidden, geometry.inner))
        shared = kind_of(BF16, (geometry.hidden, geometry.shared))
        assert both and down and shared
        assert experts.expert_gate_up(tokens, geometry.per_token, both).shared <= 48 << 10
        assert experts.expert_down(tokens, geometry.per_token, down, shared).shared <= 24 << 10


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_all_small_cases_in_several_orders_of_threads():
    assert _wrong(list(experts.cases(None)), 1, 50, 99) == {}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("geometry", PUBLISHED, ids=lambda geometry: geometry.name)
def test_the_sizes_of_every_published_model(geometry):
    # One at a time: the numbers of a case may take a gigabyte.
    for case in experts.cases(geometry):
        assert _wrong([case], 1) == {}


@pytest.mark.slow
def test_a_stack_of_more_than_four_gigabytes_between_fences():
    case = expert_cases.far_case(1024, 4096, 0)
    given = dict(case.bind(fence))
    plain = given["weights_codes"]
    assert isinstance(plain, Tensor) and plain.nbytes > 1 << 32
    codes = given["weights_codes"] = fenced(*plain.shape, dtype=torch.uint8)
    codes[-1] = plain[-1]
    emulator = Emulator()
    emulator.prepare([case.kernel])
    emulator.run([Launch.of(case.kernel, **given)])
    out = given["out"]
    assert isinstance(out, Tensor)
    assert relative_error(out, case.expected["out"]) < case.tolerance
