"""The random model of `geometry.py` has XS.2's sizes, and values as large as it says."""

import math

import pytest
import torch
from random_laguna import all_as, as_llama_quantize, random_checkpoint, random_rows, size_of, stored_as, xs2_settings

from laguna_agent.backend.kernels.formats import Ggml, PackedTensor, Plain
from laguna_agent.backend.kernels.reference import dequantise
from laguna_agent.backend.laguna.config_json import parse_config
from laguna_agent.backend.laguna.weights.canonical import expected_tensors

Q4_0 = Ggml("Q4_0")


def test_forty_layers_have_the_parameters_of_xs2():
    config = parse_config(xs2_settings(40), "test")
    sizes = [(tensor.role, math.prod(tensor.shape)) for tensor in expected_tensors(config)]
    # 33.4 billion in all; of the experts 8 of 256 are read for a token: 3 billion, the embedding left out.
    assert sum(size for _, size in sizes) == pytest.approx(33.44e9, rel=1e-3)
    active = sum(size * (8 / 256 if role == "experts" else role != "embedding") for role, size in sizes)
    assert active == pytest.approx(2.811e9, rel=1e-3)
    full = [layer.attention == "full_attention" for layer in config.layers]
    assert [sum(full), full[0], full[4], len(full)] == [10, True, True, 40]
    assert {layer.heads for layer in config.layers} == {48, 64}


@pytest.mark.parametrize(
    ("role", "kind"),
    [
        *((role, "") for role in ("embedding", "head", "matrix", "experts", "router", "gate")),
        *(("head", "Q4_0"), ("matrix", "Q4_K_M"), ("experts", "Q4_K_M")),
    ],
)
def test_values_are_as_large_as_said_and_come_again(role, kind):
    config = parse_config(xs2_settings(2), "test")
    tensor = next(one for one in expected_tensors(config) if one.role == role)
    format = as_llama_quantize(kind, 2)(tensor) if kind else stored_as(tensor, Q4_0)
    parts = random_rows(tensor, format, 0, 32)
    values = dequantise(PackedTensor(format, (32, tensor.shape[-1]), parts))
    assert values.std().item() == pytest.approx(size_of(tensor), rel=0.03)
    assert abs(values.mean().item()) < 0.03 * size_of(tensor)
    again = random_rows(tensor, format, 0, 32)
    assert all(torch.equal(parts[name], again[name]) for name in parts)


def test_a_checkpoint_makes_every_tensor_when_it_is_read():
    checkpoint = random_checkpoint(2, all_as(Q4_0), "Q4_0")
    for name, tensor in checkpoint.tensors.items():
        where, chunk = next(tensor.chunks(1 << 12))
        assert name in where
        assert dequantise(chunk).isfinite().all()
    norm = checkpoint.tensors["model.layers.0.self_attn.q_norm.weight"]
    assert norm.format == Plain(torch.float32)
    assert next(norm.chunks(1 << 12))[1].parts["values"].mean().item() == pytest.approx(1.0, abs=0.05)


def test_the_mix_of_llama_quantize():
    config = parse_config(xs2_settings(8), "test")
    kinds = {one.name: as_llama_quantize("Q4_K_M", 8)(one).spelling for one in expected_tensors(config)}
    down = [kinds[f"model.layers.{layer}.mlp.experts.down_proj"] for layer in range(1, 8)]
    assert [kind == "ggml:Q6_K" for kind in down] == [False, False, True, False, False, True, True]
    assert kinds["model.layers.0.self_attn.v_proj.weight"] == kinds["lm_head.weight"] == "ggml:Q6_K"
    assert kinds["model.layers.0.self_attn.q_proj.weight"] == kinds["model.embed_tokens.weight"] == "ggml:Q4_K"
    assert kinds["model.layers.1.mlp.gate.weight"] == "f32"
