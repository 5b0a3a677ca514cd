"""Spans for OpenTelemetry, named by its conventions for generative AI: `invoke_agent`, in it `chat` and `execute_tool`.

https://opentelemetry.io/docs/specs/semconv/gen-ai/ (attributes as of 1.37). Where they go, and with which headers, is
the SDK's business and the OTEL_* variables'. The packages are an extra and are imported when somebody asks for them.
Texts go out only where the person has said so, and without secrets.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import msgspec

from laguna_agent import __version__
from laguna_agent.agent.telemetry import Kind, Span
from laguna_agent.errors import UsageError
from laguna_agent.held_keys import held
from laguna_agent.redaction import know, redact

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span as Traced

HEADERS = ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS")
PATIENCE = 3.0
"""Seconds that the end of a session waits for a receiver."""
TEXT_CAP = 32_000
"""Characters of one text that goes out."""
_OPERATIONS: dict[Kind, str] = {
    "prompt": "invoke_agent",
    "request": "chat",
    "tool": "execute_tool",
    "permission": "permission",
    "check": "check",
}
_ATTRIBUTES = {
    "provider": "gen_ai.provider.name",
    "finish": "gen_ai.response.finish_reasons",
    "input_tokens": "gen_ai.usage.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
    "cached_tokens": "gen_ai.usage.cache_read.input_tokens",
    "call_id": "gen_ai.tool.call.id",
    "temperature": "gen_ai.request.temperature",
    "max_tokens": "gen_ai.request.max_tokens",
    "status": "http.response.status_code",
    "exit_code": "process.exit.code",
    "input": "gen_ai.input.messages",
    "output": "gen_ai.output.messages",
    "arguments": "gen_ai.tool.call.arguments",
    "result": "gen_ai.tool.call.result",
}


class SpanExporter:
    """See `telemetry.Exporter`."""

    def __init__(self, provider: TracerProvider, stop: Callable[[], None], session_id: str, *, content: bool) -> None:
        """`stop` ends what is still being sent."""
        self.content = content
        self._stop = stop
        self._provider = provider
        self._tracer = provider.get_tracer("laguna_agent", __version__)
        self._session_id = session_id
        self._open: dict[int, Traced] = {}

    def begin(self, span: Span) -> None:
        """See `Exporter.begin`."""
        from opentelemetry import trace

        parent = self._open.get(id(span.parent))
        operation = _OPERATIONS[span.kind]
        self._open[id(span)] = self._tracer.start_span(
            f"{operation} {span.name}",
            # An empty context, not the process's current one: this span is nobody else's.
            trace.set_span_in_context(parent) if parent is not None else trace.set_span_in_context(trace.INVALID_SPAN),
            kind=trace.SpanKind.CLIENT if span.kind == "request" else trace.SpanKind.INTERNAL,
            attributes={"gen_ai.operation.name": operation, "gen_ai.conversation.id": self._session_id},
            start_time=span.began,
        )

    def end(self, span: Span) -> None:
        """See `Exporter.end`."""
        from opentelemetry.trace import Status, StatusCode

        traced = self._open.pop(id(span), None)
        if traced is None:
            return
        traced.set_attributes(_named(span))
        for name, value in span.facts.items():
            if value is not None:
                traced.set_attribute(_ATTRIBUTES.get(name, f"laguna.{name}"), [value] if name == "finish" else value)
        for name, value in span.content.items() if self.content else ():
            traced.set_attribute(_ATTRIBUTES.get(name, f"laguna.{name}"), _text(value))
        if span.error:
            traced.set_attribute("error.type", span.error)
            traced.set_status(Status(StatusCode.ERROR, span.error))
        traced.end(span.ended)

    def close(self) -> None:
        """See `Exporter.close`."""
        # The SDK waits as long as its exporter does, ten seconds and more; nobody at work has to.
        leaving = threading.Thread(target=self._provider.shutdown, daemon=True)
        leaving.start()
        leaving.join(PATIENCE)
        if leaving.is_alive():
            self._stop()


def _named(span: Span) -> dict[str, str]:
    match span.kind:
        case "prompt":
            return {"gen_ai.agent.name": "laguna-agent"}
        case "request":
            return {"gen_ai.request.model": span.name, "gen_ai.response.model": span.name}
        case "tool":
            return {"gen_ai.tool.name": span.name, "gen_ai.tool.type": "function"}
    return {}


def _text(value: Any) -> str:
    clean = redact(msgspec.to_builtins(value), tokens=True)
    return (clean if isinstance(clean, str) else msgspec.json.encode(clean).decode())[:TEXT_CAP]


def open_exporter(session_id: str, *, content: bool) -> SpanExporter:
    """The exporter that the environment describes. Raises UsageError where the packages are absent or the variables
    make no sense."""
    try:
        absent = find_spec("opentelemetry.sdk") is None or find_spec("opentelemetry.exporter.otlp.proto.http") is None
    except ModuleNotFoundError:
        absent = True
    if absent:
        raise UsageError("otel is on, but its packages are not installed; type: pip install 'laguna-agent[otel]'")
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.util.re import parse_env_headers

    # A receiver that is away is no news for a person at work, and a library must not write into a face's stderr.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL + 1)
    # They hold keys, so they are taken out of the environment like all keys.
    name, given = next(((name, given) for name in HEADERS if (given := held(name))), ("", ""))
    headers = parse_env_headers(given, liberal=True)
    for value in headers.values():
        know(value.rpartition(" ")[2], name)
    named = {} if os.environ.get("OTEL_SERVICE_NAME") else {SERVICE_NAME: "laguna-agent"}
    try:
        provider = TracerProvider(
            resource=Resource.create({**named, SERVICE_VERSION: __version__}), shutdown_on_exit=False
        )
        exporter = OTLPSpanExporter(headers=headers or None)
        provider.add_span_processor(BatchSpanProcessor(exporter))
    except ValueError as error:
        raise UsageError(f"OpenTelemetry cannot be set up as the OTEL_* variables say: {error}") from error
    return SpanExporter(provider, exporter.shutdown, session_id, content=content)
