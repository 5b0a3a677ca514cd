"""Imports: which names they bring, and which of a block's imports a file lacks.

Knows the import statements of each language as text; it must not know where they are put.
"""

from __future__ import annotations

import ast
import re
from pathlib import PurePath

from laguna_agent.code.outline import Outline

_KEYWORDS = frozenset({"import", "from", "as", "type", "typeof", "default", "const", "let", "var", "require"})
_RUST_KEYWORDS = frozenset({"use", "pub", "crate", "self", "super", "as", "in"})


def missing_imports(path: str, language: str, file: Outline, block: Outline, used: set[str]) -> list[str]:
    """The statements that bring what the words `used` need, the block imports, and the file has not.

    A name that the file binds already is never bound anew: the file's other code relies on it. An import of the file
    from itself, as examples of use have, is none.
    """
    present = [file.text(node.start_byte, node.end_byte).strip() for node in file.imports]
    there = set(map(_plain, present))
    bound = {name for statement in present for name in _bound(language, statement)}
    bound |= {each.name for each in (*file.definitions, *file.constants)}
    stem = PurePath(path).stem
    result: list[str] = []
    for node in block.imports:
        statement = block.text(node.start_byte, node.end_byte).strip()
        for needed in _needed(language, statement, used, bound, stem):
            if _plain(needed) not in there:
                there.add(_plain(needed))
                bound |= _bound(language, needed)
                result.append(needed)
    return result


def _plain(statement: str) -> str:
    return " ".join(statement.split()).rstrip("; ").replace('"', "'")


def _needed(language: str, statement: str, used: set[str], bound: set[str], stem: str) -> list[str]:
    if language == "python":
        return _python_needed(statement, used, bound, stem)
    if re.search(rf"""['"](?:\./|.*/)?{re.escape(stem)}(?:\.\w+)?['"]""", statement):
        return []
    names = _bound(language, statement)
    if not names:
        # Headers, requires and wildcards do not tell what they bring.
        return [statement]
    wanted = (names & used) - bound
    if not wanted:
        return []
    if wanted == names or language in ("go", "java"):
        return [statement]
    return [_narrowed(statement, wanted)] if re.fullmatch(r"[^{}]*\{[^{}]*\}[^{}]*", statement) else []


def _narrowed(statement: str, wanted: set[str]) -> str:
    """`import { a, b } from "x"` and its like with only some of the names."""
    head, _, rest = statement.partition("{")
    items, _, tail = rest.partition("}")
    kept = [item.strip() for item in items.split(",") if wanted & set(re.findall(r"[\w$]+", item)[-1:])]
    return f"{head}{{ {', '.join(kept)} }}{tail}"


def _bound(language: str, statement: str) -> set[str]:
    """The names that an import brings, as far as its text tells."""
    if language == "python":
        return {alias.asname or alias.name.split(".")[0] for alias in _aliases(statement)}
    if language in ("javascript", "typescript", "tsx"):
        clause = re.sub(r"""(?s)(\bfrom\s*)?['"].*|=\s*require\b.*""", "", statement)
        # `a as b` and `a: b` bring only b.
        clause = re.sub(r"[\w$*]+\s*(?:\bas\b|:)\s*", "", clause)
        return set(re.findall(r"[\w$]+", clause)) - _KEYWORDS
    if language == "go":
        alias, _, source = statement.removeprefix("import").strip().rpartition(" ")
        last = source.strip("'\"`").split("/")
        name = last[-2] if len(last) > 1 and re.fullmatch(r"v\d+", last[-1]) else last[-1]
        return set() if alias in ("_", ".") else {alias or name.split(".")[0]}
    if language == "java":
        return {statement.rstrip("; ").rpartition(".")[2]} - {"*"}
    if language == "rust":
        tail = statement.rstrip("; ").rpartition("::")[2] if "{" not in statement else statement.partition("{")[2]
        names = re.sub(r"[\w:]+\s+as\s+|\w+::", "", tail)
        return set(re.findall(r"\w+", names)) - _RUST_KEYWORDS
    return set()


def _aliases(statement: str) -> list[ast.alias]:
    try:
        parsed = ast.parse(statement).body[0]
    except (SyntaxError, ValueError, IndexError):
        return []
    return parsed.names if isinstance(parsed, ast.Import | ast.ImportFrom) else []


def _python_needed(statement: str, used: set[str], bound: set[str], stem: str) -> list[str]:
    source = re.match(r"from\s+([\w.]+)\s+import", statement)
    module = source[1] if source else ""
    if module == "__future__":
        return [f"from __future__ import {alias.name}" for alias in _aliases(statement) if alias.name not in bound]
    result = []
    kept = []
    for alias in _aliases(statement):
        words = f"{alias.name} as {alias.asname}" if alias.asname else alias.name
        name = alias.asname or alias.name.split(".")[0]
        if stem in (module.rpartition(".")[2], alias.name):
            continue
        if alias.name != "*" and (name not in used or name in bound):
            continue
        kept.append(words)
        if not source:
            result.append(f"import {words}")
    return [f"from {module} import {', '.join(kept)}"] if source and kept else result
