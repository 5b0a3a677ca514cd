"""Which language a file is in, and its tree-sitter grammar, loaded at first use.

Knows file names and grammars; it must not know what the trees are used for.
"""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import PurePath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tree_sitter

_SUFFIXES = {
    "python": ".py .pyi .pyw",
    "javascript": ".js .jsx .mjs .cjs",
    "typescript": ".ts .mts .cts",
    "tsx": ".tsx",
    "go": ".go",
    "rust": ".rs",
    "java": ".java",
    "c": ".c .h",
    "cpp": ".cc .cpp .cxx .c++ .hh .hpp .hxx .h++ .ipp .inl",
    "bash": ".sh .bash",
    "json": ".json",
    "ruby": ".rb .rake .gemspec",
}
_BY_SUFFIX = {suffix: language for language, suffixes in _SUFFIXES.items() for suffix in suffixes.split()}
_BY_NAME = {"Rakefile": "ruby", "Gemfile": "ruby", ".bashrc": "bash", ".bash_profile": "bash"}
_BY_FENCE = {
    "py": "python",
    "python3": "python",
    "js": "javascript",
    "jsx": "javascript",
    "ts": "typescript",
    "golang": "go",
    "rs": "rust",
    "c++": "cpp",
    "sh": "bash",
    "shell": "bash",
    "rb": "ruby",
}


def language_of(path: str | PurePath) -> str | None:
    """The language of a file by its name; None when no grammar is known for it."""
    pure = PurePath(path)
    return _BY_SUFFIX.get(pure.suffix.lower()) or _BY_NAME.get(pure.name)


def language_of_fence(info: str) -> str | None:
    """The language that a Markdown fence names (`py`, `python`, `c++`); None when it names none that is known."""
    word = info.strip().split(" ")[0].lower()
    return _BY_FENCE.get(word, word if word in _SUFFIXES else None)


def parse(language: str, source: bytes) -> tree_sitter.Tree:
    """The syntax tree of any bytes; what is no syntax becomes ERROR nodes."""
    import tree_sitter

    return tree_sitter.Parser(grammar(language)).parse(source)


@cache
def grammar(language: str) -> tree_sitter.Language:
    """The grammar of one of the languages above."""
    import tree_sitter

    package = "typescript" if language == "tsx" else language
    module = importlib.import_module(f"tree_sitter_{package}")
    function = f"language_{language}" if package == "typescript" else "language"
    return tree_sitter.Language(getattr(module, function)())
