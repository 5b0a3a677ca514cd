"""Requests to an engine as tests make them, and a model that says what they want."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path

import anyio

from laguna_agent.backend.assemble import Assembler, Reply
from laguna_agent.backend.base import (
    Delta,
    Request,
    Sampling,
)
from laguna_agent.backend.laguna.engine import Engine
from laguna_agent.backend.laguna.in_process import InProcessBackend
from laguna_agent.backend.laguna.local_model import ModelOptions, plan_model
from laguna_agent.messages import text_message
from tests.laguna.whole_checkpoint import script

OPENING = "<assistant></think>"


@contextmanager
def engine_of(path: Path, **options: float) -> Iterator[Engine]:
    engine = Engine(plan_model(ModelOptions(str(path), "bf16")), threads=1, **options)  # type: ignore[arg-type]
    try:
        yield engine
    finally:
        engine.close(30)


def scripted(engine: Engine, answers: Callable[[str], str], opening: str = OPENING) -> list[int]:
    """Load the model and give it its words; the list counts tokens computed, pass by pass."""

    def work(loaded: object) -> list[int]:
        return script(engine._load().local, answers, opening)

    # Drafts that turn out wrong are computed too; a test that counts must not have any.
    engine.draft = 0
    return engine.call(work).result(30)


def ask(text: str, **sampling: object) -> Request:
    return Request("tiny", (text_message("user", text),), sampling=Sampling(**sampling))  # type: ignore[arg-type]


async def collect(backend: InProcessBackend, request: Request) -> tuple[list[Delta], Reply]:
    assembler, deltas = Assembler(request), []
    async with aclosing(backend.stream(request)) as stream:
        async for delta in stream:
            deltas.append(delta)
            assembler.feed(delta)
    return deltas, assembler.reply()


def answered(engine: Engine, request: Request) -> tuple[list[Delta], Reply]:
    return anyio.run(collect, InProcessBackend(engine, "tiny"), request)
