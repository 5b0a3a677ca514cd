"""What a document is: its columns, its language, and marks of files that nobody wrote. Knows one file at a time."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from laguna_agent.training.data.contents import Columns
from laguna_agent.training.data.manifest import canonical_hash

KIND = "documents"
COLUMNS: Columns = (
    ("id", "string"),
    ("source", "string"),
    ("path", "string"),
    ("language", "string"),
    ("flags", "list<string>"),
    ("score", "double"),
    ("bucket", "int32"),
    ("text", "string"),
)
"""`id` is the SHA-256 of the text; (source, path) is one document's alone; score 0 and bucket -1 until it is ranked."""

GENERATED, MINIFIED, VENDORED = "generated", "minified", "vendored"

_LANGUAGES = {
    "python": ".py .pyi .pyw",
    "javascript": ".js .mjs .cjs .jsx",
    "typescript": ".ts .mts .cts .tsx",
    "go": ".go",
    "rust": ".rs",
    "java": ".java",
    "kotlin": ".kt .kts",
    "c": ".c .h",
    "cpp": ".cpp .cc .cxx .hpp .hh .hxx .ipp",
    "cuda": ".cu .cuh",
    "csharp": ".cs",
    "swift": ".swift",
    "ruby": ".rb .rake .gemspec",
    "php": ".php",
    "shell": ".sh .bash .zsh",
    "sql": ".sql",
    "html": ".html .htm",
    "css": ".css .scss",
    "json": ".json",
    "yaml": ".yaml .yml",
    "toml": ".toml",
    "markdown": ".md .markdown",
    "rst": ".rst",
    "text": ".txt",
}
_BY_SUFFIX = {suffix: language for language, suffixes in _LANGUAGES.items() for suffix in suffixes.split()}
_VENDORED = frozenset(
    {"vendor", "vendored", "_vendor", "third_party", "thirdparty", "site-packages", "bower_components"}
)
_GENERATED = re.compile(
    r"(?i)@generated|\bdo not (?:edit|modify)\b|\b(?:auto[- ]?)?generated (?:by|from|automatically)\b"
)
_HEAD = 1500
_LONG_LINE = 2000
_MEAN_LINE = 250


def language_of(path: str) -> str:
    """The language of a file by its suffix; `other` where none is known."""
    return _BY_SUFFIX.get(PurePosixPath(path).suffix.lower(), "other")


def flags_of(path: str, text: str) -> list[str]:
    """Marks of what no person wrote here, sorted."""
    found = []
    if _GENERATED.search(text[:_HEAD]):
        found.append(GENERATED)
    lines = text.count("\n") + 1
    longest = max(map(len, text.split("\n")))
    if ".min." in PurePosixPath(path).name or longest > _LONG_LINE or len(text) > _MEAN_LINE * lines:
        found.append(MINIFIED)
    if _VENDORED & set(PurePosixPath(path).parts[:-1]):
        found.append(VENDORED)
    return found


def document_id(text: str) -> str:
    """SHA-256 of the text in UTF-8, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def key_of(source: str, path: str) -> str:
    """What one document alone is known by, and where it is sharded by."""
    return f"{source}\0{path}"


def bucket_of(source: str, path: str, shards: int) -> int:
    """The shard of a document: the same whatever else there is."""
    return int.from_bytes(hashlib.sha256(key_of(source, path).encode()).digest()[:8], "big") % shards


def row_hash(row: Mapping[str, Any]) -> str:
    """A hash over a document with all its columns; its text counts through its id."""
    return canonical_hash({key: value for key, value in row.items() if key != "text"})
