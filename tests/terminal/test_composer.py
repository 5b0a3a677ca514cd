"""The input line, driven by the bytes that a terminal sends."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from laguna_agent.agent.commands import Command
from laguna_agent.messages import ImageBlock, TextBlock
from laguna_agent.terminal.history import History
from laguna_agent.terminal.history_file import HistoryFile
from tests.terminal.typing_line import DELETE, DOWN, PASTE, RIGHT, UP, Line, line

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (1280).to_bytes(4) + (720).to_bytes(4) + b"\x08\x06\0\0\0"
COMMANDS = (
    Command("help", "What there is"),
    Command("model", "Choose a model", "NAME"),
    Command("mode", "What needs your leave", "plan | ask | edits, all"),
)


def drive(folder: Path, work: Callable[[Line], Awaitable[None]], **options: object) -> None:
    async def run() -> None:
        async with line(folder, **options) as open_line:  # type: ignore[arg-type]
            await work(open_line)

    asyncio.run(run())


def test_enter_sends_and_the_line_is_empty_again(workspace: Path) -> None:
    async def work(line: Line) -> None:
        await line.type("hello", "\r")
        assert [each.text for each in line.sent] == ["hello"]
        assert line.sent[0].content == (TextBlock("hello"),)
        assert line.composer.text == ""
        await line.type("  \r")
        assert len(line.sent) == 1

    drive(workspace, work)


@pytest.mark.parametrize("key", ["\x1b\r", "\n", "\\\r", "\x1b[13;2u", "\x1b[27;2;13~", "\x1b[13;5u"], ids=repr)
def test_what_begins_a_line(workspace: Path, key: str) -> None:
    async def work(line: Line) -> None:
        await line.type("one", *([key] if key.startswith("\x1b") else key), "two", "\r")
        assert [each.text for each in line.sent] == ["one\ntwo"]

    drive(workspace, work)


def test_it_grows_to_ten_rows_and_shows_where_it_goes_on(workspace: Path) -> None:
    async def work(line: Line) -> None:
        line.composer.placeholder = "What is to be done?"
        assert line.shown() == ["> What is to be done?"]
        await line.type("one", "\n", "two")
        assert line.shown() == ["> one", "  two"]
        for _ in range(20):
            await line.type("\n")
        assert len(line.shown()) == 10

    drive(workspace, work)


def test_history_by_prefix_and_search(workspace: Path) -> None:
    History().add("fix the tests")
    History().add("write\nthe docs")
    History().add("fix the build")

    async def work(line: Line) -> None:
        await line.until(lambda: len(list(line.composer._history.newest())) == 3)
        await line.type(UP)
        assert line.composer.text == "fix the build"
        await line.type(UP, UP)
        assert line.composer.text == "write\nthe docs"
        await line.type(UP)
        assert line.composer.text == "fix the tests"
        await line.type(DOWN, DOWN, DOWN)
        await line.type("\x15", "fi", UP, UP)
        assert line.composer.text == "fix the tests"
        line.composer.clear()
        await line.until(lambda: len(line.composer.buffer._working_lines) == 4)
        await line.type("\x12", "docs", "\r")
        assert line.composer.text == "write\nthe docs"
        await line.type("\r")
        assert line.sent[0].text == "write\nthe docs"

    drive(workspace, work)


def test_a_suggestion_from_history_is_taken_by_right(workspace: Path) -> None:
    History().add("explain the parser")

    async def work(line: Line) -> None:
        await line.until(lambda: list(line.composer._history.newest()))
        await line.type("expl")
        await line.until(lambda: line.composer.buffer.suggestion)
        assert line.shown() == ["> explain the parser"]
        assert line.composer.text == "expl"
        await line.type(RIGHT)
        assert line.composer.text == "explain the parser"

    drive(workspace, work)


def test_a_long_paste_is_a_mark_that_can_be_edited_around(workspace: Path) -> None:
    long = "\n".join(f"line {number}" for number in range(240))

    async def work(line: Line) -> None:
        await line.type("see ", PASTE.format(long), " twice ", PASTE.format(long))
        assert line.composer.text == "see [pasted 240 lines] twice [pasted 240 lines, 2]"
        await line.type("\r")
        assert line.sent[0].text == "see [pasted 240 lines] twice [pasted 240 lines, 2]"
        assert line.sent[0].content == (TextBlock(f"see {long} twice {long}"),)
        await line.type("a ", PASTE.format(long), "\x7f", "b", "\r")
        assert line.sent[1].content == (TextBlock("a b"),)
        await line.type(PASTE.format(long), "\x01", DELETE, "c", "\r")
        assert line.sent[2].content == (TextBlock("c"),)
        await line.type(UP, UP, UP, "\r")
        assert line.sent[3].content == line.sent[0].content

    drive(workspace, work)
    assert HistoryFile().stored()[-1] == f"see {long} twice {long}"


def test_a_paste_never_sends(workspace: Path) -> None:
    async def work(line: Line) -> None:
        await line.type(PASTE.format("rm -rf /\r\nmore\r"))
        assert line.sent == []
        assert line.composer.text == "rm -rf /\nmore\n"
        await line.type(PASTE.format("@"))
        assert not line.composer.menu.open

    drive(workspace, work)


def test_a_command_of_the_persons_own_is_not_folded(workspace: Path) -> None:
    long = "\n".join("echo more" for _ in range(30))

    async def work(line: Line) -> None:
        await line.type("!", PASTE.format(long), "\r")
        assert line.sent[0].text == f"!{long}"

    drive(workspace, work)


def test_clearing_ends_a_search(workspace: Path) -> None:
    History().add("earlier")

    async def work(line: Line) -> None:
        await line.until(lambda: list(line.composer._history.newest()))
        await line.type("\x12", "earl")
        assert line.shown()[-1] == "search: earl"
        assert line.composer.dismiss()
        await line.type("\x12", "earl")
        line.composer.clear()
        await line.type("new", "\r")
        assert [each.text for each in line.sent] == ["new"]

    drive(workspace, work)


def test_images_that_are_dropped_become_attachments(workspace: Path) -> None:
    (workspace / "my shot.png").write_bytes(PNG)
    (workspace / "two.png").write_bytes(PNG)
    (workspace / "no.png").write_bytes(b"text")

    async def work(line: Line) -> None:
        await line.type(PASTE.format(f"'{workspace}/my shot.png'"), "what is it?", "\r")
        image = line.sent[0].content[1]
        assert line.sent[0].content[0] == TextBlock("[image 1: my shot.png 1280x720]")
        assert isinstance(image, ImageBlock) and image.mime_type == "image/png"
        assert line.sent[0].content[2] == TextBlock(" what is it?")
        escaped = str(workspace / "my shot.png").replace(" ", "\\ ")
        await line.type(PASTE.format(f"{escaped} file://{workspace}/two.png"), "\r")
        assert line.sent[1].text == "[image 2: my shot.png 1280x720] [image 3: two.png 1280x720]"
        await line.type(PASTE.format(f"{workspace}/no.png"))
        assert line.composer.text == f"{workspace}/no.png"
        assert "no.png is no image" in line.shown()[-1]
        await line.type("x")
        assert line.composer.notice == ""

    drive(workspace, work, columns=300)


def test_files_are_offered_and_taken(workspace: Path) -> None:
    (workspace / "src").mkdir()
    (workspace / "src" / "parser.py").touch()
    (workspace / "a b.txt").touch()

    async def work(line: Line) -> None:
        await line.type("look at @pars")
        assert await line.offered() == ["@src/parser.py"]
        assert line.shown()[1:] == ["> src/parser.py"]
        await line.type("\t")
        assert line.composer.text == "look at @src/parser.py "
        assert line.shown() == ["> look at @src/parser.py"]
        await line.type(" ", "@a")
        assert '@"a b.txt"' in await line.offered()
        await line.type("\r")
        assert line.composer.text == 'look at @src/parser.py @"a b.txt" '
        await line.type("@sr")
        assert (await line.offered())[0] == "@src/"
        await line.type("\t")
        await line.until(lambda: line.composer.menu.open and line.composer.menu.marked.text == "@src/parser.py")
        await line.type(DOWN, "\r", "\r")
        assert line.sent[0].text == 'look at @src/parser.py @"a b.txt" @src/parser.py'

    drive(workspace, work)


def test_what_is_dismissed_stays_away(workspace: Path) -> None:
    (workspace / "one.txt").touch()

    async def work(line: Line) -> None:
        await line.type("mail @o")
        await line.offered()
        assert line.composer.dismiss()
        await line.type("n")
        await asyncio.sleep(0.05)
        assert not line.composer.menu.open
        assert not line.composer.dismiss()
        await line.type("\t")
        await line.until(lambda: line.composer.text == "mail @one.txt ")

    drive(workspace, work)


def test_commands_and_their_arguments(workspace: Path) -> None:
    async def work(line: Line) -> None:
        await line.type("/m")
        assert line.shown() == ["> /m", "> /model NAME  Choose a model", "  /mode        What needs your leave"]
        await line.type(DOWN, "\t")
        assert line.composer.text == "/mode "
        assert await line.offered() == ["plan", "ask", "edits", "all"]
        await line.type("al", "\t", "\r")
        await line.type("/he", "\r")
        assert [each.text for each in line.sent] == ["/mode all", "/help"]
        await line.type("/unknown", "\r")
        assert line.sent[-1].text == "/unknown"
        await line.type(UP, UP, UP)
        assert line.composer.text == "/mode all"

    drive(workspace, work, commands=COMMANDS)


def test_what_hides_is_shown_and_kept(workspace: Path) -> None:
    async def work(line: Line) -> None:
        await line.type(PASTE.format("a\u202eb\x1b[31mc"), "d")
        assert line.shown() == ["> a\\u{202E}b\\u{1B}[31mcd"]
        await line.type("\r")
        assert line.sent[0].text == "a\u202eb\x1b[31mcd"

    drive(workspace, work)


def test_vi_keys(workspace: Path) -> None:
    async def work(line: Line) -> None:
        await line.type("one two")
        assert line.composer.dismiss()
        await line.type("0dw")
        assert line.composer.text == "two"
        assert not line.composer.dismiss()
        await line.type("A", "!", "\r")
        assert line.sent[0].text == "two!"

    drive(workspace, work, vi=True)


def test_the_persons_editor(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "edit.py"
    script.write_text(
        "import os, pathlib, sys\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "assert path.stat().st_mode & 0o777 == 0o600\n"
        "text = path.read_text()\n"
        "if 'fail' in text: sys.exit(3)\n"
        "path.write_text(text.upper() + '\\n')\n"
    )
    monkeypatch.setenv("EDITOR", f"{sys.executable} {script}")

    async def work(line: Line) -> None:
        await line.type("hello", "\x18\x05")
        await line.until(lambda: line.composer.text == "HELLO")
        await line.type(" fail", "\x07")
        await line.until(lambda: "code 3" in line.composer.notice)
        assert line.composer.text == "HELLO fail"

    drive(workspace, work)
    drafts = Path(os.environ["XDG_STATE_HOME"]) / "laguna-agent" / "drafts"
    assert list(drafts.iterdir()) == []


def test_a_panel_reads_a_text_while_the_draft_waits(workspace: Path) -> None:
    async def work(line: Line) -> None:
        await line.type("half a prompt")
        line.composer.take_draft()
        line.composer.label = "reason: "
        line.composer.placeholder = "What is to be done?"
        assert line.shown() == ["reason:"]
        await line.type(UP, "\t", "@\t", "\x7f", "too risky", "\r")
        assert line.sent[0].text == "too risky"
        line.composer.restore_draft()
        assert line.shown() == ["> half a prompt"]

    History().add("earlier")
    drive(workspace, work)
    assert HistoryFile().stored() == ["earlier"]


def test_the_clipboard_without_a_display(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)

    async def work(line: Line) -> None:
        await line.type("\x16")
        await line.until(lambda: "paste the path of the image" in line.composer.notice)

    drive(workspace, work)


def test_the_clipboard_of_a_desktop(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "image").write_bytes(PNG)
    xclip = programs / "xclip"
    xclip.write_text(f'#!/bin/sh\ncase "$*" in *TARGETS) echo TARGETS image/png;; *) cat {programs}/image;; esac\n')
    xclip.chmod(0o755)
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")

    async def work(line: Line) -> None:
        await line.type("see ", "\x16")
        await line.until(lambda: line.composer.text == "see [image 1: clipboard 1280x720] ")

    drive(workspace, work)
