"""What a program writes to a terminal, taken apart: text, controls and escape sequences.

Knows ECMA-48's grammar and which modes a terminal keeps; must not know the program. `Tap` stands between the program
and pyte, which misreads several things that programs write today (`CSI > 1 u` as "restore the cursor", `CSI < u` as
text, `CSI > 4 ; 2 m` as underlined) and knows neither OSC 8, 9 and 52 nor DCS.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_STRING = r"(?:[^\x07\x18\x1a\x1b\x9c]|\x1b(?!\\))*+"
_TOKEN = re.compile(
    rf"""
    \x1b\[(?P<csi>[0-?]*[ -/]*[@-~])
    |\x1b\](?P<osc>{_STRING})(?:\x07|\x1b\\|\x9c)
    |\x1b[PX^_](?P<dcs>{_STRING})(?:\x1b\\|\x9c)
    |\x1b(?P<esc>[ -/]*[0-OQ-WYZ\\`-~])
    |(?P<c1>[\x80-\x9f])
    |(?P<control>[\x00-\x1a\x1c-\x1f\x7f])
    |(?P<text>[^\x00-\x1f\x7f-\x9f]+)
    """,
    re.VERBOSE,
)
_PLAIN_CSI = re.compile(r"\??[0-9;]*[@-~]\Z")
ALTERNATE = frozenset({47, 1047, 1049})
MOUSE = frozenset({9, 1000, 1001, 1002, 1003, 1005, 1006, 1015, 1016})
BRACKETED_PASTE, CURSOR, SYNCHRONIZED, CURSOR_KEYS, FOCUS = 2004, 25, 2026, 1, 1004


@dataclass(frozen=True)
class Token:
    """One piece of output. `kind` is text, control, csi, osc, dcs, esc or c1; `value` is without its introducer."""

    kind: str
    value: str


class Tokens:
    """Cuts bytes, in any split, into tokens; an unfinished sequence waits for its rest."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    def feed(self, data: bytes) -> Iterator[Token]:
        text = self._rest + self._decoder.decode(data)
        at = 0
        while at < len(text):
            found = _TOKEN.match(text, at)
            if found is None:
                break
            assert found.lastgroup is not None
            yield Token(found.lastgroup, found[found.lastgroup])
            at = found.end()
        self._rest = text[at:]

    @property
    def unfinished(self) -> str:
        """What has begun and not ended: a sequence without its end would swallow whatever comes next."""
        return self._rest


@dataclass
class Modes:
    """What the terminal remembers between two bytes, apart from its cells."""

    private: set[int] = field(default_factory=lambda: {7, CURSOR})
    keyboard_pushes: int = 0
    modify_other_keys: int = 0
    keypad: bool = False
    cursor_shape: int = 0
    title: str | None = None
    bells: int = 0
    seen: set[str] = field(default_factory=set)
    """Every sequence that was written, with its numbers taken out: `CSI #;#H`, `OSC 8`."""
    commands: list[str] = field(default_factory=list)
    """Every operating system command in full, but the titles."""
    frames: int = 0
    """How many synchronized updates have ended."""

    @property
    def alternate_screen(self) -> bool:
        return bool(self.private & ALTERNATE)

    @property
    def mouse(self) -> bool:
        return bool(self.private & MOUSE)

    @property
    def bracketed_paste(self) -> bool:
        return BRACKETED_PASTE in self.private

    @property
    def cursor_visible(self) -> bool:
        return CURSOR in self.private

    @property
    def in_a_frame(self) -> bool:
        """Whether a synchronized update has begun and not ended, so that nothing of it shows yet."""
        return SYNCHRONIZED in self.private

    def left_over(self) -> list[str]:
        """What a shell that comes next would suffer from; empty where the terminal is as it was."""
        found = [] if self.cursor_visible else ["the cursor is hidden"]
        for name, numbers in (
            ("the alternate screen", ALTERNATE),
            ("mouse reports", MOUSE),
            ("bracketed paste", {BRACKETED_PASTE}),
            ("an open frame", {SYNCHRONIZED}),
            ("application cursor keys", {CURSOR_KEYS}),
            ("focus reports", {FOCUS}),
        ):
            if self.private & set(numbers):
                found.append(f"{name} on")
        if 7 not in self.private:
            found.append("no automatic margins")
        if self.keyboard_pushes > 0:
            found.append("a keyboard protocol is pushed")
        if self.modify_other_keys:
            found.append("modifyOtherKeys is on")
        if self.keypad:
            found.append("the application keypad is on")
        if self.cursor_shape:
            found.append(f"the cursor has shape {self.cursor_shape}")
        return found

    def note(self, token: Token) -> None:
        """Take in what a token changes."""
        if token.kind == "csi":
            self.seen.add("CSI " + re.sub(r"\d+", "#", token.value))
            self._note_csi(token.value)
        elif token.kind == "osc":
            number = token.value.partition(";")[0]
            self.seen.add(f"OSC {number}")
            if number in {"0", "2"}:
                self.title = token.value.partition(";")[2]
            else:
                self.commands.append(token.value)
        elif token.kind == "esc":
            self.seen.add(f"ESC {token.value}")
            if token.value in "=>":
                self.keypad = token.value == "="
            elif token.value == "c":
                self.private, self.keyboard_pushes = {7, CURSOR}, 0
        elif token.kind == "control" and token.value == "\a":
            self.bells += 1
        elif token.kind in {"dcs", "c1"}:
            self.seen.add(token.kind.upper())

    def _note_csi(self, value: str) -> None:
        final, inside = value[-1], value[:-1]
        if final in "hl" and inside.startswith("?"):
            numbers = {int(number) for number in inside[1:].split(";") if number}
            self.frames += final == "l" and SYNCHRONIZED in numbers & self.private
            self.private = self.private | numbers if final == "h" else self.private - numbers
        elif final == "u" and inside.startswith(">"):
            self.keyboard_pushes += 1
        elif final == "u" and inside.startswith("<"):
            self.keyboard_pushes -= int(inside[1:] or 1)
        elif final == "m" and inside.startswith(">"):
            key, _, level = inside[1:].partition(";")
            self.modify_other_keys = int(level or 0) if key == "4" else self.modify_other_keys
        elif final == "q" and inside.endswith(" "):
            self.cursor_shape = int(inside[:-1] or 0)


def for_pyte(token: Token) -> str | None:
    """A token in words that pyte reads as a terminal would; None for what it has no notion of."""
    if token.kind in {"text", "control"}:
        return token.value
    if token.kind == "csi" and _PLAIN_CSI.match(token.value):
        value = token.value
        if value.endswith("m"):
            # pyte has no faint. It goes as blink, which nothing of ours may be.
            codes = [_FAINT.get(code, code) for code in _simple_codes(value[:-1])]
            value = ";".join(codes) + "m"
        return f"\x1b[{value}"
    return f"\x1b{token.value}" if token.kind == "esc" and len(token.value) == 1 else None


_FAINT = {"2": "5", "22": "22;25", "5": "", "6": ""}


def _simple_codes(inside: str) -> list[str]:
    """The codes of a style; those that name a colour stay in one piece, for a 2 and a 5 in them mean other things."""
    codes, out = inside.split(";"), []
    while codes:
        code = codes.pop(0)
        if code in {"38", "48"} and codes:
            length = {"5": 2, "2": 4}.get(codes[0], 0)
            code, codes = ";".join([code, *codes[:length]]), codes[length:]
        out.append(code)
    return out
