"""Which language a file is in, and the tree-sitter grammar for it.

Knows file names and grammar packages; it must not know what a definition is. Grammars load on first use, so asking
for a language's name costs nothing.
"""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import PurePath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tree_sitter import Language, Parser, Tree

_EXTENSIONS = {
    "python": ".py .pyi .pyw",
    "javascript": ".js .mjs .cjs .jsx",
    "typescript": ".ts .mts .cts",
    "tsx": ".tsx",
    "go": ".go",
    "rust": ".rs",
    "java": ".java",
    "c": ".c",
    # C++ reads nearly all C, so a header of either is in good hands there.
    "cpp": ".cpp .cc .cxx .c++ .h .hpp .hh .hxx .h++ .ipp .cu .cuh",
    "bash": ".sh .bash",
    "json": ".json",
    "ruby": ".rb .rake .gemspec",
}
LANGUAGES = tuple(_EXTENSIONS)
_BY_EXTENSION = {extension: language for language, names in _EXTENSIONS.items() for extension in names.split()}
_BY_NAME = {"Rakefile": "ruby", "Gemfile": "ruby", ".bashrc": "bash", ".bash_profile": "bash", ".profile": "bash"}
_PACKAGES = {
    "typescript": ("tree_sitter_typescript", "language_typescript"),
    "tsx": ("tree_sitter_typescript", "language_tsx"),
}

TEXT_CAP = 1024 * 1024
"""Bytes of the longest text that is parsed; beyond it a file is not source that a person wrote."""


def language_of(path: str) -> str | None:
    """The language of a file by its name; None where no grammar is at hand."""
    name = PurePath(path)
    return _BY_EXTENSION.get(name.suffix.lower()) or _BY_NAME.get(name.name)


@cache
def grammar(language: str) -> Language:
    """The grammar of a language that `language_of` names."""
    from tree_sitter import Language

    package, function = _PACKAGES.get(language, (f"tree_sitter_{language}", "language"))
    return Language(getattr(importlib.import_module(package), function)())


@cache
def parser(language: str) -> Parser:
    """A parser for a language that `language_of` names; it holds no state between parses."""
    from tree_sitter import Parser

    return Parser(grammar(language))


def parse(path: str, data: bytes) -> Tree | None:
    """The syntax tree of a file's text in UTF-8; None for unknown languages and for texts over `TEXT_CAP`."""
    language = language_of(path)
    if language is None or len(data) > TEXT_CAP:
        return None
    return parser(language).parse(data)


def utf8(text: str) -> bytes:
    """UTF-8 of any string. A lone surrogate, which UTF-8 cannot hold, becomes three bytes that no grammar takes."""
    return text.encode("utf-8", "surrogatepass")
