"""One turn: the steps that the loop is made of, and what they share.

A turn knows the conversation, the dialect, the tools and the tape; it does not know which face listens, nor whether it
is live or replayed. It reports through `emit`, in order, and ends by returning or by raising a LagunaError.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import anyio
from msgspec.structs import replace

from laguna_agent.agent import context
from laguna_agent.agent.answer_schema import AnswerSchema
from laguna_agent.agent.budget import Budget
from laguna_agent.agent.checks import Check
from laguna_agent.agent.conversation import ended_update
from laguna_agent.agent.dialect import Dialect
from laguna_agent.agent.events import (
    Compaction,
    Event,
    Notice,
    PermissionRequested,
    PermissionResolved,
    PlanUpdated,
    TextDelta,
    ThoughtDelta,
    ToolCallStarted,
    ToolCallUpdate,
    UsageUpdated,
)
from laguna_agent.agent.permissions import PLAN_MODE, Approver, Permissions, options
from laguna_agent.agent.repetition import RepetitionGuard
from laguna_agent.agent.store import Asked, Permitted, Replied, Said, ToolRan
from laguna_agent.agent.tape import Tape, request_digest
from laguna_agent.backend import base as wire
from laguna_agent.backend.assemble import Assembler, Reply
from laguna_agent.errors import BudgetSpent, ContextTooLong, Denied, LagunaError, ModelStopped, ToolError
from laguna_agent.messages import FileDiff, Message, ToolCall, text_message
from laguna_agent.tools.base import Need, Previewing, Tool, ToolContext, ToolResult, text_result
from laguna_agent.tools.registry import Registry

Stream = Callable[[wire.Request, str], Any]
MAX_EMPTY = 2
CHOICE_TOKENS = 200
LIVE_CAP = 128 * 1024
"""Characters of one call's live output that go out and into the log; the result shows the beginning and the end."""


@dataclass
class Turn:
    """The state of one turn. `stream` gives the deltas for a request and its digest; `unanswered` holds results that
    the conversation does not have yet, by call id."""

    model: str
    history: list[Message]
    dialect: Dialect
    registry: Registry
    tools: ToolContext
    permissions: Permissions
    approver: Approver
    budget: Budget
    estimate: context.TokenEstimate
    info: wire.ModelInfo
    sampling: wire.Sampling
    tape: Tape
    stream: Stream
    emit: Callable[[Event], Awaitable[None]]
    check: Check | None = None
    schema: AnswerSchema | None = None
    guard: RepetitionGuard = field(default_factory=RepetitionGuard)
    changed: dict[str, None] = field(default_factory=dict)
    denied: list[str] = field(default_factory=list)
    unanswered: dict[str, ToolResult] = field(default_factory=dict)
    blocked: bool = False
    _empty: int = 0
    _constrained: bool = False
    _corrections: int = 0

    # -- asking -----------------------------------------------------------------------------------------------------

    async def ask(self) -> Reply:
        """Send the conversation and remember the answer; raises ProviderError, BudgetSpent or ModelStopped."""
        try:
            reply = await self._ask_once(await self._request())
        except ContextTooLong:
            # The server counts otherwise than we do: make room once, by force, and ask again.
            if not await self._compact(force=True):
                raise
            reply = await self._ask_once(await self._request())
        if reply.finish in ("content_filter", "refusal") and not reply.message.tool_calls:
            raise ModelStopped(f"the model refused to answer ({reply.finish})", reason=reply.finish)
        return reply

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
        dropped = context.shorten(self.history, room, self.estimate, self._fixed)
        if dropped:
            await self.emit(Compaction("completed", f"dropped {dropped} old tool results to make room"))
        return dropped > 0

    async def choose(self, question: Said, schema: dict[str, Any]) -> Reply:
        """Put a question to the model whose answer is constrained to `schema`; nobody watches it being answered."""
        self.tape.note(question)
        self.history.append(question.message)
        sampling = replace(self.sampling, max_tokens=CHOICE_TOKENS)
        messages = (self.history[0], question.message)
        request = wire.Request(self.model, messages, sampling=sampling, response_schema=schema)
        return await self._ask_once(request, watched=False)

    async def _ask_once(self, request: wire.Request, *, watched: bool = True) -> Reply:
        self.budget.take_turn()
        assembler, deltas = Assembler(request), list[wire.Delta]()
        error: tuple[str, str] | None = ("Cancelled", "")
        digest = request_digest(request)
        try:
            async for delta in self.stream(request, digest):
                deltas.append(delta)
                assembler.feed(delta)
                if watched or isinstance(delta, wire.RetryDelta):
                    await self._report(delta)
            error = None
        except LagunaError as problem:
            error = (type(problem).__name__, str(problem))
            raise
        finally:
            if not self.tape.recorded:
                self.tape.note(Replied(digest, tuple(deltas), error))
        reply = assembler.reply()
        if not request.tools and reply.message.tool_calls:
            # Calls of tools that were not offered would stay without results, and servers refuse that.
            reply = replace(reply, message=replace(reply.message, tool_calls=()))
        self.estimate.calibrate(context.size_of(request.messages, request.tools), reply.usage.input_tokens)
        await self._account(reply.usage)
        self.remember(reply.message)
        return reply

    async def _report(self, delta: wire.Delta) -> None:
        match delta:
            case wire.TextDelta(text=text) if text:
                await self.emit(TextDelta(text))
            case wire.ReasoningDelta(text=text) if text:
                await self.emit(ThoughtDelta(text))
            case wire.RetryDelta(attempt=attempt, delay=delay, reason=reason):
                await self.emit(Notice("warning", f"{reason}; attempt {attempt + 1} in {delay:.1f} s"))

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

    def remember(self, message: Message) -> None:
        """Append to the conversation and to the log."""
        self.tape.note(Said(message))
        self.history.append(message)

    async def say(self, produce: Callable[[], Awaitable[Said]]) -> None:
        """Append a message that depends on the workspace; replayed, it is the recorded one."""
        said = await self.tape.take(Said, produce)
        for call in said.restore:
            await self.execute(call)
        self.dialect.told(said, len(self.history))
        self.history.append(said.message)

    # -- executing --------------------------------------------------------------------------------------------------

    async def execute(self, call: ToolCall) -> ToolResult:
        """Run one call, leave granted; whatever goes wrong in it is a result for the model, not an error here."""
        try:
            tool = self.registry.get(call.name)
            args = self.registry.decode(call)
            need = tool.needs(args, self.tools.workspace)
        except ToolError as problem:
            await self.emit(ToolCallStarted(call.id, call.name, "other", call.name, call.arguments))
            return await self._finish(call, ToolRan(call, text_result(str(problem), is_error=True)), note=True)
        await self.emit(
            ToolCallStarted(call.id, call.name, tool.kind, tool.title(args), call.arguments, tool.locations(args))
        )
        refusal = await self._refused(call, tool, args, need)
        if refusal is not None:
            return await self._finish(call, ToolRan(call, text_result(refusal, is_error=True)), note=True)
        await self.emit(ToolCallUpdate(call.id, "in_progress"))
        ran = await self.tape.take(ToolRan, lambda: self._run(call, tool, args))
        self.unanswered[call.id] = ran.result
        if self.tape.recorded:
            for piece in ran.output:
                await self.emit(ToolCallUpdate(call.id, "in_progress", output=piece))
        if not ran.result.is_error:
            self.blocked = False
        return await self._finish(call, ran)

    async def _refused(self, call: ToolCall, tool: Tool, args: Any, need: Need | None) -> str | None:
        recorded = self.tape.peek()
        # On the machine of a replay the same path may lead elsewhere; the log knows whether leave was asked for.
        allowed = isinstance(recorded, ToolRan) or self.permissions.allows(need)
        if need is None or (allowed and not isinstance(recorded, Asked | Permitted)):
            return None
        forbidden = self.permissions.forbids(need)
        if isinstance(recorded, Permitted) or (forbidden and not self.tape.recorded):
            return await self._forbidden(call, tool.title(args), forbidden or "")

        async def ask() -> Asked:
            return Asked(call.id, need, await self._preview(tool, args))

        asked = await self.tape.take(Asked, ask)
        request = PermissionRequested(
            call.id, tool.title(args), tool.kind, call.arguments, options(asked.need), asked.diffs, tool.locations(args)
        )
        await self.emit(request)

        async def produce() -> Permitted:
            answer = await self.approver(request)
            return Permitted(call.id, answer.allowed, answer.remember, answer.reason)

        answer = await self.tape.take(Permitted, produce)
        await self.emit(PermissionResolved(call.id, answer.allowed, answer.reason))
        if answer.allowed:
            if answer.remember:
                self.permissions.remember(asked.need)
            return None
        self.denied.append(tool.title(args))
        self.blocked = True
        if answer.remember:
            self.permissions.refuse(asked.need)
        return f"Denied: {answer.reason or 'the person refused this call'}. Do not repeat it."

    async def _forbidden(self, call: ToolCall, title: str, reason: str) -> str:
        """The refusal that nobody is asked about. Plan mode does not block the turn by it: that is what was wanted."""

        async def produce() -> Permitted:
            return Permitted(call.id, False, reason=reason)

        answer = await self.tape.take(Permitted, produce)
        await self.emit(PermissionResolved(call.id, False, answer.reason))
        self.denied.append(title)
        self.blocked = self.blocked or answer.reason != PLAN_MODE
        return f"Denied: {answer.reason}."

    async def _preview(self, tool: Tool, args: Any) -> tuple[FileDiff, ...]:
        if not isinstance(tool, Previewing):
            return ()
        try:
            return await tool.preview(args, self.tools)
        except ToolError:
            # The call would fail, which the model hears when it runs; there is nothing to show of it.
            return ()

    async def _run(self, call: ToolCall, tool: Tool, args: Any) -> ToolRan:
        output: list[str] = []
        started = monotonic()

        room = LIVE_CAP

        async def emit(piece: str) -> None:
            nonlocal room
            if room <= 0:
                return
            if len(piece) >= room:
                piece = piece[:room] + "\n[more output follows; it is not shown live]\n"
            room -= len(piece)
            output.append(piece)
            await self.emit(ToolCallUpdate(call.id, "in_progress", output=piece))

        async def show_terminal(id: str) -> None:
            await self.emit(ToolCallUpdate(call.id, "in_progress", terminal=id))

        self.tools.emit, self.tools.show_terminal, self.tools.call_id = emit, show_terminal, call.id
        try:
            result = await tool.run(args, self.tools)
        except ToolError as problem:
            result = text_result(str(problem), is_error=True)
        except anyio.get_cancelled_exc_class():
            interrupted = text_result("Interrupted before it ended.", is_error=True)
            self.unanswered[call.id] = interrupted
            self.tape.note(ToolRan(call, interrupted, tuple(output), round(monotonic() - started, 3)))
            raise
        return ToolRan(call, result, tuple(output), round(monotonic() - started, 3))

    async def _finish(self, call: ToolCall, ran: ToolRan, *, note: bool = False) -> ToolResult:
        if note:
            self.tape.note(ran)
        result = self.unanswered[call.id] = ran.result
        await self.emit(ended_update(ran))
        self.changed.update(dict.fromkeys(diff.path for diff in result.diffs))
        if result.plan is not None:
            await self.emit(PlanUpdated(result.plan))
        self.guard.observe(call, result)
        return result

    async def answer(self, calls: Sequence[ToolCall], results: Sequence[ToolResult]) -> bool:
        """Give the results back in the dialect's way; False where the model has nothing to hear of them."""
        self.unanswered.clear()
        self._empty = 0
        messages = self.dialect.answers(calls, results)
        for message in messages:
            self.remember(message)
        return bool(messages)

    # -- ending -----------------------------------------------------------------------------------------------------

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
        if self.check is None:
            if self.blocked:
                raise Denied(f"denied, and the model could not go on: {', '.join(self.denied)}")
            return False
        run = await self.check.run("after", self)
        if run.exit_code == 0:
            return False
        if self.blocked:
            raise Denied(f"denied, and the check still fails: {', '.join(self.denied)}")
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
