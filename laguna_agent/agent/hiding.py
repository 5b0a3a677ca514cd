"""A Python file with parts hidden, as a small model is better shown it.

A model that sees a wrong body repeats it, even when it is told what fails; shown the signature, the description and the
failure alone, it writes the function anew. And a model that sees a docstring copies it into its answer, which on a CPU
costs more time than the code: shown beside the code instead, the docstring is read and not copied.
"""

from __future__ import annotations

import ast
from collections.abc import Collection

HIDDEN = "..."


def functions(text: str) -> tuple[str, ...]:
    """The qualified names of the functions and methods in a Python text, in order; none where it does not parse."""
    tree = _parse(text)
    return tuple(name for name, _ in _definitions(tree)) if tree else ()


def definition(text: str, name: str) -> tuple[ast.ClassDef | None, ast.FunctionDef | ast.AsyncFunctionDef] | None:
    """The function or method of this qualified name and the class that it stands in, if any; None where a Python text
    has none or does not parse."""
    tree = _parse(text)
    found = next((node for each, node in _definitions(tree) if each == name), None) if tree else None
    if tree is None or found is None:
        return None
    return next((owner for owner in tree.body if isinstance(owner, ast.ClassDef) and found in owner.body), None), found


def hide_bodies(text: str, names: Collection[str]) -> str | None:
    """The text with the bodies of the named functions replaced by `...`, signatures, docstrings and everything else
    as they are. A name may be qualified or not. None where nothing could be hidden."""
    tree = _parse(text)
    if tree is None:
        return None
    lines = text.rstrip("\n").split("\n")
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


def lift_docstrings(text: str) -> tuple[str, dict[str, str]]:
    """The text without the docstrings of functions, and these by qualified name. One-line docstrings stay."""
    tree = _parse(text)
    lines = text.rstrip("\n").split("\n")
    lifted: dict[str, str] = {}
    for name, node in reversed(_definitions(tree) if tree else []):
        docstring = ast.get_docstring(node)
        first = node.body[0]
        if docstring is None or "\n" not in docstring or len(node.body) < 2 or first.lineno == node.lineno:
            continue
        del lines[first.lineno - 1 : first.end_lineno]
        lifted[name] = docstring
    return "\n".join(lines) + "\n", dict(reversed(lifted.items()))


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
