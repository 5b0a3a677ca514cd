"""What the person has sent, as the input line goes back to it: read in a thread at first use, kept as it is sent.

Knows the order of texts; the file and its dangers are `history_file`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator
from pathlib import Path

from prompt_toolkit import history

from laguna_agent.terminal.history_file import ENTRIES, LONGEST, HistoryFile


class History(history.History):
    """The prompts of all sessions."""

    def __init__(self, path: Path | None = None) -> None:
        super().__init__()
        self._file = HistoryFile(path)
        self._loading: asyncio.Task[list[str]] | None = None
        self._appended: list[str] = []

    async def load(self) -> AsyncGenerator[str, None]:
        """Every entry, the newest first."""
        if not self._loaded:
            if self._loading is None:
                self._loading = asyncio.create_task(asyncio.to_thread(self._file.stored))
            stored = await asyncio.shield(self._loading)
            # Once more: several may have waited, and what was sent meanwhile comes before what was stored.
            if not self._loaded:
                self._loaded_strings = list(dict.fromkeys([*reversed(self._appended), *reversed(stored)]))[:ENTRIES]
                self._loaded = True
        # Of a copy: more may be sent while this is taken.
        for entry in list(self._loaded_strings):
            yield entry

    def load_history_strings(self) -> Iterable[str]:
        return reversed(self._file.stored())

    def append_string(self, string: str) -> None:
        self.add(string)

    def store_string(self, string: str) -> None:
        self._file.append(string)

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
        self._file.append(text if whole is None or len(whole) > LONGEST else whole)

    def newest(self) -> Iterator[str]:
        """What is loaded so far, the newest first, without a copy."""
        return iter(self._loaded_strings if self._loaded else reversed(self._appended))
