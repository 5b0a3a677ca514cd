"""A recorded conversation, read back: as history for the next request, and as events for a face."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from laguna_agent.agent import events
from laguna_agent.agent.commands import expanded, images_of, is_for_the_model, text_of
from laguna_agent.agent.compaction import compact_again, compaction_event
from laguna_agent.agent.context import TokenEstimate, shorten_again
from laguna_agent.agent.store import (
    AnyRecord,
    Compacted,
    Configured,
    Ended,
    Expanded,
    Offered,
    Opened,
    Prompted,
    Redone,
    Remarked,
    Replied,
    Rewound,
    Said,
    Shortened,
    Steered,
    ToolRan,
    Uncompacted,
    Waiting,
)
from laguna_agent.agent.work import Work
from laguna_agent.backend.base import UsageDelta
from laguna_agent.errors import ToolError
from laguna_agent.mcp.tool import ServerTool, not_connected
from laguna_agent.messages import ContentBlock, Message, TextBlock
from laguna_agent.tools.base import ToolResult, text_result
from laguna_agent.tools.registry import Registry


@dataclass
class Past:
    """What a session's log says of it, for its next prompt.

    `history` is the conversation in force, `prompts` are the person's as typed, commands too, `asked` those for the
    model, `words` all that the person said to it, into running turns too; `untaken` is what was said into the last turn
    and the model never got; `unanswered` are results that the history lacks, by call id.

    `prompt_number` and `call_ids` tell of what was
    taken back too, for faces have seen it and must not see the same number again. `estimate` has learned from every
    answer; `work` is what the calls in force came to.
    """

    history: list[Message] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    untaken: list[tuple[ContentBlock, ...]] = field(default_factory=list)
    unanswered: dict[str, ToolResult] = field(default_factory=dict)
    prompt_number: int = 0
    call_ids: set[str] = field(default_factory=set)
    work: Work = field(default_factory=Work)
    estimate: TokenEstimate = field(default_factory=TokenEstimate)


def rebuild(records: Iterable[AnyRecord]) -> Past:
    """The past that the records tell of."""
    past = Past()
    for record in in_force(_without_answers(past, records)):
        _follow(past, record)
    return past


def _without_answers(past: Past, records: Iterable[AnyRecord]) -> Iterator[AnyRecord]:
    """The records but the model's answers, most of a log, and what is said in them stands in others; notes what counts
    whether it was taken back or not."""
    for record in records:
        match record:
            case Replied(size=size, stored=stored, error=error):
                tokens = [delta.usage.input_tokens for delta in stored if isinstance(delta, UsageDelta)]
                if error is None:
                    past.estimate.calibrate(size, tokens[-1] if tokens else 0)
                continue
            case Prompted():
                past.prompt_number += 1
                past.untaken.clear()
            case Rewound():
                past.untaken.clear()
            case Waiting(content=content):
                past.untaken.append(content)
            case Steered():
                del past.untaken[:1]
            case Said(message=message):
                past.call_ids.update(call.id for call in message.tool_calls)
        yield record


def _follow(past: Past, record: AnyRecord) -> None:
    match record:
        case Said(message=message):
            past.history.append(message)
            if message.role == "tool":
                past.unanswered.pop(message.tool_call_id, None)
            else:
                past.unanswered.clear()
        case Shortened():
            shorten_again(past.history, record)
        case Compacted():
            compact_again(past.history, record)
            past.work.compactions += record.until > 1
        case Prompted():
            text = text_of(record.content)
            past.prompts.append(text)
            if is_for_the_model(record.content):
                past.asked.append(text)
                past.words.append(text_of(expanded(record.content)))
        case Expanded(text=text) if text:
            past.words[-1] = text
        case Steered(content=content, said=said):
            past.words.append(text_of(content))
            past.history.append(said.message)
            past.unanswered.clear()
        case ToolRan(call=call, result=result):
            past.unanswered[call.id] = result
            past.work.observe(call, result)


def in_force(records: Iterable[AnyRecord]) -> list[AnyRecord]:
    """The records of the conversation as it is now: without the prompts that were taken back and what followed them,
    unless that was taken back too. What a later run began with, and settings, stay."""
    kept: list[AnyRecord] = []
    begun: list[int] = []
    taken_back: list[_TakenBack] = []
    for record in records:
        if isinstance(record, Rewound):
            start = begun[-record.prompts] if record.prompts <= len(begun) else 0
            gone, stays = kept[start:], [each for each in kept[start:] if isinstance(each, Opened | Configured)]
            taken_back.append(_TakenBack(start, len(stays), gone, begun[-record.prompts :]))
            del begun[-record.prompts :]
            kept[start:] = stays
            continue
        if isinstance(record, Redone) and taken_back:
            last = taken_back.pop()
            kept[last.start : last.start + last.stayed] = last.records
            begun += last.begun
            continue
        if isinstance(record, Compacted | Uncompacted | Shortened):
            taken_back.clear()
        if isinstance(record, Uncompacted):
            _take_back_compaction(kept)
            continue
        if isinstance(record, Prompted) and is_for_the_model(record.content):
            begun.append(len(kept))
            taken_back.clear()
        kept.append(record)
    return kept


def _take_back_compaction(kept: list[AnyRecord]) -> None:
    """Put empty records in the place of the newest compaction and what was shortened since: positions stay."""
    for at in range(len(kept) - 1, -1, -1):
        if isinstance(record := kept[at], Compacted) and record.until > 1:
            kept[at] = Shortened()
            return
        if isinstance(kept[at], Shortened):
            kept[at] = Shortened()


@dataclass(frozen=True)
class _TakenBack:
    """What a Rewound took: `records` from `start` on, of which `stayed` remained there."""

    start: int
    stayed: int
    records: list[AnyRecord]
    begun: list[int]


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
    for record in in_force(records):
        match record:
            case Offered(tools=tools):
                known = registry.joined([ServerTool(tool, not_connected) for tool in tools])
            case Prompted():
                yield events.UserMessage(text_of(record.content), images_of(record.content), record.given)
            case Steered(content=content):
                yield events.Steered(text_of(content), images_of(content))
            case Remarked(text=text):
                yield events.TextDelta(text)
            case Said(message=Message(role="assistant") as message):
                if message.reasoning:
                    yield events.ThoughtDelta(message.reasoning)
                if message.text:
                    yield events.TextDelta(message.text)
            case ToolRan():
                yield from _call_events(record, known)
            case Compacted():
                yield compaction_event(record)
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
        sandbox=result.sandbox,
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
