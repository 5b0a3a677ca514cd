"""What was sent, across sessions."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from laguna_agent import redaction
from laguna_agent.terminal import history_file
from laguna_agent.terminal.history import History
from laguna_agent.terminal.history_file import ENTRIES, LONGEST, HistoryFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "state" / "laguna-agent" / "chat_history"


def loaded(history: History) -> list[str]:
    async def run() -> list[str]:
        return [entry async for entry in history.load()]

    return asyncio.run(run())


def test_it_lasts_and_is_the_owners_alone(path: Path) -> None:
    history = History()
    for text in ("one", "two\nlines", "one"):
        history.add(text)
    history.add("   ")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert loaded(History()) == ["one", "two\nlines"]
    assert [json.loads(line)["text"] for line in path.read_text().splitlines()] == ["one", "two\nlines", "one"]


def test_what_is_sent_before_the_file_is_read_comes_first(path: Path) -> None:
    History().add("before")
    history = History()
    history.add("now")
    assert list(history.newest()) == ["now"]
    assert loaded(history) == ["now", "before"]
    history.add("then")
    assert list(history.newest()) == ["then", "now", "before"]


def test_keys_are_not_kept(path: Path) -> None:
    redaction.know("sk-test-0123456789abcdef", "OPENROUTER_API_KEY")
    History().add("use sk-test-0123456789abcdef please")
    assert "0123456789" not in path.read_text()
    assert "OPENROUTER_API_KEY" in HistoryFile().stored()[0]


def test_lines_of_the_older_version(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('_HiStOrY_V2_\nplain\n{"text":"new"}\n{"text": not json\nlast')
    assert HistoryFile().stored() == ["plain", "new", '{"text": not json', "last"]
    assert json.loads(path.read_text().splitlines()[0]) == {"text": "plain"}
    History().add("more")
    assert HistoryFile().stored()[-2:] == ["last", "more"]


def test_half_a_line_costs_that_line_alone(path: Path) -> None:
    History().add("one")
    with path.open("a") as file:
        file.write('{"text":"hal')
    History().add("two")
    assert HistoryFile().stored() == ["one", '{"text":"hal', "two"]


def test_it_is_bounded(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f'{{"text":"{number}"}}\n' for number in range(3 * ENTRIES)))
    stored = HistoryFile().stored()
    assert stored == [str(number) for number in range(2 * ENTRIES, 3 * ENTRIES)]
    assert len(path.read_text().splitlines()) == ENTRIES
    assert path.stat().st_mode & 0o777 == 0o600
    History().add("short [pasted 9 lines]", "x" * (LONGEST + 1))
    History().add("y" * (LONGEST + 5))
    assert HistoryFile().stored()[-2:] == ["short [pasted 9 lines]", "y" * LONGEST]


def test_long_prompts_do_not_fill_the_disk(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": f"{number} " + "x" * 15_000}) + "\n" for number in range(300)))
    HistoryFile().stored()
    assert 1_900_000 < path.stat().st_size < 2_200_000
    assert HistoryFile().stored()[-1].startswith("299 ")


def test_two_chats_at_once_lose_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Shortened again and again while others write.
    program = (
        "import sys; from laguna_agent.terminal.history_file import HistoryFile\n"
        "history = HistoryFile()\n"
        "for number in range(30):\n"
        "    history.append(f'{sys.argv[1]} {number}')\n"
        "    history.shorten()\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", program, name], env=dict(os.environ)) for name in "abc"]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    stored = HistoryFile().stored()
    assert sorted(stored) == sorted(f"{name} {number}" for name in "abc" for number in range(30))
    assert [text for text in stored if text.startswith("a")] == [f"a {number}" for number in range(30)]


def test_a_full_disk_takes_nothing_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    History().add("one")
    whole = path.read_bytes()
    real = os.write

    def half(handle: int, data: bytes) -> int:
        return real(handle, data[: len(data) // 2])

    history = History()
    with monkeypatch.context() as patched:
        patched.setattr(history_file.os, "write", half)
        history.add("two")
    assert path.read_bytes() == whole
    assert list(history.newest()) == ["two"]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    history = History(tmp_path / "file" / "chat_history")
    history.add("one")
    assert list(history.newest()) == ["one"]
    assert loaded(history) == ["one"]
