"""From files to logits: the golden cases through the engine's own loader, and models over packed weights."""

from __future__ import annotations

import msgspec
import pytest
import torch
from safetensors.torch import load_file

from laguna_agent.backend.laguna.loading import build_model
from laguna_agent.backend.laguna.model import Piece
from laguna_agent.backend.laguna.weights import open_weights
from laguna_agent.backend.laguna.weights.opening import open_checkpoint, read_stored
from laguna_agent.errors import WeightsError
from tests.laguna.checkpoints import CASES, SHARED
from tests.laguna.weight_files import fused, gguf_tensors, random_tensors, write_folder, write_gguf

IDS = torch.arange(30) * 7 % 50


def logits(config, tensors, ids=IDS, dtype=torch.float32):
    return build_model(config, tensors, dtype)([Piece(ids)])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("packed", [False, True])
def test_golden_logits_through_the_loader(tmp_path, case, packed):
    folder = SHARED / "golden" / case
    if not folder.is_dir():
        pytest.skip(f"no golden vectors in {folder}; set LAGUNA_SHARED to the folder that holds golden/")
    checkpoint, golden = open_checkpoint(folder), load_file(folder / "golden.safetensors")
    tensors = open_weights(folder, "stored", folder=tmp_path).tensors if packed else read_stored(checkpoint)
    for prompt in (0, 1):
        found = logits(checkpoint.config, tensors, golden[f"prompt{prompt}.input_ids"])
        assert (found - golden[f"prompt{prompt}.logits"]).abs().max() <= 1e-4


def test_all_layouts_of_one_model_give_the_same_logits(tmp_path):
    """Hub, fused and GGUF; only GGUF's fp32 numbers for the rope differ."""
    tensors = random_tensors()
    hub = open_checkpoint(write_folder(tmp_path / "hub", tensors))
    other = open_checkpoint(write_folder(tmp_path / "fused", fused(tensors)))
    file = open_checkpoint(write_gguf(tmp_path / "m.gguf", gguf_tensors(tensors)))
    expected = logits(hub.config, read_stored(hub))
    assert torch.equal(logits(other.config, read_stored(other)), expected)
    torch.testing.assert_close(logits(file.config, read_stored(file)), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("quant", "least"), [("bf16", 0.9999), ("int8", 0.999), ("int4", 0.95)])
def test_packed_weights_give_nearly_the_same_logits(tmp_path, quant, least):
    folder = write_folder(tmp_path / "model", random_tensors())
    checkpoint = open_checkpoint(folder)
    expected = logits(checkpoint.config, read_stored(checkpoint)).flatten()
    weights = open_weights(folder, quant, folder=tmp_path)
    for dtype in (torch.float32, torch.bfloat16):
        found = logits(weights.config, weights.tensors, dtype=dtype)
        assert found.dtype == dtype
        assert torch.cosine_similarity(found.float().flatten(), expected, 0) >= least


def test_tensors_that_do_not_fit_the_config_are_named(tmp_path):
    checkpoint = open_checkpoint(write_folder(tmp_path, random_tensors()))
    tensors = read_stored(checkpoint)
    name = "model.layers.1.mlp.experts.down_proj"
    with pytest.raises(WeightsError, match=rf"tensor '{name}' is of shape \[3, 32, 64\], expected \[3, 64, 32\]"):
        build_model(checkpoint.config, {**tensors, name: torch.zeros(3, 32, 64)})
    more = msgspec.structs.replace(checkpoint.config, output_bias=True)
    with pytest.raises(WeightsError, match=r"o_proj.bias' is missing"):
        build_model(more, tensors)
