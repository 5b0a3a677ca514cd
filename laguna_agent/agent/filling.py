"""What fills the model's window, as data for a face, and as words for `/context`.

The parts are measured in bytes and told in tokens by what the server's own counts of this session have taught the
estimate. Knows the conversation and the tools; asks the model nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from laguna_agent.agent.compaction import BEGIN
from laguna_agent.agent.context import FULL, TokenEstimate, Unrepeated, size_of
from laguna_agent.agent.events import Event
from laguna_agent.agent.preparation import build
from laguna_agent.agent.prompt import RULES, WHERE
from laguna_agent.messages import ImageBlock, Message, TextBlock, ToolSpec

if TYPE_CHECKING:
    from laguna_agent.agent.session import Session


class Filling(msgspec.Struct, frozen=True):
    """Tokens of the next request by what they are; `room` is what a request may have, None where the server does not
    say. `notes` are the workspace's listing, its instructions and what else is said with prompts."""

    system: int
    tools: int
    notes: int
    summary: int
    person: int
    answers: int
    plan: int
    results: int
    images: int
    total: int
    room: int | None = None


def fill(
    history: Sequence[Message], tools: Sequence[ToolSpec], estimate: TokenEstimate, room: int | None = None
) -> Filling:
    """What the parts take."""
    sizes = dict.fromkeys(("system", "notes", "summary", "person", "answers", "plan", "results", "images"), 0)
    calls: dict[str, str] = {}
    for message in history:
        calls |= {call.id: call.name for call in message.tool_calls}
        kind = _kind(message, calls)
        for block in message.content:
            # One block at a time: a prompt and the notes behind it are one message.
            alone = size_of((Message(message.role, (block,)),))
            sizes["images" if isinstance(block, ImageBlock) else _of(block, kind)] += alone
        rest = msgspec.structs.replace(message, content=())
        plan = bool(message.tool_calls) and all(call.name == "plan" for call in message.tool_calls)
        sizes["plan" if plan else kind] += size_of((rest,)) if message.tool_calls or message.reasoning else 0
    parts = {name: estimate.tokens(size) if size else 0 for name, size in sizes.items()}
    fixed = size_of((), tools)
    return Filling(
        tools=estimate.tokens(fixed) if fixed else 0,
        total=estimate.tokens(size_of(history) + fixed),
        room=room,
        **parts,
    )


def _kind(message: Message, calls: dict[str, str]) -> str:
    if message.tool_call_id:
        return "plan" if calls.get(message.tool_call_id, message.name) == "plan" else "results"
    return {"system": "system", "assistant": "answers"}.get(message.role, "person")


def _of(block: TextBlock, kind: str) -> str:
    if kind != "person":
        return kind
    if block.text.startswith((f"\n\n{WHERE}", f"\n\n{RULES}")):
        return "notes"
    return "summary" if block.text.startswith(BEGIN) else kind


NAMES = {
    "system": "the system's rules",
    "tools": "the tools",
    "notes": "the workspace and its instructions",
    "summary": "what is known of what was compacted",
    "person": "your words",
    "answers": "the model's answers and calls",
    "plan": "the plan",
    "results": "results of tools",
    "images": "images",
}


def filled(session: Session) -> Filling | None:
    """What fills the window, by what the newest turn knew of tools and model; None before the first one. To be called
    on the session's thread."""
    turn = session.latest_turn
    if turn is None:
        return None
    return fill(Unrepeated().of(session.history), turn.dialect.tools, session.estimate, turn.room)


async def filling(session: Session, emit: Callable[[Event], Awaitable[None]]) -> str:
    """What fills the window, in a line each."""
    await build(session, emit)
    found = filled(session)
    assert found is not None, "a turn was built"
    lines = [f"- {words}: {getattr(found, name):,}" for name, words in NAMES.items() if getattr(found, name)]
    return "\n".join([head(found), *lines]) + (f"\n{when_full(found)}" if found.room is not None else "")


def head(found: Filling) -> str:
    """The sum in words."""
    room = "" if found.room is None else f" of {found.room:,} that a request may have"
    return f"The next request takes about {found.total:,} tokens{room}:"


def when_full(found: Filling) -> str:
    """When room is made; empty where nobody knows how much there is."""
    if found.room is None:
        return ""
    return f"Room is made at {int(found.room * FULL):,}; /compact makes it now."
