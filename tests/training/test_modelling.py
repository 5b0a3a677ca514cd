"""Small Lagunas: what transformers reads in their values, and the weights that they begin with."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributed.tensor import DTensor

from laguna_agent.backend.laguna.config_json import parse_config
from laguna_agent.backend.laguna.model import CausalLM, Piece
from laguna_agent.training.modelling import ROUTER_DEVIATION, initialise, small_laguna
from tests.laguna.checkpoints import filled
from tests.laguna.random_models import as_json, randomise

TINY = {"hidden": 48, "layers": 6, "heads": 4, "kv_heads": 2, "head_dim": 12, "experts": 5, "expert_size": 16}
SIZES = {**TINY, "shared_expert_size": 16, "dense_size": 64, "window": 7, "context": 64}


@pytest.mark.parametrize("tied", [False, True])
def test_transformers_and_we_read_the_same_model(tied: bool) -> None:
    import transformers

    values = small_laguna(vocab_size=97, tied=tied, eos=3, **SIZES)
    made = transformers.LagunaConfig(**values)
    made._attn_implementation = made._experts_implementation = "eager"
    oracle = transformers.AutoModelForCausalLM.from_config(made).eval().requires_grad_(False)
    randomise(oracle, 5)
    config = parse_config(values)
    assert parse_config(as_json(made)).layers == config.layers and config.eos_token_ids == (3,)
    assert [layer.attention[:4] for layer in config.layers] == ["full", *["slid"] * 3, "full", "slid"]
    assert [layer.mlp for layer in config.layers] == ["dense", *["sparse"] * 5]
    tensors = {name: tensor for name, tensor in oracle.state_dict().items() if not (tied and name == "lm_head.weight")}
    ours = filled(config, tensors)
    ids = torch.randint(97, (40,), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(ours([Piece(ids)]), oracle(ids[None]).logits[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("hidden", "tied"), [(48, False), (512, False), (512, True)])
def test_a_run_begins_at_the_logarithm_of_the_vocabulary(hidden: int, tied: bool) -> None:
    values = small_laguna(vocab_size=2048, tied=tied, **{**SIZES, "hidden": hidden, "layers": 3, "context": 512})
    model = CausalLM(parse_config(values))
    initialise(model, 1)
    ids = torch.randint(2048, (513,), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(model([Piece(ids[:512])]), ids[1:])
    assert abs(loss.item() - math.log(2048)) < 0.1


def test_first_weights_are_as_their_role_wants() -> None:
    model = CausalLM(parse_config(small_laguna(vocab_size=512, **SIZES)))
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data.fill_(7)
    initialise(model, 3)
    found = dict(model.named_parameters())
    assert all(not buffer.any() for name, buffer in model.named_buffers())
    assert all((found[name] == 1).all() for name in found if name.endswith("norm.weight"))
    inward = 0.02 / math.sqrt(12)
    for name, deviation in {
        "model.embed_tokens.weight": 0.02,
        "lm_head.weight": 0.02,
        "model.layers.0.mlp.down_proj.weight": inward,
        "model.layers.1.self_attn.o_proj.weight": inward,
        "model.layers.1.self_attn.q_proj.weight": 0.02,
        "model.layers.1.mlp.experts.gate_up_proj": 0.02,
        "model.layers.1.mlp.experts.down_proj": inward,
        "model.layers.1.mlp.shared_expert.down_proj.weight": inward,
        "model.layers.1.mlp.gate.weight": ROUTER_DEVIATION,
    }.items():
        assert abs(found[name].std().item() / deviation - 1) < 0.2, name
    assert not torch.equal(*model.model.layers[1].mlp.experts.down_proj[:2])


def test_weights_follow_from_seed_and_name_alone() -> None:
    values = small_laguna(vocab_size=64, **SIZES)
    shallow = CausalLM(parse_config(values | small_laguna(vocab_size=64, **{**SIZES, "layers": 3})))
    models = [CausalLM(parse_config(values)) for _ in range(3)]
    for model, seed in zip(models, (4, 4, 5), strict=True):
        # What was drawn before must not matter.
        torch.randn(seed)
        initialise(model, seed)
    initialise(shallow, 4)
    same, again, other = (model.state_dict() for model in models)
    assert all(torch.equal(same[name], again[name]) for name in same)
    assert not torch.equal(same["lm_head.weight"], other["lm_head.weight"])
    assert torch.equal(
        shallow.state_dict()["model.layers.1.self_attn.q_proj.weight"], same["model.layers.1.self_attn.q_proj.weight"]
    )
    with torch.device("meta"), pytest.raises(ValueError, match="has no memory"):
        initialise(CausalLM(parse_config(values)), 4)


def test_a_shard_is_cut_from_the_whole() -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.testing._internal.distributed.fake_pg import FakeStore

    model, whole = (CausalLM(parse_config(small_laguna(vocab_size=61, **SIZES))) for _ in range(2))
    initialise(whole, 4)
    # Rank 1 of 3, alone: nothing may be sent, and nothing is.
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=1, world_size=3)
    try:
        fully_shard(model, mesh=init_device_mesh("cpu", (3,)))
        initialise(model, 4)
        for name, parameter in model.named_parameters():
            assert isinstance(parameter, DTensor)
            rows = whole.get_parameter(name).chunk(3)
            expected = rows[1] if len(rows) > 1 else rows[0][:0]
            assert torch.equal(parameter.to_local(), expected), name
    finally:
        torch.distributed.destroy_process_group()
