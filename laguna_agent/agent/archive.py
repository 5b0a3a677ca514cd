"""The sessions on disk as a collection: listed, titled, copied, deleted.

Knows the layout of `store` and reads logs; opens none for writing, so that a session in use elsewhere can be listed.
A title that a person gave lies beside the log, in `title`: it is no part of what happened.
"""

from __future__ import annotations

import datetime
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from laguna_agent.agent.commands import is_for_the_model
from laguna_agent.agent.journal import Journal
from laguna_agent.agent.store import (
    AnyRecord,
    Configured,
    Ended,
    FellBack,
    Opened,
    Prompted,
    Redone,
    Replied,
    Rewound,
    find_session,
    iterate_log,
    new_session_id,
    session_directory,
    sessions_directory,
)
from laguna_agent.atomic import OWNER_ONLY, replace_file
from laguna_agent.checkpoints.housekeeping import copy as copy_checkpoints
from laguna_agent.checkpoints.housekeeping import forget
from laguna_agent.errors import UsageError
from laguna_agent.messages import ContentBlock, TextBlock
from laguna_agent.redaction import without_keys

TITLE_FILE = "title"
SUMMARY_FILE = "summary.json"
LONG_LOG = 1 << 20
"""Bytes from which on a log's summary is kept."""
TITLE_CAP = 80
"""Characters of a title."""


class SessionSummary(msgspec.Struct, frozen=True):
    """A session in a list; `title` is the person's own, else the first line of its first prompt. `turns` are requests
    of the model, all that were made; `prompts` are those that were not taken back."""

    id: str
    cwd: str
    model: str
    title: str
    created: str
    updated: str
    turns: int
    outcome: str
    roots: tuple[str, ...] = ()
    prompts: int = 0


def title_of(content: tuple[ContentBlock, ...]) -> str:
    """What a prompt would be called in a list: its first line that says something."""
    text = "".join(block.text for block in content if isinstance(block, TextBlock))
    return next((line.strip() for line in text.split("\n") if line.strip()), "")[:TITLE_CAP]


def is_recorded(session_id: str) -> bool:
    """Whether there is a session of exactly this id; a prefix of one is none."""
    known = re.fullmatch(r"[0-9A-Za-z-]+", session_id) is not None
    return known and (session_directory(session_id) / "log.jsonl").is_file()


def given_title(session_id: str) -> str | None:
    """The title that a person gave the session."""
    try:
        return (session_directory(session_id) / TITLE_FILE).read_text(encoding="utf-8")
    except OSError:
        return None


def set_title(session_id: str, title: str) -> str:
    """Give a session a title, which is returned as it was stored: on one line, not too long. Raises UsageError."""
    path = find_session(session_id)
    stored = without_keys(" ".join(title.split()))[:TITLE_CAP]
    try:
        replace_file(path.with_name(TITLE_FILE), stored.encode(), mode=OWNER_ONLY)
    except OSError as error:
        raise UsageError(f"cannot store the title of session {session_id}: {error.strerror}") from error
    return stored


def summarize(path: Path) -> SessionSummary | None:
    """The summary of one log, None where not even its first record is whole. Holds one record at a time."""
    opened: Opened | None = None
    title, turns, prompts, outcome, model = "", 0, 0, "interrupted", ""
    before: list[tuple[int, str]] = []
    undone: list[tuple[list[tuple[int, str]], tuple[int, str]]] = []
    roots: tuple[str, ...] = ()
    try:
        updated = _updated(path)
        for record in iterate_log(path):
            match record:
                case Opened():
                    opened = opened or record
                    roots, model = record.roots, record.model
                case Configured(settings={"model": str(chosen)}) | FellBack(model=chosen):
                    model = chosen
                case Prompted(content=content):
                    if is_for_the_model(content):
                        before.append((prompts, title))
                        undone.clear()
                    outcome, prompts = "interrupted", prompts + 1
                    title = title or title_of(content)
                case Rewound(prompts=taken_back):
                    latest = (prompts, title)
                    prompts, title = before[-taken_back] if taken_back <= len(before) else (0, "")
                    undone.append((before[-taken_back:], latest))
                    del before[-taken_back:]
                case Redone() if undone:
                    again, (prompts, title) = undone.pop()
                    before += again
                case Replied():
                    turns += 1
                case Ended(result=result):
                    outcome = result.outcome
    except UsageError:
        outcome = "damaged"
    except OSError:
        return None
    if opened is None:
        return None
    title = given_title(path.parent.name) or title
    return SessionSummary(opened.id, opened.cwd, model, title, opened.created, updated, turns, outcome, roots, prompts)


class _Kept(msgspec.Struct, frozen=True):
    """A summary with what it was made of: the size of the log, and when log and title were last changed."""

    stamp: tuple[int, int, int]
    summary: SessionSummary


def _summary(path: Path) -> SessionSummary | None:
    """As `summarize`. Of a long log the summary is kept beside it for as long as the log is as it was: a list would
    read all of them again."""
    try:
        log = path.stat()
    except OSError:
        return None
    if log.st_size < LONG_LOG:
        return summarize(path)
    stamp = (log.st_size, log.st_mtime_ns, _modified(path.with_name(TITLE_FILE)))
    place = path.with_name(SUMMARY_FILE)
    with suppress(OSError, msgspec.MsgspecError):
        kept = msgspec.json.decode(place.read_bytes(), type=_Kept)
        if kept.stamp == stamp:
            return kept.summary
    found = summarize(path)
    if found is not None:
        with suppress(OSError):  # a disk that is full, or read only: then the log is read the next time too
            replace_file(place, msgspec.json.encode(_Kept(stamp, found)), mode=OWNER_ONLY)
    return found


def _modified(path: Path) -> int:
    """Nanoseconds; 0 for a log that was deleted since it was found."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _updated(path: Path) -> str:
    return datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def newest_first(cwd: Path | None = None, after: str | None = None) -> Iterator[tuple[str, SessionSummary]]:
    """The sessions (of one working directory) from the newest, each log read only when it is its turn, and each with a
    mark: a list that stopped there goes on with `after`, for as long as that session is not written to.

    Raises UsageError for an `after` that is no mark.
    """
    begin = None if after is None else _read_mark(after)
    logs = [(_modified(path), path.parent.name, path) for path in sessions_directory().glob("*/log.jsonl")]
    for modified, name, path in sorted(logs, reverse=True):
        if begin is not None and (modified, name) >= begin:
            continue
        summary = _summary(path) if cwd is None or _began_in(path, cwd) else None
        if summary is not None:
            yield f"{modified}.{name}", summary


def _read_mark(mark: str) -> tuple[int, str]:
    modified, dot, name = mark.partition(".")
    if not (dot and name and modified.isascii() and modified.isdigit()):
        raise UsageError(f"not a place in the list of sessions: {mark!r}")
    return int(modified), name


def _began_in(path: Path, cwd: Path) -> bool:
    try:
        first = next(iterate_log(path), None)
    except (UsageError, OSError):
        return False
    return isinstance(first, Opened) and first.cwd == str(cwd)


def list_sessions(cwd: Path | None = None) -> list[SessionSummary]:
    """All sessions (of one working directory), newest first."""
    return [summary for _, summary in newest_first(cwd)]


def latest_session(cwd: Path) -> str | None:
    """The id of the newest session of a working directory."""
    return next((summary.id for _, summary in newest_first(cwd)), None)


def recover_session(session_id: str) -> str:
    """Copy what of a damaged session is whole, up to the first line that is not; returns the copy's id. The session
    itself stays as it is. Raises UsageError where not even its beginning can be read."""
    return fork_session(session_id, whole_part=True)


def _whole_part(path: Path) -> Iterator[AnyRecord]:
    with suppress(UsageError):
        yield from iterate_log(path)


def fork_session(session_id: str, between_prompts: bool = False, back: int = 0, *, whole_part: bool = False) -> str:
    """Copy a session as it is on disk, kept outputs too; returns the copy's id. Raises UsageError.

    `between_prompts` leaves out a newest prompt that has not ended: it may be the one that asks for the copy. What a
    backend keeps beside the session stays where it is: the copy looks there (`remembering`). In the copy the newest
    `back` prompts are taken back.
    """
    path = find_session(session_id)
    copy = new_session_id()
    journal = Journal(session_directory(copy) / "log.jsonl")
    try:
        newest: list[AnyRecord] = []
        records = _whole_part(path) if whole_part else iterate_log(path)
        for record in _from_its_beginning(records, path):
            if isinstance(record, Opened):
                record = msgspec.structs.replace(record, id=copy, copy_of=path.parent.name)
            if isinstance(record, Opened | Prompted):
                _append(journal, newest)
            newest.append(record)
        if not between_prompts or any(isinstance(record, Ended) for record in newest):
            _append(journal, newest)
        if back:
            journal.append(Rewound(back), durable=False)
        journal.sync()
        copy_checkpoints(path.parent.name, copy)
        kept = path.parent / "output"
        if kept.is_dir():
            shutil.copytree(kept, session_directory(copy) / "output", dirs_exist_ok=True)
    except BaseException:
        shutil.rmtree(session_directory(copy), ignore_errors=True)
        raise
    finally:
        journal.close()
    return copy


def _from_its_beginning(records: Iterator[AnyRecord], path: Path) -> Iterator[AnyRecord]:
    first = next(records, None)
    if not isinstance(first, Opened):
        raise UsageError(f"the log of session {path.parent.name} does not say how it began: {path}")
    yield first
    yield from records


def _append(journal: Journal, records: list[AnyRecord]) -> None:
    """Move the records to the journal."""
    for record in records:
        journal.append(record, durable=False)
    records.clear()


def delete_session(session_id: str) -> None:
    """Remove a session and everything kept with it; raises UsageError while another process has it open."""
    path = find_session(session_id)
    Journal(path).close()
    forget(path.parent.name)
    shutil.rmtree(path.parent)
