"""The golden vectors, in every way in which tokens can reach the model: logits within 1e-4 in fp32, greedy equal."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from laguna_agent.backend.laguna.cache_file import load_cache, save_cache
from laguna_agent.backend.laguna.cache_format import KVFormatName
from laguna_agent.backend.laguna.model import CausalLM, Piece, padded, unpadded
from tests.laguna.checkpoints import CASES, golden

TOLERANCE = 1e-4


def close(found: Tensor, expected: Tensor) -> None:
    """Fail with the largest difference where it is above the tolerance."""
    assert found.shape == expected.shape
    worst = (found - expected).abs().max().item()
    assert worst <= TOLERANCE, f"largest difference {worst:.2e}"


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[CausalLM, dict[str, Tensor]]:
    """A golden model and what is expected of it."""
    return golden(request.param)


Case = tuple[CausalLM, dict[str, Tensor]]


def test_the_whole_prompt_at_once(case: Case) -> None:
    model, expected = case
    for name in ("prompt0", "prompt1"):
        close(model([Piece(expected[f"{name}.input_ids"])]), expected[f"{name}.logits"])


def test_every_layer(case: Case) -> None:
    model, expected = case
    outputs: list[Tensor] = []
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
        for module in [*model.model.layers[:-1], model.model.norm]
    ]
    try:
        model([Piece(expected["prompt1.input_ids"])])
    finally:
        for hook in hooks:
            hook.remove()
    close(torch.stack(outputs), expected["prompt1.hidden_after_layer"])


@pytest.mark.parametrize("chunk", [1, 3, 7, 17])
@pytest.mark.parametrize("slack", [0, 5])
def test_in_chunks_through_a_cache(case: Case, chunk: int, slack: int) -> None:
    model, expected = case
    for name in ("prompt0", "prompt1"):
        cache = model.new_cache(at_once=0, slack=slack)
        parts = [model([Piece(part, cache)]) for part in expected[f"{name}.input_ids"].split(chunk)]
        close(torch.cat(parts), expected[f"{name}.logits"])


def test_after_a_rewind(case: Case) -> None:
    model, expected = case
    ids, logits = expected["prompt1.input_ids"], expected["prompt1.logits"]
    cache = model.new_cache(at_once=0, slack=0)
    boundaries = [6, 11, 25]
    for begin, end in zip([0, *boundaries], boundaries, strict=False):
        model([Piece(ids[begin:end], cache)])
        cache.snapshot()
    for boundary in reversed(boundaries):
        model([Piece(torch.randint(0, 160, (19,)), cache)])
        assert cache.rewind(boundary) == boundary
        close(model([Piece(ids[boundary:], cache)]), logits[boundary:])


def test_after_a_fork(case: Case) -> None:
    model, expected = case
    ids, logits = expected["prompt1.input_ids"], expected["prompt1.logits"]
    cache = model.new_cache()
    model([Piece(ids[:20], cache)])
    fork = cache.fork()
    model([Piece(ids[:9].flip(0), cache)])
    close(model([Piece(ids[20:], fork)]), logits[20:])
    # The other way round: the first one goes on right while the second went wrong.
    again = model.new_cache()
    model([Piece(ids[:20], again)])
    model([Piece(ids[:9].flip(0), again.fork())])
    close(model([Piece(ids[20:], again)]), logits[20:])


@pytest.mark.parametrize("cut", [1, 6, 20])
def test_after_a_restore_from_disk(case: Case, cut: int, tmp_path: Path) -> None:
    model, expected = case
    ids, logits = expected["prompt1.input_ids"], expected["prompt1.logits"]
    cache = model.new_cache(at_once=0, slack=0)
    for part in (ids[:cut], ids[cut:20]):
        model([Piece(part, cache)])
        cache.snapshot()
    save_cache(cache, tmp_path / "cache", identity="golden")
    restored = load_cache(tmp_path / "cache", model.config, identity="golden", at_once=0, slack=0)
    assert restored.tokens == ids[:20].tolist()
    close(model([Piece(ids[20:], restored)]), logits[20:])
    # And back to where it was before it was saved.
    assert restored.rewind(cut) == cut
    close(model([Piece(ids[cut:], restored)]), logits[cut:])


@pytest.mark.parametrize(("format", "share"), [("f16", 2e-3), ("bf16", 0.1), ("int8", 0.15), ("fp8", 0.3)])
def test_rounded_keys_and_values(case: Case, format: KVFormatName, share: float) -> None:
    """The root mean square error as a share of the logits' spread; where rounding turns a router it is large."""
    model, expected = case
    logits = expected["prompt1.logits"]
    for chunk in (5, 17):
        cache = model.new_cache(format, at_once=0, slack=4)
        found = torch.cat([model([Piece(part, cache)]) for part in expected["prompt1.input_ids"].split(chunk)])
        assert (found - logits).pow(2).mean().sqrt() < share * logits.std()


@pytest.mark.parametrize("side", ["left", "right"])
def test_batched_with_padding(case: Case, side: str) -> None:
    model, expected = case
    prompts = [expected["prompt0.input_ids"], expected["prompt1.input_ids"]]
    width = max(map(len, prompts)) + 2
    ids = torch.full((2, width), 9)
    mask = torch.zeros(2, width, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        place = slice(0, len(prompt)) if side == "right" else slice(width - len(prompt), width)
        ids[row, place], mask[row, place] = prompt, True
    caches = [model.new_cache(), model.new_cache()]
    halves = [mask.clone(), mask.clone()]
    halves[0][:, width - 4 :], halves[1][:, : width - 4] = False, False
    found = torch.zeros(2, width, expected["prompt1.logits"].shape[-1])
    for half in halves:
        found += padded(model(unpadded(ids, half, caches)), half)
    for row, name in enumerate(("prompt0", "prompt1")):
        close(found[row][mask[row]], expected[f"{name}.logits"])
    close(padded(model(unpadded(ids, mask)), mask), found)


def test_greedy_tokens(case: Case) -> None:
    model, expected = case
    cache = model.new_cache()
    step = expected["prompt0.input_ids"]
    for token, logits in zip(expected["greedy.tokens"], expected["greedy.step_logits"], strict=True):
        found = model([Piece(step, cache)], last=1)[0]
        close(found, logits)
        assert found.argmax() == token
        step = token[None]
