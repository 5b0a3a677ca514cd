"""The decode step of a device against the modules, with the emulator as the device: a whole model, token by token.

Its kernels are the GPU's own source. What is computed is the same but for the order of sums; only a cache in 16 or 8
bits may then round a key the other way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor

from laguna_agent.backend.kernels import attention
from laguna_agent.backend.kernels.cuda.geometry import PUBLISHED, XS_2
from laguna_agent.backend.kernels.cuda.launch import Kernel, Launch
from laguna_agent.backend.kernels.cuda.matrices import encoding_of
from laguna_agent.backend.kernels.cuda.random_weights import every_format, random_weight
from laguna_agent.backend.kernels.cuda.step import decode_kernels, kinds_of, plan_of
from laguna_agent.backend.kernels.formats import GroupInt, Plain
from laguna_agent.backend.laguna.cache import KVCache
from laguna_agent.backend.laguna.cache_format import KVFormatName
from laguna_agent.backend.laguna.config import ModelConfig, RopeConfig
from laguna_agent.backend.laguna.decoding import Decoding, DecodingOptions, generate, step
from laguna_agent.backend.laguna.engine import Engine
from laguna_agent.backend.laguna.gpu import chosen_device
from laguna_agent.backend.laguna.loading import build_model
from laguna_agent.backend.laguna.local_model import ModelOptions, plan_model
from laguna_agent.backend.laguna.model import CausalLM, Piece
from laguna_agent.backend.laguna.sampling import Sampler, SamplingOptions
from laguna_agent.backend.laguna.turn import grouped
from laguna_agent.backend.laguna.weights.canonical import expected_tensors
from laguna_agent.errors import ConfigError, ContextTooLong, KernelError
from tests.cuda.emulator import Emulator
from tests.laguna.checkpoints import CASES, golden
from tests.laguna.engines import answered, ask
from tests.laguna.small_models import FULL, MIXED, SLIDING, small_config
from tests.laguna.test_compiled_layers import random_weights
from tests.laguna.whole_checkpoint import whole_checkpoint

FOUR, EIGHT = GroupInt(4, 32, torch.float16), GroupInt(8, 64, minimums=True)
WHOLE = Plain(torch.float32)
REPLACED = frozenset({"joined", "gated", "embed", "pick", "expert_gate_up", "expert_down", "merge", "sample"})
"""All families that torch can stand in for."""


@pytest.fixture(autouse=True)
def no_gradients() -> Any:
    with torch.no_grad():
        yield


def config_of(kinds: Sequence[Any] = (FULL, SLIDING), window: int = 3, **changes: Any) -> ModelConfig:
    """Small, with heads that are read in whole loads."""
    sizes = {"hidden_size": 64, "dense_size": 96, "expert_size": 32, "shared_expert_size": 32, "head_dim": 16}
    config = small_config(tuple(kinds), window)
    rope = {kind: msgspec.structs.replace(of, rotary_dim=8 if kind == FULL else 16) for kind, of in config.rope.items()}
    return msgspec.structs.replace(config, rope=rope, **(sizes | changes))


class Watched(Emulator):
    """The emulator; `recorded`: launches of each recording, `runs`: how many recordings ran."""

    def __init__(self) -> None:
        super().__init__()
        self.recorded: list[int] = []
        self.runs = 0

    def record(self, launches: Sequence[Launch]) -> Callable[[], None]:
        self.recorded.append(len(launches))
        run = super().record(launches)

        def counted() -> None:
            self.runs += 1
            run()

        return counted


def models(
    config: ModelConfig, format: GroupInt | Plain, seed: int = 1, faulty: frozenset[str] = frozenset()
) -> tuple[CausalLM, CausalLM, Watched]:
    """The same weights in the modules, and in a step on the emulator."""
    weights = random_weights(config, seed, format)
    exact, stepped = (build_model(config, weights, torch.float32) for _ in range(2))
    device = Watched()
    assert stepped.use_device(device, faulty)
    return exact, stepped, device


def tokens(config: ModelConfig, count: int, seed: int = 0) -> Tensor:
    return torch.randint(config.vocab_size, (count,), generator=torch.Generator().manual_seed(seed))


def error(found: Tensor, meant: Tensor) -> float:
    """The largest relative error of a token's logits."""
    assert found.shape == meant.shape and torch.isfinite(found).all()
    return float(((found - meant).norm(dim=-1) / meant.norm(dim=-1)).max())


def caches(*models: CausalLM, kv: KVFormatName = "f32", **options: int) -> list[KVCache]:
    return [model.new_cache(kv, **options) for model in models]


def test_tokens_drafts_and_draws_are_those_of_the_modules() -> None:
    config = config_of()
    exact, stepped, device = models(config, FOUR)
    ids = tokens(config, 12)
    ours, theirs = caches(stepped, exact)
    # A prompt goes through the modules, then a token beyond the window, a draft of three with a dead row behind it.
    for part in (ids[:8], ids[8:9], ids[9:]):
        wanted = exact([Piece(part, theirs)])
        assert error(stepped([Piece(part, ours)]), wanted) < 1e-5
    assert ours.tokens == theirs.tokens == ids.tolist()
    assert set(device.recorded) == {device.recorded[0], 1} and device.runs > 2
    before = device.runs
    for options in (SamplingOptions(), SamplingOptions(temperature=0.9, top_k=9, top_p=0.8, min_p=0.05, seed=3)):
        found = [
            list(generate(model, ids.tolist(), cache.fork(), DecodingOptions(options, max_tokens=5)))
            for model, cache in ((stepped, ours), (exact, theirs))
        ]
        assert found[0] == found[1] and len(found[0]) == 5
    # The step, and then the draw.
    assert device.runs == before + 2 * 5 * 2


def test_torch_stands_in_for_what_is_faulty_and_attention_has_nothing_that_does() -> None:
    config = config_of((FULL,), layers=config_of().layers[:1])
    exact, stepped, device = models(config, EIGHT, faulty=REPLACED)
    ours, theirs = caches(stepped, exact)
    for part in tokens(config, 3).split(1):
        assert error(stepped([Piece(part, ours)]), exact([Piece(part, theirs)])) < 1e-5
    assert device.recorded == [2]
    for family in ("place", "attend"):
        other = build_model(config, random_weights(config, 1, EIGHT), torch.float32)
        assert not other.use_device(Emulator(), frozenset({family})) and other.stepped is None


class Refusing(Emulator):
    """A GPU whose compiler has gone."""

    def prepare(self, kernels: Iterable[Kernel]) -> None:
        raise KernelError("no compiler")


def test_a_step_that_cannot_be_made_is_left_to_the_modules(caplog: pytest.LogCaptureFixture) -> None:
    config = config_of((FULL,), layers=config_of().layers[:1])
    exact, stepped, _ = models(config, WHOLE)
    assert stepped.use_device(Refusing())
    part = tokens(config, 2)
    for kv, why in (("f32", "no compiler"), ("f16", "no compiler")):
        for ours, theirs in [caches(stepped, exact, kv=kv)] * 2:
            assert torch.equal(stepped([Piece(part, ours)]), exact([Piece(part, theirs)]))
        assert [why in line for line in caplog.messages] == [True]
        caplog.clear()
    odd = msgspec.structs.replace(config, head_dim=6, rope={FULL: RopeConfig(theta=1e4, rotary_dim=4)})
    exact, stepped, device = models(odd, WHOLE)
    ours, theirs = caches(stepped, exact)
    assert torch.equal(stepped([Piece(part, ours)]), exact([Piece(part, theirs)]))
    assert "whole loads" in caplog.text and not device.recorded


@pytest.mark.parametrize("geometry", PUBLISHED, ids=lambda geometry: geometry.name)
def test_the_published_models_have_a_plan_without_weights(geometry: Any) -> None:
    kinds = kinds_of(geometry, GroupInt(8, 32), GroupInt(4, 32))
    for rows in (1, 8):
        plan = plan_of(geometry, rows, kinds)
        kernels = decode_kernels(geometry, rows, kinds)
        assert len({kernel.name for kernel in kernels}) == len(kernels) == len(plan.kernels)
        assert len(kernels) <= 24 and all(isinstance(kernel, Kernel) for kernel in kernels)
    sparse = sum(not layer.dense for layer in geometry.layers)
    assert len(plan.operations) == 2 + 5 * len(geometry.layers) + 2 * (len(geometry.layers) - sparse) + 5 * sparse


def test_the_experts_of_a_layer_may_be_somebody_elses() -> None:
    hosted = plan_of(XS_2, 1, kinds_of(XS_2, GroupInt(8, 32)), hosted=frozenset({1, 39}))
    names = [getattr(each, "layer", None) for each in hosted.operations]
    assert [name for name in names if name is not None] == [1, 39]
    families = [each.kernel.family for each in hosted.operations if hasattr(each, "kernel")]
    assert families.count("expert_down") == 37 and families.count("gated") == 40


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert chosen_device("auto") == chosen_device("cpu") == "cpu"
    with pytest.raises(ConfigError, match=r"device is cuda, but .*auto"):
        chosen_device("cuda")
    with pytest.raises(ConfigError, match=r"device is cuda"):
        plan_model(ModelOptions("nowhere", device="cuda"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert (chosen_device("auto"), chosen_device("cpu")) == ("cuda", "cpu")


def test_what_a_step_does_not_serve_goes_through_the_modules() -> None:
    config = config_of()
    exact, stepped, device = models(config, WHOLE)
    ids = tokens(config, 9)
    assert torch.equal(stepped([Piece(ids[:3])]), exact([Piece(ids[:3])]))
    mixed = [Piece(ids[:1], *caches(stepped)), Piece(ids[:1], *caches(stepped, kv="f16"))]
    assert len(stepped(mixed)) == 2
    (long,) = caches(stepped)
    assert len(stepped([Piece(ids, long)])) == 9
    with torch.enable_grad():
        stepped([Piece(ids[:1])])
    assert not device.recorded
    full = msgspec.structs.replace(config, context_length=4)
    _, short, device = models(full, WHOLE)
    (cache,) = caches(short)
    with pytest.raises(ContextTooLong):
        short([Piece(ids[:5], cache)])
    assert not cache.length and not device.recorded


@pytest.mark.slow
@pytest.mark.parametrize("kv", ["f32", "f16", "bf16", "int8", "fp8"])
def test_sequences_together_forks_and_rewinds(kv: KVFormatName, monkeypatch: pytest.MonkeyPatch) -> None:
    # Torch's fused attention would round queries to the keys' type.
    monkeypatch.setattr(attention, "_few", lambda q, first, run, window: attention.reference(q, first, [run], window))
    config = config_of(MIXED, window=5)
    exact, stepped, _ = models(config, FOUR, seed=2)
    # A key that lies between two codes may be rounded the other way, and those after it follow.
    most = {"f32": 1e-5, "f16": 5e-4, "bf16": 2e-3, "int8": 1e-2, "fp8": 1e-1}[kv]
    ours, theirs = [caches(stepped, kv=kv)[0] for _ in range(3)], [caches(exact, kv=kv)[0] for _ in range(3)]
    for index, (count, our, their) in enumerate(zip((1, 4, 17), ours, theirs, strict=True)):
        ids = tokens(config, count, index)
        exact([Piece(ids, our)]), exact([Piece(ids, their)])
    for round in range(4):
        parts = [tokens(config, count, 10 + round) for count in (1, 0, 3)[round % 3 :] + (2, 1, 1)[: round % 3]]
        found = stepped([Piece(part, cache) for part, cache in zip(parts, ours, strict=True)])
        wanted = exact([Piece(part, cache) for part, cache in zip(parts, theirs, strict=True)])
        assert error(found, wanted) < most
    # Each fork writes a run of its own.
    for generation in range(3):
        ours, theirs = [cache.fork() for cache in ours], [cache.fork() for cache in theirs]
        parts = [tokens(config, count, 20 + generation) for count in (1, 2, 4)]
        found = stepped([Piece(part, cache) for part, cache in zip(parts, ours, strict=True)], last=1)
        wanted = exact([Piece(part, cache) for part, cache in zip(parts, theirs, strict=True)], last=1)
        assert error(found, wanted) < most
    assert ours[0].rewind(ours[0].length - 1) == theirs[0].rewind(theirs[0].length - 1)
    part = tokens(config, 1, 30)
    assert error(stepped([Piece(part, ours[0])]), exact([Piece(part, theirs[0])])) < most


@pytest.mark.slow
def test_more_runs_than_a_row_has_go_through_the_modules() -> None:
    config = config_of((FULL,))
    exact, stepped, _ = models(config, WHOLE)
    kept, ours, theirs = [], *caches(stepped, exact)
    for index in range(11):
        kept.append(ours)
        ours = ours.fork()
        part = tokens(config, 1, index)
        # The one that was forked goes on too, so the fork must begin a run.
        assert error(stepped([Piece(part, ours)]), exact([Piece(part, theirs)])) < 1e-5
        stepped([Piece(part, kept[-1])])
    assert len(ours.runs()) > 8


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("architecture", ["laguna", "qwen2"])
def test_any_option(architecture: str, seed: int) -> None:
    from tests.laguna.test_compiled_layers import random_config

    config = random_config(seed, architecture)
    wide = 16 if config.head_dim > 8 else 8
    config = msgspec.structs.replace(config, head_dim=wide)
    format = (WHOLE, Plain(torch.bfloat16), Plain(torch.float16), FOUR, EIGHT)[seed % 5]
    exact, stepped, device = models(config, format, seed)
    ours, theirs = caches(stepped, exact)
    for part in tokens(config, 22).split([1, 9, 1, 3, 1, 7]):
        assert error(stepped([Piece(part, ours)]), exact([Piece(part, theirs)])) < 1e-5
    assert device.recorded


@pytest.mark.slow
@pytest.mark.parametrize("format", every_format(), ids=lambda format: format.spelling)
def test_any_format(format: Any) -> None:
    config = config_of(hidden_size=128)
    source = torch.Generator().manual_seed(5)
    weights = random_weights(config, 5, WHOLE)
    for name, shape, role in expected_tensors(config):
        if role not in ("vector", "router", "gate") and encoding_of(format, shape[-1]):
            weights[name] = random_weight(format, shape, source)
    exact, stepped = (build_model(config, weights, torch.float32) for _ in range(2))
    assert stepped.use_device(Emulator())
    ours, theirs = caches(stepped, exact)
    for part in tokens(config, 12).split([9, 1, 1, 1]):
        assert error(stepped([Piece(part, ours)]), exact([Piece(part, theirs)])) < 1e-5


@pytest.mark.slow
def test_draws_of_several_sequences_and_logits_that_are_no_numbers() -> None:
    config = config_of()
    exact, stepped, _ = models(config, EIGHT)
    every = []
    for model in (stepped, exact):
        options = [
            SamplingOptions(),
            SamplingOptions(temperature=1.2, seed=1),
            SamplingOptions(temperature=0.7, top_k=5, seed=2),
            SamplingOptions(temperature=1.0, top_p=0.6, min_p=0.1, seed=3),
        ]
        decodings = [
            Decoding(tokens(config, 10, at).tolist(), model.new_cache("f32"), DecodingOptions(each, max_tokens=6))
            for at, each in enumerate(options)
        ]
        while not all(decoding.done for decoding in decodings):
            step(model, decodings)
        every.append([decoding.tokens for decoding in decodings])
    assert every[0] == every[1]
    assert stepped.stepped is not None
    stepped.stepped.weights.vectors["norm"].fill_(float("nan"))
    broken = Decoding([1, 2], stepped.new_cache("f32"), DecodingOptions(max_tokens=2))
    step(stepped, [broken])
    assert "not finite numbers" in str(broken.failed)


def test_turns_go_into_passes_of_few_rows_and_one_of_prompts() -> None:
    config = config_of()
    model = build_model(config, random_weights(config, 1, WHOLE), torch.float32)
    sizes = (1, 4, 4, 30, 8, 2, 9, 6)
    decodings = [Decoding([3] * size, model.new_cache("f32"), DecodingOptions()) for size in sizes]
    groups = grouped([decoding.turn(64, 8) for decoding in decodings], 8)
    assert [[len(turn.ids) for turn in group] for group in groups] == [[1, 4], [4], [8], [2, 6], [30, 9]]
    forced = Decoding([3] * 6, model.new_cache("f32"), DecodingOptions())
    forced.force([5] * 20)
    assert [len(forced.turn(64, rows).draft) for rows in (8, 6, 5, None)] == [2, 0, 20, 20]


@pytest.mark.slow
def test_drafts_and_prompts_beside_them_change_no_token() -> None:
    config = config_of(context_length=512)
    _, stepped, _ = models(config, EIGHT)
    prompts = [(tokens(config, 7, at).tolist() * 3)[: 12 + at] for at in range(2)]
    alone = [list(generate(stepped, ids, stepped.new_cache("f32"), DecodingOptions(max_tokens=12))) for ids in prompts]
    options = DecodingOptions(max_tokens=12, draft=8)
    decodings = [Decoding(ids, stepped.new_cache("f32"), options) for ids in prompts]
    late = Decoding(tokens(config, 200, 5).tolist(), stepped.new_cache("f32"), DecodingOptions(max_tokens=1))
    for round in range(40):
        step(stepped, [*decodings, late] if round > 3 else decodings, chunk=32)
    assert [decoding.tokens for decoding in decodings] == alone and late.finished == "length"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_what_stands_in_for_the_draw_draws_alike(seed: int) -> None:
    config = config_of((FULL,), layers=config_of().layers[:1])
    _, stepped, _ = models(config, WHOLE, seed, REPLACED)
    (cache,) = caches(stepped)
    source = torch.Generator().manual_seed(seed)
    numbers = torch.rand(4, generator=source).tolist()
    options = SamplingOptions(
        temperature=2 * numbers[0], top_k=int(20 * numbers[1]), top_p=0.1 + 0.9 * numbers[2], min_p=0.3 * numbers[3]
    )
    part = tokens(config, 2, seed)
    sampler = Sampler(msgspec.structs.replace(options, seed=seed))
    logits = stepped([Piece(part, cache)], last=1)[0]
    cache.rewind(0)
    assert stepped.sampled([Piece(part, cache)], [sampler.choice]) == [sampler.choose(logits)]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_golden_vectors(case: str) -> None:
    model, expected = golden(case)
    device = Watched()
    assert model.use_device(device)
    (cache,) = caches(model)
    ids, logits = expected["prompt1.input_ids"], expected["prompt1.logits"]
    found = torch.cat([model([Piece(part, cache)]) for part in ids.split(2)])
    assert device.recorded and float((found - logits).abs().max()) <= 1e-4
    assert torch.equal(found.argmax(-1), logits.argmax(-1))


@pytest.mark.slow
def test_an_engine_answers_through_it(tmp_path: Path) -> None:
    path = whole_checkpoint(tmp_path / "model")
    plan = plan_model(ModelOptions(str(path), "bf16", kv="f32", arithmetic="exact", device="cpu"))
    requests = [ask("Say it.", temperature=0.0, max_tokens=12), ask("Again.", temperature=0.8, seed=4, max_tokens=9)]
    device = Watched()

    def said(steps: bool) -> list[Any]:
        engine = Engine(plan, threads=1)
        try:
            if steps:
                assert engine.call(lambda loaded: engine._load().local.model.use_device(device)).result(60)
            return [answered(engine, request)[1].message for request in requests]
        finally:
            engine.close(30)

    exact = said(steps=False)
    assert said(steps=True) == exact and all(message.content for message in exact) and device.runs > 2
