"""The status line: what stays where there is little room."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laguna_agent.agent.events import UsageUpdated
from laguna_agent.terminal.face import Facts
from laguna_agent.terminal.git_state import GitState
from laguna_agent.terminal.status import amount, duration, status_line
from laguna_agent.terminal.theme import theme_named
from tests.terminal.faces import plain, widest

THEME = theme_named("dark")
FACTS = Facts(Path("/w"), "openrouter/poolside/laguna-xs", "openrouter", "ask", "bubblewrap")
USAGE = UsageUpdated(90_000, 800, cost=0.0123, context_used=24_100, context_window=200_000)
GIT = GitState("main", dirty=True)


def line(width: int, facts: Facts = FACTS, usage: UsageUpdated | None = USAGE, queued: int = 2) -> str:
    return plain([status_line(facts, usage, GIT, 12.3, queued, width, THEME)])


def test_everything_where_there_is_room() -> None:
    assert line(200) == (
        "poolside/laguna-xs \u00b7 openrouter \u00b7 asks first \u00b7 sandbox bubblewrap \u00b7 main* \u00b7 "
        "context 12% (24k of 200k) \u00b7 $0.0123 \u00b7 12 s \u00b7 2 queued"
    )


def test_model_and_context_stay_the_longest() -> None:
    assert line(40) == "poolside/laguna-xs \u00b7 context 12% \u00b7 12 s"
    assert line(34) == "poolside/laguna-xs \u00b7 context 12%"
    assert line(12) == "laguna-xs"
    assert line(8) == "laguna\u2026"


def test_what_is_not_known_is_not_told() -> None:
    words = plain([status_line(Facts(Path("/w")), None, None, None, 0, 80, THEME)])
    assert words == "no model"
    local = UsageUpdated(10, 5, context_used=15)
    assert "$" not in line(200, usage=local)
    assert "context 15 \u00b7" in line(200, usage=local)


def test_another_agent_and_no_sandbox() -> None:
    words = line(200, Facts(Path("/w"), "m", "p", "yolo", "none", agent="other-agent"))
    assert "other-agent" in words
    assert "yolo" in words
    assert "no sandbox" in words


@pytest.mark.parametrize(("tokens", "words"), [(999, "999"), (1_000, "1.0k"), (99_960, "100k"), (1_200_000, "1.2M")])
def test_amounts(tokens: int, words: str) -> None:
    assert amount(tokens) == words


@pytest.mark.parametrize(("seconds", "words"), [(0.4, "0 s"), (125, "2 min 05 s"), (3_725, "1 h 02 min")])
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@given(st.integers(1, 220), st.text(max_size=40), st.text(max_size=40), st.integers(0, 10**9), st.integers(0, 99))
def test_it_is_never_wider(width: int, model: str, branch: str, tokens: int, queued: int) -> None:
    usage = UsageUpdated(1, 1, cost=tokens / 7, context_used=tokens, context_window=max(1, tokens * 2))
    facts = Facts(Path("/w"), model, branch, "edits", "landlock")
    shown = status_line(facts, usage, GitState(branch, True), 3.0, queued, width, THEME)
    assert widest([shown]) <= max(1, width - 1)
    assert "\x1b" not in plain([shown])
    assert "\n" not in plain([shown])
