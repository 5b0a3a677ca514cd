"""What the page about the terminal says is there: every command, every setting, every picture."""

from __future__ import annotations

import re

from laguna_agent.agent.commands import COMMANDS as CORE
from laguna_agent.config import KEYS
from laguna_agent.terminal.slash import COMMANDS
from laguna_agent.terminal.slash.help import KEYS as HELP_KEYS
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "terminal.md").read_text(encoding="utf-8")


def test_every_command_is_named_and_no_other() -> None:
    table = PAGE.partition("## Commands")[2].partition("## Settings")[0]
    named = set(re.findall(r"`/([a-z]+)`", table))
    assert named == {each.name for each in COMMANDS} | {each.name for each in CORE}


def test_every_setting_that_is_named_exists() -> None:
    table = PAGE.partition("## Settings")[2].partition("## What you")[0]
    named = set(re.findall(r"^\| `([a-z]+)`", table, re.MULTILINE))
    assert named == {"theme", "editing", "notify", "plain"}
    assert named <= set(KEYS)


def test_every_key_of_the_help_is_explained() -> None:
    for keys, _ in HELP_KEYS:
        for key in re.split(r", | and ", keys):
            assert key in PAGE, key


def test_every_picture_is_there_and_used() -> None:
    named = set(re.findall(r"screens/([\w-]+\.svg)", PAGE))
    assert named == {path.name for path in (ROOT / "docs" / "screens").glob("*.svg")}
    assert len(named) == 10
