"""What stands at the top level of a source besides definitions: imports, and everything else.

Knows trees; it must not know files or edits.
"""

from __future__ import annotations

import re

import msgspec

from laguna_agent.code.languages import parse
from laguna_agent.code.symbols import Symbol

_IMPORTS = frozenset(
    {
        "import_statement",
        "import_from_statement",
        "future_import_statement",
        "import_declaration",
        "use_declaration",
        "preproc_include",
    }
)
# Neither imports nor statements: they say nothing that a change could be about.
_PASSED_OVER = frozenset({"package_clause", "package_declaration", "hash_bang_line", "attribute_item", "ERROR"})
_NO_NAMES = frozenset({"import", "use", "static", "crate", "self", "super", "pub", "type", "default", "from", "as"})


class Statement(msgspec.Struct, frozen=True):
    """A top-level statement and its offsets in bytes; `name` is what it assigns to, where it is an assignment."""

    text: str
    start: int
    end: int
    name: str = ""


class TopLevel(msgspec.Struct, frozen=True):
    """The imports and the other statements of a source, in order. `after_header` is the offset after a leading comment
    or docstring, where imports may begin."""

    imports: list[Statement]
    others: list[Statement]
    after_header: int


def top_level(language: str, source: bytes, definitions: list[Symbol]) -> TopLevel:
    """Split a source's top level; `definitions` are all its symbols."""
    imports: list[Statement] = []
    others: list[Statement] = []
    after_header = 0
    for node in parse(language, source).root_node.named_children:
        text = source[node.start_byte : node.end_byte].decode("utf-8", "replace")
        header = "comment" in node.type or node.type in _PASSED_OVER or text[:1] in ('"', "'")
        if header and not imports and not others:
            after_header = node.end_byte
        if "comment" in node.type or node.type in _PASSED_OVER:
            continue
        if any(node.start_byte <= each.start < node.end_byte for each in definitions):
            continue
        statement = Statement(text, node.start_byte, node.end_byte, _assigned(text))
        ruby_import = language == "ruby" and re.match(r"require(_relative)?\b", text)
        (imports if node.type in _IMPORTS or ruby_import else others).append(statement)
    return TopLevel(imports, others, after_header)


def bound_names(language: str, statement: str) -> set[str]:
    """The names that an import brings, as far as they can be told; empty where it brings all there is."""
    if language == "python":
        _, _, names = statement.partition("import")
        items = re.sub(r"[()\\\n]|#.*", " ", names).split(",")
        return {item.split()[-1].partition(".")[0] for item in items if item.strip() and item.strip() != "*"}
    if language in ("c", "cpp", "ruby"):
        return set()
    if language in ("javascript", "typescript", "tsx"):
        statement = re.sub(r"""['"].*""", "", statement)
    if language == "java":
        return {statement.rstrip("; \n").rpartition(".")[2]} - {"*"}
    words = re.findall(r"\w+", statement)
    if language in ("go", "rust") and "{" not in statement and "(" not in statement:
        return set(words[-1:])
    return set(words) - _NO_NAMES


def _assigned(text: str) -> str:
    found = re.match(r"(?:(?:const|let|var|static|pub)\s+)*([A-Za-z_$][\w$]*)\s*(?::[^=\n]+)?=(?!=)", text)
    return found[1] if found else ""
