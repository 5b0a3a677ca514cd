"""Expert balance on one process, and on two with sharded weights: what is counted, moved and told."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as processes
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from laguna_agent.backend.laguna.config_json import parse_config
from laguna_agent.backend.laguna.layers import SparseMLP
from laguna_agent.backend.laguna.model import CausalLM
from laguna_agent.backend.laguna.weights.opening import open_checkpoint, read_stored
from laguna_agent.errors import DatasetError, UsageError
from laguna_agent.training.balance import BalanceMetrics, ExpertBalance, Scope, bias_rate_for
from laguna_agent.training.batch import Pack, joined
from laguna_agent.training.export import export_checkpoint
from laguna_agent.training.loss import token_loss
from laguna_agent.training.modelling import initialise, small_laguna

EXPERTS, PICKED = 5, 2
VALUES = small_laguna(
    vocab_size=61, hidden=24, layers=3, heads=4, kv_heads=2, head_dim=8, experts=EXPERTS, experts_per_token=PICKED,
    expert_size=8, shared_expert_size=8, dense_size=16, window=5, context=4096,
)  # fmt: skip


def made() -> CausalLM:
    model = CausalLM(parse_config(VALUES))
    initialise(model, 1)
    with torch.no_grad():
        for mlp in sparse(model):
            # Scores that differ, or there is nothing to balance.
            mlp.gate.weight.mul_(40)
    return model


def sparse(model: CausalLM) -> list[SparseMLP]:
    return [layer.mlp for layer in model.model.layers if isinstance(layer.mlp, SparseMLP)]


def biases(model: CausalLM) -> Tensor:
    return torch.stack([mlp.experts.e_score_correction_bias for mlp in sparse(model)])


def pack(*lengths: int, seed: int = 1) -> Pack:
    source = torch.Generator().manual_seed(seed)
    tokens = sum(lengths)
    return Pack(*torch.randint(61, (2, tokens), generator=source), torch.ones(tokens), lengths)


def router_inputs(model: CausalLM, given: Pack) -> list[Tensor]:
    """What each router is given, caught by a hook of torch's own."""
    found: list[Tensor] = []
    hooks = [mlp.gate.register_forward_pre_hook(lambda _, given: found.append(given[0])) for mlp in sparse(model)]
    model(given.pieces())
    for hook in hooks:
        hook.remove()
    return found


def expected_loads(model: CausalLM, packs: list[Pack]) -> Tensor:
    loads = torch.zeros(2, EXPERTS, dtype=torch.int64)
    for given in packs:
        for row, (mlp, x) in enumerate(zip(sparse(model), router_inputs(model, given), strict=True)):
            scores = torch.sigmoid(x @ mlp.gate.weight.T) + mlp.experts.e_score_correction_bias
            loads[row] += scores.topk(PICKED).indices.flatten().bincount(minlength=EXPERTS)
    return loads


def step(
    model: CausalLM, balance: ExpertBalance, packs: list[Pack], masks: list[Tensor | None] | None = None
) -> list[Tensor]:
    """One step's gradients, and the biases moved."""
    real = masks or [None] * len(packs)
    total = sum(len(given.ids) if mask is None else int(mask.sum()) for given, mask in zip(packs, real, strict=True))
    model.zero_grad()
    for given, mask in zip(packs, real, strict=True):
        with balance.counting(mask):
            loss = token_loss(model, given, total_weight=total)
        (loss + balance.auxiliary_loss(total_tokens=total)).backward()
    balance.update_bias()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


def test_biases_move_against_the_load_of_the_whole_step() -> None:
    model, packs = made(), [pack(30, 9), pack(25, seed=2)]
    loads = expected_loads(model, packs)
    balance = ExpertBalance(model, bias_rate=0.125)
    step(model, balance, packs)
    assert balance.state_dict() == {"loads": loads.tolist()}
    assert torch.equal(biases(model), 0.125 * torch.sign(loads.double().mean(1, keepdim=True) - loads).float())
    moved = biases(model).clone()
    # What is not a step's pass is not counted, and a step without tokens moves nothing.
    model(packs[0].pieces())
    balance.update_bias()
    assert torch.equal(biases(model), moved)
    assert balance.metrics() == BalanceMetrics((1, 2), (0.0, 0.0), (EXPERTS, EXPERTS), (0.0, 0.0))
    balance.close()
    assert all(mlp.gate.observer is None for mlp in sparse(model))


def test_the_bias_evens_the_load_out() -> None:
    model, given = made(), pack(300)
    for mlp in sparse(model):
        mlp.experts.e_score_correction_bias += torch.linspace(-0.5, 0.5, EXPERTS)
    balance = ExpertBalance(model, bias_rate=bias_rate_for(100))
    worst = []
    for _ in range(40):
        with torch.no_grad(), balance.counting():
            model(given.pieces())
        balance.update_bias()
        worst.append(balance.metrics().worst_max_vio)
    assert worst[0] > 1 and max(worst[-5:]) < worst[0] / 4


def test_figures_of_a_load() -> None:
    model = made()
    balance = ExpertBalance(model, bias_rate=0.0)
    balance.load_state_dict(json.loads(json.dumps({"loads": [[10, 10, 10, 10, 10], [40, 10, 0, 0, 0]]})))
    found = balance.metrics()
    assert found.layers == (1, 2) and found.dead == (0, 3) and found.max_vio == pytest.approx((0.0, 3.0))
    assert found.entropy == pytest.approx((1.0, -(0.8 * math.log(0.8) + 0.2 * math.log(0.2)) / math.log(5)))
    assert (found.worst_dead, found.worst_max_vio) == (3, pytest.approx(3.0))
    assert found.worst_entropy == min(found.entropy)
    with pytest.raises(DatasetError, match="of 1 layers, the model has 2"):
        balance.load_state_dict({"loads": [[1] * EXPERTS]})
    with pytest.raises(UsageError, match="bias_rate is nan"):
        ExpertBalance(model, bias_rate=math.nan)
    dense = CausalLM(parse_config(VALUES | {"mlp_layer_types": ["dense"] * 3}))
    initialise(dense, 1)
    nothing = ExpertBalance(dense, bias_rate=0.1, aux_weight=0.1)
    step(dense, nothing, [pack(4)])
    assert nothing.metrics() == BalanceMetrics((), (), (), ()) and nothing.metrics().worst_entropy == 1


def test_the_rate_follows_the_length_of_the_run() -> None:
    assert bias_rate_for(105) == pytest.approx(1.95e-2, rel=1e-2) and bias_rate_for(2500) == pytest.approx(4e-3)
    assert bias_rate_for(1) == bias_rate_for(50) == 2e-2 and bias_rate_for(10**6) == 1e-3


@pytest.mark.parametrize("scope", ["global", "micro"])
def test_the_auxiliary_loss_is_that_of_the_papers(scope: Scope) -> None:
    model, packs = made(), [pack(30, 9), pack(25, seed=2)]
    balance = ExpertBalance(model, bias_rate=0.0, aux_weight=0.5, scope=scope)
    counted = torch.zeros(2, EXPERTS, dtype=torch.float64)
    for given in packs:
        with balance.counting():
            token_loss(model, given, total_weight=1.0)
        mine = expected_loads(model, [given]).double()
        counted = counted + mine if scope == "global" else mine
        expected = torch.zeros((), dtype=torch.float64)
        for row, (mlp, x) in enumerate(zip(sparse(model), router_inputs(model, given), strict=True)):
            scores = torch.sigmoid(x @ mlp.gate.weight.T).double()
            means = (scores / scores.sum(1, keepdim=True)).mean(0)
            expected = expected + 0.5 * EXPERTS * (counted[row] / counted[row].sum() * means).sum()
        found = balance.auxiliary_loss()
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)
        share = balance.auxiliary_loss(total_tokens=64)
        torch.testing.assert_close(share, found * len(given.ids) / 64)
        routers = [mlp.gate.weight for mlp in sparse(model)]
        ours, theirs = torch.autograd.grad(found, routers), torch.autograd.grad(expected, routers)
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)
            assert one.abs().max() > 1e-5


@pytest.mark.parametrize("scope", ["global", "micro"])
def test_padding_changes_nothing(scope: Scope) -> None:
    """Five in a hundred tokens are padding, all alike, as in the run that is known to have saturated an expert so."""
    packs = [pack(30, 9), pack(41, seed=2)]
    padded, masks = [], []
    for given in packs:
        padding = Pack(torch.full((2,), 7), torch.full((2,), 7), torch.zeros(2), (2,))
        padded.append(joined([given, padding]))
        masks.append(torch.arange(len(given.ids) + 2) < len(given.ids))
    plain, other, blind = made(), made(), made()
    found = step(plain, ExpertBalance(plain, bias_rate=0.1, aux_weight=0.5, scope=scope), packs)
    same = step(other, ExpertBalance(other, bias_rate=0.1, aux_weight=0.5, scope=scope), padded, masks)
    assert torch.equal(biases(plain), biases(other))
    for one, two in zip(found, same, strict=True):
        torch.testing.assert_close(one, two, atol=1e-7, rtol=1e-4)
    # Not told of it, the balance is another one: the mask is what makes the difference.
    balance = ExpertBalance(blind, bias_rate=0.1, aux_weight=0.5, scope=scope)
    step(blind, balance, padded)
    assert balance.metrics() != ExpertBalance(plain, bias_rate=0.0).metrics()
    assert sum(map(sum, balance.state_dict()["loads"])) == 84 * PICKED * 2
    with pytest.raises(ValueError, match="told of 3 tokens, the pass has 39"), balance.counting(torch.ones(3).bool()):
        blind(packs[0].pieces())


def test_recomputed_activations_are_not_counted_twice() -> None:
    packs = [pack(30, 9), pack(25, seed=2)]
    plain, frugal = made(), made()
    one = ExpertBalance(plain, bias_rate=0.1, aux_weight=0.5)
    other = ExpertBalance(frugal, bias_rate=0.1, aux_weight=0.5)
    runs = []
    for mlp in sparse(frugal):
        forward = mlp.forward
        mlp.forward = lambda x, forward=forward: checkpoint(forward, x, use_reentrant=False)  # type: ignore[method-assign]
        mlp.gate.register_forward_hook(lambda *_: runs.append(1))
    found, same = step(plain, one, packs), step(frugal, other, packs)
    assert len(runs) == 2 * 2 * 2, "nothing was computed again"
    assert one.state_dict() == other.state_dict()
    for a, b in zip(found, same, strict=True):
        torch.testing.assert_close(a, b)


def _rank(rank: int, folder: str) -> None:
    """One of two processes, each with its half of the packs and of the weights."""
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        model = made()
        for module in (*model.model.layers, model):
            sharded = fully_shard(module)
            sharded.set_gradient_divide_factor(1.0)
            sharded.set_force_sum_reduction_for_comms(True)
        balance = ExpertBalance(model, bias_rate=0.125, aux_weight=0.5)
        total = 39 + 25 + 12 + 33
        for seed, lengths in ((1, (30, 9)), (2, (25,))) if rank == 0 else ((3, (12,)), (4, (33,))):
            given = pack(*lengths, seed=seed)
            with balance.counting():
                loss = token_loss(model, given, total_weight=total)
            (loss + balance.auxiliary_loss(total_tokens=total)).backward()
        balance.update_bias()
        gradients = {name: parameter.grad.full_tensor() for name, parameter in model.named_parameters()}
        # Export gathers what is sharded, and an error of the rank that writes is everybody's.
        export_checkpoint(model, VALUES, Path(folder) / "exported")
        with pytest.raises(UsageError, match="is there already"):
            export_checkpoint(model, VALUES, Path(folder) / "exported")
        torch.save({"bias": biases(model), "state": balance.state_dict(), "gradients": gradients}, f"{folder}/{rank}")
    finally:
        dist.destroy_process_group()


def test_two_ranks_with_sharded_weights_are_one(tmp_path: Path) -> None:
    processes.spawn(_rank, (str(tmp_path),), nprocs=2)
    one, other = (torch.load(tmp_path / str(rank)) for rank in range(2))
    assert one["state"] == other["state"] and torch.equal(one["bias"], other["bias"])
    checkpoint = open_checkpoint(tmp_path / "exported")
    exported = CausalLM(checkpoint.config)
    exported.load_state_dict(read_stored(checkpoint))
    initial = made().state_dict()
    for name, tensor in exported.state_dict().items():
        wanted = initial[name] if not name.endswith("bias") else tensor
        assert torch.equal(tensor, wanted), name
    assert torch.equal(biases(exported), one["bias"])
    # The same step in one process: the load that a pass sees is what all ranks have read so far.
    model = made()
    first, second = [pack(30, 9), pack(12, seed=3)], [pack(25, seed=2), pack(33, seed=4)]
    balance = ExpertBalance(model, bias_rate=0.125, aux_weight=0.5)
    total = 109
    for together in (first, second):
        given = joined(together)
        with balance.counting():
            loss = token_loss(model, given, total_weight=total)
        (loss + balance.auxiliary_loss(total_tokens=total)).backward()
    balance.update_bias()
    assert one["state"] == balance.state_dict() and torch.equal(one["bias"], biases(model))
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(one["gradients"][name], parameter.grad, atol=1e-6, rtol=1e-4)
        assert torch.equal(one["gradients"][name], other["gradients"][name])
