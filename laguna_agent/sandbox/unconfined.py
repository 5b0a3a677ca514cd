"""Processes with the person's own rights: where there is no sandbox, and where the person lets a command leave it."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from laguna_agent.sandbox.confinement import Kind, Tier


class UnconfinedChild:
    """A `Child` that nothing confines."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.pid = process.pid
        self.watch: int | None = None
        # Not every system has such a descriptor.
        with contextlib.suppress(AttributeError, OSError):
            self.watch = os.pidfd_open(process.pid)

    def poll(self) -> int | None:
        return self._process.poll()

    def close(self) -> None:
        watch, self.watch = self.watch, None
        if watch is not None:
            os.close(watch)


class Unconfined:
    """A `Confinement` that confines nothing; what it starts, its starter ends."""

    tier: Tier = "none"
    summary = "none: commands run with your rights"

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
    ) -> UnconfinedChild:
        process = subprocess.Popen(
            argv, cwd=cwd, env=environment, stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True
        )
        return UnconfinedChild(process)

    def close(self) -> None:
        """Nothing is held."""
