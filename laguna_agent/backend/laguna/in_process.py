"""The backend of a model in this very process: requests go to the engine's thread, deltas come back to the event loop.

Engines are shared: whoever opens the same checkpoint in the same way speaks to the same engine, so sessions of one
process hold the weights once and find each other's caches. Knows engines, settings and asyncio; must not know tensors.
"""

from __future__ import annotations

import asyncio
import atexit
import importlib.util
from collections import deque
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import TYPE_CHECKING

import anyio.to_thread

from laguna_agent.backend.base import Delta, Finished, ModelInfo, Request
from laguna_agent.config import Settings
from laguna_agent.errors import UsageError

if TYPE_CHECKING:
    from laguna_agent.backend.laguna.engine import Engine
    from laguna_agent.backend.laguna.local_model import ModelOptions, ModelPlan
    from laguna_agent.backend.laguna.prompt import Prompt

PACKAGES = ("torch", "tokenizers", "jinja2", "llguidance")
_CLOSING_SECONDS = 30.0
_engines: dict[ModelOptions, Engine] = {}


class InProcessBackend:
    """See the module. `name` is "local", `target` the checkpoint's path. Many may share one engine; closing one leaves
    the engine to the others, and to whoever opens the model next."""

    name = "local"

    def __init__(self, engine: Engine, model: str) -> None:
        self.target = engine.plan.options.path
        self.engine = engine
        self.model = model
        self._latest: Prompt | None = None

    async def describe(self, model: str) -> ModelInfo:
        """What the checkpoint's headers say; the model need not be loaded."""
        from laguna_agent.backend.laguna.local_model import MOST_OUTPUT

        plan = self.engine.plan
        return ModelInfo(
            model,
            context_length=plan.context,
            max_output_tokens=min(MOST_OUTPUT, plan.context // 2),
            input_price=0.0,
            output_price=0.0,
            cached_price=0.0,
            supports_schema=True,
            supports_tools=plan.template.family.call_syntax is not None,
        )

    async def models(self) -> list[ModelInfo]:
        """The one model."""
        return [await self.describe(self.model)]

    async def stream(self, request: Request) -> AsyncGenerator[Delta]:
        """Answer one request; leaving early cancels it."""
        from laguna_agent.backend.laguna.job import Job

        mailbox = _Mailbox()
        job = Job(request, mailbox.put)
        self.engine.submit(job)
        try:
            while True:
                said = await mailbox.get()
                if isinstance(said, BaseException):
                    raise said
                yield said
                if isinstance(said, Finished):
                    return
        finally:
            job.cancel()
            self.engine.wake()
            self._latest = job.prompt or self._latest

    async def remember(self, folder: Path) -> None:
        """See `Remembering`: keep the keys and values of this backend's last conversation. Raises LagunaError."""
        from laguna_agent.backend.laguna.kept_conversation import keep

        latest = self._latest
        if latest is None:
            return
        done = self.engine.call(lambda loaded: loaded is not None and keep(loaded, latest, folder))
        try:
            await anyio.to_thread.run_sync(done.result, abandon_on_cancel=True)
        finally:
            # It may still wait behind a pass; one that has begun is finished: a file is written whole or not at all.
            done.cancel()

    async def recall(self, folder: Path) -> None:
        """See `Remembering`. Returns at once: it is done after the model is open and before the next request begins."""
        from laguna_agent.backend.laguna.kept_conversation import recall

        self.engine.call(lambda loaded: loaded and recall(loaded, folder))

    async def aclose(self) -> None:
        """The engine stays for other sessions of this process; its thread ends with the process."""


class _Mailbox:
    """From the engine's thread to a coroutine."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()
        self._items: deque[Delta | BaseException] = deque()

    def put(self, item: Delta | BaseException) -> None:
        """Called from the engine's thread; never waits."""
        self._items.append(item)
        # A loop that has ended has nobody who still reads.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._arrived.set)

    async def get(self) -> Delta | BaseException:
        while not self._items:
            self._arrived.clear()
            # Between the look and the clearing something may have come.
            if self._items:
                break
            await self._arrived.wait()
        return self._items.popleft()


async def open_in_process(name: str, settings: Settings) -> InProcessBackend:
    """The backend of the model `name` (see `find_model`), its engine loading already.

    Raises UsageError where the engine's packages or the model are absent and says what to type, WeightsError,
    ConfigError or DoesNotFit where the model cannot be opened.
    """
    engine = await anyio.to_thread.run_sync(_engine, name, settings)
    return InProcessBackend(engine, name)


def check_packages() -> None:
    """Raises UsageError, which says how to install it, where a package that the engine needs is not there."""
    missing = [module for module in PACKAGES if not importlib.util.find_spec(module)]
    if missing:
        raise UsageError(
            f"models in this process need {', '.join(missing)}: type `pip install 'laguna-agent[local]'`; "
            "a model behind a server needs --base-url"
        )


def plan_of(name: str, settings: Settings) -> ModelPlan:
    """What opening the model `name` would give; raises as `open_in_process` does. Imports torch: more than a second."""
    check_packages()
    from laguna_agent.backend.laguna.threads import load_torch

    load_torch()
    from laguna_agent.backend.laguna.local_model import ModelOptions, plan_model
    from laguna_agent.backend.laguna.weights.caches import find_model

    path = find_model(name).resolve()
    template = str(Path(settings.chat_template).expanduser()) if settings.chat_template else None
    options = ModelOptions(
        str(path),
        settings.quant,
        settings.context_length,
        template,
        settings.kv_cache,
        settings.arithmetic,
        settings.device,
        settings.gpu_memory,
    )
    return plan_model(options)


def _engine(name: str, settings: Settings) -> Engine:
    plan = plan_of(name, settings)
    from laguna_agent.backend.laguna.engine import Engine
    from laguna_agent.backend.laguna.threads import physical_cores, pin_threads

    pin_threads()
    if plan.options not in _engines:
        _engines[plan.options] = Engine(plan, threads=physical_cores())
    engine = _engines[plan.options]
    engine.warm()
    return engine


@atexit.register
def close_engines() -> None:
    """End every engine's thread; the process must not end in the middle of a pass."""
    for engine in _engines.values():
        engine.close(_CLOSING_SECONDS)
    _engines.clear()
