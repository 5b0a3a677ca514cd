"""The emulated terminal as a fixture: the program of the tests, on it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.model_server import ModelServer
from tests.terminal.driving import Chat
from tests.terminal.emulator import Tty


class StartTty(Protocol):
    """`laguna-agent ARGUMENTS` on an emulated terminal; `env` comes on top of the isolated environment."""

    def __call__(
        self,
        *arguments: str | Path,
        rows: int = 24,
        columns: int = 80,
        reflow: bool = True,
        cwd: Path | None = None,
        command: list[str] | None = None,
        **env: str,
    ) -> Tty: ...


@pytest.fixture
def tty(workspace: Path) -> Iterator[StartTty]:
    """Starts programs on emulated terminals; at the end of the test they are killed."""
    started: list[Tty] = []

    def start(
        *arguments: str | Path,
        rows: int = 24,
        columns: int = 80,
        reflow: bool = True,
        cwd: Path | None = None,
        command: list[str] | None = None,
        **env: str,
    ) -> Tty:
        made = Tty(
            command or [sys.executable, "-m", "laguna_agent", *map(str, arguments)],
            cwd=cwd or workspace,
            env={**os.environ, "TERM": "xterm-256color", "LANG": "C.UTF-8", **env},
            rows=rows,
            columns=columns,
            reflow=reflow,
        )
        started.append(made)
        return made

    yield start
    for each in started:
        each.close()


class StartChat(Protocol):
    """The interactive face with the scripted model, ready for a prompt."""

    def __call__(self, *arguments: str | Path, rows: int = 24, columns: int = 80, **how: Any) -> Chat: ...


@pytest.fixture
def chat(tty: StartTty, model_server: ModelServer, workspace: Path) -> StartChat:
    """Starts the interactive face against the scripted model, and waits until one can type."""

    def start(*arguments: str | Path, rows: int = 24, columns: int = 80, **how: Any) -> Chat:
        shown = tty(*arguments, rows=rows, columns=columns, **(model_server.env | how))
        return Chat(shown, workspace).begin()

    return start
