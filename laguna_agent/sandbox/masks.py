"""Which files the person denies reading of, found so that they can be mounted over.

Knows names; must not know mounts.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from laguna_agent.sandbox.policy import Policy
from laguna_agent.sandbox.presence import exists, is_directory

MOST_ENTRIES = 50_000
MOST_MASKS = 500


def denied_paths(policy: Policy) -> tuple[Path, ...]:
    """Every existing real path that a glob matches, in the workspace or where an absolute one says, or to which such a
    link leads; bounded."""
    if not policy.denied:
        return ()
    absolute = tuple(_top(glob) for glob in policy.denied if glob.startswith("/"))
    found = [path for path in absolute if policy.is_denied(path) and exists(path)]
    elsewhere = (path for path in absolute if path not in found and is_directory(path))
    for root in dict.fromkeys((*policy.workspace, *elsewhere)):
        for path in _matching(root, policy):
            if len(found) == MOST_MASKS:
                return tuple(found)
            found.append(path)
    return tuple(dict.fromkeys(found))


def denied_outside(policy: Policy) -> tuple[Path, ...]:
    """Those outside the workspace."""
    return tuple(path for path in denied_paths(policy) if policy.root_of(path) is None)


def _top(glob: str) -> Path:
    """The real directory or file that an absolute glob names before its first wildcard."""
    plain = itertools.takewhile(lambda part: not any(each in part for each in "*?["), glob.split("/"))
    return Path(os.path.realpath("/" + "/".join(plain)))


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
        for text, goes_on in listed:
            if policy.is_denied(Path(text)):
                # Of a link, what it leads to; a mount cannot lie on the link.
                real = Path(os.path.realpath(text))
                if exists(real) and real != root:
                    yield real
            elif goes_on:
                waiting.append(Path(text))
