"""What a model, a tool or a file says is drawn as it is: no markup, no link, no order to the terminal, no fetch."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import laguna_agent
from laguna_agent.agent.events import (
    Compaction,
    Event,
    Notice,
    PermissionRequested,
    PermissionResolved,
    PlanUpdated,
    Retrying,
    TextDelta,
    ThoughtDelta,
    ToolCallStarted,
    ToolCallUpdate,
    TurnEnded,
)
from laguna_agent.agent.permissions import options
from laguna_agent.messages import FileDiff, PlanEntry, TextBlock
from laguna_agent.terminal.plain_screen import Screen
from laguna_agent.tools.base import Need

STYLE = re.compile(r"\x1b\[[0-9;]*m")
EVIL = (
    "\x1b]52;c;cm0=\x07\x1b]8;;https://evil.example\x1b\\x"
    + "\x1b[2J\x9b31m\u202e[link=https://evil.example]y[/] [red]z\r\b"
)
HIDING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2066-\u2069\U000e0000-\U000e0fff]")
PROGRAM = Path(laguna_agent.__file__).parent


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    return Screen()


def events_saying(text: str) -> list[Event]:
    """Every event that is drawn, with `text` wherever somebody else chooses the words."""
    return [
        ThoughtDelta(text),
        TextDelta(text),
        ToolCallStarted("1", text, "execute", text, {"command": text}),
        ToolCallUpdate(
            "1", "failed", content=(TextBlock(text),), diffs=(FileDiff(text, "old " + text, "new " + text),)
        ),
        PermissionResolved("1", False, text),
        PlanUpdated((PlanEntry(text),)),
        Notice("warning", text),
        Retrying(1, 2.0, text, void=True),
        Compaction("completed", text, text=text),
        TurnEnded("error", "failed", 1, text),
    ]


def test_no_event_steers_the_terminal(screen: Screen, capsys: pytest.CaptureFixture[str]) -> None:
    for event in events_saying(EVIL):
        screen.draw(event)
    screen.say(EVIL)
    shown = capsys.readouterr().out
    assert not HIDING.search(STYLE.sub("", shown))
    assert "\x1b]8" not in shown
    assert shown.count("[link=https://evil.example]y[/]") >= len(events_saying(EVIL))
    assert "\\u{1B}]52;c;" in shown


def test_a_question_shows_what_is_asked(
    screen: Screen, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda _: "n")
    need = Need("execute", EVIL)
    request = PermissionRequested(
        "1", f"$ {EVIL}", "execute", {"command": EVIL}, options(need), (FileDiff("a\u202e.py", "x", "x\u200b" * 20),)
    )
    assert not screen.ask(request).allowed
    shown = STYLE.sub("", capsys.readouterr().out)
    assert not HIDING.search(shown)
    assert "a\\u{202E}.py" in shown
    assert "+x\\u{200B}x\\u{200B}" in shown


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from([*EVIL, "\U0001f468", "\u200d", "\U0001f469", "a", "\n", "\U000e0041"]), max_size=20))
def test_no_split_of_an_answer_steers_the_terminal(
    screen: Screen, capsys: pytest.CaptureFixture[str], pieces: list[str]
) -> None:
    for piece in pieces:
        screen.draw(TextDelta(piece))
    screen.draw(TurnEnded("end_turn", "completed", 0))
    assert not HIDING.search(STYLE.sub("", capsys.readouterr().out))


def test_the_end_says_what_stands_behind_it(screen: Screen, capsys: pytest.CaptureFixture[str]) -> None:
    screen.draw(TextDelta("Done."))
    screen.draw(
        TurnEnded("end_turn", "completed", 0, evidence="unverified", evidence_note="no test ran after the edits")
    )
    screen.draw(TurnEnded("end_turn", "completed", 0, evidence="none_needed"))
    assert STYLE.sub("", capsys.readouterr().out) == "Done.\nunverified (no test ran after the edits)\n"


def test_an_emoji_in_pieces_is_one(screen: Screen, capsys: pytest.CaptureFixture[str]) -> None:
    for piece in ("\U0001f468", "\u200d", "\U0001f469!"):
        screen.draw(TextDelta(piece))
    assert "\U0001f468\u200d\U0001f469!" in STYLE.sub("", capsys.readouterr().out)


@pytest.mark.parametrize("room", ["terminal", "headless", "event_lines.py", "progress_line.py", "visible.py"])
def test_what_draws_can_fetch_nothing(room: str) -> None:
    """The rooms that draw import nothing that could open a connection or another program."""
    fetching = {"httpx", "urllib", "http", "requests", "aiohttp", "socket", "webbrowser", "ftplib", "ssl"}
    place = PROGRAM / room
    for path in [place] if place.is_file() else sorted(place.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            # Taking an address to pieces fetches nothing.
            assert not fetching & {name.partition(".")[0] for name in names if name != "urllib.parse"}, path
            assert "http_library" not in " ".join(names), path
            # rich makes links of `[link=...]` and of what its Markdown draws; plain Text has neither.
            assert not any(name in {"rich.markdown", "rich.markup", "rich.syntax"} for name in names), path
