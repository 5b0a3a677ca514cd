"""From a command line to a shell that runs it: its words, its environment, and no input.

Knows shells and what a command may see of the environment; must not know how a `Confinement` starts a process.
"""

from __future__ import annotations

import os
from pathlib import Path

from laguna_agent.program import find_program
from laguna_agent.sandbox import processes
from laguna_agent.sandbox.confinement import Child, Confinement, Kind
from laguna_agent.sandbox.environment import command_environment
from laguna_agent.sandbox.walls import Walls


def shell() -> str:
    """The program that commands are given to, after `-c`."""
    return find_program("bash") or "/bin/sh"


def start_shell(
    command: str, cwd: Path, output: int, mark: str, walls: Walls | None, confinement: Confinement, kind: Kind
) -> Child:
    """Start it with `output` as its standard output and error, and `mark` to find its family by. Raises OSError and
    SandboxError."""
    allowed = walls.environment if walls else command_environment(os.environ)
    environment = allowed | {processes.MARK: mark, "PWD": str(cwd)}
    with Path(os.devnull).open("rb") as nothing:
        return confinement.start(
            [shell(), "-c", command],
            cwd=cwd,
            environment=environment,
            stdin=nothing.fileno(),
            stdout=output,
            stderr=output,
            kind=kind,
        )
