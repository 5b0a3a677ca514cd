"""A source taken apart: its definitions, imports and other top-level statements, and the text of each.

Knows sources; it must not know files or edits.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

import msgspec

from laguna_agent.code.symbols import Symbol, symbols
from laguna_agent.code.toplevel import TopLevel, top_level

_BRACED_METHODS = frozenset({"javascript", "typescript", "tsx", "java", "cpp"})


class Outline(msgspec.Struct, frozen=True):
    """`source` is UTF-8; all offsets are in its bytes."""

    language: str
    source: bytes
    definitions: list[Symbol]
    top: TopLevel

    def slice(self, start: int, end: int) -> str:
        """The text between two offsets."""
        return self.source[start:end].decode("utf-8", "replace")

    def text(self, symbol: Symbol) -> str:
        """A definition, decorators and the like included."""
        return self.slice(symbol.start, symbol.end).rstrip()

    def head(self, symbol: Symbol) -> str:
        """What stands before the definition proper: decorators, attributes, `export`, `template <...>`."""
        return self.slice(symbol.start, symbol.definition).strip()

    def parts(self, outer: Symbol) -> list[Symbol]:
        """The definitions directly inside a class or the like."""
        return [each for each in self.definitions if each.outer == outer.qualified and encloses(outer, each)]

    def outside_parts(self, outer: Symbol) -> str:
        """The body of a class without the definitions inside it, comments and docstrings."""
        pieces, at = [], outer.body
        for part in self.parts(outer):
            pieces.append(self.slice(at, part.start))
            at = part.end
        text = " ".join([*pieces, self.slice(at, outer.end)])
        return re.sub(r'(?s)""".*?"""|(?m:(?:#|//)[^\n]*$)', " ", text)

    def is_stub(self, symbol: Symbol) -> bool:
        """Whether the body is empty, `...` or `pass`: a stand-in for what somebody did not write out."""
        body = re.sub(r'(?s)""".*?"""|(?m:(?:#|//)[^\n]*$)', "", self.slice(symbol.body, symbol.end))
        return symbol.body < symbol.end and body.strip(" \t\n{};") in ("", "...", "pass")

    def indent_at(self, offset: int) -> str:
        """The indentation of the line that holds an offset."""
        line = self.slice(self.source.rfind(b"\n", 0, offset) + 1, offset)
        return line[: len(line) - len(line.lstrip())]

    def names(self) -> str:
        """The names of the definitions, for people; at most twenty."""
        return ", ".join(each.qualified for each in self.definitions[:20]) or "nothing"


def outline(language: str, text: str) -> Outline:
    """Take a source apart."""
    source = text.encode("utf-8", "replace")
    found = symbols(language, source)
    return Outline(language, source, found, top_level(language, source, found))


def outline_of_block(language: str, block: str) -> Outline:
    """Take a block of code apart; methods that stand without their class are found too."""
    plain = outline(language, block)
    if plain.definitions or language not in _BRACED_METHODS:
        return plain
    opening = "class __ {\n"
    wrapped = symbols(language, f"{opening}{block}}}\n".encode("utf-8", "replace"))
    inner = [_unwrapped(each, len(opening)) for each in wrapped if each.outer]
    return msgspec.structs.replace(plain, definitions=inner)


def encloses(outer: Symbol, inner: Symbol) -> bool:
    """Whether one definition lies inside another."""
    return inner is not outer and inner.outer != "" and outer.start <= inner.start and inner.end <= outer.end


def outermost(definitions: Iterable[Symbol]) -> list[Symbol]:
    """Those that lie in no other."""
    every = list(definitions)
    return [each for each in every if not any(encloses(other, each) for other in every)]


def likeness(a: str, b: str) -> float:
    """How like two pieces of code are, from 0 to 1."""
    return difflib.SequenceMatcher(None, a[:4000], b[:4000], autojunk=False).ratio()


def _unwrapped(symbol: Symbol, skip: int) -> Symbol:
    return msgspec.structs.replace(
        symbol,
        qualified=symbol.qualified.removeprefix("__."),
        outer=symbol.outer.removeprefix("__").removeprefix("."),
        start=symbol.start - skip,
        end=symbol.end - skip,
        definition=symbol.definition - skip,
        body=symbol.body - skip,
    )
