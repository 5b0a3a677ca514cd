"""The paper table: each formula against a count by hand or by another program, and the page against the code."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from laguna_agent.backend.kernels.cuda.geometry import PUBLISHED, XS_2, Geometry, LayerGeometry
from laguna_agent.backend.laguna.config_json import parse_config
from laguna_agent.backend.laguna.model import CausalLM, Piece
from laguna_agent.training import scaling
from laguna_agent.training.modelling import initialise, small_laguna
from laguna_agent.training.optim.parameters import split_parameters
from laguna_agent.training.step_costs import (
    Cluster,
    Matrices,
    Plan,
    crossing,
    keys_seen,
    memory,
    newton_schulz_flops,
    parameters,
    state_bytes,
    step,
    traffic,
    training_flops,
)
from tests.conftest import ROOT

SMALL = Geometry(
    "small",
    96,
    32,
    2,
    8,
    (LayerGeometry(4, 4, 0, "per-head", 48), LayerGeometry(4, 8, 16, "per-head"), LayerGeometry(4, 8, 16, "per-head")),
    6,
    2,
    24,
    16,
)


@pytest.fixture(scope="module")
def small() -> CausalLM:
    """The model that `SMALL` describes."""
    values = small_laguna(
        vocab_size=96,
        hidden=32,
        layers=3,
        heads=4,
        head_dim=8,
        experts=6,
        expert_size=24,
        shared_expert_size=16,
        dense_size=48,
        window=16,
    )
    model = CausalLM(parse_config(values, "test"))
    initialise(model, 0)
    return model


def test_parameters_are_the_model_s(small: CausalLM) -> None:
    counted = parameters(SMALL)
    matrices, rest = split_parameters(small)
    routed = sum(at.parameter.numel() for at in matrices if at.parameter.dim() == 3)
    assert counted.routed == routed
    assert counted.matrices == sum(at.parameter.numel() for at in matrices) - routed
    assert counted.rest == sum(parameter.numel() for _, parameter in rest)


def test_the_published_sizes_come_out() -> None:
    counted = parameters(XS_2)
    assert round(counted.total / 1e9, 1) == 33.4
    # The published count of active parameters has the embedding in it.
    assert round((counted.applied + XS_2.vocabulary * XS_2.hidden) / 1e9, 1) == 3.0
    s, m = (parameters(geometry).total for geometry in PUBLISHED[1:])
    assert round(s / 1e9, 1) == 117.6
    assert abs(m / 1e9 - 225.8) < 0.5


def test_flops_are_torchs_count(small: CausalLM) -> None:
    tokens = 12
    # Sequences of one token: however attention is computed, each sees one key and nothing is masked.
    pieces = [Piece(torch.tensor([token])) for token in range(tokens)]
    with FlopCounterMode(display=False) as counter:
        small(pieces).sum().backward()
    products = counter.get_flop_counts()["Global"][torch.ops.aten.mm]
    # How a kernel computes attention is its own matter; what it must do at least is counted by hand.
    attention = 12 * sum(layer.heads for layer in SMALL.layers) * SMALL.head_dim
    assert products / tokens == training_flops(SMALL, 1) - attention


def test_newton_schulz_by_hand() -> None:
    # Per step of 512 x 2048: 2 * 512 * 2048 * 512, then 2 * 512^3, then 2 * 512 * 512 * 2048.
    assert Matrices(512, 2048, 3).newton_schulz(1) == 3 * (1_073_741_824 + 268_435_456 + 1_073_741_824)
    assert Matrices(2048, 512, 1).newton_schulz() == Matrices(512, 2048, 1).newton_schulz()
    both = newton_schulz_flops(XS_2, routed=True) + newton_schulz_flops(XS_2, routed=False)
    assert both == newton_schulz_flops(XS_2)
    # 39 layers of 256 experts of 3 matrices.
    assert newton_schulz_flops(XS_2, routed=True) == Matrices(512, 2048, 39 * 256 * 3).newton_schulz()


@pytest.mark.parametrize(("window", "sequence"), [(0, 1), (0, 7), (3, 7), (7, 7), (9, 7), (1, 5)])
def test_keys_are_counted(window: int, sequence: int) -> None:
    counts = [len(range(max(0, at - window + 1 if window else 0), at + 1)) for at in range(sequence)]
    assert keys_seen(window, sequence) == pytest.approx(sum(counts) / sequence)


def test_state_is_one_number_or_two_for_each() -> None:
    counted = parameters(XS_2)
    assert state_bytes(XS_2, "adamw") == 8 * counted.total
    assert state_bytes(XS_2, "adamw") - state_bytes(XS_2, "muon") == 4 * (counted.routed + counted.matrices)


def test_memory_on_one_node_by_hand() -> None:
    held, counted = memory(XS_2, Cluster(), Plan()), parameters(XS_2)
    assert held.weights == held.gradients == 4 * counted.total / 8
    # A layer of 256 experts of three matrices, the shared one, and 64 heads.
    layer = 257 * 3 * 512 * 2048 + 2 * 64 * 128 * 2048 + 2 * 8 * 128 * 2048
    assert held.gathered == 3 * 2 * layer
    assert held.total == sum(vars(held).values())


def test_traffic_by_hand() -> None:
    cluster, counted = Cluster(nodes=2), parameters(XS_2)
    plan = Plan(tokens=16 * 3 * 100, micro=100)
    moved = traffic(XS_2, cluster, plan)
    assert moved.gathered == 3 * 2 * 2 * counted.total * 15 / 16
    assert moved.scattered == 3 * 4 * counted.total * 15 / 16
    assert moved.replicas == 0
    # Own rows to their owners, and the results of what one owns to all others: both are what others hold of 1/16.
    assert moved.muon == pytest.approx(2 * 4 * counted.matrices / 16 * 15 / 16)
    assert traffic(XS_2, cluster, replace(plan, optimizer="adamw")).muon == 0
    copies = traffic(XS_2, cluster, replace(plan, layout="hsdp"))
    assert copies.replicas == pytest.approx(2 * 4 * counted.total / 8 * 1 / 2)


def test_a_step_by_hand() -> None:
    cluster, plan = Cluster(), Plan(tokens=1 << 20, micro=1 << 14)
    taken = step(XS_2, cluster, plan)
    assert taken.arithmetic == pytest.approx(training_flops(XS_2, 4096) * (1 << 17) / (989e12 * 0.35))
    assert taken.newton_schulz == pytest.approx(newton_schulz_flops(XS_2) / 8 / (989e12 * 0.35))
    # Eight passes, each of which moves weights twice in two bytes and gradients once in four, over NVLink.
    assert taken.shards == pytest.approx(8 * (2 * 2 + 4) * parameters(XS_2).total * 7 / 8 / 450e9)
    assert taken.replicas == 0
    assert step(XS_2, cluster, replace(plan, optimizer="adamw")).ns_share == 0


def test_owners_beat_redundancy_and_whole_experts_bound_it() -> None:
    for nodes in (1, 4, 64, 512):
        cluster = Cluster(nodes=nodes)
        owners, naive = (step(XS_2, cluster, Plan(owners=owners)) for owners in (True, False))
        assert owners.newton_schulz < naive.newton_schulz
        work = owners.newton_schulz * cluster.peak * cluster.mfu
        assert work >= newton_schulz_flops(XS_2) / cluster.gpus * (1 - 1e-9)
        assert work >= newton_schulz_flops(XS_2, routed=True) / XS_2.experts * (cluster.gpus >= XS_2.experts)


def test_between_nodes_the_cards_are_the_limit() -> None:
    assert Cluster(nodes=1).ring(450e9) == pytest.approx(7 / 8)
    # 400 GB/s into a node, of which half is there already.
    assert Cluster(nodes=2, network=10e9).ring(80e9) == pytest.approx(0.5)


def test_at_the_crossing_the_share_is_what_was_asked() -> None:
    tokens = crossing(0.25, 3e-4, 0.01)
    assert 0.25 / (0.25 + 3e-4 * tokens) == pytest.approx(0.01)
    assert math.isclose(crossing(0.5, 3e-4, 0.01), 2 * tokens)


def test_the_page_shows_what_the_code_says() -> None:
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    between = page.split("<!-- scaling -->")[1].split("<!-- /scaling -->")[0]
    assert between.strip() == scaling.table(), "docs/training.md: paste `python -m laguna_agent.training.scaling`"


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert scaling.main([]) == 0
    assert capsys.readouterr().out == scaling.table() + "\n"
    assert scaling.main(["--model", "M.1", "--nodes", "96", "--tokens", "24000000"]) == 0
    assert "M.1: 225" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        scaling.main(["--mfu", "0"])
    assert ended.value.code == 2
    assert "--mfu must be above 0" in capsys.readouterr().err
