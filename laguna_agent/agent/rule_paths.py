"""Paths in rules: globs below the workspace, absolute, or below the home directory.

Knows the spelling of paths, not the disk: a path is judged as it is written once `..` is taken out. Who asks must have
followed symlinks before, where they matter.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from laguna_agent.directories import home


def absolute(path: str, root: Path) -> str:
    """`path` as an absolute one without `..`; a relative one begins at `root`, `~` is the home directory."""
    if path == "~" or path.startswith("~/"):
        path = str(home()) + path[1:]
    joined = os.path.join(root, path)  # noqa: PTH118 - a Path would not keep what is odd about a command's words
    return os.path.normpath(joined)


class PathPattern:
    """A glob: `*` and `?` stay within a name, `**` crosses directories; what matches a directory matches all below."""

    def __init__(self, text: str, roots: Sequence[Path]) -> None:
        if text == "~" or text.startswith("~/"):
            wanted = [_literal(str(home())) + text[1:].rstrip("/")]
        elif text.startswith("/"):
            wanted = [text.rstrip("/")]
        else:
            wanted = [f"{_literal(str(root))}/{text.removeprefix('./').rstrip('/')}" for root in roots]
        expression = "|".join(f"(?:{_translated(each)})" for each in wanted)
        self._exact = re.compile(f"(?:{expression})(?:/.*)?", re.DOTALL)
        # Some file systems do not tell upper from lower case: what is denied is denied in every spelling.
        self._folded = re.compile(self._exact.pattern, re.DOTALL | re.IGNORECASE)

    def matches(self, path: str, *, strict: bool = True) -> bool:
        """Whether an absolute path is meant; `strict`, in whatever case it is spelt."""
        return (self._folded if strict else self._exact).fullmatch(path) is not None


def _literal(text: str) -> str:
    """`text` as a glob that means just that."""
    return re.sub(r"([*?\[])", r"[\1]", text)


def _translated(glob: str) -> str:
    """A glob as a regular expression."""
    out, at = [], 0
    while at < len(glob):
        if glob.startswith("**/", at):
            out.append("(?:[^/]+/)*")
            at += 3
        elif glob.startswith("**", at):
            out.append(".*")
            at += 2
        elif glob[at] == "*":
            out.append("[^/]*")
            at += 1
        elif glob[at] == "?":
            out.append("[^/]")
            at += 1
        elif glob[at] == "[" and (end := glob.find("]", at + 2)) > 0:
            negated = glob[at + 1] == "!"
            inside = "".join(each if each == "-" else re.escape(each) for each in glob[at + 1 + negated : end])
            out.append(f"[{'^/' if negated else ''}{inside}]")
            at = end + 1
        else:
            out.append(re.escape(glob[at]))
            at += 1
    return "".join(out)
