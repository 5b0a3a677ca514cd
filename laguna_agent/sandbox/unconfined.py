"""Processes with the person's own rights: where there is no sandbox, and where the person lets a command leave it.

A warden starts them here too, one without walls: for it lives no longer than this process, and takes with it whatever
it has started. So nothing stays, not even after `kill -9`, and however far a command has gone from its parent.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from laguna_agent.sandbox.confined import Confined
from laguna_agent.sandbox.confinement import Kind
from laguna_agent.sandbox.warden.walls import Rules
from laguna_agent.sandbox.wardens import Recipe, WardedChild

_RULES: Rules = {
    "walls": False,
    "writable": [],
    "changeable": [],
    "readable": None,
    "identities": [],
    "reach": "world",
    "own": False,
    "apart": False,
    "kernel": sys.platform == "linux",
    "processes": 1 << 30,
}


class Unconfined(Confined):
    """A `Confinement` that confines nothing, and of which there is only one kind."""

    def __init__(self) -> None:
        super().__init__("none", "none: commands run with your rights", lambda _: Recipe((), _RULES))

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
        return super().start(argv, cwd=cwd, environment=environment, stdin=stdin, stdout=stdout, stderr=stderr)


@cache
def lasting() -> Unconfined:
    """The one for what belongs to no session's walls; it ends with this process."""
    return Unconfined()
