"""What is written to a terminal when the agent waits for a person who looks elsewhere."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laguna_agent.config import Notify
from laguna_agent.terminal.notify import AWAY_AFTER, notification
from tests.terminal.sequences import Tokens

ITERM = {"TERM_PROGRAM": "iTerm.app"}


@pytest.mark.parametrize(
    ("how", "environment", "written"),
    [
        ("auto", {}, "\a"),
        ("auto", ITERM, "\x1b]9;laguna-agent: done\x1b\\"),
        ("auto", {"KITTY_WINDOW_ID": "1"}, "\x1b]9;laguna-agent: done\x1b\\"),
        ("auto", ITERM | {"TMUX": "/tmp/tmux"}, "\a"),
        ("bell", ITERM, "\a"),
        ("osc9", {}, "\x1b]9;laguna-agent: done\x1b\\"),
        ("off", ITERM, ""),
    ],
)
def test_each_way(how: Notify, environment: dict[str, str], written: str) -> None:
    assert notification("done", AWAY_AFTER, how, environment) == written
    assert notification("done", AWAY_AFTER - 1, how, environment) == ""


@given(st.text(max_size=300))
def test_nothing_in_a_text_gets_out_of_it(text: str) -> None:
    reading = Tokens()
    (token,) = reading.feed(notification(text, 60, "osc9", {}).encode())
    assert token.kind == "osc"
    assert token.value.startswith("9;laguna-agent: ")
    assert not {unicodedata.category(character) for character in token.value} & {"Cc", "Cf", "Zl", "Zp"}
    assert reading.unfinished == ""
