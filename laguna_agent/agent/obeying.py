"""The slash commands carried out: what they do to a session, and what the person is told of it.

Knows the session; asks nothing of the model, whose conversation does not see the commands. Whatever a command finds out
or makes passes through the tape, so that a replay does the same and touches nothing.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import anyio.to_thread

from laguna_agent.agent import events
from laguna_agent.agent.archive import fork_session
from laguna_agent.agent.commands import argument_of
from laguna_agent.agent.compaction import compact
from laguna_agent.agent.filling import filling
from laguna_agent.agent.preparation import build
from laguna_agent.agent.store import Forked, Remarked, Uncompacted
from laguna_agent.agent.undoing import NotDone, Wish, put_back_files, redo, take_back
from laguna_agent.errors import Denied, UsageError
from laguna_agent.messages import ContentBlock
from laguna_agent.trust import CONFIG, SERVERS
from laguna_agent.trust_lines import HOW, listed, shown
from laguna_agent.visible import visible_line

if TYPE_CHECKING:
    from laguna_agent.agent.session import Session

Emit = Callable[[events.Event], Awaitable[None]]


async def obey(name: str, content: tuple[ContentBlock, ...], session: Session, emit: Emit) -> None:
    """Carry out a command that is no prompt."""
    await emit(events.TurnStarted(session.prompt_number, session.id, session.model))
    match name:
        case "compact":
            await _compact(argument_of(content), session, emit)
        case "context":
            await _remark(await filling(session, emit), session, emit)
        case "undo" | "rewind":
            await _take_back(name, argument_of(content), session, emit)
        case "redo":
            await redo(argument_of(content), session, emit)
        case "fork":
            await _fork(argument_of(content), session, emit)
        case "trust":
            await _trust(argument_of(content), session, emit)
        case _:
            await _remark(usage_line(session), session, emit)


async def _remark(words: str, session: Session, emit: Emit) -> None:
    session.tape.note(Remarked(words))
    await emit(events.TextDelta(words))


async def _compact(argument: str, session: Session, emit: Emit) -> None:
    if argument == "undo":
        await _uncompact(session, emit)
        return
    if not session.history:
        await _remark("There is nothing to compact yet.", session, emit)
        return
    turn = await build(session, emit)
    tokens = turn.tokens(session.history)
    room = tokens if turn.room is None else min(tokens, turn.room)
    if not (turn.dialect.compacts and await compact(turn, room, focus=argument)):
        await _remark("There is too little to compact.", session, emit)


async def _uncompact(session: Session, emit: Emit) -> None:
    if not session.work.compactions:
        await _remark("No compaction is in force that could be taken back.", session, emit)
        return
    # Said first, as with /rewind.
    await _remark("Took back the last compaction: the model has the conversation again as it was.", session, emit)
    session.tape.note(Uncompacted())
    session.look_again()


async def _take_back(name: str, argument: str, session: Session, emit: Emit) -> None:
    try:
        wish = Wish(name, argument, len(session.asked), number=name != "undo")
    except NotDone as refusal:
        await _remark(str(refusal), session, emit)
        return
    await take_back(wish, session, emit)


async def _fork(argument: str, session: Session, emit: Emit) -> None:
    """The copy works on the same files; where it goes back by some prompts, so do they."""
    back, said = 0, "Files were not copied: both work on the same ones."
    try:
        if argument:
            wish = Wish("fork", argument, len(session.asked))
            back, said = wish.prompts, (await put_back_files(wish, session, emit))[0]
    except NotDone as refusal:
        await _remark(str(refusal), session, emit)
        return

    async def produce() -> Forked:
        return Forked(await anyio.to_thread.run_sync(lambda: fork_session(session.id, True, back)))

    forked = await session.tape.take(Forked, produce)
    what = "this conversation" if not back else f"this conversation without the last {back} of your prompts"
    await _remark(f"Session {forked.id} is a copy of {what}. {said}", session, emit)
    await emit(events.Forked(forked.id))


async def _trust(argument: str, session: Session, emit: Emit) -> None:
    async def produce() -> Remarked:
        return Remarked(await anyio.to_thread.run_sync(_trusted, argument, session))

    await emit(events.TextDelta((await session.tape.take(Remarked, produce)).text))


def _trusted(argument: str, session: Session) -> str:
    """Show what the workspace brings, or trust what the person has been shown; what to tell them. Raises Denied where
    no person is there: the prompt of a run may be a stranger's words."""
    if argument.lower() not in {"", "yes"}:
        return f"/trust shows what there is, /trust yes trusts what was shown; {argument!r} it does not know"
    wanted = argument.lower() == "yes"
    if wanted and not session.trusting:
        raise Denied(f"nothing was trusted: nobody is here to look; do it with {HOW}, or run with --trust")
    try:
        ground, accepted = session.trust.accept() if wanted else (session.trust.show(), False)
    except UsageError as error:
        return f"Nothing was trusted: {error}"
    if not ground.asking:
        return "Nothing in this workspace asks for trust."
    names = listed([visible_line(each.name) for each in ground.waiting])
    if accepted:
        late = any(each.kind in {CONFIG, SERVERS} for each in ground.waiting)
        then = " Settings and MCP servers are used from the next session on." if late else ""
        return f"Trusted, until it changes: {names}.{then}" if names else "There is nothing left to trust."
    text = "\n".join(line for each in ground.asking for line in shown(each))
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    ask = f"\nTo trust exactly this, type /trust yes ({names})." if names else ""
    return f"{fence}\n{text}\n{fence}{ask}"


def usage_line(session: Session) -> str:
    """Tokens and cost since the session was opened."""
    usage = session.usage
    if usage is None:
        return "nothing used yet"
    line = f"{usage.input_tokens:,} tokens in ({usage.cached_tokens:,} cached), {usage.output_tokens:,} out"
    if usage.context_used is not None and usage.context_window:
        line += f", window {usage.context_used:,} of {usage.context_window:,}"
    return line + ("" if usage.cost is None else f", ${usage.cost:.4f}")
