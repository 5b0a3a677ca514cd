"""A person with a foreign agent: starts one, prompts it, answers its questions, and remembers the events."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import anyio

from laguna_agent.acp.client.agent import ForeignAgent
from laguna_agent.agent.events import Event, PermissionRequested, TextDelta, TurnEnded
from laguna_agent.agent.permissions import PermissionAnswer
from laguna_agent.messages import ContentBlock, TextBlock

PATIENCE = 60.0
OURS = shlex.join([sys.executable, "-m", "laguna_agent", "acp"])
E = TypeVar("E", bound=Event)


class Person:
    """Answers each question with what `answers` says next, then with leave for this once."""

    def __init__(self, *answers: PermissionAnswer) -> None:
        self.asked: list[PermissionRequested] = []
        self._answers = list(answers)

    async def __call__(self, request: PermissionRequested) -> PermissionAnswer:
        self.asked.append(request)
        return self._answers.pop(0) if self._answers else PermissionAnswer(True)


@asynccontextmanager
async def driven(
    command: str, cwd: Path, ask: Callable[[PermissionRequested], Any] | None = None, **more: Any
) -> AsyncIterator[ForeignAgent]:
    """The agent, and at the end nothing of it."""
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            agent = await ForeignAgent.start(command, cwd, ask=ask or Person(), tasks=tasks, **more)
            try:
                yield agent
            finally:
                await agent.aclose()


async def turn(agent: ForeignAgent, words: str | tuple[ContentBlock, ...]) -> list[Event]:
    """A prompt and its events."""
    content = (TextBlock(words),) if isinstance(words, str) else words
    async with aclosing(agent.prompt(content)) as events:
        return [event async for event in events]


def all_of(events: list[Event], kind: type[E]) -> list[E]:
    """The events of a kind."""
    return [event for event in events if isinstance(event, kind)]


def ended(events: list[Event]) -> TurnEnded:
    """The end of a turn, which must be its last event and the only one of its kind."""
    (end,) = all_of(events, TurnEnded)
    assert events[-1] is end
    return end


def scripted(name: str) -> str:
    """The command of the tiny agent that does what `name` says."""
    return isolated("scripted.py", name)


def isolated(script: str, word: str) -> str:
    """The command of a script beside this one. Without site packages: most tests do nothing else that takes long."""
    return shlex.join([sys.executable, "-I", "-S", str(Path(__file__).with_name(script)), word])


def spoken(events: list[Event]) -> str:
    """What the agent said."""
    return "".join(event.text for event in all_of(events, TextDelta))


def reported(events: list[Event]) -> list[Any]:
    """What the tiny agent reported: a JSON value each line."""
    return [json.loads(line) for line in spoken(events).splitlines()]


async def when(ready: Callable[[], bool]) -> None:
    """Wait until something is so."""
    while not ready():
        await anyio.sleep(0.02)
