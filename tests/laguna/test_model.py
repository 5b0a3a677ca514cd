"""What surrounds the numbers: names, dtypes, bad input, weights that are put in later, gradients."""

from __future__ import annotations

import msgspec
import pytest
import torch

from laguna_agent.backend.kernels.formats import GroupInt
from laguna_agent.backend.kernels.quantise import quantise
from laguna_agent.backend.kernels.reference import dequantise
from laguna_agent.backend.laguna.holders import Experts, Linear
from laguna_agent.backend.laguna.layers import Router
from laguna_agent.backend.laguna.model import CausalLM, Piece
from laguna_agent.errors import UsageError
from tests.laguna.small_models import small_config, small_model


def test_names_are_those_of_the_checkpoints() -> None:
    names = set(CausalLM(small_config()).state_dict())
    assert {
        "model.embed_tokens.weight",
        "model.norm.weight",
        "lm_head.weight",
        "model.layers.0.input_layernorm.weight",
        "model.layers.0.post_attention_layernorm.weight",
        *(f"model.layers.0.self_attn.{name}_proj.weight" for name in "qkvog"),
        *(f"model.layers.0.self_attn.{name}_norm.weight" for name in "qk"),
        *(f"model.layers.0.mlp.{name}_proj.weight" for name in ("gate", "up", "down")),
        "model.layers.1.mlp.gate.weight",
        "model.layers.1.mlp.experts.gate_up_proj",
        "model.layers.1.mlp.experts.down_proj",
        "model.layers.1.mlp.experts.e_score_correction_bias",
        *(f"model.layers.1.mlp.shared_expert.{name}_proj.weight" for name in ("gate", "up", "down")),
    } == {name for name in names if not name.startswith(("model.layers.2", "model.layers.3"))} - {
        name for name in names if name.startswith("model.layers.1.") and "mlp" not in name
    }
    tied = CausalLM(msgspec.structs.replace(small_config(), tied=True))
    assert "lm_head.weight" not in tied.state_dict()


def test_a_packed_weight_takes_the_place_of_a_plain_one() -> None:
    model, ids = small_model(), torch.arange(12)
    layer = model.model.layers[1]
    places = (
        (model.model.embed_tokens, "weight"),
        (model.lm_head, "weight"),
        (layer.self_attn.q_proj, "weight"),
        (layer.mlp.experts, "gate_up_proj"),
        (layer.mlp.experts, "down_proj"),
        (layer.mlp.shared_expert.up_proj, "weight"),
    )
    packed = [quantise(getattr(holder, name).detach(), GroupInt(8, 16)) for holder, name in places]
    for (holder, name), weight in zip(places, packed, strict=True):
        holder.put(name, dequantise(weight))
    expected = model([Piece(ids)])
    for (holder, name), weight in zip(places, packed, strict=True):
        holder.put(name, weight)
    torch.testing.assert_close(model([Piece(ids)]), expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match=r"weight has shape \(2, 2\), expected \(41, 22\)"):
        model.lm_head.put("weight", torch.zeros(2, 2))


def test_weights_put_into_a_model_that_was_built_without_memory() -> None:
    ready = small_model()
    with torch.device("meta"):
        empty = CausalLM(small_config())
    assert empty.device.type == "meta"
    empty.load_state_dict(ready.state_dict(), assign=True)
    # Equal but for the order of sums: which kernels serve a weight depends on whether it is trained.
    found, expected = empty([Piece(torch.arange(9))]), ready([Piece(torch.arange(9))])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_bf16_weights_may_be_computed_in_fp32() -> None:
    stored = small_model().bfloat16()
    stored.compute_dtype = torch.float32
    upcast = small_model()
    upcast.load_state_dict(stored.state_dict())
    # Equal but for the order of sums: which kernels serve bf16 depends on what this process has computed before.
    torch.testing.assert_close(stored([Piece(torch.arange(9))]), upcast([Piece(torch.arange(9))]), rtol=1e-5, atol=1e-5)


def test_casting_a_model_leaves_the_selection_bias_exact() -> None:
    model = small_model()
    exact = model.model.layers[1].mlp.experts.e_score_correction_bias.clone()
    cast = model.to(torch.bfloat16).model.layers[1].mlp.experts
    assert torch.equal(cast.e_score_correction_bias, exact)
    assert cast.e_score_correction_bias.dtype == torch.float32
    assert cast.gate_up_proj.dtype == torch.bfloat16


def test_bf16_is_near_fp32_with_and_without_a_cache() -> None:
    exact = small_model()
    rough = CausalLM(small_config(), torch.bfloat16)
    rough.load_state_dict(exact.state_dict())
    ids = torch.arange(30)
    expected, found = exact([Piece(ids)]), rough([Piece(ids)])
    assert found.dtype == torch.bfloat16
    cache = rough.new_cache()
    stepped = torch.cat([rough([Piece(part, cache)]) for part in ids.split(1)])
    for logits in (found, stepped):
        assert torch.cosine_similarity(logits.float(), expected, dim=-1).median() > 0.99


def test_unknown_ids() -> None:
    model = small_model()
    cache = model.new_cache()
    for ids, words in (
        ([0, 41], "token id 41 at place 1: the model knows ids 0 to 40"),
        ([-1], "token id -1 at place 0"),
    ):
        with pytest.raises(UsageError, match=words):
            model([Piece(torch.tensor(ids), cache)])
    assert cache.length == 0


def test_one_cache_for_two_sequences() -> None:
    model = small_model()
    cache = model.new_cache()
    with pytest.raises(ValueError, match="fork it"):
        model([Piece(torch.tensor([1]), cache), Piece(torch.tensor([2]), cache)])


def test_only_the_last_logits() -> None:
    model = small_model()
    pieces = [Piece(torch.arange(5)), Piece(torch.arange(1)), Piece(torch.arange(7))]
    whole = model(pieces)
    torch.testing.assert_close(model(pieces, last=1), whole[[4, 5, 12]], atol=1e-5, rtol=1e-5)
    assert model([Piece(torch.arange(0), model.new_cache())]).shape == (0, 41)
    torch.testing.assert_close(model(pieces, last=[2, 0, 3]), whole[[3, 4, 10, 11, 12]], atol=1e-5, rtol=1e-5)
    assert model(pieces, last=0).shape == (0, 41)
    with pytest.raises(ValueError, match="the last 2 tokens were asked of a piece of 1"):
        model(pieces, last=2)


def test_gradients_reach_every_weight() -> None:
    model = small_model().requires_grad_(True)
    model([Piece(torch.arange(41)), Piece(torch.arange(20))]).pow(2).mean().backward()
    idle = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.abs().sum()]
    assert idle == []


def test_experts_against_a_loop_over_tokens() -> None:
    source = torch.Generator().manual_seed(2)
    x, up, down = (torch.randn(shape, generator=source) for shape in ((9, 7), (5, 6, 7), (5, 7, 3)))
    picked = torch.stack([torch.randperm(5, generator=source)[:2] for _ in range(9)])
    share = torch.rand(9, 2, generator=source)
    expected = torch.zeros(9, 7)
    for token in range(9):
        for at, expert in enumerate(picked[token].tolist()):
            gate, value = up[expert][:3] @ x[token], up[expert][3:] @ x[token]
            expected[token] += share[token, at] * (down[expert] @ (torch.nn.functional.silu(gate) * value))
    experts = Experts(msgspec.structs.replace(small_config(), experts=5, hidden_size=7, expert_size=3))
    experts.put("gate_up_proj", up)
    experts.put("down_proj", down)
    torch.testing.assert_close(experts(x, picked, share), expected, atol=1e-5, rtol=1e-5)
    assert experts(x[:0], picked[:0], share[:0]).shape == (0, 7)


def test_shares_that_are_not_normalised() -> None:
    config = msgspec.structs.replace(small_config(), normalize_top_k=False)
    router = Router(config)
    torch.nn.init.normal_(router.weight, generator=torch.Generator().manual_seed(3))
    x = torch.randn(4, 22, generator=torch.Generator().manual_seed(4))
    picked, share = router(x, torch.zeros(5))
    torch.testing.assert_close(share, torch.sigmoid(x @ router.weight.T).gather(-1, picked))


def test_a_bias_is_added_after_the_product() -> None:
    plain, packed = (Linear(3, 2, bias=True) for _ in range(2))
    torch.nn.init.ones_(plain.weight)
    torch.nn.init.ones_(plain.bias)
    packed.load_state_dict(plain.state_dict())
    packed.put("weight", quantise(torch.full((2, 3), 127.0), GroupInt(8, 4)))
    x = torch.tensor([[1.0, 2.0, 3.0]])
    assert plain(x).tolist() == [[7.0, 7.0]] and packed(x).tolist() == [[763.0, 763.0]]
