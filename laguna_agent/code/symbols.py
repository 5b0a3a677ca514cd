"""The definitions in a source file: functions, methods, classes and the like, with qualified names and lines.

Knows trees; it must not know files or edits.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Literal

import msgspec

from laguna_agent.code.languages import grammar, parse
from laguna_agent.code.queries import QUERIES

if TYPE_CHECKING:
    import tree_sitter

SymbolKind = Literal["function", "method", "class", "impl"]

# A definition reaches out to these: decorators, `export`, `template <...>`.
_WRAPPERS = frozenset({"decorated_definition", "export_statement", "template_declaration"})
_ATTRIBUTES = frozenset({"attribute_item"})


class Symbol(msgspec.Struct, frozen=True):
    """One definition.

    `qualified` joins the enclosing classes, modules and functions with dots (`Stack.push`). Lines count from 1, the
    end is inclusive, and the range holds decorators and attributes; `start` and `end` are its offsets in bytes.
    `definition` is the offset at which the definition proper starts, after decorators. Kind "class" stands for
    everything that holds others: class, struct, trait, interface, enum, module, type; "impl" is a Rust impl block.
    """

    name: str
    qualified: str
    kind: SymbolKind
    first_line: int
    last_line: int
    start: int
    end: int
    definition: int
    signature: str
    """The text from the definition to its body, in one line."""


def symbols(language: str, source: bytes) -> list[Symbol]:
    """The definitions in order of their start; an outer one before those inside it."""
    import tree_sitter

    query = _query(language)
    if query is None:
        return []
    matches = tree_sitter.QueryCursor(query).matches(parse(language, source).root_node)
    captured: dict[tuple[int, int], tuple[str, tree_sitter.Node, dict[str, list[tree_sitter.Node]]]] = {}
    for _, captures in matches:
        kind = next(key for key in captures if key in ("function", "method", "class", "impl"))
        node = captures[kind][0]
        captured.setdefault((node.start_byte, -node.end_byte), (kind, node, captures))
    result: list[Symbol] = []
    open_: list[Symbol] = []
    for _, (kind, node, captures) in sorted(captured.items()):
        while open_ and open_[-1].end < node.end_byte:
            open_.pop()
        symbol = _symbol(kind, node, captures, open_[-1] if open_ else None, source)
        open_.append(symbol)
        result.append(symbol)
    return result


def find(found: list[Symbol], name: str) -> list[Symbol]:
    """Those of that name: with exactly that qualified name, else those whose qualified name ends with it."""
    wanted = re.sub(r"(?<=\w)(?:::|#)", ".", name.strip().removesuffix("()"))
    exact = [symbol for symbol in found if symbol.qualified == wanted and symbol.kind != "impl"]
    return exact or [symbol for symbol in found if symbol.qualified.endswith(f".{wanted}") and symbol.kind != "impl"]


@cache
def _query(language: str) -> tree_sitter.Query | None:
    import tree_sitter

    text = QUERIES.get(language)
    return None if text is None else tree_sitter.Query(grammar(language), text)


def _symbol(
    kind: str,
    node: tree_sitter.Node,
    captures: dict[str, list[tree_sitter.Node]],
    outer: Symbol | None,
    source: bytes,
) -> Symbol:
    name = _text(captures["name"][0], source)
    qualified = f"{_text(captures['owner'][0], source)}.{name}" if "owner" in captures else name
    qualified = qualified.replace("::", ".")
    if outer is not None:
        qualified = f"{outer.qualified}.{qualified}"
        kind = "method" if kind == "function" and outer.kind in ("class", "impl") else kind
    elif "." in qualified and kind == "function":
        kind = "method"
    body = captures.get("body")
    stop = body[0].start_byte if body else node.end_byte
    signature = source[node.start_byte : stop].decode("utf-8", "replace")
    start, end = _reach(node)
    return Symbol(
        name=name.rpartition("::")[2].rpartition(".")[2],
        qualified=qualified,
        kind=kind,  # type: ignore[arg-type]
        first_line=start.start_point.row + 1,
        last_line=_last_line(end),
        start=start.start_byte,
        end=end.end_byte,
        definition=node.start_byte,
        signature=re.sub(r"\s+", " ", signature.split("\n\n", 1)[0]).strip(" {:")[:200],
    )


def _reach(node: tree_sitter.Node) -> tuple[tree_sitter.Node, tree_sitter.Node]:
    """The nodes where the definition starts and ends, decorators and the like included."""
    while node.parent is not None and node.parent.type in _WRAPPERS:
        node = node.parent
    start = node
    while start.prev_sibling is not None and start.prev_sibling.type in _ATTRIBUTES:
        start = start.prev_sibling
    return start, node


def _last_line(node: tree_sitter.Node) -> int:
    # A node that ends with a newline ends, for people, on the line before.
    point = node.end_point
    return max(node.start_point.row + 1, point.row + (1 if point.column else 0))


def _text(node: tree_sitter.Node, source: bytes) -> str:
    return source[node.start_byte : node.end_byte].decode("utf-8", "replace")
