"""Which files of the workspace match what the person denies reading of.

A pattern is relative to a root; `*` and `?` stay within one name, `**` crosses directories, a pattern without a slash
matches at any depth, and what lies below a match is denied with it. Knows names; must not know mounts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from laguna_agent.sandbox.policy import Policy

MOST_ENTRIES = 50_000
MOST_MASKS = 500
_SPECIAL = re.compile(r"[.^$*+?()\[\]{}|\\]")


def denied_paths(policy: Policy) -> tuple[Path, ...]:
    """Every existing real path that a pattern matches in the workspace, or to which such a link leads; bounded."""
    if not policy.denied:
        return ()
    found: list[Path] = []
    for root in policy.workspace:
        for path in _matching(root, policy):
            if len(found) == MOST_MASKS:
                return tuple(found)
            found.append(path)
    return tuple(dict.fromkeys(found))


def _matching(root: Path, policy: Policy) -> Iterator[Path]:
    looked_at = 0
    waiting = [root]
    while waiting and looked_at < MOST_ENTRIES:
        try:
            with os.scandir(waiting.pop()) as entries:
                listed = sorted((entry.path, entry.is_dir(follow_symlinks=False)) for entry in entries)
        except OSError:
            continue
        looked_at += len(listed)
        for text, is_directory in listed:
            if policy.is_denied(Path(text)):
                # Of a link, what it leads to; a mount cannot lie on the link.
                real = Path(os.path.realpath(text))
                if real.exists() and real != root:
                    yield real
            elif is_directory:
                waiting.append(Path(text))


def expression(pattern: str) -> str:
    """A pattern as a regular expression, in what every dialect of them understands."""
    pattern = pattern.removeprefix("./")
    anchored = "/" in pattern.rstrip("/")
    pattern = pattern.strip("/")
    found = "" if anchored else "(.*/)?"
    at = 0
    while at < len(pattern):
        if pattern.startswith("**/", at):
            found, at = found + "(.*/)?", at + 3
        elif pattern.startswith("**", at):
            found, at = found + ".*", at + 2
        else:
            found, at = found + ({"*": "[^/]*", "?": "[^/]"}.get(pattern[at]) or literal(pattern[at])), at + 1
    return found


def literal(text: str) -> str:
    """A regular expression for just this text, any case of it being for the caller."""
    return _SPECIAL.sub(r"\\\g<0>", text)
