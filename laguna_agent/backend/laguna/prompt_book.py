"""The prompts that a model has read, so that the next one is written after the right one of them.

A conversation goes on, is taken back, or branches; whichever it does, the new prompt keeps the ids of the earlier one
that it shares most with. Knows messages and ids; must not know caches, sessions or models.
"""

from __future__ import annotations

from collections.abc import Sequence

from laguna_agent.backend.laguna.prompt import Prompt, PromptWriter
from laguna_agent.backend.laguna.template import Thinking
from laguna_agent.messages import Message, ToolSpec

SIZE = 256
"""Prompts remembered: the turns of a few sessions and of their branches."""
TRIED = 4
"""Answers to one prompt that are tried for the one that a conversation goes on with."""


class PromptBook:
    """Prompts with their answers, the latest last."""

    def __init__(self, writer: PromptWriter, size: int = SIZE) -> None:
        self.writer, self.size = writer, size
        self._prompts: list[Prompt] = []

    def write(self, messages: Sequence[Message], tools: Sequence[ToolSpec], thinking: Thinking) -> Prompt:
        """The prompt for an answer to `messages`, written after whichever remembered one it keeps most of."""
        messages, tools = tuple(messages), tuple(tools)
        candidates = self._nearest(messages, tools, thinking)
        written = [self.writer.write(messages, tools, thinking=thinking, after=None)] if not candidates else []
        for after in candidates:
            written.append(self.writer.write(messages, tools, thinking=thinking, after=after))
            if written[-1].kept == len(after.ids) + len(after.answer):
                break
        return max(written, key=lambda prompt: prompt.kept)

    def remember(self, prompt: Prompt) -> None:
        """Keep a prompt with its answer; it replaces the same one with less of that answer."""
        self._prompts = [kept for kept in self._prompts if not _continues(prompt, kept)]
        self._prompts.append(prompt)
        del self._prompts[: -self.size]

    def before(self, prompt: Prompt) -> list[Prompt]:
        """The remembered prompts that `prompt` was written after, the earliest first: it begins with all that they
        say and with what was answered."""
        found = [kept for kept in self._prompts if kept is not prompt and _leads_to(kept, prompt)]
        return sorted(found, key=lambda kept: len(kept.ids))

    def _nearest(self, messages: tuple[Message, ...], tools: tuple[ToolSpec, ...], thinking: Thinking) -> list[Prompt]:
        """Those that share the most messages, the latest first."""
        nearest: list[Prompt] = []
        most = (0, False)
        for prompt in reversed(self._prompts):
            if (prompt.tools, prompt.thinking) != (tools, thinking):
                continue
            shared = _shared(prompt.messages, messages)
            # One that goes on as a whole may share its answer too, and then keeps the very ids of it.
            whole = shared == len(prompt.messages) < len(messages) and bool(prompt.answer)
            rank = (shared + whole, whole)
            if rank > most:
                nearest, most = [], rank
            if rank == most and shared:
                nearest.append(prompt)
        return nearest[:TRIED]


def _leads_to(kept: Prompt, prompt: Prompt) -> bool:
    read = kept.ids + kept.answer
    return (
        len(kept.ids) < len(prompt.ids)
        and prompt.ids[: len(read)] == read
        and (kept.tools, kept.thinking) == (prompt.tools, prompt.thinking)
        and prompt.messages[: len(kept.messages)] == kept.messages
        and prompt.text.startswith(kept.text)
    )


def _continues(prompt: Prompt, kept: Prompt) -> bool:
    return kept.ids == prompt.ids and prompt.answer[: len(kept.answer)] == kept.answer


def _shared(one: Sequence[Message], other: Sequence[Message]) -> int:
    count = 0
    for mine, theirs in zip(one, other, strict=False):
        if mine != theirs:
            break
        count += 1
    return count
