"""Whole layers in the compiled library against the modules: every option, on every variant, however tokens arrive.

Over plain weights both compute the same but for the order of sums. Over packed weights the library's activations have 8
bits: the modules are given such activations too, by `Rounding`, and what is left is the order of sums again, which now
and then moves a code by one.
"""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor

from laguna_agent.backend.kernels import dispatch, reference
from laguna_agent.backend.kernels.cpu.layers import PassCancelled
from laguna_agent.backend.kernels.formats import GroupInt, PackedTensor, Plain, Tiled, Weight
from laguna_agent.backend.kernels.quantise import quantise
from laguna_agent.backend.kernels.tiles import tile
from laguna_agent.backend.laguna.cache import KVCache
from laguna_agent.backend.laguna.cache_format import KVFormatName
from laguna_agent.backend.laguna.config import ModelConfig
from laguna_agent.backend.laguna.config_json import parse_config
from laguna_agent.backend.laguna.loading import build_model
from laguna_agent.backend.laguna.model import CausalLM, Piece
from laguna_agent.backend.laguna.weights.canonical import expected_tensors
from tests.laguna.kernel_variants import opened
from tests.laguna.random_models import as_json, chunks, laguna_settings, qwen2_settings
from tests.laguna.small_models import FULL, SLIDING, small_config

FOUR, EIGHT = GroupInt(4, 32, torch.float16), GroupInt(8, 64)
FOUR_WITH_MINIMUMS = GroupInt(4, 32, torch.float16, minimums=True)
WHOLE_STEPS = {"hidden_size": 64, "dense_size": 96, "expert_size": 32, "shared_expert_size": 32, "head_dim": 16}


@pytest.fixture(autouse=True)
def no_gradients() -> Any:
    opened()
    with torch.no_grad():
        yield


class Rounding:
    """The products of the reference, with activations in 8 bits: 32 columns share a scale."""

    @staticmethod
    def rounded(x: Tensor) -> Tensor:
        steps = torch.nn.functional.pad(x, (0, -x.shape[-1] % 32)).unflatten(-1, (-1, 32))
        scale = steps.abs().amax(-1, keepdim=True) / 127
        codes = torch.where(scale == 0, 0, steps / scale).round()
        return (codes * scale).flatten(-2)[..., : x.shape[-1]]

    def linear(self, x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
        return reference.linear(self.rounded(x), weight, bias)

    def expert_linear(self, x: Tensor, weight: Weight, experts: Tensor) -> Tensor:
        return reference.expert_linear(self.rounded(x), weight, experts)

    embedding = staticmethod(reference.embedding)


def random_config(seed: int, architecture: str) -> ModelConfig:
    import transformers

    if architecture == "laguna":
        made: Any = transformers.LagunaConfig(**laguna_settings(seed))
    else:
        made = transformers.Qwen2Config(**qwen2_settings(seed))
    return parse_config(as_json(made), f"seed {seed}")


def random_weights(config: ModelConfig, seed: int, format: GroupInt | Plain) -> dict[str, Weight]:
    """Under which every part moves the logits; matrices packed, in tiles where they fill them."""
    source, made = torch.Generator().manual_seed(seed), {}
    for name, shape, role in expected_tensors(config):
        noise = torch.randn(shape, generator=source)
        if role == "vector":
            values: Weight = (1 if name.endswith("norm.weight") else 0) + 0.3 * noise
        else:
            values = noise if role == "embedding" and not config.tied else 1.5 * noise * shape[-1] ** -0.5
        if isinstance(format, Plain):
            values = values.to(format.dtype)
        elif role not in ("vector", "router", "gate"):
            packed = quantise(values, format)
            values = tile(packed) if Tiled(format).holds(shape) else packed
        made[name] = values
    return made


def models(config: ModelConfig, seed: int, format: GroupInt | Plain) -> tuple[CausalLM, CausalLM]:
    """The same weights in the modules and in the library."""
    weights = random_weights(config, seed, format)
    slow, fast = (build_model(config, weights, torch.float32, arithmetic) for arithmetic in ("exact", "fast"))
    assert slow.compiled is None and fast.compiled is not None and fast.compiled.head is not None
    return slow, fast


def prompt(config: ModelConfig, tokens: int, seed: int = 0) -> Tensor:
    return torch.randint(config.vocab_size, (tokens,), generator=torch.Generator().manual_seed(seed))


def in_chunks(model: CausalLM, ids: Tensor, cache: KVCache, seed: int) -> Tensor:
    return torch.cat([model([Piece(part, cache)]) for part in chunks(ids, random.Random(seed))])


def errors(found: Tensor, meant: Tensor) -> Tensor:
    """Relative error of each token's logits, [tokens]."""
    assert torch.isfinite(found).all()
    return (found - meant).norm(dim=-1) / meant.norm(dim=-1)


@pytest.mark.parametrize(
    ("architecture", "seed"), [*(("laguna", seed) for seed in range(9)), *(("qwen2", seed) for seed in range(3))]
)
def test_any_option_over_plain_weights(architecture: str, seed: int, variant: str) -> None:
    config = random_config(seed, architecture)
    format = Plain((torch.float32, torch.bfloat16, torch.float16)[seed % 3])
    slow, fast = models(config, seed, format)
    ids = prompt(config, 29, seed)
    meant = slow([Piece(ids)])
    torch.testing.assert_close(fast([Piece(ids)]), meant, atol=2e-4, rtol=2e-4)
    found = in_chunks(fast, ids, fast.new_cache("f32"), seed)
    torch.testing.assert_close(found, meant, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("format", [FOUR, FOUR_WITH_MINIMUMS, EIGHT], ids=lambda format: format.spelling)
@pytest.mark.parametrize("tiled", [True, False])
def test_packed_weights_meet_activations_in_8_bits(
    format: GroupInt, tiled: bool, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Odd sizes, which are padded in memory, and whole tiles, which are read where they lie."""
    config = msgspec.structs.replace(small_config(window=5), **(WHOLE_STEPS if tiled else {}))
    slow, fast = models(config, 3, format)
    kinds = {type(weight.format) for weight in _packed(slow)}
    assert kinds == ({Tiled, GroupInt} if tiled else {GroupInt})
    for kind in kinds:
        monkeypatch.setitem(dispatch._registered, (kind, "cpu"), Rounding())
    # Short ones, for a code that is moved moves all that comes after it.
    pieces = [Piece(prompt(config, 3, seed)) for seed in range(20)]
    meant = slow(pieces)
    each = errors(fast(pieces), meant)
    # Where a sum in another order moves a code by one, or two experts change places, a token is off.
    assert (each < 1e-5).float().mean() > 0.8 and each.mean() < 0.02


@pytest.mark.parametrize("kv", ["f32", "f16", "bf16", "int8"])
def test_however_tokens_arrive(kv: KVFormatName, variant: str) -> None:
    """In chunks, in a batch, after forks and rewinds, past the end of windows: the same within what orders of sums do;
    the batch to the last bit."""
    config = msgspec.structs.replace(small_config(window=5, kinds=(FULL, SLIDING, FULL)), **WHOLE_STEPS)
    _, fast = models(config, 4, EIGHT)
    prompts = [prompt(config, tokens, tokens) for tokens in (23, 1, 40, 17)]
    alone = [fast.new_cache(kv) for _ in prompts]
    meant = [fast([Piece(ids, cache)]) for ids, cache in zip(prompts, alone, strict=True)]
    batch = [fast.new_cache(kv) for _ in prompts]
    together = fast([Piece(ids, cache) for ids, cache in zip(prompts, batch, strict=True)])
    assert torch.equal(together, torch.cat(meant))
    assert torch.equal(
        fast([Piece(torch.tensor([7]), cache) for cache in batch]),
        torch.cat([fast([Piece(torch.tensor([7]), cache)]) for cache in alone]),
    )
    cut = in_chunks(fast, prompts[2], fast.new_cache(kv), 5)
    assert errors(cut, meant[2]).median() < 1e-3
    fork = batch[2].fork()
    assert fork.rewind(20) == 20 and fork.length == 20 and batch[2].length == 41
    again = torch.cat([fast([Piece(part, fork)]) for part in prompts[2][20:].split(1)])
    assert errors(again, meant[2][20:]).median() < 1e-3
    assert torch.equal(fast([Piece(torch.tensor([8]), batch[2])]), fast([Piece(torch.tensor([8]), alone[2])]))


def test_keys_are_kept_as_the_modules_keep_them() -> None:
    """So a cache may go on in either."""
    config = msgspec.structs.replace(small_config(window=5), **WHOLE_STEPS)
    slow, fast = models(config, 4, Plain(torch.float32))
    ids = prompt(config, 30)
    for kv in ("f32", "f16", "bf16", "int8"):
        caches = [slow.new_cache(kv), fast.new_cache(kv)]
        slow([Piece(ids[:20], caches[0])])
        fast([Piece(ids[:20], caches[1])])
        for one, other in zip(caches[0].layer_parts(0), caches[1].layer_parts(0), strict=True):
            apart = (one.float() - other.float()).abs()
            assert (apart <= (1 if kv == "int8" else 1e-2)).all() and apart.float().mean() < 1e-2
        torch.testing.assert_close(
            fast([Piece(ids[20:], caches[0])]), slow([Piece(ids[20:], caches[1])]), atol=0.1, rtol=0.1
        )


def test_a_piece_of_any_length_is_read_in_turns() -> None:
    config = msgspec.structs.replace(small_config(window=5, kinds=(FULL, SLIDING), context=2000), **WHOLE_STEPS)
    _, fast = models(config, 4, EIGHT)
    long, short = prompt(config, 1100), prompt(config, 600, 1)
    caches = [fast.new_cache("f16"), fast.new_cache("f16")]
    found = fast([Piece(long, caches[0]), Piece(short, caches[1])], last=2)
    assert [cache.length for cache in caches] == [1100, 600]
    parts = []
    for ids in (long, short):
        cache = fast.new_cache("f16")
        parts.append([fast([Piece(part, cache)], last=min(2, len(part))) for part in ids.split(512)][-1])
    assert torch.equal(found, torch.cat(parts))
    # Nor does a window without room to spare need more than its room.
    tight = fast.new_cache("f16", at_once=3, slack=0)
    assert tight.takes == 4
    roomy = fast.new_cache("f16")
    assert errors(fast([Piece(short[:40], tight)]), fast([Piece(short[:40], roomy)])).median() < 1e-3


def test_a_cancelled_pass_leaves_the_caches_as_they_were() -> None:
    config = msgspec.structs.replace(small_config(window=5), **WHOLE_STEPS)
    _, fast = models(config, 4, FOUR)
    ids = prompt(config, 60)
    cache, other = fast.new_cache("f16"), fast.new_cache("f16")
    for one in (cache, other):
        fast([Piece(ids[:30], one)])
    fast.cancel(True)
    for size in (1, 20):
        with pytest.raises(PassCancelled):
            fast([Piece(ids[30 : 30 + size], cache)])
        assert cache.length == 30 and cache.rewind(28) == 28
        fast.cancel(False)
        fast([Piece(ids[28:30], cache)])
        fast.cancel(True)
    fast.cancel(False)
    assert errors(fast([Piece(ids[30:], cache)]), fast([Piece(ids[30:], other)])).median() < 1e-3


def test_who_asks_for_gradients_or_other_keys_gets_the_modules() -> None:
    config = small_config()
    slow, fast = models(config, 5, FOUR)
    ids = prompt(config, 12)
    with torch.enable_grad():
        assert torch.equal(fast([Piece(ids)]), slow([Piece(ids)]))
    assert not torch.equal(fast([Piece(ids)]), slow([Piece(ids)]))
    caches = [model.new_cache("fp8") for model in (slow, fast)]
    torch.testing.assert_close(fast([Piece(ids, caches[1])]), slow([Piece(ids, caches[0])]), atol=0.2, rtol=0.2)
    assert caches[1].length == 12
    mixed = [Piece(ids, fast.new_cache("f16")), Piece(ids, fast.new_cache("f32"))]
    assert errors(fast(mixed), torch.cat([slow([Piece(ids)])] * 2)).mean() < 0.1


def test_formats_that_the_library_does_not_read_stay_with_the_modules() -> None:
    config = small_config()
    weights = random_weights(config, 6, GroupInt(8, 16))
    model = build_model(config, weights, torch.float32, "fast")
    assert model.compiled is None
    assert build_model(config, random_weights(config, 6, EIGHT), torch.bfloat16, "fast").compiled is None


def _packed(model: CausalLM) -> list[PackedTensor]:
    found = (vars(module) for module in model.modules())
    return [weight for held in found for weight in held.values() if isinstance(weight, PackedTensor)]
