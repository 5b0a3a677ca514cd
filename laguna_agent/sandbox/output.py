"""What a command wrote: whole on disk, its beginning and end in memory, cleaned for a reader, without known keys.

Knows bytes and text; it must not know processes. Memory stays flat however much is written.
"""

from __future__ import annotations

import codecs
import os
import re
import threading
from collections import deque
from pathlib import Path
from typing import BinaryIO

from laguna_agent.directories import open_private, private_directory
from laguna_agent.redaction import StreamRedactor, TokenStream

SPOOL_CAP = 64 * 1024 * 1024
"""Bytes of one command's output that are kept on disk; what comes after is counted and dropped."""
SPOOL_FROM = 16 * 1024
"""Output up to this many bytes is not worth a file."""
KEPT = 128 * 1024
"""Characters of cleaned output kept in memory: half from the beginning, half from the end."""

# ECMA-48 sequences: CSI, OSC (ended by BEL or ST), the other strings (DCS, SOS, PM, APC), and two-character ones.
_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[PX^_][^\x1b]*\x1b\\|\x1b[ -/]*[0-OQ-WYZ\\`-~]"
)
_UNFINISHED = re.compile(r"(?:\x1b(?:\[[0-?]*[ -/]*|\][^\x07\x1b]*\x1b?|[PX^_][^\x1b]*\x1b?|[ -/]*)|\r)\Z")
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_LONGEST_ESCAPE = 4096


class Cleaner:
    """Turns a command's bytes, in any split, into text without escape sequences and control characters.

    Bytes that are not UTF-8 become U+FFFD. Newlines, tabs and lone carriage returns stay.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""

    def feed(self, data: bytes, *, final: bool = False) -> str:
        """The text that `data` completes; an escape sequence or a CR cut at the end is held back."""
        text = self._held + self._decoder.decode(data, final)
        self._held = ""
        start = text.rfind("\x1b", -_LONGEST_ESCAPE)
        # A string sequence ends with ESC \, so its own ESC may be the one before the last.
        before = text.rfind("\x1b", max(0, start - _LONGEST_ESCAPE), start) if start > 0 else -1
        for begin in (before, start, len(text) - 1):
            if not final and begin >= 0 and _UNFINISHED.match(text, begin):
                text, self._held = text[:begin], text[begin:]
                break
        text = _ESCAPES.sub("", text).replace("\r\n", "\n")
        return _CONTROLS.sub("", text)


class Capture:
    """One command's output: `feed` it bytes, ask for `text` at any time."""

    def __init__(self, spool: Path) -> None:
        self.bytes = 0
        """All that was written, also beyond the cap."""
        self._path = spool
        self._lock = threading.Lock()
        self._spool_cap = SPOOL_CAP
        self._file: BinaryIO | None = None
        self._early = bytearray()
        self._cleaner = Cleaner()
        # Twice: escape sequences between the letters of a key hide it from the first, and not from a reader.
        self._raw, self._keys = TokenStream(), StreamRedactor("")
        self._chars = 0
        self._head = ""
        self._tail: deque[str] = deque()
        self._tail_chars = 0

    @property
    def spool(self) -> Path | None:
        """The file that holds the output as it was written, where there is enough of it to have one."""
        return self._path if self.bytes > SPOOL_FROM else None

    def feed(self, data: bytes) -> str:
        """Take the next bytes; the text they gave."""
        with self._lock:
            self._take(self._raw.feed_bytes(data))
            return self._add(self._keys.feed(self._cleaner.feed(data)))

    def close(self) -> str:
        """No more will come; the text that was held back."""
        with self._lock:
            self._take(self._raw.feed_bytes(b"", final=True))
            if self._file is not None:
                self._file.close()
                self._file = None
            return self._add(self._keys.feed(self._cleaner.feed(b"", final=True), final=True))

    def text(self, cap: int) -> str:
        """At most about `cap` characters: everything, or the beginning and the end with a line that says what is
        missing and where the whole lies."""
        cap = min(cap, KEPT)
        with self._lock:
            whole = self._head + "".join(self._tail)
        if self._chars <= cap and len(whole) == self._chars:
            return _settle(whole)
        head, tail = whole[: cap // 2], whole[-(cap // 2) :]
        head = head[: head.rfind("\n") + 1] or head
        tail = tail[tail.find("\n") + 1 :] or tail
        missing = self._chars - len(head) - len(tail)
        where = f"; all of it is in {self.spool}" if self.spool else ""
        if self.bytes > self._spool_cap:
            where = f"; the first {self._spool_cap:,} of {self.bytes:,} bytes are in {self.spool}"
        line_end = "" if head.endswith("\n") else "\n"
        return _settle(f"{head}{line_end}[... {missing:,} characters left out{where} ...]\n{tail}")

    def _take(self, data: bytes) -> None:
        self._keep(data)
        self.bytes += len(data)

    def _keep(self, data: bytes) -> None:
        if self.bytes + len(data) <= SPOOL_FROM:
            self._early += data
            return
        try:
            if self._file is None and self.bytes <= SPOOL_FROM:
                private_directory(self._path.parent)
                self._file = os.fdopen(open_private(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb")
                data = bytes(self._early) + data
                self._early.clear()
            if self._file is not None:
                self._file.write(data[: max(0, self._spool_cap - self._file.tell())])
                self._file.flush()
        except OSError:
            # A full disk must not stop the command; the note in `text` says how much was kept.
            self._spool_cap = self._path.stat().st_size if self._path.exists() else 0
            self._file = None

    def _add(self, text: str) -> str:
        self._chars += len(text)
        room = KEPT // 2 - len(self._head)
        self._head += text[:room] if room > 0 else ""
        rest = text[room:] if room > 0 else text
        if rest:
            self._tail.append(rest)
            self._tail_chars += len(rest)
        while self._tail and self._tail_chars - len(self._tail[0]) >= KEPT // 2:
            self._tail_chars -= len(self._tail.popleft())
        return text


def _settle(text: str) -> str:
    """What a terminal would still show: of a line overwritten with carriage returns, the last state."""
    if "\r" not in text:
        return text
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
