"""What a command wrote: whole on disk, its beginning and end in memory, cleaned for a reader, without known keys.

Knows bytes and text; it must not know processes. Memory stays flat however much is written.
"""

from __future__ import annotations

import codecs
import contextlib
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

# ECMA-48 sequences: CSI, OSC (ended by BEL or ST), the other strings (DCS, SOS, PM, APC), and two-character ones. The
# lengths are bounds on what may wait for its end, and a string holds no control: what is more is shown as it came, so
# that an order left open cannot swallow the output behind it.
_STRING = "[^\x00-\x1f\x7f-\x9f]{0,4096}"
_ESCAPES = re.compile(
    rf"\x1b\[[0-?]{{0,64}}[ -/]{{0,8}}[@-~]|\x1b\]{_STRING}(?:\x07|\x1b\\)|\x1b[PX^_]{_STRING}\x1b\\"
    r"|\x1b[ -/]{0,8}[0-OQ-WYZ\\`-~]"
)
_UNFINISHED = re.compile(rf"\x1b(?:\[[0-?]{{0,64}}[ -/]{{0,8}}|\]{_STRING}\x1b?|[PX^_]{_STRING}\x1b?|[ -/]{{0,8}})\Z")
_OVERSTRUCK = re.compile("([^\x00-\x1f\x7f-\x9f])(?:\x08\\1)+")
# A bell, a backspace and a change of character set: what honest programs write to a terminal.
_DROPPED = re.compile("[\x07\x08\x0e\x0f]")
_CONTROLS = re.compile("[\x00-\x06\x0b\x10-\x1f\x7f-\x9f](?<!\r)")


class Cleaner:
    """Turns a command's bytes, in any split, into text without escape sequences and control characters.

    Well-formed escape sequences, bells and backspaces are dropped, what is struck over itself (as in manual pages) is
    there once; every other control is made visible. Bytes that are not UTF-8 become U+FFFD. Newlines, tabs, form feeds
    and lone carriage returns stay, and so does what hides in Unicode: `laguna_agent.visible` is for what is shown.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = self._end = self._last = ""

    def feed(self, data: bytes, *, final: bool = False) -> str:
        """The text that `data` completes; an escape sequence or a line end cut at the end is held back."""
        text = self._held + self._decoder.decode(data, final)
        unfinished = None if final or "\x1b" not in text else _UNFINISHED.search(text)
        at = unfinished.start() if unfinished else len(text)
        text, self._held = self._end + _ESCAPES.sub("", text[:at]), text[at:]
        # What comes next may make a CR part of a line end, and a backspace part of a letter struck twice.
        cut = not final and text.endswith(("\r", "\x08"))
        text, self._end = (text[:-1], text[-1]) if cut else (text, "")
        last, self._last = self._last, text[-1:] or self._last
        if "\x08" in text:
            text = _OVERSTRUCK.sub(r"\1", last + text)[len(last) :]
        text = _DROPPED.sub("", text.replace("\r\n", "\n"))
        return _CONTROLS.sub(lambda match: f"\\u{{{ord(match[0]):X}}}", text)


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
            self._early.clear()
            file, self._file = self._file, None
            # What is left in the buffer fails once more.
            with contextlib.suppress(OSError):
                if file is not None:
                    file.close()

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
