"""The arms of the benchmark: a name and the command that sets one agent to work on one bug.

Knows our command line and asks `peers.py` for theirs. Knows neither how a command is run nor how it is judged.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import peers

REPOSITORY = Path(__file__).resolve().parent.parent
FORMATS = ("symbol", "whole", "replace", "auto")


@dataclass(frozen=True)
class Job:
    """What one run is given: its own home directory, the server's base URL with `/v1`, the bug."""

    home: Path
    base_url: str
    model: str
    prompt: str
    check: str
    modules: list[str]
    """File names of the project's modules, tests apart."""


@dataclass(frozen=True)
class Arm:
    """An agent in one configuration. `command` writes what configuration it needs and returns argv."""

    name: str
    command: Callable[[Job], list[str]]


def ours(edit_format: str) -> Arm:
    """laguna-agent from this checkout, with one edit format."""

    def command(job: Job) -> list[str]:
        argv = [sys.executable, "-m", "laguna_agent", "run", "--base-url", job.base_url]
        argv += ["--model", job.model, "--edit-format", edit_format, "--check", job.check]
        return [*argv, "--approve", "edits", "--output", "json", "--", job.prompt]

    return Arm(f"ours-{edit_format}", command)


def pi(with_files: bool) -> Arm:
    """pi; installs it where it is missing."""
    executable = peers.find_pi()
    assert executable is not None

    def command(job: Job) -> list[str]:
        prompt = f"{job.prompt}\n\nWhen you are done, `{job.check}` must pass."
        files = job.modules if with_files else []
        return peers.pi_command(executable, job.home, job.base_url, job.model, prompt, files)

    return Arm("pi-files" if with_files else "pi", command)


def aider(with_files: bool) -> Arm:
    """aider; installs it where it is missing."""
    executable = peers.find_aider()
    assert executable is not None

    def command(job: Job) -> list[str]:
        files = job.modules if with_files else []
        return peers.aider_command(executable, job.home, job.base_url, job.model, job.prompt, files, job.check)

    return Arm("aider-files" if with_files else "aider", command)


ARMS: dict[str, Callable[[], Arm]] = {
    **{f"ours-{name}": partial(ours, name) for name in FORMATS},
    "pi": partial(pi, False),
    "pi-files": partial(pi, True),
    "aider": partial(aider, False),
    "aider-files": partial(aider, True),
}
