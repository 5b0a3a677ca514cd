"""What a session tells of its own work: how long things took, what they cost, what was tried again.

    with session.telemetry.span("request", model) as span:
        span.facts["input_tokens"] = 1204

The session's log has a line for each span, as JSON; an exporter may have them too (`otel`). None of it is on the tape,
and the core depends on none of it: it holds the clock's times, and is for people who look for what went wrong. Texts of
the conversation are never in `facts`; `content` holds them, for an exporter that was told to take them.
"""

from __future__ import annotations

import datetime
import os
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, time_ns
from typing import Any, Literal, Protocol

import msgspec

from laguna_agent.config import LogLevel, Settings
from laguna_agent.directories import open_private
from laguna_agent.redaction import redact, without_tokens

Kind = Literal["prompt", "request", "tool", "permission", "check"]

LOG_FILE = "diagnostics.jsonl"
LOG_BYTES = 2_000_000
"""Of one file; the one before it is kept too, as `diagnostics.1.jsonl`."""
RECENT = 40
"""Lines that are kept in memory for a crash report, whatever the level."""
NAME_CAP = 100
"""Characters of a span's name."""
_RANKS: dict[str, int] = {"debug": 0, "info": 1, "warning": 2, "error": 3, "off": 4}


@dataclass
class Span:
    """A piece of work under way. `error` names the class of what ended it; `facts` are plain JSON data."""

    kind: Kind
    name: str
    parent: Span | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    content: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    began: int = field(default_factory=time_ns)
    ended: int = 0
    seconds: float = 0.0


class Exporter(Protocol):
    """Who else hears of spans; `content` says whether with texts. Never raises."""

    content: bool

    def begin(self, span: Span) -> None:
        """The work begins."""
        ...

    def end(self, span: Span) -> None:
        """It is over."""
        ...

    def close(self) -> None:
        """Send what is left. Blocking, a few seconds at most."""
        ...


class SessionLog:
    """The session's own log; the file comes about with its first line. A log that cannot be written is given up, for
    work must not end because of it."""

    def __init__(self, path: Path, level: LogLevel, *, stderr: bool = False) -> None:
        self._path = path
        self._rank = _RANKS[level]
        self._stderr = stderr
        self._fd = -1
        self._size = 0
        self.recent: deque[bytes] = deque(maxlen=RECENT)

    def write(self, level: str, event: str, facts: dict[str, Any]) -> None:
        """Write a line, where the level is wanted."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        line = msgspec.json.encode(redact({"at": now, "level": level, "event": event, **facts}, tokens=True))
        self.recent.append(line)
        if _RANKS[level] < self._rank:
            return
        if self._stderr and sys.stderr is not None:
            sys.stderr.write(line.decode() + "\n")
        try:
            self._append(line + b"\n")
        except OSError:
            self._rank = _RANKS["off"]

    def _append(self, line: bytes) -> None:
        if self._fd >= 0 and self._size + len(line) > LOG_BYTES:
            self.close()
            self._path.replace(self._path.with_suffix(".1.jsonl"))
        if self._fd < 0:
            self._fd = open_private(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            self._size = os.fstat(self._fd).st_size
        os.write(self._fd, line)
        self._size += len(line)

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Telemetry:
    """See the module. Without a log and an exporter it does nothing."""

    def __init__(self, log: SessionLog | None = None, exporter: Exporter | None = None) -> None:
        self._log = log
        self._exporter = exporter
        self._prompt: Span | None = None

    @property
    def content(self) -> bool:
        """Whether anybody wants texts."""
        return self._exporter is not None and self._exporter.content

    def begin(self, kind: Kind, name: str, **facts: Any) -> Span:
        """The work begins; whatever is begun while a prompt is under way is part of it."""
        # A model may call for anything by any name.
        name = without_tokens(name)[:NAME_CAP]
        span = Span(kind, name, self._prompt, facts)
        span.seconds = -monotonic()
        if kind == "prompt":
            self._prompt = span
        if self._log is not None:
            self._log.write("debug", f"{kind} begins", {"name": name, **facts})
        if self._exporter is not None:
            self._exporter.begin(span)
        return span

    def end(self, span: Span) -> None:
        """It is over."""
        span.seconds += monotonic()
        span.ended = span.began + int(span.seconds * 1e9)
        if span is self._prompt:
            self._prompt = None
        if self._log is not None:
            facts = {"name": span.name, "seconds": round(span.seconds, 3), **span.facts}
            self._log.write("warning" if span.error else "info", span.kind, facts | _error(span))
        if self._exporter is not None:
            self._exporter.end(span)

    @contextmanager
    def span(self, kind: Kind, name: str, **facts: Any) -> Iterator[Span]:
        """A piece of work from its beginning to its end, whatever that is."""
        span = self.begin(kind, name, **facts)
        try:
            yield span
        except BaseException as error:
            span.error = type(error).__name__
            status = getattr(error, "status", None)
            if isinstance(status, int):
                span.facts["status"] = status
            raise
        finally:
            self.end(span)

    def note(self, level: LogLevel, event: str, **facts: Any) -> None:
        """Something that happened, without a duration."""
        if self._log is not None:
            self._log.write(level, event, facts)

    def recent(self) -> list[str]:
        """The newest lines, also those that the level keeps out of the file."""
        return [line.decode() for line in self._log.recent] if self._log is not None else []

    def close(self) -> None:
        """Close the log and send what an exporter still has. Blocking."""
        if self._exporter is not None:
            self._exporter.close()
        if self._log is not None:
            self._log.close()


def _error(span: Span) -> dict[str, str]:
    return {"error": span.error} if span.error else {}


SILENT = Telemetry()
"""For what is run again from a log: nothing of it happens now."""


def open_telemetry(settings: Settings, folder: Path) -> Telemetry:
    """The telemetry of a session whose files are in `folder`. Raises UsageError where an exporter is wished for that is
    not installed."""
    log = SessionLog(folder / LOG_FILE, settings.log_level, stderr=settings.log_stderr)
    if not settings.otel:
        return Telemetry(log)
    from laguna_agent.agent.otel import open_exporter

    return Telemetry(log, open_exporter(folder.name, content=settings.otel_content))
