"""What a server's tool is called in the session: `server__tool`, in the letters that every model server takes."""

from __future__ import annotations

import hashlib
import re

LONGEST = 64
_HASH = 8


class Names:
    """Names of a session's tools. A name once given stays the tool's, so that the prefix stays the same."""

    def __init__(self) -> None:
        self._given: dict[tuple[int, str], str] = {}
        self._taken: set[str] = set()

    def name(self, place: int, server: str, tool: str) -> str:
        """The name of a tool of the server at `place` of the session's list. Where two come out alike, the later one
        gets a number."""
        key = (place, tool)
        if key not in self._given:
            wanted = candidate = readable(server, tool)
            number = 1
            while candidate in self._taken:
                number += 1
                ending = f"_{number}"
                candidate = wanted[: LONGEST - len(ending)] + ending
            self._given[key] = candidate
            self._taken.add(candidate)
        return self._given[key]


def readable(server: str, tool: str) -> str:
    """`server__tool` of at most 64 characters out of [a-zA-Z0-9_-]; a hash replaces what does not fit."""
    name = f"{_clean(server) or 'mcp'}__{_clean(tool) or 'tool'}"
    if len(name) <= LONGEST:
        return name
    return f"{name[: LONGEST - _HASH - 1]}_{hashlib.sha256(name.encode()).hexdigest()[:_HASH]}"


def _clean(text: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_-]+", "_", text)
