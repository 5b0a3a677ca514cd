"""Slash commands that the core answers itself, so that they mean the same in every face.

A prompt that begins with the name of one is a command; any other text with a slash in front is a prompt. `init` is a
prompt in short; the others ask nothing of the model, whose conversation does not see them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec

from laguna_agent.agent import context
from laguna_agent.agent.events import Compaction, Event, TextDelta, TurnStarted
from laguna_agent.agent.store import Remarked
from laguna_agent.messages import ContentBlock, TextBlock

if TYPE_CHECKING:
    from laguna_agent.agent.session import Session

Emit = Callable[[Event], Awaitable[None]]

INIT = """\
Write the file AGENTS.md for this project (improve it where it exists): what a coding agent must know that it cannot \
see at a glance. How to build, test and lint, for a single test too; how the code is laid out and what depends on \
what; the conventions that the code follows. Read the README, the configuration and enough of the code first, and try \
the commands before you name them. At most 60 lines, nothing that any programmer knows anyway."""


class Command(msgspec.Struct, frozen=True):
    """A command as a face lists it; `hint` says what may follow its name."""

    name: str
    description: str
    hint: str = ""


COMMANDS = (
    Command("compact", "Drop old tool results, so that the conversation takes less of the model's window"),
    Command("usage", "Say how many tokens this session has used, and what they cost"),
    Command("init", "Write AGENTS.md, the project's instructions for coding agents", "what to pay attention to"),
)


def command_in(content: tuple[ContentBlock, ...]) -> str | None:
    """The name of the command that a prompt is, None where it is none."""
    words = _text(content).split(None, 1)
    name = words[0][1:] if words and words[0].startswith("/") else ""
    return name if any(command.name == name for command in COMMANDS) else None


def expanded(content: tuple[ContentBlock, ...]) -> tuple[ContentBlock, ...]:
    """The prompt that the model gets: that of `/init` in full, any other as it is."""
    if command_in(content) != "init":
        return content
    wishes = _text(content).split(None, 1)[1:]
    return (TextBlock("\n\n".join([INIT, *wishes])), *content[1:])


async def obey(name: str, session: Session, emit: Emit) -> None:
    """Carry out a command that is no prompt."""
    await emit(TurnStarted(len(session.prompts), session.id, session.model))
    if name == "compact":
        await _compact(session, emit)
    else:
        words = usage_line(session)
        session.tape.note(Remarked(words))
        await emit(TextDelta(words))


async def _compact(session: Session, emit: Emit) -> None:
    await emit(Compaction("started"))
    room = session.estimate.tokens(context.size_of(session.history))
    dropped = context.shorten(session.history, room, session.estimate, 0)
    await emit(Compaction("completed", f"dropped {dropped} old tool results"))


def usage_line(session: Session) -> str:
    """Tokens and cost since the session was opened."""
    usage = session.usage
    if usage is None:
        return "nothing used yet"
    line = f"{usage.input_tokens:,} tokens in ({usage.cached_tokens:,} cached), {usage.output_tokens:,} out"
    if usage.context_used is not None and usage.context_window:
        line += f", window {usage.context_used:,} of {usage.context_window:,}"
    return line + ("" if usage.cost is None else f", ${usage.cost:.4f}")


def _text(content: tuple[ContentBlock, ...]) -> str:
    first = content[0] if content else None
    return first.text if isinstance(first, TextBlock) else ""
