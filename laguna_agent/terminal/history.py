"""What the person has sent, across sessions: one JSON line for each prompt, the newest last.

Several chats write to the file at once, so each prompt is appended under a lock as it is sent, whole or not at all, and
who shortens the file works on what it then holds. Known keys are taken out before anything is written. A file that
cannot be read or written costs the history and nothing else. Lines of an older version, plain text, are read too.

Knows texts; must not know how they are edited.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from prompt_toolkit import history

from laguna_agent.atomic import replacing
from laguna_agent.directories import open_private, private_directory, state_directory
from laguna_agent.redaction import without_keys

ENTRIES = 2_000
LONGEST = 20_000
"""Characters of an entry that is kept; of a longer prompt the file has the text with its pastes folded, cut to this."""
_READ = 16 * 1024 * 1024
"""Bytes from the end of the file that are read at most."""
_SHORTEN_FROM = 4 * 1024 * 1024
_OLD_MARK = "_HiStOrY_V2_"


class _Entry(msgspec.Struct, frozen=True):
    text: str


class History(history.History):
    """The prompts of all sessions. Read in a thread, at first use."""

    def __init__(self, path: Path | None = None) -> None:
        super().__init__()
        self._path = path or state_directory() / "chat_history"
        self._loading: asyncio.Task[list[str]] | None = None
        self._appended: list[str] = []

    async def load(self) -> AsyncGenerator[str, None]:
        """Every entry, the newest first."""
        if not self._loaded:
            if self._loading is None:
                self._loading = asyncio.create_task(asyncio.to_thread(self.stored))
            stored = await asyncio.shield(self._loading)
            # Once more: several may have waited, and what was sent meanwhile comes before what was stored.
            if not self._loaded:
                self._loaded_strings = list(dict.fromkeys([*reversed(self._appended), *reversed(stored)]))[:ENTRIES]
                self._loaded = True
        for entry in self._loaded_strings:
            yield entry

    def load_history_strings(self) -> Iterable[str]:
        return reversed(self.stored())

    def append_string(self, string: str) -> None:
        self.add(string)

    def store_string(self, string: str) -> None:
        self._store(string)

    def add(self, text: str, whole: str | None = None) -> None:
        """Keep a prompt that was sent. `whole` is the same one with its pastes unfolded, for other sessions, which do
        not have them."""
        if not text.strip():
            return
        known = self._loaded_strings if self._loaded else self._appended
        if text in known:
            known.remove(text)
        if self._loaded:
            known.insert(0, text)
        else:
            known.append(text)
        self._store(text if whole is None or len(whole) > LONGEST else whole)

    def newest(self) -> Iterator[str]:
        """What is loaded so far, the newest first, without a copy."""
        return iter(self._loaded_strings if self._loaded else reversed(self._appended))

    def stored(self) -> list[str]:
        """What the file holds, the oldest first, each text once. Blocks; empty where nothing can be read."""
        try:
            with self._path.open("rb") as file:
                entries, old, size = _read(file.fileno())
        except OSError:
            return []
        if old or size > _SHORTEN_FROM or len(entries) > ENTRIES + ENTRIES // 4:
            self._shorten()
        return entries[-ENTRIES:]

    def _store(self, text: str) -> None:
        line = msgspec.json.encode(_Entry(without_keys(text)[:LONGEST])) + b"\n"
        try:
            private_directory(self._path.parent)
            with _locked(self._path) as handle:
                _append(handle, line)
        except OSError:
            # A full disk or a home that cannot be written is no reason to disturb a person who wrote a prompt.
            return

    def _shorten(self) -> None:
        """Write the file anew with what counts."""
        try:
            with _locked(self._path) as handle:
                entries = _read(handle)[0][-ENTRIES:]
                with replacing(self._path, 0o600) as file:
                    file.writelines(msgspec.json.encode(_Entry(without_keys(each))) + b"\n" for each in entries)
        except OSError:
            return


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
