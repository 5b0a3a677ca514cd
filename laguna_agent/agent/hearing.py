"""One answer of the model, from the request to its end: put together, told to the face, logged, and cut off where it
runs away."""

from __future__ import annotations

from contextlib import aclosing
from time import monotonic
from typing import TYPE_CHECKING

from laguna_agent.agent.events import ModelProgress, Notice, Retrying, TextDelta, ThoughtDelta
from laguna_agent.agent.pieces import packed
from laguna_agent.agent.runaway import Runaway, StreamWatch
from laguna_agent.agent.store import Replied, Tried
from laguna_agent.agent.tape import request_digest
from laguna_agent.agent.telemetry import Span
from laguna_agent.agent.telling import tell_request, tell_retry, tell_texts
from laguna_agent.backend import base as wire
from laguna_agent.backend.assemble import Assembler, Reply
from laguna_agent.errors import LagunaError

if TYPE_CHECKING:
    from laguna_agent.agent.turn import Turn


async def hear(turn: Turn, request: wire.Request, size: int, *, watched: bool) -> Reply:
    """The answer to a request of `size` bytes. Unless `watched`, no face sees it come. Raises ProviderError, and
    Runaway where it was cut off."""
    sampling = request.sampling
    limits = {"temperature": sampling.temperature, "max_tokens": sampling.max_tokens}
    with turn.telemetry.span("request", request.model, messages=len(request.messages), bytes=size, **limits) as span:
        reply = await _hear(turn, request, size, watched, span)
        if turn.telemetry.content:
            tell_texts(span, request, reply)
    return reply


async def _hear(turn: Turn, request: wire.Request, size: int, watched: bool, span: Span) -> Reply:
    assembler, deltas = Assembler(request, turn.call_ids), list[wire.Delta]()
    error: tuple[str, str] | None = ("Cancelled", "")
    digest, watch = request_digest(request), StreamWatch(turn.thought_budget, turn.estimate.tokens)
    began, first = monotonic(), 0.0
    try:
        async with aclosing(turn.stream(request, digest)) as stream:
            async for delta in stream:
                if isinstance(delta, wire.ProgressDelta):
                    # How long things take is no part of what happened.
                    await turn.emit(ModelProgress(delta.stage, request.model, delta.done, delta.total))
                    continue
                # What failed had begun in vain.
                first = 0.0 if isinstance(delta, wire.RetryDelta) else first or monotonic() - began
                deltas.append(delta)
                void = watched and assembler.begun
                assembler.feed(delta)
                if isinstance(delta, wire.RetryDelta):
                    tell_retry(turn.telemetry, delta)
                    if not turn.tape.recorded:
                        turn.tape.note(Tried(delta.attempt, delta.delay, delta.reason))
                    await turn.emit(Retrying(delta.attempt, delta.delay, delta.reason, void))
                elif watched or isinstance(delta, wire.NoticeDelta):
                    await _report(turn, delta)
                if watched:
                    watch.feed(delta)
        error = None
    except Runaway:
        error = None
        # What was cut cost something too, and nobody says how much.
        await turn.account(_guessed(turn, size, watch.output))
        raise
    except LagunaError as problem:
        error = (type(problem).__name__, str(problem))
        raise
    finally:
        tell_request(span, deltas, first)
        if not turn.tape.recorded:
            took = round(monotonic() - began, 3)
            turn.tape.note(Replied(digest, packed(deltas), error, size, took, round(first, 3)))
    return assembler.reply()


def _guessed(turn: Turn, size: int, output: int) -> wire.Usage:
    """The usage of a request of `size` bytes whose answer was cut off after `output` bytes."""
    given, made, info = turn.estimate.tokens(size), turn.estimate.tokens(output), turn.info
    known = info.input_price is not None and info.output_price is not None
    cost = given * (info.input_price or 0.0) + made * (info.output_price or 0.0) if known else None
    return wire.Usage(given, made, cost=cost)


async def _report(turn: Turn, delta: wire.Delta) -> None:
    match delta:
        case wire.TextDelta(text=text) if text:
            await turn.emit(TextDelta(text))
        case wire.ReasoningDelta(text=text) if text:
            await turn.emit(ThoughtDelta(text))
        case wire.NoticeDelta(text=text):
            await turn.emit(Notice("warning", text))
