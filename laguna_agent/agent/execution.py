"""The calls of one turn: leave asked for, the tool run, its result given back.

Knows the tools, the grants and the tape; it must not know the model, the conversation or the face. It reports through
`emit`, in order. Whatever goes wrong in a call is a result for the model; only a repetition ends the turn from here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import anyio
import msgspec

from laguna_agent.agent.conversation import ended_update
from laguna_agent.agent.events import (
    Event,
    Notice,
    PermissionRequested,
    PermissionResolved,
    PlanUpdated,
    ToolCallStarted,
    ToolCallUpdate,
)
from laguna_agent.agent.evidence import EditsAndTests
from laguna_agent.agent.permissions import PLAN_MODE, Approver, Decision, Permissions, options
from laguna_agent.agent.repetition import RepetitionGuard
from laguna_agent.agent.shown import shown_result
from laguna_agent.agent.store import Asked, Permitted, ToolRan
from laguna_agent.agent.tape import Tape
from laguna_agent.agent.telemetry import SILENT, Span, Telemetry
from laguna_agent.agent.work import Work
from laguna_agent.errors import ToolError
from laguna_agent.messages import FileDiff, ToolCall, ToolKind
from laguna_agent.redaction import MARK, TokenStream, shows_mark
from laguna_agent.tools.base import Need, Previewing, Tool, ToolContext, ToolResult, text_result
from laguna_agent.tools.registry import Registry
from laguna_agent.visible import Revealer

REDACTED_EDIT = (
    f"The text has {MARK} ...\u27e7 in it, which stands for a secret that was not shown and would take its place. "
    "Edit the other lines only."
)
READING: tuple[ToolKind, ...] = ("read", "search", "think")
LIVE_CAP = 128 * 1024
"""Characters of one call's live output that go out and into the log; the result shows the beginning and the end."""


async def nothing_to_keep() -> None:
    """The `before_writing` of a turn whose files nobody keeps."""


@dataclass
class Execution:
    """Runs the calls of one turn and keeps what came of them: `changed` are the files, `evidence` the edits and tests,
    `denied` the calls that were refused, `blocked` whether the last one was; `unanswered` holds results that the
    conversation does not have yet, by call id, `work` what the session's calls came to. `before_writing` is called
    before anything that may change files."""

    registry: Registry
    tools: ToolContext
    permissions: Permissions
    approver: Approver
    tape: Tape
    emit: Callable[[Event], Awaitable[None]]
    unanswered: dict[str, ToolResult] = field(default_factory=dict)
    work: Work = field(default_factory=Work)
    guard: RepetitionGuard = field(default_factory=RepetitionGuard)
    evidence: EditsAndTests = field(default_factory=EditsAndTests)
    changed: dict[str, None] = field(default_factory=dict)
    denied: list[str] = field(default_factory=list)
    blocked: bool = False
    before_writing: Callable[[], Awaitable[None]] = nothing_to_keep
    telemetry: Telemetry = SILENT

    async def run(self, call: ToolCall) -> ToolResult:
        """Run one call, leave granted; whatever goes wrong in it is a result for the model, not an error here."""
        with self.telemetry.span("tool", call.name, call_id=call.id) as span:
            result = await self._finished(call, span)
        # A repetition ends the turn, not the call.
        self.guard.observe(call, result)
        return result

    def begin_anew(self) -> None:
        """The person has said something: what is done from here on is no repetition, and not what was denied."""
        self.guard = RepetitionGuard()
        self.blocked = False

    async def _finished(self, call: ToolCall, span: Span) -> ToolResult:
        result = await self._worked_off(call)
        span.facts |= {
            "is_error": result.is_error,
            "exit_code": result.exit_code,
            "sandbox": result.sandbox or None,
            "characters": len(result.text),
            "files_changed": len(result.diffs),
        }
        if self.telemetry.content:
            span.content |= {"arguments": call.arguments, "result": result.text}
        return result

    async def _worked_off(self, call: ToolCall) -> ToolResult:
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
        # A replay cannot tell what the sandbox of then kept from writing; it finds the record, or none.
        if self.tape.recorded or self._may_write(tool, need):
            await self.before_writing()
        await self.emit(ToolCallUpdate(call.id, "in_progress"))
        ran = await self.tape.take(ToolRan, lambda: self._run(call, tool, args, need))
        self.unanswered[call.id] = ran.result
        if self.tape.recorded:
            for piece in ran.output:
                await self.emit(ToolCallUpdate(call.id, "in_progress", output=piece))
        if not ran.result.is_error:
            self.blocked = False
        return await self._finish(call, ran)

    def _may_write(self, tool: Tool, need: Need | None) -> bool:
        if need is None:
            return tool.kind not in READING
        if need.access == "execute":
            # The kernel keeps those that only look from writing.
            return self.tools.kind != "reading"
        return need.access != "read"

    async def _refused(self, call: ToolCall, tool: Tool, args: Any, need: Need | None) -> str | None:
        decision = self._decision(need)
        self.tools.kind = decision.kind or "workspace"
        if need is None or decision.verdict == "allow":
            return None
        if decision.verdict == "deny":
            return await self._forbidden(call, tool.title(args), decision.reason)

        async def ask() -> Asked:
            facts = decision.facts
            return Asked(call.id, need, await self._preview(tool, args, need), facts.parts, facts.unusual)

        asked = await self.tape.take(Asked, ask)
        request = PermissionRequested(
            call.id,
            tool.title(args),
            tool.kind,
            call.arguments,
            options(asked.need, asked.parts),
            asked.diffs,
            tool.locations(args),
            asked.parts,
            asked.unusual,
        )
        await self.emit(request)

        async def produce() -> Permitted:
            # Apart from the call's own time: a person may take theirs.
            with self.telemetry.span("permission", call.name, call_id=call.id):
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

    def _decision(self, need: Need | None) -> Decision:
        """Replayed, what the log holds: on that machine the same path may lead elsewhere, behind another sandbox. A log
        that ends here was cut off while the tool ran; all else would be in it."""
        if not self.tape.recorded:
            return self.permissions.decide(need)
        match self.tape.peek():
            case Asked():
                return Decision("ask")
            case Permitted():
                return Decision("deny")
        return Decision("allow")

    async def _forbidden(self, call: ToolCall, title: str, reason: str) -> str:
        """The refusal that nobody is asked about. Plan mode does not block the turn by it: that is what was wanted."""

        async def produce() -> Permitted:
            return Permitted(call.id, False, reason=reason)

        answer = await self.tape.take(Permitted, produce)
        await self.emit(PermissionResolved(call.id, False, answer.reason))
        self.denied.append(title)
        self.blocked = self.blocked or answer.reason != PLAN_MODE
        return f"Denied: {answer.reason}."

    async def _preview(self, tool: Tool, args: Any, need: Need) -> tuple[FileDiff, ...]:
        if not isinstance(tool, Previewing):
            return ()
        # Nobody has given leave yet: a file that is hidden is not shown even to ask for it.
        self.tools.leave = msgspec.structs.replace(need, hidden=False)
        try:
            return await tool.preview(args, self.tools)
        except ToolError:
            # The call would fail, which the model hears when it runs; there is nothing to show of it.
            return ()

    async def _run(self, call: ToolCall, tool: Tool, args: Any, need: Need | None) -> ToolRan:
        output: list[str] = []
        started = monotonic()
        room, live = LIVE_CAP, Revealer(live=True)

        tokens = TokenStream()

        async def emit(piece: str, *, final: bool = False) -> None:
            nonlocal room
            piece = live.feed(tokens.feed(piece, final=final), final=final) if room > 0 else ""
            if not piece:
                return
            if len(piece) >= room:
                piece = piece[:room] + "\n[more output follows; it is not shown live]\n"
            room -= len(piece)
            output.append(piece)
            await self.emit(ToolCallUpdate(call.id, "in_progress", output=piece))

        async def show_terminal(id: str) -> None:
            await self.emit(ToolCallUpdate(call.id, "in_progress", terminal=id))

        self.tools.emit, self.tools.show_terminal, self.tools.call_id = emit, show_terminal, call.id
        self.tools.leave = need
        try:
            if tool.kind == "edit" and shows_mark(call.arguments):
                raise ToolError(REDACTED_EDIT)
            result = await tool.run(args, self.tools)
            await emit("", final=True)
        except ToolError as problem:
            result = text_result(str(problem), is_error=True)
        except anyio.get_cancelled_exc_class():
            interrupted = text_result("Interrupted before it ended.", is_error=True)
            self.unanswered[call.id] = interrupted
            self.tape.note(ToolRan(call, interrupted, tuple(output), round(monotonic() - started, 3)))
            raise
        return ToolRan(call, shown_result(result), tuple(output), round(monotonic() - started, 3))

    async def _finish(self, call: ToolCall, ran: ToolRan, *, note: bool = False) -> ToolResult:
        if note:
            ran = msgspec.structs.replace(ran, result=shown_result(ran.result))
            self.tape.note(ran)
        result = self.unanswered[call.id] = ran.result
        await self.emit(ended_update(ran))
        if result.hidden:
            await self.emit(Notice("warning", f"the result of {call.name}: {result.hidden}"))
        self.changed.update(dict.fromkeys(diff.path for diff in result.diffs))
        self.work.observe(call, result)
        if result.plan is not None:
            await self.emit(PlanUpdated(result.plan))
        self.evidence.ran(call, result)
        return result
