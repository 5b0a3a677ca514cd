"""A recorded conversation, read back: as history for the next request, and as events for a face."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from laguna_agent.agent import events
from laguna_agent.agent.store import AnyRecord, Ended, Offered, Prompted, Remarked, Said, ToolRan
from laguna_agent.errors import ToolError
from laguna_agent.mcp.tool import ServerTool, not_connected
from laguna_agent.messages import ImageBlock, Message, TextBlock
from laguna_agent.tools.base import ToolResult, text_result
from laguna_agent.tools.registry import Registry


def rebuild(records: Iterable[AnyRecord]) -> tuple[list[Message], list[str], dict[str, ToolResult]]:
    """The history, the prompts as the person typed them, and results that the history lacks, by call id."""
    history: list[Message] = []
    prompts: list[str] = []
    unanswered: dict[str, ToolResult] = {}
    for record in records:
        match record:
            case Said(message=message):
                history.append(message)
                if message.role == "tool":
                    unanswered.pop(message.tool_call_id, None)
                else:
                    unanswered.clear()
            case Prompted():
                prompts.append(_text(record))
            case ToolRan(call=call, result=result):
                unanswered[call.id] = result
    return history, prompts, unanswered


def orphan_results(history: Sequence[Message], unanswered: Mapping[str, ToolResult]) -> list[Message]:
    """Results for the calls of the newest assistant message that have none in the history: the run was cut off among
    them. A server refuses a conversation in which a call has no result, and what did run must not be called undone."""
    last = next((i for i in range(len(history) - 1, -1, -1) if history[i].role == "assistant"), None)
    if last is None:
        return []
    answered = {message.tool_call_id for message in history[last + 1 :]}
    cut_off = text_result("Interrupted before it ended.")
    return [
        Message(
            "tool",
            unanswered.get(call.id, cut_off).content or (TextBlock("(no output)"),),
            tool_call_id=call.id,
            name=call.name,
        )
        for call in history[last].tool_calls
        if call.id not in answered
    ]


def conversation_events(records: Iterable[AnyRecord], registry: Registry) -> Iterator[events.Event]:
    """The conversation as a face would show it: prompts, answers, thoughts, calls with their results."""
    known = registry
    for record in records:
        match record:
            case Offered(tools=tools):
                known = registry.joined([ServerTool(tool, not_connected) for tool in tools])
            case Prompted():
                images = tuple(block for block in record.content if isinstance(block, ImageBlock))
                yield events.UserMessage(_text(record), images, record.given)
            case Remarked(text=text):
                yield events.TextDelta(text)
            case Said(message=Message(role="assistant") as message):
                if message.reasoning:
                    yield events.ThoughtDelta(message.reasoning)
                if message.text:
                    yield events.TextDelta(message.text)
            case ToolRan():
                yield from _call_events(record, known)
            case Ended(result=result) if result.exit_code and result.message and result.stop_reason != "cancelled":
                yield events.Notice("warning", result.message)


def ended_update(ran: ToolRan) -> events.ToolCallUpdate:
    """The end of a call as an event, live and looked back at."""
    result = ran.result
    return events.ToolCallUpdate(
        ran.call.id,
        "failed" if result.is_error else "completed",
        content=result.content,
        diffs=result.diffs,
        locations=result.locations,
        exit_code=result.exit_code,
        seconds=ran.seconds,
    )


def _call_events(ran: ToolRan, registry: Registry) -> Iterator[events.Event]:
    call, result = ran.call, ran.result
    try:
        tool, args = registry.get(call.name), registry.decode(call)
        yield events.ToolCallStarted(call.id, call.name, tool.kind, tool.title(args), call.arguments)
    except ToolError:
        yield events.ToolCallStarted(call.id, call.name, "other", call.name, call.arguments)
    yield ended_update(ran)
    if result.plan is not None:
        yield events.PlanUpdated(result.plan)


def _text(record: Prompted) -> str:
    return "".join(block.text for block in record.content if isinstance(block, TextBlock))
