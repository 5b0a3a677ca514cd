"""Muon against torch.optim.Muon and against the same in fp32; stacks, halves, state, and what it refuses."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from laguna_agent.errors import UsageError
from laguna_agent.training.optim.adamw import adamw
from laguna_agent.training.optim.coefficients import JORDAN
from laguna_agent.training.optim.muon import BUFFER, Muon
from laguna_agent.training.optim.parameters import MatrixParameter, split_parameters

SHAPES = [(24, 40), (40, 24), (32, 32), (1, 9), (17, 5)]


def randoms(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def parameter(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.detach().clone())


def held(*parameters: nn.Parameter, parts: int = 1) -> list[MatrixParameter]:
    return [MatrixParameter(f"p{index}", each, parts) for index, each in enumerate(parameters)]


def walk(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], steps: int = 4, seed: int = 100) -> None:
    """Some steps with gradients that depend on the shapes and the seed alone."""
    for step in range(steps):
        for index, each in enumerate(parameters):
            each.grad = randoms(seed + 10 * step + index, *each.shape).to(each.dtype)
        optimizer.step()


def by_hand(
    start: Tensor, gradients: list[Tensor], *, lr: float, decay: float, momentum: float, nesterov: bool
) -> Tensor:
    """torch.optim.Muon's algorithm as its documentation has it, in fp64."""
    weight, buffer = start.double(), torch.zeros_like(start, dtype=torch.float64)
    for given in gradients:
        gradient = given.double()
        buffer = momentum * buffer + (1 - momentum) * gradient
        x = (1 - momentum) * gradient + momentum * buffer if nesterov else buffer
        x = x / torch.linalg.matrix_norm(x)
        for _ in range(5):
            a, b, c = JORDAN
            gram = x @ x.mT
            x = a * x + (b * gram + c * gram @ gram) @ x
        weight = weight * (1 - lr * decay) - lr * 0.2 * math.sqrt(max(start.shape)) * x
    return weight


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_as_torch_does(nesterov: bool, decay: float) -> None:
    start = [randoms(index, *shape) for index, shape in enumerate(SHAPES)]
    ours, theirs = [parameter(value) for value in start], [parameter(value) for value in start]
    options = {"lr": 0.02, "momentum": 0.9, "nesterov": nesterov, "weight_decay": decay}
    walk(Muon(held(*ours), coefficients="kj5", **options), ours)  # type: ignore[arg-type]
    walk(torch.optim.Muon(theirs, adjust_lr_fn="match_rms_adamw", **options), theirs)  # type: ignore[arg-type]
    for index, (our, their) in enumerate(zip(ours, theirs, strict=True)):
        gradients = [randoms(100 + 10 * step + index, *our.shape) for step in range(4)]
        exact = by_hand(start[index], gradients, lr=0.02, decay=decay, momentum=0.9, nesterov=nesterov)
        torch.testing.assert_close(our.detach().double(), exact, rtol=0, atol=2e-5)
        # Theirs is rounded to bf16 at every product: an entry of 0.02 * 0.2 * sqrt(40) at most, four times.
        torch.testing.assert_close(our, their, rtol=0, atol=4 * 0.02 * 0.2 * math.sqrt(max(our.shape)) * 0.02)
        assert (our - start[index]).abs().max().item() > 0.01


def test_without_scaling_an_update_is_orthogonal() -> None:
    weight = parameter(torch.zeros(16, 24))
    walk(Muon(held(weight), lr=1.0, scale="none", weight_decay=0.0), [weight], steps=1)
    values = torch.linalg.svdvals(weight.detach())
    assert 0.86 < values.min().item() <= values.max().item() < 1.13


def test_a_stack_is_its_slices_and_a_fused_one_its_halves() -> None:
    stack, fused = randoms(1, 5, 12, 16), randoms(2, 3, 2 * 10, 16)
    together = [parameter(stack), parameter(fused)]
    walk(Muon([MatrixParameter("s", together[0], 1), MatrixParameter("f", together[1], 2)], lr=0.1), together)
    for row, whole, rows in ((0, together[0], 12), (1, together[1], 10)):
        start = (stack, fused)[row]
        for expert in range(len(start)):
            for part in range(start.shape[1] // rows):
                cut = slice(part * rows, (part + 1) * rows)
                alone = parameter(start[expert, cut])
                optimizer = Muon(held(alone), lr=0.1)
                for step in range(4):
                    alone.grad = randoms(100 + 10 * step + row, *start.shape)[expert, cut].clone()
                    optimizer.step()
                assert torch.equal(alone, whole[expert, cut])


def test_what_has_no_gradient_is_left_alone() -> None:
    moved, left = parameter(randoms(1, 6, 8)), parameter(randoms(2, 6, 8))
    optimizer = Muon(held(moved, left), lr=0.1)
    moved.grad = randoms(3, 6, 8)
    optimizer.step()
    assert torch.equal(left, randoms(2, 6, 8))
    assert torch.count_nonzero(optimizer.state[left][BUFFER]) == 0
    assert not torch.equal(moved, randoms(1, 6, 8))
    optimizer.zero_grad()
    before = moved.detach().clone()
    optimizer.step()
    assert torch.equal(moved, before)


def test_one_buffer_is_half_of_adamw() -> None:
    mine, other = [[parameter(randoms(i, *s)) for i, s in enumerate([(12, 20), (4, 10, 6)])] for _ in range(2)]
    muon, adam = Muon(held(*mine), lr=0.1), torch.optim.AdamW(other, fused=True)
    walk(muon, mine, 1)
    walk(adam, other, 1)

    def size(optimizer: torch.optim.Optimizer) -> int:
        # AdamW's counter is one number for a parameter, not state on the matrix.
        return sum(t.nbytes for state in optimizer.state.values() for t in state.values() if t.dim())

    assert size(muon) * 2 == size(adam) == 2 * 4 * (12 * 20 + 4 * 10 * 6)


def test_the_state_is_there_before_the_first_step_and_goes_round(tmp_path: Path) -> None:
    first = [parameter(randoms(1, 12, 20)), parameter(randoms(2, 3, 8, 6))]
    wanted = [MatrixParameter("a", first[0], 1), MatrixParameter("b", first[1], 2)]
    optimizer = Muon(wanted, lr=0.1)
    keys = {number: set(state) for number, state in optimizer.state_dict()["state"].items()}
    assert keys == {0: {BUFFER}, 1: {BUFFER}}
    walk(optimizer, first)
    optimizer.param_groups[0]["lr"] = 0.03
    torch.save({"optimizer": optimizer.state_dict(), "weights": first}, tmp_path / "state.pt")

    loaded = torch.load(tmp_path / "state.pt")
    second = [parameter(value) for value in loaded["weights"]]
    resumed = Muon([MatrixParameter("a", second[0], 1), MatrixParameter("b", second[1], 2)], lr=0.5)
    addresses = [resumed.state[each][BUFFER].data_ptr() for each in second]
    resumed.load_state_dict(loaded["optimizer"])
    assert [resumed.state[each][BUFFER].data_ptr() for each in second] == addresses
    assert [group["lr"] for group in resumed.param_groups] == [0.03, 0.1]
    walk(optimizer, first, seed=500)
    walk(resumed, second, seed=500)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_a_state_of_something_else_is_refused() -> None:
    state = Muon(held(parameter(randoms(1, 4, 6))), lr=0.1).state_dict()
    other = Muon(held(parameter(randoms(1, 6, 4))), lr=0.2)
    with pytest.raises(UsageError, match=r"momentum \[4, 6\] where \[6, 4\] is needed"):
        other.load_state_dict(state)
    # A refusal changes nothing.
    assert other.param_groups[0]["lr"] == 0.2
    assert [each[BUFFER].shape for each in other.state.values()] == [(6, 4)]
    with pytest.raises(UsageError, match="does not fit"):
        Muon(held(parameter(randoms(1, 4, 6)), parameter(randoms(1, 4, 6))), lr=0.1).load_state_dict(state)
    with pytest.raises(UsageError, match="momentum none"):
        Muon(held(parameter(randoms(1, 4, 6))), lr=0.1).load_state_dict({**state, "state": {}})


class Small(nn.Module):
    """Names and shapes as a Laguna layer has them."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(11, 8)
        self.q_proj = nn.Linear(8, 6, bias=False)
        self.gate_up_proj = nn.Parameter(torch.empty(3, 2 * 5, 8))
        self.norm = nn.LayerNorm(8)
        with torch.no_grad():
            for index, each in enumerate(self.parameters()):
                each.copy_(randoms(seed + index, *each.shape))


def pair(model: Small) -> tuple[Muon, torch.optim.AdamW]:
    mine, rest = split_parameters(model)
    return Muon(mine, lr=0.05), adamw(rest, lr=0.01, weight_decay=0.1)


def test_distributed_checkpoints_take_it() -> None:
    first, second = Small(1), Small(1)
    muon, _ = pair(first)
    empty = get_optimizer_state_dict(first, muon)
    assert set(empty["state"]) == {"q_proj.weight", "gate_up_proj"}
    walk(muon, list(first.parameters()))
    stored: dict[str, Any] = get_optimizer_state_dict(first, muon)
    raw = io.BytesIO()
    torch.save(stored, raw)
    raw.seek(0)
    second.load_state_dict(first.state_dict())
    resumed, _ = pair(second)
    set_optimizer_state_dict(second, resumed, torch.load(raw))
    walk(muon, list(first.parameters()), seed=900)
    walk(resumed, list(second.parameters()), seed=900)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_other_half_decays_alike_and_norms_not_at_all() -> None:
    model = Small(3)
    muon, adam = pair(model)
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    for each in model.parameters():
        each.grad = torch.zeros_like(each)
    muon.step()
    adam.step()
    kept = {"q_proj.weight": 1 - 0.05 * 0.1, "gate_up_proj": 1 - 0.05 * 0.1, "embed_tokens.weight": 1 - 0.01 * 0.1}
    for name, each in model.named_parameters():
        torch.testing.assert_close(each.detach(), before[name] * kept.get(name, 1.0), rtol=1e-6, atol=0)
    assert adam.defaults["fused"]
    with pytest.raises(UsageError, match="AdamW"):
        adamw([], lr=0.1)
    with pytest.raises(UsageError, match="learning rate"):
        adamw([("norm", nn.Parameter(torch.ones(3)))], lr=-1.0)


def test_a_rate_may_be_a_tensor_and_a_schedule_writes_it() -> None:
    ours = [parameter(randoms(1, 8, 12)) for _ in range(3)]
    optimizers = [Muon(held(each), lr=0.5) for each in ours]
    optimizers[0].param_groups[0]["lr"] = torch.tensor(0.02)
    optimizers[1].param_groups[0]["lr"] = 0.02
    for optimizer, each in zip(optimizers, ours, strict=True):
        walk(optimizer, [each])
    torch.testing.assert_close(ours[0], ours[1], rtol=0, atol=1e-6)
    assert not torch.allclose(ours[0], ours[2], atol=1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizers[2], lambda step: 0.5**step)
    optimizers[2].step()
    schedule.step()
    assert optimizers[2].param_groups[0]["lr"] == 0.25


def test_gradients_of_any_stride_and_weights_of_bf16() -> None:
    plain, turned = parameter(randoms(1, 12, 20)), parameter(randoms(1, 12, 20))
    rounded = nn.Parameter(randoms(1, 12, 20).bfloat16())
    optimizers = [Muon(held(each), lr=1e-3) for each in (plain, turned, rounded)]
    exact = rounded.detach().float()
    for step in range(3):
        gradient = randoms(step, 12, 20).bfloat16().float()
        plain.grad, turned.grad, rounded.grad = gradient, gradient.T.contiguous().T, gradient.bfloat16()
        for optimizer in optimizers:
            optimizer.step()
    assert torch.equal(plain, turned)
    buffer = optimizers[2].state[rounded][BUFFER]
    assert buffer.dtype == torch.float32
    assert torch.equal(buffer, optimizers[0].state[plain][BUFFER])
    # Each step rounds to bf16 once: half a unit of 2^-8 of a number below 4.
    assert (rounded.detach().float() - plain.detach()).abs().max().item() < 4 * 2**-8 * 2
    assert not torch.equal(rounded.detach().float(), exact)
    state = optimizers[2].state_dict()
    again = Muon(held(nn.Parameter(rounded.detach().clone())), lr=1e-3)
    again.load_state_dict(state)
    (loaded,) = again.state.values()
    assert torch.equal(loaded[BUFFER], buffer)


def test_closures_and_dtypes() -> None:
    weight = parameter(randoms(1, 8, 12))
    optimizer = Muon(held(weight), lr=0.1, dtype=torch.bfloat16)

    def closure() -> Tensor:
        loss = (weight**2).sum()
        loss.backward()
        return loss

    before = (weight**2).sum().item()
    assert optimizer.step(closure).item() == pytest.approx(before)  # type: ignore[arg-type, union-attr]
    assert (weight**2).sum().item() < before
    exact = parameter(randoms(1, 8, 12))
    exact.grad = 2 * randoms(1, 8, 12)
    Muon(held(exact), lr=0.1).step()
    assert not torch.equal(weight, exact)
    torch.testing.assert_close(weight, exact, rtol=0, atol=0.1 * 0.2 * math.sqrt(12) * 0.05)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lr": -0.1}, "lr is -0.1"),
        ({"lr": math.nan}, "lr is nan"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0"),
        ({"coefficients": "kj6"}, "'kj6' is unknown"),
        ({"scale": "match"}, "scale 'match' is unknown"),
        ({"parameters": []}, "no matrices"),
        ({"parameters": held(nn.Parameter(torch.ones(3)))}, r"p0 is torch.float32 \[3\], not matrices"),
        ({"parameters": held(nn.Parameter(torch.ones(3, 4)), parts=2)}, "p0 has 3 rows, which are no 2 matrices"),
        ({"parameters": held(nn.Parameter(torch.ones(3, 4))) * 2}, "given twice"),
    ],
)
def test_refused_in_one_line(options: dict[str, Any], said: str) -> None:
    given = {"parameters": held(nn.Parameter(torch.ones(2, 4))), "lr": 0.1} | options
    with pytest.raises(UsageError, match=said) as caught:
        Muon(**given)
    assert "\n" not in str(caught.value)
