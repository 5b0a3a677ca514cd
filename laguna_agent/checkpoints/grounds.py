"""Which ignore rules hold where: those of the repository that a directory is in, read on the way down.

As git does it, a nested repository has its own rules and its own index. Without any repository ignore files count too,
and so do the names of caches that tools leave behind everywhere. Knows repositories; must not know checkpoints.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from laguna_agent.checkpoints.ignoring import Rules
from laguna_agent.checkpoints.repositories import (
    Repository,
    Tracked,
    repository_above,
    repository_at,
    stamp_of,
    tracked_by,
)
from laguna_agent.tools.footprint import CACHES

LARGEST = 1 << 20
"""Bytes of an ignore file that are read."""
_READING = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Ground(msgspec.Struct, frozen=True):
    """What holds in one directory: `rules`, and what the index of the repository `top` tracks. `is_repository` says
    that the directory is itself the top of one that lies in another."""

    rules: Rules
    top: bytes
    tracked: Tracked
    is_repository: bool = False

    def tracks(self, absolute: bytes, *, directory: bool) -> bool:
        """Whether the index names the path, or something below it."""
        if not self.tracked.paths:
            return False
        path = absolute[len(self.top) + 1 :]
        return path in self.tracked.paths or (directory and path in self.tracked.directories)


class Grounds:
    """Reads and remembers them."""

    def __init__(self) -> None:
        self._rules: dict[tuple[Rules | None, bytes, bytes], Rules] = {}
        self._used: set[tuple[Rules | None, bytes, bytes]] = set()
        self._indexes: dict[Path, tuple[tuple[int, ...], Tracked]] = {}

    def at_root(self, root: Path) -> Ground:
        """The ground above a root's own ignore file."""
        repository = repository_above(root)
        top = root if repository is None else repository.top
        rules = self._begin(top, repository)
        for above in reversed([each for each in root.parents if each.is_relative_to(top)]):
            if text := _text(above / ".gitignore"):
                rules = self._joined(rules, os.fsencode(above) + b"/", text)
        return Ground(rules, os.fsencode(top), self._tracked(repository))

    def below(self, ground: Ground, handle: int, absolute: bytes, names: set[str]) -> Ground:
        """The ground in a directory, open as `handle`, whose entries have these names."""
        if ".git" in names and absolute != ground.top:
            top = Path(os.fsdecode(absolute))
            repository = repository_at(top)
            ground = Ground(self._begin(top, repository), absolute, self._tracked(repository), is_repository=True)
        elif ground.is_repository:
            ground = msgspec.structs.replace(ground, is_repository=False)
        if ".gitignore" in names and (text := _text(".gitignore", handle)):
            rules = self._joined(ground.rules, absolute + b"/", text)
            ground = msgspec.structs.replace(ground, rules=rules)
        return ground

    def forget_unused(self) -> None:
        """What the last look did not come by is not remembered."""
        self._rules = {key: rules for key, rules in self._rules.items() if key in self._used}
        self._used.clear()

    def _begin(self, top: Path, repository: Repository | None) -> Rules:
        base = os.fsencode(top) + b"/"
        rules = self._joined(None, base, "\n".join(CACHES).encode())
        texts = [_text(_everywhere())] + ([] if repository is None else [_text(repository.exclude)])
        for text in filter(None, texts):
            rules = self._joined(rules, base, text)
        return rules

    def _joined(self, above: Rules | None, base: bytes, text: bytes) -> Rules:
        key = (above, base, text)
        self._used.add(key)
        if key not in self._rules:
            self._rules[key] = Rules(text, base, above)
        return self._rules[key]

    def _tracked(self, repository: Repository | None) -> Tracked:
        if repository is None:
            return Tracked()
        stamp = stamp_of(repository.index)
        known = self._indexes.get(repository.index)
        if known is None or known[0] != stamp:
            known = self._indexes[repository.index] = (stamp, tracked_by(repository))
        return known[1]


def _everywhere() -> Path:
    """What the person ignores everywhere, where git looks unless told otherwise."""
    configured = os.environ.get("XDG_CONFIG_HOME", "")
    return (Path(configured) if configured.startswith("/") else Path.home() / ".config") / "git" / "ignore"


def _text(path: Path | str, directory: int | None = None) -> bytes:
    try:
        with os.fdopen(os.open(path, _READING, dir_fd=directory), "rb") as file:
            return file.read(LARGEST)
    except OSError:
        return b""
