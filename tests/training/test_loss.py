"""The loss of a pack, its gradients, and the figures on held-out texts, held against plain torch and transformers."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from torch import Tensor

from laguna_agent.backend.laguna.config_json import parse_config
from laguna_agent.backend.laguna.model import CausalLM
from laguna_agent.training import loss as losses
from laguna_agent.training.batch import Pack, joined
from laguna_agent.training.loss import held_out, token_loss
from laguna_agent.training.modelling import small_laguna
from tests.laguna.checkpoints import canonical
from tests.laguna.random_models import randomise

VALUES = small_laguna(
    vocab_size=61, hidden=24, layers=3, heads=4, kv_heads=2, head_dim=8, experts=5, expert_size=8,
    shared_expert_size=8, dense_size=16, window=5, full_every=2, context=64, routed_scale=1.5,
)  # fmt: skip


def pack(*lengths: int, seed: int = 1) -> Pack:
    source = torch.Generator().manual_seed(seed)
    tokens = sum(lengths)
    ids, targets = torch.randint(61, (2, tokens), generator=source)
    weights = torch.rand(tokens, generator=source) * (torch.rand(tokens, generator=source) < 0.7)
    return Pack(ids, targets, weights, lengths)


@cache
def trained(tied: bool = False) -> CausalLM:
    model = CausalLM(parse_config(VALUES | {"tie_word_embeddings": tied}))
    source = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.dim() > 1:
                tensor.copy_(torch.randn(tensor.shape, generator=source) * 1.5 * tensor.shape[-1] ** -0.5)
            elif not tensor.any():
                tensor.copy_(torch.randn(tensor.shape, generator=source) * 0.3)
    return model


def gradients(loss: Tensor, model: CausalLM) -> dict[str, Tensor]:
    named = dict(model.named_parameters())
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


def plain(model: CausalLM, given: Pack, total: float) -> Tensor:
    logits = model(given.pieces())
    each = torch.nn.functional.cross_entropy(logits, given.targets, reduction="none")
    return (each * given.weights).sum() / total


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("at_once", [1, 61 * 17, 1 << 20])
def test_the_loss_and_its_gradients_are_those_of_all_logits_at_once(
    tied: bool, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "LOGITS_AT_ONCE", at_once)
    model, given = trained(tied), pack(11, 3, 30)
    found, expected = token_loss(model, given, total_weight=7.5), plain(model, given, 7.5)
    torch.testing.assert_close(found, expected)
    ours, theirs = gradients(3 * found, model), gradients(3 * expected, model)
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-5, rtol=1e-4)


def test_gradients_are_those_of_transformers() -> None:
    import transformers

    # The row of a padding token has no gradient there.
    made = transformers.LagunaConfig(**VALUES | {"pad_token_id": None})
    made._attn_implementation = made._experts_implementation = "eager"
    oracle = transformers.AutoModelForCausalLM.from_config(made)
    with torch.no_grad():
        randomise(oracle, 3)
    model = CausalLM(parse_config(VALUES))
    model.load_state_dict(canonical(oracle.state_dict()))
    given = pack(13, 13, 6)
    logits = [oracle(piece.ids[None], use_cache=False).logits[0] for piece in given.pieces()]
    each = torch.nn.functional.cross_entropy(torch.cat(logits), given.targets, reduction="none")
    (each * given.weights).sum().div(4.0).backward()
    expected = canonical({name: tensor.grad for name, tensor in oracle.named_parameters() if tensor.grad is not None})
    found = gradients(token_loss(model, given, total_weight=4.0), model)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=1e-3)


def test_losses_of_the_parts_of_a_step_add_up() -> None:
    model, parts = trained(), [pack(9, 4), pack(20, seed=2), pack(1, 1, 1, seed=3)]
    total = float(sum(part.weights.sum() for part in parts))
    whole = token_loss(model, joined(parts), total_weight=total)
    apart = [token_loss(model, part, total_weight=total) for part in parts]
    torch.testing.assert_close(sum(apart), whole)
    summed, at_once = gradients(sum(apart), model), gradients(whole, model)
    for name in at_once:
        torch.testing.assert_close(summed[name], at_once[name], atol=1e-6, rtol=1e-4)


def test_what_has_no_weight_is_not_learned() -> None:
    model, given = trained(), pack(12, 8)
    nonsense = torch.where(given.weights == 0, -100, given.targets)
    assert (nonsense == -100).any()
    one, other = (token_loss(model, Pack(given.ids, targets, *given[2:]), total_weight=3.0)
                  for targets in (given.targets, nonsense))  # fmt: skip
    assert one.item() == other.item()
    empty = token_loss(model, Pack(given.ids, given.targets, torch.zeros(20), (12, 8)), total_weight=3.0)
    assert empty.item() == 0 and not any(tensor.any() for tensor in gradients(empty, model).values())
    broken = given.weights.clone()
    broken[4] = math.nan
    assert token_loss(model, Pack(given.ids, given.targets, broken, (12, 8)), total_weight=3.0).isnan()
    with pytest.raises(ValueError, match="total_weight is 0"):
        token_loss(model, given, total_weight=0)


def test_narrow_activations_learn_nearly_the_same() -> None:
    wide, given = trained(), pack(30, 14)
    narrow = CausalLM(wide.config, compute_dtype=torch.bfloat16)
    narrow.load_state_dict(wide.state_dict())
    found, expected = (token_loss(model, given, total_weight=15.0) for model in (narrow, wide))
    assert found.dtype == torch.float32 and abs(found.item() - expected.item()) < 0.03 * expected.item()
    head = gradients(found, narrow)["lm_head.weight"], gradients(expected, wide)["lm_head.weight"]
    assert head[0].dtype == torch.float32 and (head[0] - head[1]).norm() < 0.1 * head[1].norm()


def test_held_out_figures() -> None:
    model, packs = trained(), [pack(9, 4), pack(20, seed=2)]
    logits = torch.cat([model(given.pieces()) for given in packs]).double()
    targets, weights = joined(packs).targets, joined(packs).weights.double()
    # A few that are right, or accuracy would be 0 whatever is computed.
    best = logits.argmax(-1)
    targets[::3] = best[::3]
    packs = [Pack(packs[0].ids, targets[:13], packs[0].weights, (9, 4)),
             Pack(packs[1].ids, targets[13:], packs[1].weights, (20,))]  # fmt: skip
    each = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    expected = ((each * weights).sum() / weights.sum()).item()
    found = held_out(model, packs)
    assert found.loss == pytest.approx(expected, rel=1e-5) and found.weight == pytest.approx(weights.sum().item())
    assert held_out(model, packs).perplexity == pytest.approx(math.exp(expected), rel=1e-4)
    right = (((best == targets) * weights).sum() / weights.sum()).item()
    assert 0.1 < right < 0.9 and held_out(model, packs).accuracy == pytest.approx(right)
    assert math.isnan(held_out(model, []).loss)
