"""Snapshots are the same wherever the workspace lies."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.terminal.snapshots import normalised

REST = ["sandbox: bubblewrap + landlock 7 +", "seccomp", "", "\u203a hello"]


@pytest.mark.parametrize(
    "head",
    [
        ["laguna-agent 1.0: a-model in /at/w; /help for help"],
        ["laguna-agent 1.0: a-model in /at/w;", "/help for help"],
        ["laguna-agent 1.0: a-model in /at/w;", " /help for help"],
        ["laguna-agent 1.0: a-model in /at/w; /help", "for help"],
        ["laguna-agent 1.0: a-model in /at/w; /help for", "help"],
        ["laguna-agent 1.0: a-model in", "/at/a-very-long-na", "me; /help for help"],
    ],
)
def test_a_greeting_is_one_row_wherever_it_was_wrapped(head: list[str]) -> None:
    shown = normalised([*head, *REST], Path("/at/w"))
    assert shown == "laguna-agent VERSION: a-model in /WORKSPACE; /help for help\n\n\u203a hello\n"
