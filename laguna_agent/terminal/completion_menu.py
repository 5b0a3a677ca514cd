"""The list of completions below the input line: what is offered, which one is marked, how it looks.

Offers for commands are there at once; those for files come when they are found, while the person types on: of several
searches only the newest counts, and one runs at a time. Knows offers and columns; must not know keys or the buffer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.layout import ConditionalContainer, FormattedTextControl, Window
from rich.cells import cell_len, set_cell_size

from laguna_agent.terminal.completion import Completer, Offer, Offers

ROWS = 8
_NAME_SHARE = 0.55
"""Of the width, what names may take where there are descriptions too."""
_ROOMY = 60
"""Columns from which on hints are shown, those of at most `_SHORT`."""
_SHORT = 16
_READABLE = 8
"""Columns below which a description says nothing."""
_PULSE = 0.5


class CompletionMenu:
    """See the module. `width` tells the columns there are, `redraw` has the screen drawn again."""

    def __init__(self, completer: Completer, *, width: Callable[[], int], redraw: Callable[[], None]) -> None:
        self._completer = completer
        self._width, self._redraw = width, redraw
        self._offers: Offers | None = None
        self._before = ""
        self._marked = 0
        self._moved = False
        self._quiet_at: int | None = None
        self._paused = False
        self._wanted: str | None = None
        self._search: asyncio.Task[None] | None = None
        self._when_found: Callable[[], None] | None = None
        shown = Condition(lambda: bool(self._rows()))
        control = FormattedTextControl(lambda: self._rows(), focusable=False)
        window = Window(control, height=lambda: len(_lines(self._rows())), dont_extend_height=True, wrap_lines=False)
        self.container = ConditionalContainer(window, filter=shown)

    @property
    def offers(self) -> Offers | None:
        """What is offered for the text as it is now."""
        return self._offers if self._wanted is None else None

    @property
    def open(self) -> bool:
        """Whether there is something to choose from."""
        return self.offers is not None

    @property
    def moved(self) -> bool:
        """Whether the person has marked one themselves."""
        return self._moved

    @property
    def marked(self) -> Offer | None:
        """The offer that a key would take."""
        return None if self.offers is None else self.offers.items[self._marked]

    def changed(self, before: str) -> None:
        """The text before the cursor is this now."""
        if self._paused or before == self._before:
            return
        self._before, self._when_found = before, None
        start = self._completer.begun(before)
        if start is None or start != self._quiet_at:
            self._quiet_at = None
        if start is None or self._quiet_at is not None:
            self._show(None)
        elif self._completer.mentions(before):
            self._look(before)
        else:
            self._show(self._completer.at_once(before))

    def ask(self, before: str, then: Callable[[], None]) -> None:
        """Offer something here though it was declined before. `then` is called once, as soon as there are offers, if
        nothing is typed meanwhile."""
        self._quiet_at, self._before = None, ""
        self.changed(before)
        self._when_found = then
        if self._wanted is None:
            self._found()

    def move(self, rows: int) -> None:
        """Mark another one, around the ends."""
        if self.offers is not None:
            self._marked = (self._marked + rows) % len(self.offers.items)
            self._moved = True

    def close(self) -> bool:
        """Offer no more for what is being typed; False where nothing was offered."""
        was_open = self.open or self._wanted is not None
        self._quiet_at = self._completer.begun(self._before)
        self._show(None)
        return was_open

    @contextmanager
    def paused(self, before: Callable[[], str]) -> Iterator[None]:
        """What changes meanwhile is not typed, and nothing is offered for it."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False
            self._before = before()
            self.close()

    def _show(self, offers: Offers | None) -> None:
        self._wanted = None
        self._set(offers)

    def _set(self, offers: Offers | None) -> None:
        self._offers, self._marked, self._moved = offers, 0, False

    def _look(self, before: str) -> None:
        if self._offers is not None and self._offers.kind != "file":
            self._set(None)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            # A text that is put there before the program runs is not being typed.
            return
        self._wanted = before
        if self._search is None:
            self._search = loop.create_task(self._search_on())

    async def _search_on(self) -> None:
        try:
            while (wanted := self._wanted) is not None:
                search = asyncio.ensure_future(self._completer.files_for(wanted))
                while not (await asyncio.wait({search}, timeout=_PULSE))[0]:
                    self._redraw()
                if self._wanted == wanted:
                    self._wanted = None
                    self._set(await search)
                    self._found()
                    self._redraw()
        finally:
            self._search = None

    def _found(self) -> None:
        then, self._when_found = self._when_found, None
        if then is not None and self.open:
            then()

    def _rows(self) -> StyleAndTextTuples:
        offers = self._offers
        if offers is None:
            note = self._completer.files.note if self._wanted is not None else ""
            return [("class:menu.dim", f"  {note}"[: self._width()])] if note else []
        items, width = offers.items, self._width()
        first = min(max(0, self._marked - ROWS // 2), max(0, len(items) - ROWS))
        shown = items[first : first + ROWS]
        named = [label(offer, width) for offer in shown]
        longest = max(map(cell_len, named))
        described = any(offer.description for offer in shown)
        names = max(1, min(longest, int(width * _NAME_SHARE) if described else width - 2))
        rows: StyleAndTextTuples = []
        for at, (offer, name) in enumerate(zip(shown, named, strict=True), first):
            chosen = at == self._marked
            style = "class:menu.selected" if chosen else "class:menu"
            kept = set_cell_size(fitting(name, names, keep_end=offers.kind == "file"), names)
            rows += [("", "\n")] if rows else []
            rows.append((style, (("> " if chosen else "  ") + kept)[:width]))
            room = width - names - 4
            if offer.description and room >= _READABLE:
                rows.append((style if chosen else "class:menu.dim", "  " + fitting(offer.description, room)))
        return rows


def label(offer: Offer, width: int) -> str:
    """What an offer is called; with what may follow it, where there is room for that."""
    hinted = offer.hint and width >= _ROOMY and cell_len(offer.hint) <= _SHORT
    return f"{offer.shown} {offer.hint}" if hinted else offer.shown


def fitting(text: str, width: int, *, keep_end: bool = False) -> str:
    """The text in at most `width` columns, with an ellipsis for what is left out: the end of it, or the beginning."""
    if cell_len(text) <= width:
        return text
    if width < 2:
        return "\u2026"[:width]
    if not keep_end:
        return set_cell_size(text, width - 1).rstrip() + "\u2026"
    while cell_len(text) > width - 1:
        text = text[max(1, (cell_len(text) - width) // 2) :]
    return "\u2026" + text


def _lines(rows: StyleAndTextTuples) -> list[str]:
    return "".join(fragment[1] for fragment in rows).split("\n")
