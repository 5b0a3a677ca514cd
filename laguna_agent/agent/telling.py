"""What a session's telemetry is told of events, requests and ends: counts and names, never texts."""

from __future__ import annotations

from collections.abc import Sequence

from laguna_agent.agent.events import Compaction, Event, Notice, PermissionResolved, Steered, TurnStarted
from laguna_agent.agent.outcome import RunRecord
from laguna_agent.agent.telemetry import Span, Telemetry
from laguna_agent.backend.assemble import Reply
from laguna_agent.backend.base import Delta, Finished, Request, RetryDelta, UsageDelta


def tell_event(telemetry: Telemetry, event: Event) -> None:
    """Note what is worth a line and no piece of work of its own."""
    match event:
        case TurnStarted():
            telemetry.note("debug", "sandbox", tier=event.sandbox)
        case Notice(severity="warning" | "error" as severity, text=text):
            telemetry.note(severity, "notice", text=text)
        case Compaction():
            telemetry.note("info", "compaction", status=event.status, summary=event.summary)
        case Steered():
            telemetry.note("info", "steered")
        case PermissionResolved():
            telemetry.note("info", "permission", call_id=event.call_id, allowed=event.allowed)


def tell_retry(telemetry: Telemetry, delta: RetryDelta) -> None:
    """Note an attempt that failed and is repeated."""
    telemetry.note("warning", "retry", attempt=delta.attempt, delay=delta.delay, reason=delta.reason)


def tell_request(span: Span, deltas: Sequence[Delta], first: float) -> None:
    """What came of a request: `first` is how many seconds passed until something did."""
    span.facts["attempts"] = 1 + sum(isinstance(delta, RetryDelta) for delta in deltas)
    span.facts["first"] = round(first, 3)
    for delta in deltas:
        if isinstance(delta, UsageDelta):
            usage = delta.usage
            span.facts |= {
                "input_tokens": usage.input_tokens,
                "output_tokens": usage.output_tokens,
                "cached_tokens": usage.cached_tokens,
                "reasoning_tokens": usage.reasoning_tokens,
                "cost": usage.cost,
            }
        elif isinstance(delta, Finished):
            span.facts |= {"finish": delta.reason, "status": 200}


def tell_texts(span: Span, request: Request, reply: Reply) -> None:
    """The conversation, for an exporter that was told to take it."""
    span.content |= {"input": list(request.messages), "output": [reply.message]}


def tell_end(telemetry: Telemetry, span: Span, record: RunRecord, error: str) -> None:
    """How a prompt ended."""
    span.facts |= {
        "outcome": record.outcome,
        "turns": record.turns,
        "input_tokens": record.input_tokens,
        "output_tokens": record.output_tokens,
        "cached_tokens": record.cached_tokens,
        "cost": record.cost,
        "files_changed": len(record.files_changed),
        "evidence": record.evidence,
        "model": record.model,
        "sandbox": record.sandbox,
    }
    span.error = error or (record.outcome if record.exit_code else "")
    telemetry.end(span)
