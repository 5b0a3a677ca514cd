"""A list to choose from: arrows, Enter, and words that narrow it. Knows labels; must not know what is chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Generic, TypeVar

from prompt_toolkit.application.current import get_app
from prompt_toolkit.filters import Condition
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from rich.cells import cell_len
from rich.segment import Segment

from laguna_agent.event_lines import one_line
from laguna_agent.terminal.folding import cut, hanging
from laguna_agent.terminal.lines import Line

if TYPE_CHECKING:
    from laguna_agent.terminal.theme import Theme

T = TypeVar("T")
LONGEST = 400
"""Characters of a label or a description that are looked at."""
Item = tuple[T, str, str]


def _printable(item: Item[T]) -> Item[T]:
    return (item[0], one_line(item[1], LONGEST), one_line(item[2], LONGEST))


class Picker(Generic[T]):
    """A `face.Panel` whose result is the value of an item, None where nothing was chosen.

    `items` are (value, label, description); `chosen` is the value that is in focus first. `moved` is called with each
    value that comes into focus.
    """

    def __init__(
        self,
        title: str,
        items: Iterable[Item[T]],
        theme: Theme,
        *,
        filterable: bool = True,
        chosen: T | None = None,
        moved: Callable[[T], None] | None = None,
    ) -> None:
        self.reading: str | None = None
        self.done: Callable[[T | None], None] | None = None
        self.theme = theme
        self._title = one_line(title)
        self.note = ""
        """What is said below the items, of a list that is not complete yet for instance."""
        self._items = [_printable(item) for item in items]
        self._filterable = filterable
        self._moved = moved
        self._filter = ""
        self._shown = list(self._items)
        self._at = next((at for at, item in enumerate(self._items) if item[0] == chosen), 0)
        self._top = 0
        self._page = 1

    def add(self, items: Iterable[Item[T]]) -> None:
        """More items, behind those that there are; what is in focus stays so."""
        self._items += map(_printable, items)
        self._narrow(self._filter)
        get_app().invalidate()

    # -- what is shown ----------------------------------------------------------------------------------------------

    def lines(self, width: int, height: int) -> list[Line]:
        """The title with the filter, the items around the one in focus, and how many there are."""
        head = self._head(width)[: max(1, height - 2)]
        self._page = max(1, height - len(head) - 1)
        self._top = min(max(self._top, self._at - self._page + 1), self._at, max(0, len(self._shown) - 1))
        label_width = min(max((cell_len(item[1]) for item in self._shown), default=0), max(12, width // 2))
        items = self._shown[self._top : self._top + self._page]
        rows = [self._row(at, item, label_width, width) for at, item in enumerate(items, self._top)]
        if not rows:
            rows = [(Segment(cut("  nothing like that", width), self.theme.style("dim")),)]
        return [*head, *rows, self._foot(width)][: max(1, height)]

    def _head(self, width: int) -> list[Line]:
        strong, accent = self.theme.style("strong"), self.theme.style("accent")
        if not self._filter:
            return hanging(self._title, width, strong)
        tail = self._filter
        while cell_len(tail) > max(1, width - 4):
            tail = tail[1:]
        return [*hanging(self._title, width, strong), (Segment("/ ", accent), Segment(tail, accent))]

    def _row(self, at: int, item: Item[T], label_width: int, width: int) -> Line:
        chosen = at == self._at
        mark = Segment("> " if chosen else "  ", self.theme.style("accent"))
        label = cut(item[1], min(label_width, width - 2) if item[2] else width - 2)
        line: Line = (mark, Segment(label, self.theme.style("strong" if chosen else "text")))
        room = width - label_width - 4
        if not item[2] or room < 8:
            return line
        gap = " " * (label_width - cell_len(label) + 2)
        return (*line, Segment(gap), Segment(cut(item[2], room), self.theme.style("dim")))

    def _foot(self, width: int) -> Line:
        number = f"{self._at + 1} of {len(self._shown)}; " if len(self._shown) > self._page else ""
        narrows = ", words narrow it" if self._filterable else ""
        note = f"{self.note}; " if self.note else ""
        return (Segment(cut(f"{note}{number}Enter chooses, Esc leaves{narrows}", width), self.theme.style("dim")),)

    # -- the keys ---------------------------------------------------------------------------------------------------

    @cached_property
    def keys(self) -> KeyBindings:
        """Arrows, pages, Enter; what else is typed narrows the list."""
        keys = KeyBindings()

        def bind(action: Callable[[], None], *names: str) -> None:
            for name in names:
                keys.add(name)(lambda _: action())

        bind(lambda: self._move(-1), "up", "c-p", "s-tab")
        bind(lambda: self._move(1), "down", "c-n", "tab")
        bind(lambda: self._move(-self._page), "pageup")
        bind(lambda: self._move(self._page), "pagedown")
        bind(lambda: self._move(-len(self._shown)), "home")
        bind(lambda: self._move(len(self._shown)), "end")
        bind(self._choose, "enter")
        narrowing = Condition(lambda: self._filterable)

        @keys.add("backspace", filter=narrowing)
        def _(_: KeyPressEvent) -> None:
            self._narrow(self._filter[:-1])

        @keys.add("c-u", filter=narrowing)
        def _(_: KeyPressEvent) -> None:
            self._narrow("")

        @keys.add(Keys.Any, filter=narrowing)
        @keys.add(Keys.BracketedPaste, filter=narrowing)
        def _(event: KeyPressEvent) -> None:
            typed = one_line(event.data, LONGEST)
            if event.data == " " or typed:
                self._narrow(self._filter + (typed or " "))

        return keys

    def _move(self, by: int) -> None:
        # By one it goes around; by pages it stops at the ends.
        if self._shown:
            last = len(self._shown) - 1
            at = self._at + by
            self._at = at % (last + 1) if abs(by) == 1 else max(0, min(last, at))
            self._tell()

    def _narrow(self, text: str) -> None:
        focused = self._shown[self._at][0] if self._shown else None
        self._filter = text[:LONGEST]
        words = self._filter.casefold().split()
        self._shown = [item for item in self._items if all(word in f"{item[1]} {item[2]}".casefold() for word in words)]
        self._at = next((at for at, item in enumerate(self._shown) if item[0] == focused), 0)
        if self._shown and self._shown[self._at][0] != focused:
            self._tell()

    def _tell(self) -> None:
        if self._moved is not None and self._shown:
            self._moved(self._shown[self._at][0])

    def _choose(self) -> None:
        if self._shown:
            self._finish(self._shown[self._at][0])

    def typed(self, text: str | None) -> None:
        """Nothing is read as a whole line here."""

    def interrupted(self) -> None:
        """Nothing is chosen."""
        self._finish(None)

    def _finish(self, value: T | None) -> None:
        done, self.done = self.done, None
        if done is not None:
            done(value)
