"""When a step is recorded, and that it is not where there is no CUDA. What a GPU does with it nobody has seen."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
from torch import nn

from laguna_agent.backend.laguna.config_json import parse_config
from laguna_agent.backend.laguna.model import CausalLM, Piece
from laguna_agent.training.modelling import initialise, small_laguna
from laguna_agent.training.optim.adamw import adamw
from laguna_agent.training.optim.capture import WARM_UPS, Action, Captured, Plan, footprint
from laguna_agent.training.optim.muon import BUFFER, Muon
from laguna_agent.training.optim.parameters import MatrixParameter
from laguna_agent.training.run_file import OptimizerSection
from laguna_agent.training.updates import Updates


def made() -> tuple[nn.Parameter, Muon]:
    weight = nn.Parameter(torch.arange(48.0).reshape(6, 8).cos())
    weight.grad = torch.arange(48.0).reshape(6, 8).sin()
    return weight, Muon([MatrixParameter("w", weight, 1)], lr=0.1)


CHANGES: list[tuple[str, Callable[[nn.Parameter, Muon], object], bool]] = [
    ("nothing", lambda weight, muon: None, False),
    ("a step", lambda weight, muon: muon.step(), False),
    ("the learning rate", lambda weight, muon: muon.param_groups[0].update(lr=0.01), False),
    ("the gradient's numbers", lambda weight, muon: weight.grad.mul_(2), False),  # type: ignore[union-attr]
    ("zeroed in place", lambda weight, muon: muon.zero_grad(set_to_none=False), False),
    ("loaded state", lambda weight, muon: muon.load_state_dict(made()[1].state_dict()), False),
    ("the gradient's place", lambda weight, muon: setattr(weight, "grad", torch.ones(6, 8)), True),
    ("no gradient", lambda weight, muon: muon.zero_grad(), True),
    ("the weight's place", lambda weight, muon: setattr(weight, "data", weight.data.clone()), True),
    ("the momentum's place", lambda w, muon: muon.state[w].update({BUFFER: torch.ones(6, 8)}), True),
    ("the decay", lambda weight, muon: muon.param_groups[0].update(weight_decay=0.2), True),
    ("the momentum", lambda weight, muon: muon.param_groups[0].update(momentum=0.5), True),
    ("the sequence", lambda weight, muon: muon.param_groups[0].update(coefficients="kj5"), True),
]


@pytest.mark.parametrize(("change", "other"), [(c, o) for _, c, o in CHANGES], ids=[name for name, _, _ in CHANGES])
def test_what_makes_a_recording_stale(change: Callable[[nn.Parameter, Muon], object], other: bool) -> None:
    weight, muon = made()
    before, kept = footprint(muon), weight.grad
    change(weight, muon)
    assert (footprint(muon) != before) == other
    assert kept is not None  # Held, so that no new tensor can be given the same address.


def test_a_recording_waits_for_footprints_that_stay() -> None:
    plan = Plan()
    one, other = ("one",), ("other",)
    assert [plan.next(one) for _ in range(WARM_UPS + 3)] == [
        *[Action.EAGER] * WARM_UPS,
        Action.RECORD,
        Action.REPLAY,
        Action.REPLAY,
    ]
    assert plan.next(other) is Action.EAGER
    # Back at the first: its graph is gone.
    assert plan.next(one) is Action.EAGER
    assert [plan.next((step,)) for step in range(9)] == [Action.EAGER] * 9


def test_adamw_makes_its_state_before_the_recording() -> None:
    weight = nn.Parameter(torch.ones(4, 6))
    weight.grad = torch.ones(4, 6)
    adam, plan, done = adamw([("w", weight)], lr=0.1), Plan(), []
    for _ in range(5):
        done.append(plan.next(footprint(adam)))
        adam.step()
    assert done == [Action.EAGER, Action.EAGER, Action.EAGER, Action.RECORD, Action.REPLAY]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: the step is captured")
@pytest.mark.parametrize(("asked", "told"), [(None, 0), (False, 0), (True, 1)])
def test_without_cuda_it_is_a_plain_step_and_says_so(
    asked: bool | None, told: int, caplog: pytest.LogCaptureFixture
) -> None:
    (plain, muon), (weight, other) = made(), made()
    with caplog.at_level(logging.WARNING):
        captured = Captured(other, asked)
    assert len(caplog.records) == told
    assert all("no CUDA device" in record.message for record in caplog.records)
    assert captured.why_not == ("it was not asked for" if asked is False else "there is no CUDA device")
    for _ in range(4):
        muon.step()
        captured.step()
    assert torch.equal(plain, weight)


def test_a_run_that_asks_for_a_graph_learns_the_same_without_one() -> None:
    after = []
    for capture in (False, True):
        model = CausalLM(
            parse_config(small_laguna(vocab_size=32, hidden=16, layers=2, heads=2, head_dim=8, context=16))
        )
        initialise(model, 1)
        updates = Updates(model, OptimizerSection(capture=capture))
        for step in range(2):
            model([Piece(torch.arange(8) + step)]).square().sum().backward()
            updates.step()
        after.append([parameter.detach().clone() for parameter in updates.parameters])
    assert all(torch.equal(plain, asked) for plain, asked in zip(*after, strict=True))
