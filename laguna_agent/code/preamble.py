"""What a block of code brings for the top level of a source besides definitions: imports and constants.

Only what the block's definitions use is taken; examples and prints are not. Knows sources; it must not know files.
"""

from __future__ import annotations

import re

import msgspec

from laguna_agent.code.outline import Outline, likeness
from laguna_agent.code.toplevel import Statement, bound_names
from laguna_agent.errors import ToolError

_LIKE = 0.5
"""Likeness from which a statement counts as a new version of another."""


class Change(msgspec.Struct, frozen=True):
    """Bytes [start, end) of the source give way to `new`; `what` says so in words."""

    start: int
    end: int
    new: str
    what: str


def statement_changes(there: Outline, block: Outline) -> list[Change]:
    """Take over top-level statements: all of them when the block repeats them all, else constants that are used."""
    old, new = there.top.others, block.top.others
    pairs = list(zip(old, new, strict=False))
    if old and len(old) == len(new) and all(likeness(a.text, b.text) >= _LIKE for a, b in pairs):
        return [_swap(a, b) for a, b in pairs if a.text != b.text]
    known = {each.name: each for each in old if each.name}
    defined = {each.name for each in there.definitions}
    used = used_words(block)
    changes: list[Change] = []
    at = min((each.start for each in there.definitions), default=there.top.after_header)
    for each in new:
        if not each.name or "..." in each.text or each.name not in used:
            continue
        if each.name not in known and each.name not in defined:
            changes.append(Change(at, at, each.text + "\n\n", f"added {each.name}"))
        elif each.name in known and each.name.isupper() and known[each.name].text != each.text:
            changes.append(_swap(known[each.name], each))
    return changes


def import_changes(there: Outline, block: Outline) -> list[Change]:
    """Add the imports that the block's definitions use and the source lacks."""
    language = there.language
    known = {squeezed(each.text) for each in there.top.imports}
    bound = set[str]().union(*(bound_names(language, each.text) for each in there.top.imports))
    bound |= {each.name for each in there.definitions if not each.outer}
    used = used_words(block)
    future: list[str] = []
    missing: list[str] = []
    for each in block.top.imports:
        names = bound_names(language, each.text)
        wanted = (names - bound) & used
        if each.text.startswith("from __future__"):
            future += [] if squeezed(each.text) in known else [each.text]
        elif squeezed(each.text) in known or (names and not wanted):
            continue
        elif language == "python" and names - wanted:
            missing.append(_only(each.text, wanted))
        elif names & bound:
            raise ToolError(
                f"The file imports a part of `{squeezed(each.text)}` already; change the import itself first."
            )
        else:
            missing.append(each.text)
    return _insertions(there, future, missing)


def used_words(block: Outline) -> set[str]:
    """Every word in the block's definitions."""
    return set(re.findall(r"[\w$]+", " ".join(block.text(each) for each in block.definitions if not each.outer)))


def squeezed(text: str) -> str:
    """A statement on one line."""
    return " ".join(text.split()).rstrip(";")


def _swap(old: Statement, new: Statement) -> Change:
    return Change(old.start, old.end, new.text, f"changed {old.name or squeezed(old.text)[:40]!r}")


def _insertions(there: Outline, future: list[str], missing: list[str]) -> list[Change]:
    """Imports go after those there are, else after the leading comment; `__future__` ones before all others."""
    changes: list[Change] = []
    first = min((each.start for each in there.definitions), default=len(there.source))
    leading = [each for each in there.top.imports if each.start < first]
    before = there.top.after_header
    if future or not leading:
        at = leading[0].start if leading else before
        text = "\n".join(each.rstrip() for each in (future if leading else [*future, *missing]))
        gap = "\n\n" if before and not leading else ""
        rest = there.slice(at, at + 2)
        after = "\n" if leading else "\n" * (2 - len(rest) + len(rest.lstrip("\n")))
        if text:
            what = ", ".join(f"`{squeezed(each)}`" for each in (future if leading else [*future, *missing]))
            changes.append(Change(at, at, gap + text + after, f"added {what}"))
    if leading and missing:
        # A C include ends with its newline, a Python import does not.
        end = leading[-1].end
        at = end - there.source[:end].endswith(b"\n")
        what = ", ".join(f"`{squeezed(each)}`" for each in missing)
        changes.append(Change(at, at, "".join("\n" + each.rstrip() for each in missing), f"added {what}"))
    return changes


def _only(statement: str, names: set[str]) -> str:
    """`from x import a, b, c` or `import a, b` with only some of its names."""
    start, _, items = statement.partition("import ")
    kept = [item.strip() for item in re.sub(r"[()\\\n]|#.*", " ", items).split(",") if item.strip()]
    return f"{start}import {', '.join(item for item in kept if item.split()[-1].partition('.')[0] in names)}"
