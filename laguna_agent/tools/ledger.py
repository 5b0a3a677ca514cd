"""What the model last saw of each file, so that it never overwrites a change it does not know of.

Knows digests and, for files that are not too long, their text; it must not know the disk: callers bring the bytes.
"""

from __future__ import annotations

import difflib
import hashlib
from collections import OrderedDict
from itertools import islice
from pathlib import Path

from laguna_agent.errors import ToolError

TEXT_CAP = 256 * 1024
"""Bytes up to which a file's content is kept for the diff."""
TOTAL_CAP = 16 * 1024 * 1024
"""Bytes kept in all; beyond it the least recently seen files keep only their digest."""
FILES_CAP = 10_000
"""Files remembered; beyond it the least recently seen are forgotten."""
DIFF_LINES = 120


class FileLedger:
    """The content of each file as the model last saw it, by resolved path."""

    def __init__(self) -> None:
        self._digests: OrderedDict[Path, str] = OrderedDict()
        self._contents: OrderedDict[Path, bytes] = OrderedDict()
        self.held = 0
        """Bytes of content kept."""

    def saw(self, path: Path, data: bytes) -> None:
        """The model knows that `path` holds `data`: it read it, wrote it, or was shown it."""
        self.forget(path)
        self._digests[path] = _digest(data)
        if len(self._digests) > FILES_CAP:
            self.forget(next(iter(self._digests)))
        if len(data) <= TEXT_CAP:
            self._contents[path] = data
            self.held += len(data)
        while self.held > TOTAL_CAP:
            self.held -= len(self._contents.popitem(last=False)[1])

    def forget(self, path: Path) -> None:
        """Nothing is known of `path` any more."""
        self._digests.pop(path, None)
        self.held -= len(self._contents.pop(path, b""))

    def knows(self, path: Path) -> bool:
        """Whether the model has seen the file at all."""
        return path in self._digests

    def latest(self, count: int) -> list[Path]:
        """The files seen last, at most `count`, the newest first."""
        return list(islice(reversed(self._digests), count))

    def check(self, path: Path, shown: str, data: bytes) -> None:
        """Raise ToolError with the diff when the file, now holding `data`, is not what the model last saw.

        The diff tells the model the new content, so the same call made again is then judged against it. A file that
        was never seen passes. Where the old text was too long to keep, the model must read the file again.
        """
        digest = self._digests.get(path)
        if digest is None or digest == _digest(data):
            return
        old = self._contents.get(path)
        if old is None or b"\0" in old + data:
            raise ToolError(f"{shown} changed on disk since you read it. Read it again, then repeat the call.")
        diff = list(
            difflib.unified_diff(
                old.decode("utf-8", "replace").splitlines(),
                data.decode("utf-8", "replace").splitlines(),
                f"{shown} (as you saw it)",
                f"{shown} (now)",
                lineterm="",
                n=2,
            )
        )
        if len(diff) > DIFF_LINES:
            raise ToolError(
                f"{shown} changed on disk since you read it ({len(diff)} lines of diff). "
                "Read it again, then repeat the call."
            )
        self.saw(path, data)
        raise ToolError(
            f"Nothing was changed: {shown} changed on disk since you read it. What changed:\n"
            + ("\n".join(diff) or "(line ends or the final newline only)")
            + "\nRepeat the call if it still applies."
        )


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
