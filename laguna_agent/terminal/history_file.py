"""The file of what the person has sent, across sessions: one JSON line for each prompt, the newest last.

Several chats write to it at once, so each prompt is appended under a lock as it is sent, whole or not at all, and who
shortens the file works on what it then holds. Known keys are taken out before anything is written. A file that cannot
be read or written costs the history and nothing else. Lines of an older version, plain text, are read too.

Knows texts; must not know how they are edited.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from laguna_agent.atomic import replacing
from laguna_agent.directories import open_private, private_directory, state_directory
from laguna_agent.redaction import without_keys

ENTRIES = 2_000
LONGEST = 20_000
"""Characters that are kept of an entry."""
_READ = 16 * 1024 * 1024
"""Bytes from the end of the file that are read at most."""
_SHORTEN_FROM = 4 * 1024 * 1024
"""Bytes of the file from which on it is shortened."""
_SHORTENED = 2 * 1024 * 1024
"""Characters that all entries of a shortened file have at most."""
_OLD_MARK = "_HiStOrY_V2_"


class _Entry(msgspec.Struct, frozen=True):
    text: str


class HistoryFile:
    """See the module. All of it blocks, and none of it raises."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or state_directory() / "chat_history"

    def stored(self) -> list[str]:
        """What the file holds, the oldest first, each text once. Empty where nothing can be read."""
        try:
            with self._path.open("rb") as file:
                entries, old, size = _read(file.fileno())
        except OSError:
            return []
        if old or size > _SHORTEN_FROM or len(entries) > ENTRIES + ENTRIES // 4:
            self.shorten()
        return entries[-ENTRIES:]

    def append(self, text: str) -> None:
        """Keep a prompt."""
        line = msgspec.json.encode(_Entry(without_keys(text)[:LONGEST])) + b"\n"
        try:
            private_directory(self._path.parent)
            with _locked(self._path) as handle:
                _append(handle, line)
        except OSError:
            # A full disk or a home that cannot be written is no reason to disturb a person who wrote a prompt.
            return

    def shorten(self) -> None:
        """Write the file anew with what counts."""
        try:
            with _locked(self._path) as handle:
                entries = _newest(_read(handle)[0])
                with replacing(self._path, 0o600) as file:
                    file.writelines(msgspec.json.encode(_Entry(without_keys(each))) + b"\n" for each in entries)
        except OSError:
            return


def _newest(entries: list[str]) -> list[str]:
    """The last entries, as many as a shortened file holds."""
    room = _SHORTENED
    for at in range(len(entries) - 1, -1, -1):
        room -= len(entries[at])
        if room < 0 or len(entries) - at > ENTRIES:
            return entries[at + 1 :]
    return entries


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """The file, open for reading and appending, that nobody else writes to meanwhile. Raises OSError."""
    while True:
        handle = open_private(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            # Who shortens it puts another file in its place: then ours is nobody's any more.
            if _is_at(handle, path):
                yield handle
                return
        finally:
            os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
    ours = os.fstat(handle)
    try:
        there = path.lstat()
    except FileNotFoundError:
        return False
    return (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)


def _append(handle: int, line: bytes) -> None:
    size = os.fstat(handle).st_size
    # A crash, or an older version, may have left a line without its end.
    if size and os.pread(handle, 1, size - 1) != b"\n":
        line = b"\n" + line
    try:
        complete = os.write(handle, line) == len(line)
    except OSError:
        os.ftruncate(handle, size)
        raise
    if not complete:
        os.ftruncate(handle, size)


def _read(handle: int) -> tuple[list[str], bool, int]:
    """The entries of the file, the oldest first, each at its last place; whether there are lines of the older version;
    and its size."""
    size = os.fstat(handle).st_size
    start = max(0, size - _READ)
    data = os.pread(handle, size - start, start)
    lines = data.decode("utf-8", "replace").split("\n")
    if start:
        del lines[0]
    old = False
    entries: dict[str, None] = {}
    for line in lines:
        text = _text_of(line)
        if text is None:
            text, old = line, old or bool(line)
        if text.strip() and text != _OLD_MARK:
            entries.pop(text, None)
            entries[text] = None
    return list(entries), old, size


def _text_of(line: str) -> str | None:
    """The text in a line; None where it is a line of the older version."""
    if not line.startswith('{"text":'):
        return None
    try:
        return msgspec.json.decode(line, type=_Entry).text
    except msgspec.MsgspecError:
        return None
