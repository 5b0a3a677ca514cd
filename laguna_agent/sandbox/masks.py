"""Which files of the workspace the person denies reading of, found so that they can be mounted over.

Knows names; must not know mounts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from laguna_agent.sandbox.policy import Policy

MOST_ENTRIES = 50_000
MOST_MASKS = 500


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
