"""The seam between the core and everything that it cannot compute again.

Live, a step is done and then written to the log; replayed, it is read from the log and not done. The loop between two
steps is the same code in both, so a replayed run yields the same bytes, runs no command, and finds out where today's
core would act differently from the recorded one (`Diverged`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import Any, Protocol, TypeVar

import msgspec

from laguna_agent.agent.journal import Journal
from laguna_agent.agent.store import AnyRecord, Ended, Replied, Said, ToolRan, Tried, Waiting
from laguna_agent.backend.base import Delta, Request
from laguna_agent.errors import LagunaError
from laguna_agent.redaction import redact, shows_secret

R = TypeVar("R", bound=AnyRecord)


class Diverged(LagunaError):
    """The replayed core asked for something else than the recorded one did.

    Exit 2: the recording is a file that the command line names, and this program cannot follow it.
    """

    exit_code = 2
    outcome = "diverged"


class RecordedEnd(LagunaError):
    """The recording ends here: the run was interrupted, or a limit that only the clock knows was reached."""


class Tape(Protocol):
    """Live or recorded."""

    recorded: bool

    async def take(self, kind: type[R], produce: Callable[[], Awaitable[R]]) -> R:
        """One step's outcome: produced and logged, or read back."""
        ...

    def note(self, record: AnyRecord) -> None:
        """Log something that the core computed itself; replayed, compare it with what was recorded."""
        ...

    def peek(self) -> AnyRecord | None:
        """The record that comes next, where there is a recording and it goes on."""
        ...


class LiveTape:
    """Does each step, and logs it."""

    recorded = False

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    async def take(self, kind: type[R], produce: Callable[[], Awaitable[R]]) -> R:
        """Produce the record, log it, give it as it was logged: without the keys and tokens that it came with."""
        record = redacted(encodable(await produce()), tokens=True)
        self._journal.append(record)
        return record

    def note(self, record: AnyRecord) -> None:
        """Log the record. What was said follows from what came before, or goes into what comes next: it becomes durable
        with the record after it."""
        self._journal.append(record, durable=not isinstance(record, Said))

    def peek(self) -> AnyRecord | None:
        """Nothing: what comes is not known yet."""
        return None


class RecordedTape:
    """Reads each step back; also the backend of a replayed run, since answers are steps too."""

    recorded = True

    def __init__(self, records: Iterable[AnyRecord]) -> None:
        """`records` are those between one Prompted record and the next, or the next Opened."""
        self._records = (record for record in records if not isinstance(record, Tried | Waiting))
        self._next: AnyRecord | None = next(self._records, None)

    def _pop(self) -> AnyRecord:
        record = self._next
        if record is None or isinstance(record, Ended):
            raise RecordedEnd("the recording ends here")
        self._next = next(self._records, None)
        return record

    async def take(self, kind: type[R], produce: Callable[[], Awaitable[R]]) -> R:
        """Read the next record back; raises Diverged where it is of another kind."""
        record = self._pop()
        if not isinstance(record, kind):
            raise Diverged(f"the replay needs a {kind.__name__} record, but the log goes on with {_name(record)}")
        return record

    def note(self, record: AnyRecord) -> None:
        """Compare with the next record; raises Diverged where they differ."""
        recorded = self._pop()
        # Compared as they are written: JSON has one word for NaN and null.
        if msgspec.json.encode(recorded) != msgspec.json.encode(record):
            raise Diverged(f"the replay made {_name(record)}, the log has {_name(recorded)}")

    def peek(self) -> AnyRecord | None:
        """The record that comes next; None at the end of a recording that was cut off."""
        return self._next

    async def stream(self, digest: str) -> AsyncGenerator[Delta]:
        """The recorded answer to the request with this digest; raises what the live backend raised."""
        record = self._pop()
        if not isinstance(record, Replied):
            raise Diverged(f"the replay asks the model, but the log goes on with {_name(record)}")
        if record.request != digest:
            raise Diverged("the replay asks the model something else than the recorded run did")
        for delta in record.deltas:
            yield delta
        if record.error is not None:
            raise recorded_error(*record.error)


def encodable(record: R) -> R:
    """The record with U+FFFD for every lone surrogate. File names that are not UTF-8 bring them in, and neither the
    log, nor a server, nor a face can spell them."""
    try:
        msgspec.json.encode(record)
    except UnicodeEncodeError:
        return msgspec.convert(_spellable(msgspec.to_builtins(record)), type(record))
    return record


def redacted(record: R, *, tokens: bool = False) -> R:
    """The record with a mark in the place of every known key, and (`tokens`) of every token that shows its format. What
    the model called for stays as the model wrote it."""
    if not shows_secret(msgspec.json.encode(record), tokens=tokens):
        return record
    clean = msgspec.convert(redact(msgspec.to_builtins(record), tokens=tokens), type(record))
    return msgspec.structs.replace(clean, call=record.call) if isinstance(record, ToolRan) else clean


def _spellable(value: Any) -> Any:
    if isinstance(value, str):
        return spellable(value)
    if isinstance(value, dict):
        return {spellable(key): _spellable(each) for key, each in value.items()}
    return [_spellable(each) for each in value] if isinstance(value, list | tuple) else value


def spellable(text: str) -> str:
    """The text with U+FFFD for every lone surrogate."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def request_digest(request: Request) -> str:
    """The identity of a request."""
    import hashlib

    return hashlib.sha256(msgspec.json.encode(request, order="deterministic")).hexdigest()


def recorded_error(kind: str, message: str) -> LagunaError:
    """The error that a Replied record holds; a cancelled stream becomes RecordedEnd."""
    import laguna_agent.errors as tree

    known = getattr(tree, kind, None)
    if isinstance(known, type) and issubclass(known, tree.ProviderError):
        return known(message)
    return RecordedEnd("the recorded answer was cut off here")


def _name(record: AnyRecord) -> str:
    return type(record).__name__
