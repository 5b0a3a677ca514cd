"""One turn: the steps that the loop is made of, and what they share.

A turn knows the conversation, the dialect, the tools and the tape; it does not know which face listens, nor whether it
is live or replayed. It reports through `emit`, in order, and ends by returning or by raising a LagunaError.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from laguna_agent.agent import context
from laguna_agent.agent.answer_schema import AnswerSchema
from laguna_agent.agent.budget import Budget
from laguna_agent.agent.checks import Check
from laguna_agent.agent.dialect import Dialect
from laguna_agent.agent.events import (
    Compaction,
    Event,
    ModelProgress,
    Notice,
    Retrying,
    TextDelta,
    ThoughtDelta,
    UsageUpdated,
)
from laguna_agent.agent.execution import Execution
from laguna_agent.agent.shown import shown_message
from laguna_agent.agent.store import Replied, Said, Tried
from laguna_agent.agent.tape import Tape, request_digest
from laguna_agent.backend import base as wire
from laguna_agent.backend.assemble import Assembler, Reply
from laguna_agent.errors import BudgetSpent, ContextTooLong, Denied, LagunaError, ModelStopped, ProviderError
from laguna_agent.messages import Message, ToolCall, text_message
from laguna_agent.tools.base import ToolResult

Stream = Callable[[wire.Request, str], Any]
MAX_EMPTY = 2
CHOICE_TOKENS = 200


@dataclass
class Turn:
    """The state of one turn. `stream` gives the deltas for a request and its digest; `execution` runs what the answers
    call; `call_ids` are all that the session ever had. `next_model` puts another model into the turn in the place of
    one that failed for good, and raises where there is none."""

    model: str
    history: list[Message]
    dialect: Dialect
    execution: Execution
    budget: Budget
    estimate: context.TokenEstimate
    info: wire.ModelInfo
    sampling: wire.Sampling
    tape: Tape
    stream: Stream
    emit: Callable[[Event], Awaitable[None]]
    call_ids: set[str]
    check: Check | None = None
    schema: AnswerSchema | None = None
    next_model: Callable[[Turn, ProviderError], Awaitable[None]] | None = None
    _empty: int = 0
    _constrained: bool = False
    _corrections: int = 0

    # -- asking -----------------------------------------------------------------------------------------------------

    async def ask(self) -> Reply:
        """Send the conversation and remember the answer; raises ProviderError, BudgetSpent or ModelStopped."""
        reply = await self._ask_someone(self._ask_making_room)
        # A filter cuts wherever it strikes, so calls before that are no answer that anybody meant to give.
        if reply.finish == "content_filter" or (reply.finish == "refusal" and not reply.message.tool_calls):
            raise ModelStopped(f"the model refused to answer ({reply.finish})", reason=reply.finish)
        return reply

    async def _ask_someone(self, ask: Callable[[], Awaitable[Reply]]) -> Reply:
        """Ask, and where the model fails for good ask the next one."""
        while True:
            try:
                return await ask()
            except ProviderError as error:
                if self.next_model is None:
                    raise
                await self.next_model(self, error)

    async def _ask_making_room(self) -> Reply:
        try:
            return await self._ask_once(await self._request())
        except ContextTooLong:
            # The server counts otherwise than we do: make room once, by force, and ask again.
            if not await self._compact(force=True):
                raise
        return await self._ask_once(await self._request())

    async def _request(self) -> wire.Request:
        await self._compact(force=False)
        messages = self.dialect.view(context.without_repeats(self.history))
        context.require_fit(messages, self.room, self.estimate, self._fixed)
        sampling, schema = self.dialect.ask_with(self.sampling)
        if self.schema is not None and self._constrained:
            schema = self.schema.schema
        return wire.Request(
            model=self.model,
            messages=tuple(messages),
            # No server constrains an answer to a schema and offers tools at once.
            tools=() if schema else self.dialect.tools,
            sampling=sampling,
            response_schema=schema if self.info.supports_schema else None,
        )

    @property
    def room(self) -> int | None:
        """Tokens that a request may have; the window less what the answer may take."""
        window = self.info.context_length
        if window is None:
            return None
        answer = min(self.sampling.max_tokens or self.info.max_output_tokens or window // 4, window // 4)
        return window - answer

    @property
    def _fixed(self) -> int:
        return context.size_of((), self.dialect.tools)

    async def _compact(self, *, force: bool) -> bool:
        if self.room is None and not force:
            return False
        tokens = self.estimate.tokens(context.size_of(self.history) + self._fixed)
        # A server that refused what we took to fit has less room than we think.
        room = min(self.room or tokens, tokens) if force else self.room or tokens
        if not force and tokens <= room * context.FULL:
            return False
        done = context.shorten(self.history, room, self.estimate, self._fixed)
        if done.results:
            self.tape.note(done)
            await self.emit(Compaction("completed", f"dropped {done.results} old tool results to make room"))
        return done.results > 0

    async def choose(self, question: Said, schema: dict[str, Any]) -> Reply:
        """Put a question to the model whose answer is constrained to `schema`; nobody watches it being answered."""
        self.tape.note(question)
        self.history.append(question.message)
        sampling = replace(self.sampling, max_tokens=CHOICE_TOKENS)
        messages = (self.history[0], question.message)

        async def ask() -> Reply:
            request = wire.Request(self.model, messages, sampling=sampling, response_schema=schema)
            return await self._ask_once(request, watched=False)

        return await self._ask_someone(ask)

    async def _ask_once(self, request: wire.Request, *, watched: bool = True) -> Reply:
        self.budget.take_turn()
        assembler, deltas = Assembler(request, self.call_ids), list[wire.Delta]()
        error: tuple[str, str] | None = ("Cancelled", "")
        digest, size = request_digest(request), context.size_of(request.messages, request.tools)
        try:
            async for delta in self.stream(request, digest):
                if isinstance(delta, wire.ProgressDelta):
                    # How long things take is no part of what happened.
                    await self.emit(ModelProgress(delta.stage, request.model, delta.done, delta.total))
                    continue
                deltas.append(delta)
                void = watched and assembler.begun
                assembler.feed(delta)
                if isinstance(delta, wire.RetryDelta):
                    if not self.tape.recorded:
                        self.tape.note(Tried(delta.attempt, delta.delay, delta.reason))
                    await self.emit(Retrying(delta.attempt, delta.delay, delta.reason, void))
                elif watched or isinstance(delta, wire.NoticeDelta):
                    await self._report(delta)
            error = None
        except LagunaError as problem:
            error = (type(problem).__name__, str(problem))
            raise
        finally:
            if not self.tape.recorded:
                self.tape.note(Replied(digest, tuple(deltas), error, size))
        reply = assembler.reply()
        if not request.tools and reply.message.tool_calls:
            # Calls of tools that were not offered would stay without results, and servers refuse that.
            reply = replace(reply, message=replace(reply.message, tool_calls=()))
        self.estimate.calibrate(size, reply.usage.input_tokens)
        await self._account(reply.usage)
        self.remember(reply.message)
        return reply

    async def _report(self, delta: wire.Delta) -> None:
        match delta:
            case wire.TextDelta(text=text) if text:
                await self.emit(TextDelta(text))
            case wire.ReasoningDelta(text=text) if text:
                await self.emit(ThoughtDelta(text))
            case wire.NoticeDelta(text=text):
                await self.emit(Notice("warning", text))

    async def _account(self, usage: wire.Usage) -> None:
        self.budget.add(usage)
        total = self.budget.total
        await self.emit(
            UsageUpdated(
                total.input_tokens,
                total.output_tokens,
                total.cached_tokens,
                total.reasoning_tokens,
                total.cost,
                usage.input_tokens + usage.output_tokens,
                self.info.context_length,
            )
        )
        if self.budget.max_cost is not None and usage.cost is None:
            raise BudgetSpent(f"the price of {self.model} is unknown, so --max-cost cannot be kept", budget="cost")

    # -- telling the model --------------------------------------------------------------------------------------------

    def remember(self, message: Message) -> None:
        """Append to the conversation and to the log."""
        self.tape.note(Said(message))
        self.history.append(message)
        self.call_ids.update(call.id for call in message.tool_calls)

    async def say(self, produce: Callable[[], Awaitable[Said]]) -> None:
        """Append a message that depends on the workspace; replayed, it is the recorded one."""

        async def shown() -> Said:
            return shown_message(await produce())

        said = await self.tape.take(Said, shown)
        for call in said.restore:
            await self.execution.run(call)
        self.dialect.told(said, len(self.history))
        self.history.append(said.message)

    # -- ending -----------------------------------------------------------------------------------------------------

    async def answer(self, calls: Sequence[ToolCall], results: Sequence[ToolResult]) -> bool:
        """Give the results back in the dialect's way; False where the model has nothing to hear of them."""
        self.execution.unanswered.clear()
        self._empty = 0
        messages = self.dialect.answers(calls, results)
        for message in messages:
            self.remember(message)
        return bool(messages)

    # -- ending -------------------------------------------------------------------------------------------------------

    async def prompt_again(self, reply: Reply) -> bool:
        """Whether an answer without calls is no end: empty or cut answers are asked for once more, then named."""
        problem, reason = self.dialect.unusable(reply), "length" if reply.finish == "length" else "empty"
        if problem is None and self.schema is not None:
            problem, reason = self.schema.objection(reply.message.text), "schema"
        if problem is None:
            self._empty = 0
            return False
        self._empty += 1
        if self._empty >= MAX_EMPTY:
            raise ModelStopped(f"the model gave no usable answer: {problem}", reason=reason)
        self._constrained = reason == "schema"
        self.remember(text_message("user", problem))
        return True

    async def correct(self) -> bool:
        """Run the check; when it fails give its output to the model and go on, as often as the dialect says.

        Raises CheckFailed when it still fails, Denied when the model ended on a refusal.
        """
        execution = self.execution
        if self.check is None:
            if execution.blocked:
                raise Denied(f"denied, and the model could not go on: {', '.join(execution.denied)}")
            return False
        run = await self.check.run("after", self)
        if run.exit_code == 0:
            return False
        if execution.blocked:
            raise Denied(f"denied, and the check still fails: {', '.join(execution.denied)}")
        self._corrections += 1
        if self._corrections > self.dialect.corrections:
            raise self.check.failed(run)

        check = self.check

        async def produce() -> Said:
            said = await self.dialect.correction(run, self._corrections)
            if said is None:
                raise check.failed(run)
            return said

        await self.say(produce)
        return True
