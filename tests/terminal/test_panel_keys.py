"""Panels under a real application: the bytes that a terminal sends for a key are the key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest
from prompt_toolkit.application import Application
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.layout import Layout, Window
from prompt_toolkit.output import DummyOutput

from laguna_agent.agent.permissions import PermissionAnswer
from laguna_agent.terminal.picker import Picker
from laguna_agent.terminal.questions import PermissionPanel
from laguna_agent.terminal.theme import theme_named
from tests.terminal.test_questions import request_for

THEME = theme_named("dark")
UP, DOWN, PAGE_DOWN, HOME = "\x1b[A", "\x1b[B", "\x1b[6~", "\x1b[H"


def worked(panel: Any, typed: str) -> Any:
    """What comes of the panel when a terminal sends that."""

    async def run() -> Any:
        with create_pipe_input() as pipe:
            pipe.send_text(typed)
            app: Application[Any] = Application(
                Layout(Window()), key_bindings=panel.keys, input=pipe, output=DummyOutput()
            )
            panel.done = lambda value: app.exit(result=value)
            panel.lines(80, 30)
            with anyio.fail_after(20):
                return await app.run_async()

    return anyio.run(run)


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("y", PermissionAnswer(True)),
        (f"{DOWN}\r", PermissionAnswer(True, remember=True)),
        (f"{UP}{UP}\r", PermissionAnswer(False, remember=True, reason="the person refused")),
        (f"{PAGE_DOWN}n", PermissionAnswer(False, reason="the person refused")),
    ],
)
def test_a_question(typed: str, answer: PermissionAnswer) -> None:
    assert worked(PermissionPanel(request_for("make"), THEME, Path("/")), typed) == answer


@pytest.mark.parametrize(
    ("typed", "value"),
    [(f"{DOWN}\r", 1), ("ry\r", 2), ("x\x7f\r", 0), ("\x1b[200~cherry\x1b[201~\r", 2), (f"{UP}{HOME}\r", 0)],
)
def test_a_list(typed: str, value: int) -> None:
    fruit = [(0, "apple", ""), (1, "banana", ""), (2, "cherry", "")]
    assert worked(Picker("Fruit", fruit, THEME), typed) == value
