"""A backend in the process that gives listed answers, for what no server on loopback can do: tell of its progress, and
keep state beside the session."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence

from laguna_agent.backend.base import Delta, Finished, ModelInfo, Request, TextDelta, Usage, UsageDelta
from laguna_agent.errors import ProviderUnavailable


def answer(text: str, *before: Delta) -> list[Delta]:
    """The deltas of an answer of one text, after others."""
    return [*before, TextDelta(text), UsageDelta(Usage(100, 5, 90)), Finished("stop")]


class ListedBackend:
    """Answers each request with the next list; `requests` are those that came."""

    name = target = "listed"

    def __init__(self, answers: Iterable[Sequence[Delta]] = ()) -> None:
        self.answers = list(answers)
        self.requests: list[Request] = []
        self.closed = False

    async def describe(self, model: str) -> ModelInfo:
        """Nothing but its name."""
        return ModelInfo(model)

    async def models(self) -> list[ModelInfo]:
        """The one."""
        return [ModelInfo("listed")]

    async def stream(self, request: Request) -> AsyncGenerator[Delta]:
        """The next answer; without one the backend is gone."""
        self.requests.append(request)
        if not self.answers:
            raise ProviderUnavailable("no answer is listed")
        for delta in self.answers.pop(0):
            yield delta

    async def aclose(self) -> None:
        """Nothing is held."""
        self.closed = True
