"""A recorded session run again: the same loop, fed from the log instead of from a server, a disk and a person.

Every prompt of the log goes through a real `Session`, so what comes out is what today's core makes of the recorded
inputs; where that is not what the recorded core made of them the replay ends with `Diverged`. No command runs, no file
but the log is opened, nothing is written, and no server is needed.

A run that a signal, the clock or a lost server ended has its end in the log, and the replay takes it from there. One
that was killed has none: its replay goes as far as the log does and yields no TurnEnded.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path

import msgspec

from laguna_agent import __version__
from laguna_agent.agent.conversation import rebuild
from laguna_agent.agent.ending import record_of
from laguna_agent.agent.events import Event, TurnEnded
from laguna_agent.agent.outcome import INTERRUPTED, RunRecord, Verdict, record_without_turn
from laguna_agent.agent.permissions import deny_all
from laguna_agent.agent.session import Session
from laguna_agent.agent.store import AnyRecord, Configured, Ended, Opened, Prompted, Rewound, find_session, read_log
from laguna_agent.agent.tape import Diverged, RecordedEnd, RecordedTape
from laguna_agent.agent.turn import Turn
from laguna_agent.config import Settings
from laguna_agent.errors import UsageError

# What the core computes of a run's record; time, and what git said of the workspace, are only in the log.
COMPUTED = ("outcome", "stop_reason", "exit_code", "text", "turns", "input_tokens", "output_tokens", "cost", "denied")
STOPPED_BY_SIGNAL = frozenset({"interrupted", "terminated"})


def find_recording(id_or_file: str) -> Path:
    """The log that a session's id (or a prefix of it) or a file's name stands for; raises UsageError."""
    if Path(id_or_file).is_file():
        return Path(id_or_file)
    if "/" in id_or_file or "." in id_or_file:
        raise UsageError(f"no such recording: {id_or_file}")
    return find_session(id_or_file)


async def replay(path: Path) -> AsyncGenerator[Event]:
    """The events of every prompt in the log at `path`, as they went out when it was recorded.

    Raises UsageError where the file is no session log, and Diverged at the first step that comes out differently.
    Leave it early only through `contextlib.aclosing`.
    """
    records = _records(path)
    session: _Replayed | None = None
    for at, record in enumerate(records):
        if isinstance(record, Opened):
            session = _Replayed(record, records[: _settled(records, at + 1)])
        elif isinstance(record, Configured):
            assert session is not None, "_records looks for it"
            session.configure(_settings(record.settings, session.id), anew=record.anew)
        elif isinstance(record, Prompted):
            assert session is not None, "_records looks for it"
            session.feed(records, at + 1)
            async with aclosing(session.prompt(record.content)) as events:
                async for event in events:
                    if not isinstance(event, TurnEnded):
                        yield event
                    elif session.problem is not None:
                        raise _explained(session.problem, session.program)
                    elif session.ended is not None:
                        yield event


def recorded_result(path: Path) -> RunRecord:
    """The final record of the recording's last prompt; where the run was killed before it wrote one, a record that
    says so."""
    records = _records(path)
    last = max(at for at, record in enumerate(records) if isinstance(record, Prompted))
    ended = next((record for record in _segment(records, last + 1) if isinstance(record, Ended)), None)
    if ended is not None:
        return ended.result
    opened = next(record for record in reversed(records[:last]) if isinstance(record, Opened))
    killed = msgspec.structs.replace(INTERRUPTED, message="the recorded run was killed; the recording ends here")
    return record_without_turn(killed, session_id=opened.id, model=opened.model)


def _records(path: Path) -> list[AnyRecord]:
    try:
        records = read_log(path)
    except OSError as error:
        raise UsageError(f"cannot read the recording {path}: {error.strerror}") from error
    if not records or not isinstance(records[0], Opened):
        raise UsageError(f"{path} is not a session log, or was cut off before it began")
    if not any(isinstance(record, Prompted) for record in records):
        raise UsageError(f"{path} has no prompt to replay")
    return records


def _segment(records: Sequence[AnyRecord], start: int) -> Sequence[AnyRecord]:
    """The records from `start` that belong to one prompt."""
    for end in range(start, len(records)):
        if isinstance(records[end], Opened | Configured | Prompted):
            return records[start:end]
    return records[start:]


def _settled(records: Sequence[AnyRecord], at: int) -> int:
    """The end of what was taken back when the session was opened, from `at` on."""
    while at < len(records) and isinstance(records[at], Rewound):
        at += 1
    return at


def _settings(recorded: dict[str, object], session_id: str) -> Settings:
    try:
        settings = msgspec.convert(recorded, Settings)
    except msgspec.ValidationError as error:
        raise UsageError(f"the recording of session {session_id} holds unreadable settings: {error}") from error
    # The clock that ended a run is in the log; this machine's may be slower.
    return msgspec.structs.replace(settings, max_time=None)


def _explained(problem: Exception, program: str) -> Exception:
    """A divergence between two versions of the program needs no bug to explain it."""
    here = f"laguna-agent {__version__}"
    if isinstance(problem, Diverged) and program != here:
        return Diverged(f"{problem}; the session was recorded by {program}, this is {here}")
    return problem


class _Replayed(Session):
    """A session whose inputs come from a log. `ended` is the recorded end of the prompt, `problem` why the replay
    cannot go on."""

    def __init__(self, opened: Opened, before: Sequence[AnyRecord]) -> None:
        settings = _settings(opened.settings, opened.id)
        self.program = opened.program
        self.ended: Ended | None = None
        self.problem: Exception | None = None
        super().__init__(opened, settings, deny_all, RecordedTape(()))
        self.continue_from(rebuild(before))
        self._so_far = before

    def feed(self, records: Sequence[AnyRecord], start: int) -> None:
        """Take the next prompt's steps from the records that begin at `start`."""
        segment = _segment(records, start)
        self.tape = RecordedTape(segment)
        self.ended = next((record for record in segment if isinstance(record, Ended)), None)
        self._so_far = records[: start + len(segment)]

    def records(self) -> Sequence[AnyRecord]:
        return self._so_far

    def admit(self, emitted: int) -> None:
        if self.ended is not None and emitted >= self.ended.events:
            raise RecordedEnd("the recorded run had sent its last event here")

    def crashed(self, bug: Exception) -> Verdict:
        if self.ended is None or self.ended.result.outcome != "internal_error":
            self.problem = bug
        return INTERRUPTED

    async def end(self, verdict: Verdict, turn: Turn | None, seconds: float, emitted: int) -> RunRecord:
        ended, left = self.ended, self.tape.peek()
        if verdict.error == Diverged.__name__:
            self.problem = Diverged(verdict.message)
        elif self.problem is None and verdict.error != RecordedEnd.__name__ and not isinstance(left, Ended | None):
            self.problem = Diverged(f"the replay ends here, but the log goes on with {type(left).__name__}")
        computed = await record_of(self, verdict, turn, seconds)
        if ended is None or self.problem is not None:
            return computed
        if verdict.error != RecordedEnd.__name__ and ended.result.outcome not in STOPPED_BY_SIGNAL:
            self._compare(computed, ended, emitted)
        return ended.result

    def _compare(self, computed: RunRecord, ended: Ended, emitted: int) -> None:
        for name in COMPUTED:
            ours, recorded = getattr(computed, name), getattr(ended.result, name)
            if ours != recorded:
                self.problem = Diverged(f"the replay ends with {name} {ours!r}, the recorded run with {recorded!r}")
                return
        if emitted != ended.events:
            self.problem = Diverged(f"the replay gave {emitted} events, the recorded run {ended.events}")

    def turn_ended(self, record: RunRecord, error: str) -> TurnEnded:
        return super().turn_ended(record, self.ended.error if self.ended is not None else error)
