"""The input line of the real program: completion, history, pastes, the person's shell and editor, vi's keys."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.model_server import ModelServer, text
from tests.terminal import snapshots
from tests.terminal.conftest import StartChat


def newest(server: ModelServer) -> str:
    """What the person's newest prompt was to the model."""
    return str(server.chats[-1]["messages"][-1]["content"])


def test_files_are_completed_behind_an_at(chat: StartChat, model_server: ModelServer, workspace: Path) -> None:
    for name in ("src/parser.py", "src/lexer.py", "tests/test_parser.py", "build/parser.o", "with space.txt"):
        (workspace / name).parent.mkdir(exist_ok=True)
        (workspace / name).write_text("x\n")
    (workspace / ".gitignore").write_text("build/\n")
    (workspace / ".git").mkdir()
    (workspace / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    model_server.reply(text("Read."))
    typing = chat()
    typing.tty.send("look at @pars")
    typing.tty.wait_for("src/parser.py")
    typing.tty.wait_for("tests/test_parser.py")
    assert "parser.o" not in typing.tty.text()
    typing.tty.send("\t")
    typing.tty.wait_for(lambda _: typing.line.startswith("> look at @src/parser.py"))
    typing.ask("please", "Read.")
    assert "look at @src/parser.py please" in newest(model_server).replace("  ", " ")
    typing.leave()


def test_commands_are_completed_behind_a_slash(chat: StartChat, model_server: ModelServer, workspace: Path) -> None:
    typing = chat()
    typing.tty.send("/")
    typing.tty.wait_for("/plan")
    typing.tty.send("mo")
    typing.tty.wait_for(lambda _: "/model" in typing.tty.text() and "/plan" not in typing.tty.text())
    snapshots.check("slash_menu", typing.tty.history(), workspace)
    typing.tty.send("de \t")
    typing.tty.send("\x15/mode pl\t\r")
    typing.tty.wait_for("plans only")
    typing.send("/nonsense")
    typing.tty.wait_for("unknown command /nonsense")
    typing.send("/help")
    typing.tty.wait_for("/rewind", where="history")
    typing.idle()
    snapshots.check("help", typing.tty.history(), workspace)
    typing.leave()


def test_history_goes_across_sessions(chat: StartChat, model_server: ModelServer) -> None:
    model_server.always(text("Yes."))
    first = chat()
    first.ask("the first prompt", "Yes.")
    first.leave()
    second = chat()
    second.tty.send("\x12first")
    second.tty.wait_for("search: first")
    second.tty.send("\r")
    second.tty.wait_for("> the first prompt")
    second.tty.send("\x15")
    second.tty.wait_for("the first", gone=True)
    second.ask("another one", "Yes.")
    second.tty.send("\x1b[A")
    second.tty.wait_for("> another one")
    second.tty.send("\x1b[A")
    second.tty.wait_for("> the first prompt")
    second.tty.send("\x15")
    second.leave()


def test_several_lines(chat: StartChat, model_server: ModelServer) -> None:
    model_server.reply(text("Three."))
    typing = chat()
    typing.tty.send("one\x1b\rtwo\x0athree")
    typing.tty.wait_for("  three")
    typing.ask("", "Three.")
    assert "one\ntwo\nthree" in newest(model_server)
    typing.leave()


def test_a_large_paste_is_one_mark_and_sent_in_full(chat: StartChat, model_server: ModelServer) -> None:
    model_server.reply(text("Long."))
    pasted = "\n".join(f"pasted line {number}" for number in range(240))
    typing = chat()
    typing.tty.send("look: ")
    typing.tty.paste(pasted)
    typing.tty.wait_for("[pasted 240 lines]")
    assert not model_server.chats
    typing.ask(" and say", "Long.")
    assert f"look: {pasted}" in newest(model_server)
    assert typing.count("pasted line 120") == 0
    typing.leave()


@pytest.mark.slow
def test_a_short_paste_with_line_ends_is_not_sent_by_them(chat: StartChat, model_server: ModelServer) -> None:
    model_server.reply(text("Short."))
    typing = chat()
    typing.tty.paste("one\ntwo\n")
    typing.tty.wait_for("  two")
    assert not model_server.chats
    typing.ask("three", "Short.")
    assert "one\ntwo\nthree" in newest(model_server)
    typing.leave()


def test_the_persons_own_shell_command_is_told_to_the_model(
    chat: StartChat, model_server: ModelServer, workspace: Path
) -> None:
    model_server.reply(text("I see."))
    typing = chat()
    typing.send("!printf 'a\\nb\\n'; pwd >&2; exit 3")
    typing.tty.wait_for("exit 3")
    typing.idle()
    assert not model_server.chats
    typing.ask("why?", "I see.")
    said = newest(model_server)
    assert "exit code 3" in said
    assert "a\nb\n" in said
    assert str(workspace) in said
    typing.leave()


@pytest.mark.slow
def test_the_persons_shell_command_is_ended_by_a_key(chat: StartChat, workspace: Path) -> None:
    typing = chat()
    typing.send("!echo begun; sleep 300")
    typing.tty.wait_for("\nbegun")
    typing.tty.send("\x03")
    typing.idle()
    typing.leave()


def test_the_persons_editor(chat: StartChat, model_server: ModelServer, tmp_path: Path) -> None:
    editor = tmp_path / "editor"
    editor.write_text(
        f"#!{sys.executable}\nimport sys\nprint('the editor has the terminal')\n"
        "text = open(sys.argv[-1]).read()\nopen(sys.argv[-1], 'w').write(text.rstrip() + ' and\\nmore')\n"
        "input('press Enter')\n"
    )
    editor.chmod(0o755)
    model_server.reply(text("Edited."))
    typing = chat(EDITOR=str(editor))
    typing.tty.send("a draft\x07")
    typing.tty.wait_for("press Enter")
    assert not [each for each in typing.tty.left_over() if each.startswith("termios: local")]
    typing.tty.send("\n")
    typing.tty.wait_for("  more")
    typing.ask("", "Edited.")
    assert "a draft and\nmore" in newest(model_server)
    assert not list((tmp_path / "home").rglob("*.md"))
    typing.leave()


def test_vi_keys(chat: StartChat, model_server: ModelServer) -> None:
    model_server.reply(text("Vi."))
    typing = chat(LAGUNA_EDITING="vi")
    typing.tty.send("one two three")
    typing.tty.wait_for("one two three")
    typing.tty.send("\x1b")
    typing.tty.settle(0.15, 1)
    typing.tty.send("bcw")
    typing.tty.send("four")
    typing.tty.wait_for("> one two four")
    typing.ask("", "Vi.")
    assert "one two four" in newest(model_server)
    typing.leave()


def test_what_the_person_ran_is_told_with_the_next_prompt(chat: StartChat, model_server: ModelServer) -> None:
    model_server.reply(text("I see."))
    running = chat()
    running.send("!printf 'a ``` b'; exit 3")
    running.tty.wait_for("exit 3")
    running.idle()
    # A command of the agent's takes nothing of it away from the model.
    running.send("/undo")
    running.idle()
    running.ask("what was that?", "I see.")
    said = str(model_server.chats[-1]["messages"][-1]["content"])
    assert "what was that?" in said
    assert "I ran `printf 'a ``` b'; exit 3` (exit code 3):" in said
    assert "````" in said, "no output closes its own fence"
    running.leave()
