"""One turn: the steps that the loop is made of, and what they share.

A turn knows the conversation, the dialect, the tools and the tape; it does not know which face listens, nor whether it
is live or replayed. It reports through `emit`, in order, and ends by returning or by raising a LagunaError.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from msgspec.structs import replace

from laguna_agent.agent import context
from laguna_agent.agent.answer_schema import AnswerSchema
from laguna_agent.agent.budget import Budget
from laguna_agent.agent.checks import Check
from laguna_agent.agent.commands import images_of, text_of
from laguna_agent.agent.compaction import make_room
from laguna_agent.agent.dialect import Dialect
from laguna_agent.agent.events import Event, Retrying, Steered, UsageUpdated
from laguna_agent.agent.execution import Execution
from laguna_agent.agent.hearing import hear
from laguna_agent.agent.repetition import RepetitionGuard
from laguna_agent.agent.runaway import Restraint, Runaway
from laguna_agent.agent.shown import shown_message
from laguna_agent.agent.steering import Steering
from laguna_agent.agent.store import Said
from laguna_agent.agent.store import Steered as SteeredRecord
from laguna_agent.agent.tape import Tape
from laguna_agent.agent.telemetry import SILENT, Telemetry
from laguna_agent.agent.work import Work
from laguna_agent.backend import base as wire
from laguna_agent.backend.assemble import Reply
from laguna_agent.errors import BadRequest, BudgetSpent, ContextTooLong, Denied, ModelStopped, ProviderError
from laguna_agent.messages import Message, ToolCall, text_message
from laguna_agent.tools.base import ToolResult

Stream = Callable[[wire.Request, str], Any]
MAX_EMPTY = 2
CHOICE_TOKENS = 200


@dataclass
class Turn:
    """The state of one turn. `stream` gives the deltas for a request and its digest; `execution` runs what the answers
    call; `call_ids` are all that the session ever had, `words` what the person said to the model, `work` what came
    of it, `steering` what they say meanwhile; a
    thought may take `thought_budget` tokens (None: all). `next_model` puts another model into the turn in the place of
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
    words: list[str]
    work: Work
    steering: Steering
    check: Check | None = None
    schema: AnswerSchema | None = None
    next_model: Callable[[Turn, ProviderError], Awaitable[None]] | None = None
    thought_budget: int | None = None
    telemetry: Telemetry = SILENT
    restraint: Restraint = field(default_factory=Restraint)
    _unrepeated: context.Unrepeated = field(default_factory=context.Unrepeated)
    _empty: int = 0
    _constrained: bool = False
    _corrections: int = 0
    _answers: list[tuple[str, int]] = field(default_factory=list)

    # -- asking -----------------------------------------------------------------------------------------------------

    async def ask(self) -> Reply:
        """Send the conversation and remember the answer; raises ProviderError, BudgetSpent, ModelStopped or
        LoopDetected."""
        reply = await self._ask_someone(self._ask_restrained)
        # A filter cuts wherever it strikes, so calls before that are no answer that anybody meant to give.
        if reply.finish == "content_filter" or (reply.finish == "refusal" and not reply.message.tool_calls):
            raise ModelStopped(f"the model refused to answer ({reply.finish})", reason=reply.finish)
        return reply

    async def _ask_restrained(self) -> Reply:
        """Ask; an answer that runs away is asked for again, a little differently."""
        while True:
            await self.steered()
            try:
                reply = await self._ask_making_room()
            except Runaway as cut:
                told = self.restraint.after(cut)
                # What it said counts no more, and faces begin the answer anew.
                await self.emit(Retrying(1, 0.0, str(cut), void=True))
                if told is not None:
                    self.remember(told)
            except BadRequest:
                if not self.restraint.closes_thought:
                    raise
                self.restraint.refused()
            else:
                self.restraint.answered()
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
            if not await make_room(self, self.tokens(self.history), force=True):
                raise
        return await self._ask_once(await self._request())

    async def _request(self) -> wire.Request:
        messages = self.shown(self.history)
        if await make_room(self, self.weight(messages)):
            messages = self.shown(self.history)
        context.require_fit(messages, self.room, self.estimate, self.fixed)
        sampling, schema = self.dialect.ask_with(self.sampling)
        if self.schema is not None and self._constrained:
            schema = self.schema.schema
        return wire.Request(
            model=self.model,
            messages=tuple(messages),
            # No server constrains an answer to a schema and offers tools at once.
            tools=() if schema else self.dialect.tools,
            sampling=self.restraint.sampling(sampling),
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

    @cached_property
    def fixed(self) -> int:
        """The size of the tool descriptions, which every request has."""
        return context.size_of((), self.dialect.tools)

    def shown(self, history: Sequence[Message]) -> list[Message]:
        """What of the history goes into a request."""
        return self.dialect.view(self._unrepeated.of(history))

    def weight(self, messages: Sequence[Message]) -> int:
        """The tokens that a request with these messages takes, as far as we know."""
        return self.estimate.tokens(self.estimate.size_of(messages) + self.fixed)

    def tokens(self, history: Sequence[Message]) -> int:
        """The same for what is shown of a history."""
        return self.weight(self.dialect.view(context.Unrepeated().of(history)))

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
        reply = await self.exchange(request, watched=watched)
        self.remember(reply.message)
        return reply

    async def exchange(self, request: wire.Request, *, watched: bool = True) -> Reply:
        """One request and its answer, which does not enter the conversation. Unless `watched`, no face sees it come."""
        self.budget.take_turn()
        size = self.estimate.size_of(request.messages) + context.size_of((), request.tools)
        reply = await hear(self, request, size, watched=watched)
        if not request.tools and reply.message.tool_calls:
            # Calls of tools that were not offered would stay without results, and servers refuse that.
            reply = replace(reply, message=replace(reply.message, tool_calls=()))
        self.estimate.calibrate(size, reply.usage.input_tokens)
        await self.account(reply.usage)
        return reply

    async def account(self, usage: wire.Usage) -> None:
        """Add what a request has used, and tell it; raises BudgetSpent."""
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

    async def steered(self, *, last: bool = False) -> bool:
        """Tell the model what the person has said meanwhile; whether there was anything. With `last` the turn ends
        where there was nothing, and takes no more."""
        taken = False
        while self.steering.waits:
            await self._steer()
            taken = True
        if last and not taken:
            self.steering.close()
        return taken

    async def _steer(self) -> None:
        async def produce() -> SteeredRecord:
            content = self.steering.untaken[0]
            return SteeredRecord(content, shown_message(await self.dialect.steered(content)))

        record = await self.tape.take(SteeredRecord, produce)
        self.steering.took()
        self.words.append(text_of(record.content))
        self.dialect.told(record.said, len(self.history))
        self.history.append(record.said.message)
        # As after a prompt: what was tried and refused before says nothing of what is wanted now.
        self.execution.begin_anew()
        self._empty = self._corrections = 0
        self._answers.clear()
        await self.emit(Steered(text_of(record.content), images_of(record.content)))

    async def say(self, produce: Callable[[], Awaitable[Said]]) -> None:
        """Append a message that depends on the workspace; replayed, it is the recorded one."""

        async def shown() -> Said:
            return shown_message(await produce())

        said = await self.tape.take(Said, shown)
        if said.restore:
            # A try of its own, from the files as they were: what came before is no part of its past.
            self.execution.guard = RepetitionGuard()
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
        if self.check.moving:
            # What was checked is not what is there now.
            run = await self.check.run("after", self)
        if run.exit_code == 0:
            return False
        if await self.steered():
            return True
        if execution.blocked:
            raise Denied(f"denied, and the check still fails: {', '.join(execution.denied)}")
        self._corrections += 1
        if self._corrections > self.dialect.corrections or self._says_the_same():
            raise self.check.failed(run)

        check = self.check

        async def produce() -> Said:
            said = await self.dialect.correction(run, self._corrections)
            if said is None:
                raise check.failed(run)
            return said

        await self.say(produce)
        return True

    def _says_the_same(self) -> bool:
        """Whether the model was told that the check fails and gave, once more, the answer that it had given twice, with
        nothing changed in between."""
        if self.dialect.asks_anew:
            return False
        answer = next((each.text for each in reversed(self.history) if each.role == "assistant"), "")
        self._answers.append((" ".join(answer.split()), self.execution.evidence.edits))
        return self._answers[-3:] == [self._answers[-1]] * 3
