"""An engine comes and goes: idle, closed, unable to load, and what it keeps of a conversation for the next one."""

from __future__ import annotations

import threading
from pathlib import Path
from time import monotonic

import anyio
import pytest
import torch

from laguna_agent.backend.assemble import Reply
from laguna_agent.backend.base import Delta, ProgressDelta, Request, Sampling
from laguna_agent.backend.laguna.engine import Engine
from laguna_agent.backend.laguna.in_process import InProcessBackend
from laguna_agent.backend.laguna.job import Job
from laguna_agent.backend.laguna.local_model import ModelOptions, plan_model
from laguna_agent.errors import LagunaError, ProviderUnavailable, WeightsError
from laguna_agent.messages import Message, text_message
from tests.laguna.engines import answered, ask, collect, engine_of, scripted
from tests.laguna.kernel_variants import opened
from tests.laguna.whole_checkpoint import whole_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return whole_checkpoint(tmp_path_factory.mktemp("models") / "tiny")


def test_an_idle_engine_gives_its_memory_back_and_loads_again(checkpoint):
    with engine_of(checkpoint, idle=0.1) as engine:
        answered(engine, ask("Hi.", max_tokens=2))
        deadline = monotonic() + 20
        while engine._conversations is not None and monotonic() < deadline:
            threading.Event().wait(0.05)
        assert engine._conversations is None
        answered(engine, ask("Hi.", max_tokens=2))
        assert engine.loads == 2


def test_a_closed_engine_says_so(checkpoint):
    with engine_of(checkpoint) as engine:
        answered(engine, ask("Hi.", max_tokens=2))
        engine.close(30)
        with pytest.raises(ProviderUnavailable, match="closed"):
            answered(engine, ask("Hi.", max_tokens=2))


def test_a_model_that_cannot_be_loaded_fails_its_requests_by_name(tmp_path):
    path = whole_checkpoint(tmp_path / "broken")
    plan = plan_model(ModelOptions(str(path), "bf16"))
    data = bytearray((path / "model.safetensors").read_bytes())
    data[-1000:] = b"\xff" * 1000
    (path / "model.safetensors").write_bytes(data)
    engine = Engine(plan, threads=1)
    try:
        with pytest.raises(WeightsError, match="NaN or infinite"):
            answered(engine, ask("Hi."))
        with pytest.raises(LagunaError):
            answered(engine, ask("Hi."))
    finally:
        engine.close(30)


def test_a_kept_conversation_is_not_read_again(checkpoint, tmp_path):
    folder = tmp_path / "kept"
    messages: tuple[Message, ...] = (text_message("system", "Be brief. " * 60),)

    async def turns(backend: InProcessBackend, numbers: range, history: tuple[Message, ...]) -> list[Reply]:
        replies = []
        for number in numbers:
            history += (text_message("user", f"Question {number}?"),)
            _, reply = await collect(backend, Request("tiny", history, sampling=Sampling(temperature=0.0)))
            history += (reply.message,)
            replies.append(reply)
        return replies

    async def first(backend: InProcessBackend) -> list[Reply]:
        replies = await turns(backend, range(3), messages)
        await backend.remember(folder)
        return replies

    with engine_of(checkpoint) as engine:
        scripted(engine, lambda before: f"Answer {before.count('<user>')}.</assistant>")
        replies = anyio.run(first, InProcessBackend(engine, "tiny"))
    for number, reply in enumerate(replies):
        messages += (text_message("user", f"Question {number}?"), reply.message)

    async def go_on(backend: InProcessBackend, history: tuple[Message, ...]) -> Reply:
        await backend.recall(folder)
        return (await turns(backend, range(7, 8), history))[0]

    for back in (0, 1, 2):
        # A new engine is what a new process has.
        with engine_of(checkpoint) as engine:
            computed = scripted(engine, lambda before: "On.</assistant>")
            engine.call(lambda loaded: None).result(30)
            reply = anyio.run(go_on, InProcessBackend(engine, "tiny"), messages[: len(messages) - 2 * back])
            last = replies[-1 - back].usage
            assert reply.usage.cached_tokens == last.input_tokens + last.output_tokens - 1
            assert sum(computed) == reply.usage.input_tokens + reply.usage.output_tokens - 1 - reply.usage.cached_tokens


def test_a_pass_ends_early_only_where_nobody_waits_for_it(checkpoint):
    """The flag that the compiled layers look at: set while every job is cancelled, and taken back for the next one."""
    opened()
    flags: list[bool] = []
    over = threading.Event()
    with engine_of(checkpoint) as engine:

        def leaving(told: Delta | BaseException) -> None:
            if isinstance(told, ProgressDelta) and told.stage == "reading" and len(flags) < 2:
                jobs[len(flags)].cancel()
                engine.wake()
                flags.append(stack.cancel)
                if len(flags) == 2:
                    over.set()

        engine.warm().result(30)
        stack = engine.call(lambda loaded: loaded.local.model.compiled.stack).result(30)
        jobs = [Job(ask(f"{number} word and word " * 500, temperature=0.0), leaving) for number in (1, 2)]
        engine.call(lambda _: [engine.submit(job) for job in jobs]).result(30)
        assert over.wait(30)
        assert flags == [False, True]
        answered(engine, ask("Hi.", max_tokens=2))
        assert not stack.cancel
        engine.close(30)
        assert stack.cancel
