"""The symbols of a file: what is defined where. A face of `outline` that needs no syntax nodes.

It must not know files on disk; callers bring the text.
"""

from __future__ import annotations

import msgspec

from laguna_agent.code.languages import utf8
from laguna_agent.code.outline import outline


class Symbol(msgspec.Struct, frozen=True):
    """A definition: `name` is qualified (`Class.method`); `kind` is function, method, class, struct, interface, enum,
    trait, impl, module, namespace, type or macro.

    Lines `start` to `end` count from 1 and include decorators, not the comments before. The byte offsets, end
    exclusive, are of the text's UTF-8.
    """

    name: str
    kind: str
    start: int
    end: int
    start_byte: int
    end_byte: int


def symbols(path: str, text: str) -> list[Symbol]:
    """The definitions in a text, outer before inner, in the text's order.

    Empty for unknown languages; a broken text gives what can be made out.
    """
    data = utf8(text)
    found = outline(path, data)
    if found is None:
        return []
    result: list[Symbol] = []
    line, counted = 1, 0
    for each in sorted(found.every(), key=lambda each: each.start):
        line += data.count(b"\n", counted, each.start)
        counted = each.start
        last = line + data.count(b"\n", each.start, max(each.start, each.end - 1))
        result.append(Symbol(each.name, each.kind, line, last, each.start, each.end))
    return result


def find(path: str, text: str, name: str) -> Symbol | None:
    """The symbol of that qualified name (the last, where it is defined twice), else the only one whose name ends so;
    None where there is none or several."""
    found = symbols(path, text)
    exact = [each for each in found if each.name == name]
    if exact:
        return exact[-1]
    ending = [each for each in found if each.name.endswith(f".{name}")]
    return ending[0] if len({each.name for each in ending}) == 1 else None
