"""Put the definitions of a block of code into a source, each in the place of the one it replaces.

For models that cannot point at a piece of text but can write a function out again. Nothing that the block does not
define is lost; what it does besides defining (examples, tests, prints) is left out. Knows sources; it must not know
files or tools.
"""

from __future__ import annotations

import re
import textwrap
from collections import Counter

from laguna_agent.code.indentation import retab, shift, step_of
from laguna_agent.code.outline import Outline, encloses, likeness, outermost, outline, outline_of_block
from laguna_agent.code.preamble import Change, import_changes, statement_changes
from laguna_agent.code.symbols import Symbol
from laguna_agent.errors import ToolError

_CLEAR = 0.1
"""By how much the best of several candidates must be more like the new code than the next."""


def merge(language: str, source: str, block: str) -> list[Change]:
    """The changes, in order and apart from each other, that bring the block's definitions into the source.

    ToolError when the block defines nothing, when a name is ambiguous, or when there is nothing to change.
    """
    there = outline(language, source)
    given = outline_of_block(language, textwrap.dedent(block).strip("\n") + "\n")
    if not given.definitions:
        raise ToolError(f"The code holds no complete definition. The file defines: {there.names()}.")
    merging = _Merge(there, given)
    # Where several are put in at one offset, they stay in this order.
    changes = [*import_changes(there, given), *statement_changes(there, given), *merging.changes()]
    if not changes and merging.same:
        raise ToolError(f"The code is the same as what the file has ({', '.join(merging.same)}).")
    if not changes:
        raise ToolError(f"The code changes nothing in the file. The file defines: {there.names()}.")
    return sorted(changes, key=lambda each: (each.start, each.end))


class _Merge:
    """Which definition goes where. `same` are those that were in place already."""

    def __init__(self, there: Outline, given: Outline) -> None:
        self.there = there
        self.given = given
        self.step = step_of(there.slice(0, len(there.source)))
        self.same: list[str] = []
        self._replaced: list[Change] = []
        self._new: list[Symbol] = []
        self._taken: set[int] = set()

    def changes(self) -> list[Change]:
        for given in self._last_versions(outermost(self.given.definitions)):
            self._place(given)
        # A class may end where the file does; what is new in it comes before what is new after it.
        self._new.sort(key=lambda given: self._home(given) is None)
        return [*self._replaced, *(self._addition(given) for given in self._new)]

    def _last_versions(self, given: list[Symbol]) -> list[Symbol]:
        """Of definitions that the block has more often than the source, the last; the first was the old version."""
        kept: list[Symbol] = []
        for index, each in enumerate(given):
            later = sum(other.qualified == each.qualified for other in given[index + 1 :])
            if later < max(1, sum(other.qualified == each.qualified for other in self.there.definitions)):
                kept.append(each)
        return kept

    def _place(self, given: Symbol) -> None:
        candidates = self._candidates(given)
        holder = given.kind in ("class", "impl")
        if holder and candidates and not self._stands_for(given, candidates[0]):
            for part in self._last_versions(self.given.parts(given)):
                self._place(part)
            return
        target = self._choose(given, candidates)
        if target is not None:
            self._replace(given, target)
        elif not self._is_example(given):
            self._new.append(given)

    def _candidates(self, given: Symbol) -> list[Symbol]:
        free = [each for each in self.there.definitions if each.start not in self._taken and _alike(given, each)]
        exact = [each for each in free if each.qualified == given.qualified]
        if not given.outer and self._is_python_method(given):
            return [each for each in free if each.name == given.name and each.kind == "method"] or exact
        return exact or [each for each in free if each.qualified.endswith(f".{given.qualified}")]

    def _stands_for(self, given: Symbol, old: Symbol) -> bool:
        """Whether a class of the block has all that the source's has, so that it may replace it whole."""
        parts, old_parts = self.given.parts(given), self.there.parts(old)
        if given.kind == "impl" or self.given.is_stub(given) or any(self.given.is_stub(part) for part in parts):
            return False
        if not Counter(part.name for part in old_parts) <= Counter(part.name for part in parts):
            return False
        declared = r"(?m)^\s*(\w+)\s*[:=]" if self.there.language == "python" else r"([A-Za-z_$][\w$]*)\s*[=;:,\n]"
        fields = set(re.findall(declared, self.there.outside_parts(old)))
        return fields <= set(re.findall(r"[\w$]+", self.given.outside_parts(given)))

    def _choose(self, given: Symbol, candidates: list[Symbol]) -> Symbol | None:
        if len(candidates) < 2:
            return candidates[0] if candidates else None
        head = self.given.head(given)
        same = [
            each
            for each in candidates
            if each.signature == given.signature and (not head or self.there.head(each) == head)
        ]
        if len(same) == 1:
            return same[0]
        text = self.given.text(given)
        scored = sorted(
            ((likeness(self.there.text(each), text), -each.start, each) for each in candidates), reverse=True
        )
        if scored[0][0] - scored[1][0] < _CLEAR:
            where = ", ".join(f"{each.qualified} (line {each.first_line})" for each in candidates)
            raise ToolError(f"{given.name} could be any of {where}; write it inside its class.")
        return scored[0][2]

    def _replace(self, given: Symbol, target: Symbol) -> None:
        self._taken.add(target.start)
        # A body of `...` stands for "as it was".
        if self.given.is_stub(given) and not self.there.is_stub(target):
            return
        head = self.given.head(given)
        keeps_head = (
            not head or head.startswith("export") or (head.startswith("template") and not self.there.head(target))
        )
        first = given.definition if keeps_head else given.start
        start = target.definition if keeps_head else target.start
        new = self._fitted(first, given.end, self.there.indent_at(start))
        if self.there.language == "python":
            new = _with_docstring(new, self.there.slice(target.body, target.end))
        old = self.there.slice(start, target.end).rstrip()
        if old == new:
            self.same.append(target.qualified)
            return
        end = start + len(old.encode("utf-8", "replace"))
        self._replaced.append(Change(start, end, new, f"rewrote {target.qualified} (line {target.first_line})"))

    def _is_python_method(self, given: Symbol) -> bool:
        return self.there.language == "python" and bool(re.search(r"\(\s*(self|cls)\b", given.signature))

    def _is_example(self, given: Symbol) -> bool:
        """A test or main function that the block brings along to show the others at work."""
        others = any(not _is_test(each) for each in self.given.definitions if not encloses(given, each))
        here = any(_is_test(each) for each in self.there.definitions)
        return not given.outer and _is_test(given) and others and not here

    def _home(self, given: Symbol) -> Symbol | None:
        """The class of the source to which something new belongs; None for the top level."""
        holders = [each for each in self.there.definitions if each.kind in ("class", "impl") and each.body < each.end]
        if given.outer:
            return next((each for each in reversed(holders) if each.qualified == given.outer), None)
        if not self._is_python_method(given) and (self.there.language != "java" or given.kind == "class"):
            return None
        classes = [each for each in holders if not each.outer]
        if len(classes) == 1:
            return classes[0]
        raise ToolError(f"The file has no {given.name}, and its class cannot be told; write it inside its class.")

    def _addition(self, given: Symbol) -> Change:
        """Something new goes to the end of its class, or at the top level before the first thing replaced there."""
        what = f"added {given.qualified}"
        home = self._home(given)
        if home is not None:
            return self._addition_to(home, given, what)
        text = self._fitted(given.start, given.end, "")
        gap = "\n\n\n" if self.there.language == "python" else "\n\n"
        first = min((each.start for each in self._replaced), default=-1)
        place = next((each.start for each in outermost(self.there.definitions) if each.start <= first < each.end), None)
        if place is not None:
            return Change(place, place, text + gap, what)
        at = self._end()
        before = self.there.slice(0, at)
        lead = gap[: max(0, len(gap) - len(before) + len(before.rstrip("\n")))] if before.strip() else ""
        return Change(at, at, f"{lead}{text}\n{gap[1:] if at < len(self.there.source) else ''}", what)

    def _addition_to(self, home: Symbol, given: Symbol, what: str) -> Change:
        parts = self.there.parts(home)
        default = self.there.indent_at(home.start) + (self.step or "    ")
        indent = self.there.indent_at(parts[-1].start) if parts else default
        text = self._fitted(given.start, given.end, indent)
        if self.there.language == "python":
            end = home.start + len(self.there.text(home).encode("utf-8", "replace"))
            return Change(end, end, f"\n\n{indent}{text}", what)
        # Before the line that closes the class.
        last = self.there.source.rfind(b"\n", 0, home.end) + 1
        return Change(last, last, f"\n{indent}{text}\n", what) if last > home.start else self._inline(home, text, what)

    def _inline(self, home: Symbol, text: str, what: str) -> Change:
        return Change(home.end - 1, home.end - 1, f"\n{text}\n", what)

    def _end(self) -> int:
        """The end of the source, or the start of the statement that runs the program."""
        last = self.there.top.others[-1] if self.there.top.others else None
        return last.start if last is not None and last.text.startswith("if __name__") else len(self.there.source)

    def _fitted(self, start: int, end: int, indent: str) -> str:
        """A piece of the block, from its first character on, as it would stand in the source at `indent`."""
        text = self.given.indent_at(start) + self.given.slice(start, end).rstrip()
        lines = shift(text.split("\n"), "")
        lines = retab(lines, self.step) if self.step else lines
        return "\n".join(shift(lines, indent)).lstrip(" \t")


def _alike(given: Symbol, there: Symbol) -> bool:
    holders = ("class", "impl")
    return given.kind == there.kind if given.kind in holders or there.kind in holders else True


def _is_test(symbol: Symbol) -> bool:
    return symbol.name == "main" or symbol.name.lower().startswith("test")


def _with_docstring(new: str, old_body: str) -> str:
    """A Python definition with the docstring of the one it replaces, where it has none of its own."""
    docstring = re.match(r'(?s)[rRuU]?("""|\'\'\').*?\1', old_body)
    header = re.match(
        r"(?s)(?:@[^\n]*\n\s*)*(?:async\s+)?(?:def|class)\b[^\n]*?:[ \t]*(?:#[^\n]*)?\n(?=([ \t]*)\S)", new
    )
    if docstring is None or header is None or re.match(r'\s*[rRuU]?["\']', new[header.end() :]):
        return new
    return f"{new[: header.end()]}{header[1]}{docstring[0]}\n{new[header.end() :]}"
