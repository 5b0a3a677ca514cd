"""Fresh random models of every option, held against transformers: whole prompts, odd chunks and batches."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor

from laguna_agent.backend.laguna.config import ModelConfig
from laguna_agent.backend.laguna.config_json import parse_config
from laguna_agent.backend.laguna.model import CausalLM, Piece
from tests.laguna.checkpoints import filled
from tests.laguna.random_models import as_json, chunks, laguna_settings, lengths, qwen2_settings, randomise


def tied(config: ModelConfig, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as a checkpoint has them: no output matrix where it is the embedding."""
    return {name: tensor for name, tensor in tensors.items() if not (config.tied and name == "lm_head.weight")}


def pair(seed: int, architecture: str) -> tuple[Any, CausalLM]:
    """The oracle's model and ours with the same weights."""
    import transformers

    made = {
        "laguna": lambda: transformers.LagunaConfig(**laguna_settings(seed)),
        "qwen2": lambda: transformers.Qwen2Config(**qwen2_settings(seed)),
    }[architecture]()
    made._attn_implementation = "eager"
    # The grouped products of the oracle cannot do odd sizes.
    made._experts_implementation = "eager"
    oracle = transformers.AutoModelForCausalLM.from_config(made).eval().requires_grad_(False)
    randomise(oracle, seed)
    config = parse_config(as_json(made), f"seed {seed}")
    return oracle, filled(config, tied(config, oracle.state_dict()))


def compare(seed: int, architecture: str) -> None:
    """Every way of reading two prompts gives the oracle's logits."""
    oracle, ours = pair(seed, architecture)
    rng = random.Random(seed)
    source = torch.Generator().manual_seed(seed)
    sizes = lengths(seed, ours.config.sliding_window or 7)
    prompts = [torch.randint(ours.config.vocab_size, (size,), generator=source) for size in sizes]
    expected = [oracle(prompt[None], use_cache=False).logits[0] for prompt in prompts]
    together = ours([Piece(prompt) for prompt in prompts])
    torch.testing.assert_close(together, torch.cat(expected), atol=1e-4, rtol=1e-4)
    for prompt, logits in zip(prompts, expected, strict=True):
        cache = ours.new_cache(at_once=0, slack=rng.choice([0, 3, 64]))
        found = torch.cat([ours([Piece(part, cache)]) for part in chunks(prompt, rng)])
        torch.testing.assert_close(found, logits, atol=1e-4, rtol=1e-4)
    at_window_edges(ours, prompts[1], expected[1])
    batch = [ours.new_cache(at_once=0, slack=1), ours.new_cache(slack=1)]
    cut = rng.randrange(sizes[1] + 1)
    for begin, end in ((0, cut), (cut, max(sizes))):
        parts = [prompt[begin:end] for prompt in prompts]
        found = ours([Piece(part, cache) for part, cache in zip(parts, batch, strict=True)])
        wanted = torch.cat([logits[begin:end] for logits in expected])
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def at_window_edges(ours: CausalLM, prompt: Tensor, logits: Tensor) -> None:
    """Chunks that end just before, at and after the window's edge, then nothing, then single tokens."""
    window = ours.config.sliding_window or 7
    for first in {max(0, window - 1), window, window + 1}:
        cache = ours.new_cache(at_once=0, slack=0)
        parts = [prompt[:first], prompt[:0], *prompt[first : first + 2].split(1), prompt[first + 2 :]]
        found = torch.cat([ours([Piece(part, cache)]) for part in parts])
        torch.testing.assert_close(found, logits, atol=1e-4, rtol=1e-4)


def seeds(quick: int, all: int) -> list[object]:
    """The first few for `make test`, all of them for `make test-all`."""
    return [pytest.param(seed, marks=[pytest.mark.slow] if seed >= quick else []) for seed in range(all)]


@pytest.mark.parametrize("seed", seeds(12, 40))
def test_random_lagunas(seed: int) -> None:
    compare(seed, "laguna")


@pytest.mark.parametrize("seed", seeds(5, 12))
def test_random_qwen2s(seed: int) -> None:
    compare(seed, "qwen2")
