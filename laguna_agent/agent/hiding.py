"""A Python file with the bodies of some functions hidden.

A model that sees a wrong body repeats it, even when it is told what fails. Shown the signature, the docstring and the
failure alone, it writes the function anew, which small models do better than repairing.
"""

from __future__ import annotations

import ast
from collections.abc import Collection

HIDDEN = "..."


def functions(text: str) -> tuple[str, ...]:
    """The qualified names of the functions and methods in a Python text, in order; none where it does not parse."""
    tree = _parse(text)
    return tuple(name for name, _ in _definitions(tree)) if tree else ()


def hide_bodies(text: str, names: Collection[str]) -> str | None:
    """The text with the bodies of the named functions replaced by `...`, signatures, docstrings and everything else
    as they are. A name may be qualified or not. None where nothing could be hidden."""
    tree = _parse(text)
    if tree is None:
        return None
    lines = text.splitlines()
    hidden = False
    for name, node in reversed(_definitions(tree)):
        if not {name, name.rpartition(".")[2]} & set(names):
            continue
        body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
        if not body or body[0].lineno <= node.lineno:
            continue
        start, end = body[0].lineno - 1, node.end_lineno or body[-1].lineno
        lines[start:end] = [" " * body[0].col_offset + HIDDEN]
        hidden = True
    return "\n".join(lines) + "\n" if hidden else None


def _parse(text: str) -> ast.Module | None:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return None


def _definitions(tree: ast.Module) -> list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Functions and methods, outermost only: hiding one hides what is inside it."""
    found: list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]] = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.append((node.name, node))
        elif isinstance(node, ast.ClassDef):
            inner = [each for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
            found += [(f"{node.name}.{each.name}", each) for each in inner]
    return found
