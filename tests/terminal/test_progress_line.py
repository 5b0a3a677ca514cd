"""The line that tells of the model's progress, on a real terminal of 40 columns."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest

HEADLESS = """
import anyio, sys, time
from laguna_agent.agent.events import Compaction, ModelProgress, Notice
from laguna_agent.agent.outcome import INTERRUPTED, record_without_turn
from laguna_agent.headless.output import Output

output = Output(sys.argv[1])
def show(event): anyio.run(output.event, event)
def progress(done): show(ModelProgress("loading", "a-model", done, 100))
progress(1); progress(2); show(Notice("info", "soon over"))
progress(3); time.sleep(1.3); progress(45); progress(99); show(Notice("info", "the answer"))
progress(100); time.sleep(1.3)
show(ModelProgress("waiting", "a-model")); time.sleep(1.3)
output.finish(record_without_turn(INTERRUPTED))
"""
CHAT = """
import time
from laguna_agent.agent.events import ModelProgress, TextDelta, Notice
from laguna_agent.terminal.plain_screen import Screen

screen = Screen()
screen.draw(TextDelta("half a line"))
screen.draw(ModelProgress("reading", "m", 1, 4000)); time.sleep(1.3)
screen.draw(ModelProgress("reading", "m", 1536, 4000))
screen.draw(TextDelta("The answer.\\n"))
screen.draw(ModelProgress("reading", "m", 1, 4000))
screen.draw(Notice("info", "over"))
"""


Show = Callable[..., str]
ERASE = "\r\x1b[K"


@pytest.fixture
def show(workspace: Path) -> Iterator[Show]:
    """Runs a program on the terminal; gives what it wrote."""
    started: list[pexpect.spawn[str]] = []

    def run(program: str, *arguments: str, term: str = "xterm") -> str:
        child = pexpect.spawn(
            sys.executable,
            ["-c", program, *arguments],
            cwd=str(workspace),
            env={**os.environ, "TERM": term},  # type: ignore[arg-type]
            encoding="utf-8",
            dimensions=(10, 40),
            timeout=30,
        )
        started.append(child)
        child.expect(pexpect.EOF)
        return str(child.before)

    yield run
    for child in started:
        child.close(force=True)


def test_a_run_shows_work_of_more_than_a_second_and_erases_it(show: Show) -> None:
    assert show(HEADLESS, "text").replace("\r\n", "\n") == (
        "info: soon over\n"
        f"{ERASE}loading a-model 3 %{ERASE}loading a-model 45 %{ERASE}loading a-model 99 %{ERASE}"
        "info: the answer\n"
        f"{ERASE}waiting for the requests before this o\u2026{ERASE}"
        "laguna-agent: interrupted; resume with --continue\n"
    )


def test_events_as_json_are_without_it(show: Show) -> None:
    shown = show(HEADLESS, "stream-json")
    assert "model_progress" not in shown
    assert f"{ERASE}loading a-model 45 %" in shown


def test_a_terminal_that_cannot_erase_is_left_alone(show: Show) -> None:
    assert "loading" not in show(HEADLESS, "text", term="dumb")


def test_nothing_is_shown_where_there_is_no_terminal(workspace: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HEADLESS, "text"], cwd=workspace, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr.splitlines() == [
        "info: soon over",
        "info: the answer",
        "laguna-agent: interrupted; resume with --continue",
    ]


def test_the_chat_erases_no_words_of_the_model(show: Show) -> None:
    assert show(CHAT).replace("\r\n", "\n").replace("\x1b[2m", "").replace("\x1b[0m", "") == (
        f"half a line\n{ERASE}reading 1 of 4,000 tokens{ERASE}reading 1,536 of 4,000 tokens{ERASE}The answer.\nover\n"
    )
