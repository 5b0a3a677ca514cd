"""The confinement of a session: one warden for each kind of leave, started when its first command comes.

Knows wardens and the plans for them; must not know how a plan comes about, tools or the model.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from laguna_agent.errors import SandboxError
from laguna_agent.sandbox.archive import warden_archive
from laguna_agent.sandbox.confinement import Kind, Tier
from laguna_agent.sandbox.wardens import Recipe, WardedChild, Warden, WardenGone, as_request, put_up

_TRIES = 3


class Confined:
    """A `Confinement` by wardens; `recipe` says how to put up that of a kind, and may raise SandboxError."""

    def __init__(self, tier: Tier, summary: str, recipe: Callable[[Kind], Recipe]) -> None:
        self.tier: Tier = tier
        self._summary = summary
        self._recipe = recipe
        self._wardens: dict[Kind, Warden] = {}
        self._locks: dict[Kind, threading.Lock] = {
            kind: threading.Lock() for kind in ("workspace", "reading", "network")
        }
        self._closed = False
        # Now, before any command could have changed it.
        warden_archive()

    @property
    def summary(self) -> str:
        """What was proved."""
        return self._summary

    def start(
        self,
        argv: Sequence[str],
        *,
        cwd: Path,
        environment: Mapping[str, str],
        stdin: int,
        stdout: int,
        stderr: int,
        kind: Kind = "workspace",
    ) -> WardedChild:
        """Start a process behind the walls of its kind. Raises SandboxError and OSError."""
        request = as_request(argv, cwd, environment)
        for _ in range(_TRIES):
            warden = self._warden(kind)
            try:
                return warden.start(request, (stdin, stdout, stderr))
            except WardenGone:
                # Something killed it between two commands: what comes next gets a new one, never none.
                warden.close()
        raise SandboxError("the sandbox ends whenever a command is started in it; see laguna-agent doctor --sandbox")

    def close(self) -> None:
        """End every warden and what it started."""
        self._closed = True
        for kind, lock in self._locks.items():
            with lock:
                warden = self._wardens.pop(kind, None)
            if warden is not None:
                warden.close()

    def _warden(self, kind: Kind) -> Warden:
        with self._locks[kind]:
            if self._closed:
                raise SandboxError("the session's sandbox is closed")
            warden = self._wardens.get(kind)
            if warden is None or not warden.alive:
                if warden is not None:
                    warden.close()
                warden = self._wardens[kind] = put_up(lambda: self._recipe(kind))
            return warden
