"""What stands for something longer in the input line: a mark such as `[pasted 240 lines]` or `[image 1: a.png 8x8]`.

A mark is plain text, so it is moved and deleted like text, and what it stands for goes with it: what is sent is made
from the marks that are still whole. Knows texts and blocks; must not know keys or screens.
"""

from __future__ import annotations

import re

from laguna_agent.messages import ContentBlock, ImageBlock, TextBlock
from laguna_agent.terminal.images import Image

MOST_LINES = 10
MOST_CHARACTERS = 1_000
_NOTHING = re.compile(r"(?!)")


class Pastes:
    """The marks of one chat. None is ever used for two things, so that a prompt of before can be taken up again."""

    def __init__(self) -> None:
        self._marks: dict[str, str | ImageBlock] = {}
        self._images = 0
        self._pattern = _NOTHING

    def folded(self, text: str) -> str:
        """What to put into the input line for a pasted text: itself, or a mark where it is long."""
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        lines = text.count("\n") + (not text.endswith("\n"))
        if lines <= MOST_LINES and len(text) <= MOST_CHARACTERS:
            return text
        what = f"pasted {lines:,} lines" if lines > 1 else f"pasted {len(text):,} characters"
        return self._new(what, text)

    def attached(self, image: Image) -> str:
        """The mark of an image."""
        self._images += 1
        return self._new(f"image {self._images}: {image.shown}", image.block)

    def content(self, text: str) -> tuple[ContentBlock, ...]:
        """What a prompt says once its marks are given way to what they stand for. The mark of an image stays, so that
        the model knows which one is spoken of, and the image follows it."""
        blocks: list[ContentBlock] = []
        words = ""
        done = 0
        for found in self._pattern.finditer(text):
            meant = self._marks[found[0]]
            words += text[done : found.start()]
            done = found.end()
            if isinstance(meant, str):
                words += meant
            else:
                blocks += (TextBlock(words + found[0]), meant)
                words = ""
        words += text[done:]
        return (*blocks, TextBlock(words)) if words or not blocks else tuple(blocks)

    def whole(self, text: str) -> str:
        """The text with what was pasted in the place of its marks; images keep theirs."""
        return self._pattern.sub(self._meant, text)

    def ending_at(self, text: str, at: int) -> int:
        """The length of the mark that ends at a place; 0 where none does."""
        return next((len(mark) for mark in self._marks if text.endswith(mark, 0, at)), 0)

    def beginning_at(self, text: str, at: int) -> int:
        """The length of the mark that begins at a place; 0 where none does."""
        return next((len(mark) for mark in self._marks if text.startswith(mark, at)), 0)

    def spans(self, line: str) -> list[tuple[int, int]]:
        """Where marks are in a line."""
        return [found.span() for found in self._pattern.finditer(line)] if "[" in line else []

    def _meant(self, found: re.Match[str]) -> str:
        meant = self._marks[found[0]]
        return meant if isinstance(meant, str) else found[0]

    def _new(self, what: str, meant: str | ImageBlock) -> str:
        mark, number = f"[{what}]", 1
        while mark in self._marks:
            number += 1
            mark = f"[{what}, {number}]"
        self._marks[mark] = meant
        self._pattern = re.compile("|".join(map(re.escape, self._marks)))
        return mark
