"""From a prompt to a turn that can run: the backend, what is known of the model, the dialect, the opening messages.

Everything that a fresh prompt needs from outside passes through the tape here, so a replay needs neither a server nor
the files.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

import anyio.to_thread
import msgspec

from laguna_agent.agent.answer_schema import AnswerSchema
from laguna_agent.agent.choosing import CHOOSE, read_choice, schema
from laguna_agent.agent.custom_commands import find, written_out
from laguna_agent.agent.dialect import Dialect, ToolDialect
from laguna_agent.agent.events import CheckRun, Event, Notice, TurnStarted
from laguna_agent.agent.execution import Execution
from laguna_agent.agent.fallback import describe_usable
from laguna_agent.agent.opening import output_directory
from laguna_agent.agent.profiles import Profile, choose_profile
from laguna_agent.agent.prompt import system_text
from laguna_agent.agent.redacted_stream import stream_without_keys
from laguna_agent.agent.remembering import recall
from laguna_agent.agent.shown import shown_message
from laguna_agent.agent.store import Described, Distrusted, Offered, Said
from laguna_agent.agent.tape import RecordedTape, encodable, redacted
from laguna_agent.agent.turn import Turn
from laguna_agent.backend.base import Delta, ModelInfo, Request, Sampling
from laguna_agent.config import Settings
from laguna_agent.errors import ProviderError
from laguna_agent.mcp.servers import NO_LIMIT
from laguna_agent.mcp.tool import ServerTool, not_connected
from laguna_agent.messages import ContentBlock, text_message
from laguna_agent.tools.base import ToolContext
from laguna_agent.tools.registry import Registry
from laguna_agent.trust import INSTRUCTIONS
from laguna_agent.trust_lines import notices

if TYPE_CHECKING:
    from laguna_agent.agent.session import Session

CHARACTERS_PER_TOKEN = 3
IN_PROCESS = "local"
"""The provider whose backend can close a thought while it is made."""


async def prepare(
    session: Session, content: tuple[ContentBlock, ...], emit: Callable[[Event], Awaitable[None]]
) -> Turn:
    """Build the turn for a prompt and put the prompt into the history."""
    await emit(TurnStarted(session.prompt_number, session.id, session.model, session.workspace.sandbox))
    content = await written_out(session, content)
    turn = await build(session, emit)
    dialect = turn.dialect
    if not session.history:
        turn.remember(text_message("system", dialect.system()))
    before = await session.check.run("before", turn) if session.check else None

    await _choose(turn, content, before)

    async def opening() -> Said:
        return await dialect.opening(content, before)

    await turn.say(opening)
    return turn


async def build(session: Session, emit: Callable[[Event], Awaitable[None]]) -> Turn:
    """A turn over the session's conversation as it is."""
    instructions = await _trusted_instructions(session, emit)
    described = await describe_usable(session, _describe, emit)
    settings, info = session.settings, _with_overrides(described.info, session)
    profile = choose_profile(described.model, settings)
    registry = await _with_servers(session, profile, info.context_length, emit)
    dialect = _dialect(session, profile, registry, instructions)
    execution = Execution(
        registry,
        _lent(session),
        session.permissions,
        session.approver,
        session.tape,
        emit,
        session.unanswered,
        session.work,
        before_writing=lambda: session.keeping.before_writing(session.tape, emit),
        telemetry=session.telemetry,
    )
    sampling, thought = _limited_thought(settings, _sampling(settings, profile, info), described.provider)
    turn = Turn(
        model=described.model,
        history=session.history,
        dialect=dialect,
        execution=execution,
        budget=session.budget,
        estimate=session.estimate,
        info=info,
        sampling=sampling,
        tape=session.tape,
        stream=_stream(session),
        emit=emit,
        call_ids=session.call_ids,
        words=session.words,
        work=session.work,
        steering=session.steering,
        check=session.check,
        schema=AnswerSchema(session.output_schema) if session.output_schema is not None else None,
        next_model=partial(_next_model, session),
        thought_budget=thought,
        telemetry=session.telemetry,
    )
    _fit_results(turn)
    session.latest_turn = turn
    return turn


async def _trusted_instructions(session: Session, emit: Callable[[Event], Awaitable[None]]) -> str:
    """The project's own instructions, where a person has trusted them; replayed, what a message told of them is on the
    tape. Emits what the workspace brings and is not used."""
    text, told = "", []
    if not session.tape.recorded:
        ground = await anyio.to_thread.run_sync(session.trust.look)
        text = ground.text(INSTRUCTIONS) or ""
        unusable = await anyio.to_thread.run_sync(lambda: find(ground).unusable)
        told = notices(session.trust.news(ground), here=session.trusting)
        told += session.trust.first(unusable)

    async def produce() -> Distrusted:
        return Distrusted(tuple(told))

    if told or isinstance(session.tape.peek(), Distrusted):
        for notice in (await session.tape.take(Distrusted, produce)).notices:
            await emit(Notice("warning", notice))
    return text


async def _with_servers(
    session: Session, profile: Profile, window: int | None, emit: Callable[[Event], Awaitable[None]]
) -> Registry:
    """The session's tools with those that its MCP servers offer for this prompt; replayed, those on the tape."""
    servers = session.servers
    if servers is None and not isinstance(session.tape.peek(), Offered):
        return session.registry

    async def produce() -> Offered:
        assert servers is not None, "the tape has no Offered record where there are no servers"
        if profile.edit_format != "replace":
            # A small model calls no tools: it need not wait for them, and they would only take room.
            said = ("this model calls no tools, so those of the MCP servers are not used",)
            return Offered(notices=said if session.prompt_number == 1 else ())
        # A third of the window: what is left must hold the work.
        room = NO_LIMIT if window is None else window * CHARACTERS_PER_TOKEN // 3
        return Offered(*await servers.offer(room))

    offered = await session.tape.take(Offered, produce)
    for text in offered.notices:
        await emit(Notice("warning", text))
    call = servers.call if servers is not None else not_connected
    return session.registry.joined([ServerTool(tool, call) for tool in offered.tools])


async def _choose(turn: Turn, content: tuple[ContentBlock, ...], before: CheckRun | None) -> None:
    """Let the model make the choices that the dialect leaves to it, where its server can constrain the answer."""
    if turn.tape.recorded:
        recorded = turn.tape.peek()
        question = recorded if isinstance(recorded, Said) and recorded.strategy == CHOOSE else None
    else:
        question = await turn.dialect.question(content, before) if turn.info.supports_schema else None
    if question is not None:
        if not turn.tape.recorded:
            question = shown_message(redacted(encodable(question), tokens=True))
        paths = list(question.shown)
        reply = await turn.choose(question, schema(paths))
        turn.dialect.chosen(read_choice(reply.message.text, paths))


def _lent(session: Session) -> ToolContext:
    return ToolContext(
        session.workspace,
        session.ledger,
        footprint=session.footprint,
        shell_timeout=session.settings.shell_timeout,
        spool=output_directory(session.id),
    )


def _fit_results(turn: Turn) -> None:
    """One result takes at most about a quarter of a small window: a file read whole must not end the run."""
    if turn.room is not None:
        cap, tools = max(2_000, turn.room * CHARACTERS_PER_TOKEN // 4), turn.execution.tools
        tools.output_cap = min(tools.output_cap, cap)
        tools.read_cap = min(tools.read_cap, cap)


async def _describe(session: Session) -> Described:
    if session.backend is None:
        from laguna_agent.backend.providers import open_backend

        session.backend, session.wire_model = await open_backend(session.settings)
    if session.resumed and not session.prompted:
        await recall(session.backend, session.id)
    session.prompted = True
    info = await session.backend.describe(session.wire_model)
    return Described(session.wire_model, session.backend.name, info)


async def _next_model(session: Session, turn: Turn, error: ProviderError) -> None:
    """Let the turn go on with the next model of the person's; raises a ProviderError where there is none."""
    described = await describe_usable(session, _describe, turn.emit, error)
    profile = choose_profile(described.model, session.settings)
    turn.model, turn.info = described.model, _with_overrides(described.info, session)
    turn.sampling = _sampling(session.settings, profile, turn.info)
    _fit_results(turn)


def _with_overrides(info: ModelInfo, session: Session) -> ModelInfo:
    wished = session.settings.context_length
    if wished is None:
        return info
    if session.fallback.taken:
        # The person knows of their own model; a fallback's window is no larger for that.
        wished = min(wished, info.context_length or wished)
    return msgspec.structs.replace(info, context_length=wished)


def _dialect(session: Session, profile: Profile, registry: Registry, instructions: str) -> Dialect:
    if profile.edit_format == "replace":
        return ToolDialect(
            registry.specs(),
            system_text("system"),
            session.workspace,
            session.prompt_number,
            instructions,
            session.history,
            planning=session.permissions.approve == "plan",
        )
    from laguna_agent.agent.code_dialect import CodeDialect

    return CodeDialect(session.workspace, session.ledger, tuple(session.words), profile, session.prompt_number)


def _sampling(settings: Settings, profile: Profile, info: ModelInfo) -> Sampling:
    limits = [limit for limit in (profile.max_output_tokens, info.max_output_tokens) if limit is not None]
    return Sampling(
        temperature=settings.temperature if settings.temperature is not None else profile.temperature,
        top_p=settings.top_p,
        top_k=settings.top_k if settings.top_k is not None else profile.top_k,
        max_tokens=settings.max_output_tokens or min(limits, default=None),
        seed=settings.seed,
        reasoning_effort=settings.reasoning,
    )


def _limited_thought(settings: Settings, sampling: Sampling, provider: str) -> tuple[Sampling, int | None]:
    """The sampling, and the tokens of a thought that is cut off. A quarter of the answer's stays for the answer."""
    if not settings.reasoning_budget:
        return sampling, None
    room = min(settings.reasoning_budget, (sampling.max_tokens or settings.reasoning_budget * 2) * 3 // 4)
    if provider != IN_PROCESS:
        return sampling, room
    # There the thought is closed and the answer goes on; cutting it is for models that open it again.
    return msgspec.structs.replace(sampling, reasoning_tokens=room), room * 5 // 4


def _stream(session: Session) -> Callable[[Request, str], AsyncGenerator[Delta]]:
    tape = session.tape
    if isinstance(tape, RecordedTape):
        return lambda _, digest: tape.stream(digest)

    def live(request: Request, _: str) -> AsyncGenerator[Delta]:
        # Asked for each time: a fallback puts another in its place.
        assert session.backend is not None, "the backend is opened before the first request"
        return stream_without_keys(session.backend.stream(request))

    return live
