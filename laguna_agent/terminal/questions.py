"""A permission question on the screen: what would happen, in full, and the answers that there are.

Nothing of it is cut: what does not fit is scrolled, and nothing can be allowed before its end was on the screen. The
first answer in focus allows once at most. Knows the request; must not know how the core decided to ask.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from prompt_toolkit.filters import Condition
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from rich.segment import Segment

from laguna_agent.event_lines import ANSWER_KEYS, on_one_line, one_line, printable, proposed, untold_arguments
from laguna_agent.terminal.folding import cut, hanging
from laguna_agent.terminal.lines import Line

if TYPE_CHECKING:
    from laguna_agent.agent.events import PermissionOption, PermissionRequested
    from laguna_agent.agent.permissions import PermissionAnswer
    from laguna_agent.terminal.theme import Theme

SAYING_WHY = "r"
SAY_WHY = "refuse, and say why"
ALL_OF_A_DIFF = 1_000_000
"""Lines of a change that are shown before it is allowed: all."""
SHORT = {
    "allow_once": "allow once",
    "allow_always": "always, as said above",
    "reject_once": "refuse",
    "reject_always": "never, as said above",
}
WORDS = {"y": "once", "a": "always", "n": "refuse", "x": "never", SAYING_WHY: SAY_WHY}
REFUSED = "the person refused"
SAYS = f"{REFUSED} and says: "
"""Goes before the person's reason, so that the model knows whose words they are."""
LEFT_OPEN = "the person left the question open"
STILL = 0.6
"""Seconds without a key after which somebody who was typing has seen the question."""


class PermissionPanel:
    """The panel of one question; see `face.Panel`. `typing` says that the person was at the input line when it came:
    their keys are no answer before they have paused."""

    def __init__(self, request: PermissionRequested, theme: Theme, cwd: Path, *, typing: bool = False) -> None:
        self.request = request
        self.reading: str | None = None
        self.done: Callable[[PermissionAnswer], None] | None = None
        self._theme = theme
        self._cwd = cwd
        self._options = _one_of_each(request.options)
        self._at = self._first()
        self._top = 0
        self._seen = 0
        self._made_for = (0, False)
        self._room = 1
        self._body: list[Line] = []
        self._deaf_until = monotonic() + STILL if typing else 0.0

    def _first(self) -> int:
        """The answer in focus: what is not certain is not allowed by Enter alone."""
        if not self.request.unusual:
            return 0
        return next((at for at, each in enumerate(self._options) if not each.kind.startswith("allow")), 0)

    # -- what is shown ----------------------------------------------------------------------------------------------

    def lines(self, width: int, height: int) -> list[Line]:
        """What is asked and the answers, at most `height` rows of `width` columns."""
        answers, grants_above = self._answers(width, height)
        if (width, grants_above) != self._made_for:
            self._make_body(width, grants_above)
        self._room = max(1, height - len(answers) - 1)
        fits = len(self._body) <= self._room + 1
        self._room += fits
        self._top = max(0, min(self._top, len(self._body) - self._room))
        end = self._top + self._room
        if self._top <= self._seen < end:
            self._seen = min(end, len(self._body))
            # The answers look otherwise once everything was shown.
            answers, _ = self._answers(width, height)
        shown = self._body[self._top : end]
        if not fits:
            shown.append(self._scroll_line(width, len(self._body) - end))
        elif len(shown) + len(answers) < height:
            shown.append(())
        return [*shown, *answers][: max(1, height)]

    def _make_body(self, width: int, grants_above: bool) -> None:
        seen_whole = self._all_seen
        self._body = list(_body(self.request, width, self._theme, self._cwd, grants_above))
        self._made_for, self._top = (width, grants_above), 0
        # Other rows than those that were seen; what was seen whole stays so.
        self._seen = len(self._body) if seen_whole else 0

    @property
    def _all_seen(self) -> bool:
        return bool(self._body) and self._seen >= len(self._body)

    def _scroll_line(self, width: int, below: int) -> Line:
        rows = f"Space: {below} more rows" if below != 1 else "Space: 1 more row"
        words = f"{rows}, then allow"
        if self._all_seen:
            words = rows if below > 0 else "the end; PageUp goes back"
        return (Segment(cut(words, width), self._theme.style("dim" if self._all_seen else "warning")),)

    def _answers(self, width: int, height: int) -> tuple[list[Line], bool]:
        """The answers with what they grant; True where they are told in short because that would fill the screen."""
        full = self._rows([(_key(each), _granting(each, self.request)) for each in self._options], width)
        if len(full) <= max(len(self._options) + 2, height // 2) and len(full) <= height - 3:
            return full, False
        short = self._rows([(_key(each), SHORT[each.kind]) for each in self._options], width)
        if len(short) <= height - 3:
            return short, True
        keys = "  ".join(f"[{key}] {WORDS[key]}" for key in [*map(_key, self._options), SAYING_WHY])
        return hanging(keys, width, self._theme.style("strong"))[: max(1, height - 2)], True

    def _rows(self, choices: list[tuple[str, str]], width: int) -> list[Line]:
        rows: list[Line] = []
        locked = not self._all_seen
        for at, (key, words) in enumerate([*choices, (SAYING_WHY, SAY_WHY)]):
            chosen = at == self._at
            allows = at < len(self._options) and self._options[at].kind.startswith("allow")
            style = self._theme.style("strong" if chosen else "dim" if allows and locked else "text")
            mark = self._theme.style("panel.key")
            rows += hanging(words, width, style, f"{'>' if chosen else ' '} {key}  ", mark)
        return rows

    # -- the keys ---------------------------------------------------------------------------------------------------

    @cached_property
    def keys(self) -> KeyBindings:
        """y, a, n, x and r; arrows and Enter; PageUp and PageDown."""
        keys = KeyBindings()
        choosing = Condition(lambda: self.reading is None)

        def bind(action: Callable[[], None], *names: str) -> None:
            for name in names:
                keys.add(name, filter=choosing)(lambda _: self._pressed(action))

        for option in self._options:
            kind = option.kind
            bind(lambda kind=kind: self._answer(kind), _key(option), _key(option).upper())  # type: ignore[misc]
        bind(self._say_why, SAYING_WHY, SAYING_WHY.upper(), "tab")
        bind(lambda: self._move(-1), "up", "c-p", "s-tab")
        bind(lambda: self._move(1), "down", "c-n")
        bind(lambda: self._scroll(-1), "pageup")
        bind(lambda: self._scroll(1), "pagedown", " ")
        bind(self._enter, "enter")

        @keys.add(Keys.Any, filter=choosing)
        def _text(event: KeyPressEvent) -> None:
            # Whoever types a text does not see the question yet, and a letter of it must not answer it.
            self._deaf_until = monotonic() + STILL

        return keys

    def _pressed(self, action: Callable[[], None]) -> None:
        now = monotonic()
        if now < self._deaf_until:
            self._deaf_until = now + STILL
            return
        action()

    def _move(self, by: int) -> None:
        self._at = (self._at + by) % (len(self._options) + 1)

    def _scroll(self, pages: int) -> None:
        # One row of the last page stays, and no page is left before it was drawn, so that nothing is passed over.
        self._top = max(0, min(self._top + pages * max(1, self._room - 1), self._seen))

    def _enter(self) -> None:
        if self._at == len(self._options):
            self._say_why()
            return
        kind = self._options[self._at].kind
        if kind.startswith("allow") and not self._all_seen:
            self._scroll(1)
            return
        self._answer(kind)

    def _answer(self, kind: str) -> None:
        allowed = kind.startswith("allow")
        if allowed and not self._all_seen:
            return
        self._finish(allowed, "" if allowed else REFUSED, remember=kind.endswith("always"))

    def _say_why(self) -> None:
        self.reading = "refuse: what should it do instead?"

    def typed(self, text: str | None) -> None:
        """The reason; None goes back to the answers."""
        self.reading = None
        if text is not None:
            reason = text.strip()
            self._finish(False, SAYS + reason if reason else REFUSED)

    def interrupted(self) -> None:
        """Nobody answers: it is denied."""
        self._finish(False, LEFT_OPEN)

    def answered_line(self, answer: PermissionAnswer) -> str:
        """The question and its answer on one line, for the history: `allowed once: git push`."""
        what = one_line(_subject(self.request))
        lasts = " for this session" if answer.remember else ""
        if answer.allowed:
            return f"allowed{lasts or ' once'}: {what}"
        said = "" if answer.reason in {"", REFUSED} else f" ({one_line(answer.reason.removeprefix(SAYS))})"
        return f"denied{lasts}: {what}{said}"

    def _finish(self, allowed: bool, reason: str, *, remember: bool = False) -> None:
        from laguna_agent.agent.permissions import PermissionAnswer

        done, self.done = self.done, None
        if done is not None:
            done(PermissionAnswer(allowed, remember, reason))


def _subject(request: PermissionRequested) -> str:
    return request.title.removeprefix("$ ")


def _one_of_each(options: tuple[PermissionOption, ...]) -> list[PermissionOption]:
    """The first option of each kind, what allows once first: an answer says no more than its kind."""
    kinds: dict[str, PermissionOption] = {}
    for option in options:
        kinds.setdefault(option.kind, option)
    return [kinds[kind] for kind in ANSWER_KEYS if kind in kinds] if "allow_once" in kinds else _denying_first(kinds)


def _denying_first(kinds: dict[str, PermissionOption]) -> list[PermissionOption]:
    return sorted(kinds.values(), key=lambda option: option.kind.startswith("allow"))


def _key(option: PermissionOption) -> str:
    return ANSWER_KEYS[option.kind]


def _granting(option: PermissionOption, request: PermissionRequested) -> str:
    """What an answer grants, without the command or its parts where these stand above, word for word."""
    always = {"allow_always": "always: ", "reject_always": "never: "}.get(option.kind, "")
    grant = on_one_line(option.grant)
    # `$ command`. What a server or another agent calls its tool, `db: query`, is no subject that could be left out.
    verb, _, subject = on_one_line(request.title).partition(" ")
    subject = "" if verb.endswith(":") else subject
    head, _, rest = grant.partition(f": {subject}")
    parts = f" (it runs {'; '.join(map(on_one_line, request.parts))})"
    return always + (head if subject and rest in {"", parts} else grant)


QUESTIONS = {
    "edit": "May it change this?",
    "delete": "May it delete this?",
    "move": "May it move this?",
    "execute": "May it run this?",
    "read": "May it read this?",
    "search": "May it search this?",
    "fetch": "May it fetch this?",
}


def _body(request: PermissionRequested, width: int, theme: Theme, cwd: Path, grants: bool) -> Iterator[Line]:
    """All that is asked about, as rows; with `grants` also what the lasting answers grant."""
    text, dim = theme.style("text"), theme.style("dim")
    yield (
        Segment("? ", theme.style("accent")),
        Segment(QUESTIONS.get(request.kind, "May it?"), theme.style("panel.title")),
    )
    yield from hanging(printable(request.title), width, theme.style("strong"), "  ")
    yield from _unusual(request, width, theme)
    for argument in untold_arguments(request):
        yield from hanging(argument, width, text, "  ")
    if len(request.parts) > 1 or (request.parts and request.parts[0].split() != _subject(request).split()):
        yield from hanging("it runs:", width, dim, "  ")
        for part, times in Counter(request.parts).items():
            again = f"  ({times} times)" if times > 1 else ""
            yield from hanging(on_one_line(part) + again, width, text, "  - ", dim)
    yield from _places(request, width, theme, cwd)
    yield from _diffs(request, width, theme)
    for option in request.options if grants else ():
        if option.kind.endswith("always"):
            word = "always" if option.kind == "allow_always" else "never"
            yield from hanging(f"{word}: {on_one_line(option.grant)}", width, dim, "  ")


def _unusual(request: PermissionRequested, width: int, theme: Theme) -> Iterator[Line]:
    for fact in request.unusual:
        yield from hanging(on_one_line(fact), width, theme.style("warning"), "  ! ")


def _places(request: PermissionRequested, width: int, theme: Theme, cwd: Path) -> Iterator[Line]:
    """The files that it is about, where no diff names them."""
    named = {diff.path for diff in request.diffs or proposed(request)}
    for location in request.locations:
        path = Path(location.path)
        shown = str(path.relative_to(cwd)) if path.is_absolute() and path.is_relative_to(cwd) else location.path
        if not named & {location.path, shown} and shown not in request.title:
            line = "" if location.line is None else f":{location.line}"
            yield from hanging(on_one_line(shown) + line, width, theme.style("dim"), "  in ")


def _diffs(request: PermissionRequested, width: int, theme: Theme) -> Iterator[Line]:
    for diff in request.diffs or proposed(request):
        from laguna_agent.terminal.diffs import diff_lines

        yield from diff_lines(diff, width, theme, ALL_OF_A_DIFF)
