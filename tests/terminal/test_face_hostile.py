"""Text of others in the interactive face: nothing that a model, a tool, a file or a server says is obeyed.

`Chat.leave` looks at every sequence that was ever written; here the attacks come in every place that text comes from.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.model_server import ModelServer, http, reasoning, stream, text, tool_call
from tests.terminal.conftest import StartChat

ATTACKS = (
    "\x1b]52;c;b3duZWQ=\x07",
    "\x1b]0;owned\x07",
    "\x1b]8;;http://owned.example\x1b\\link\x1b]8;;\x1b\\",
    '\x1bP$q"p\x1b\\',
    "\x9b2J\x9d0;owned\x9c",
    "\x1b[2J\x1b[H\x1b[3J\x1b[?1049h\x1b[?25l",
    "\x1b[201~rm -rf /\r",
    "\x1b[6n\x1b[c\x05",
    "\x1b_Gowned\x1b\\\x1b^pm\x1b\\",
    "\x1b[?2026l\x1b[>1u\x0e\x07\x08\x08",
    "\u202egnp.exe\u2066\u200b\U000e0041",
)
EVERYTHING = "begin " + " ".join(ATTACKS) + " end"


def test_in_an_answer_and_in_a_thought(chat: StartChat, model_server: ModelServer) -> None:
    table = f"| {EVERYTHING} | b |\n|---|---|\n| `{EVERYTHING}` | d |\n"
    fenced = f"# {EVERYTHING}\n\n```{EVERYTHING}\n{EVERYTHING}\n```\n\n{table}"
    model_server.reply(
        [reasoning(EVERYTHING, pieces=40), text(EVERYTHING + "\n\n" + fenced + "\n\nThat is it.", pieces=150)]
    )
    reading = chat(columns=100, rows=40)
    reading.ask("go", "That is it.")
    assert "owned" in "\n".join(reading.tty.history())
    reading.leave()


def test_in_what_tools_say_and_in_names_of_files(chat: StartChat, model_server: ModelServer, workspace: Path) -> None:
    name = "a\x1b]0;owned\x07\u202eb.txt"
    (workspace / name).write_text(EVERYTHING.replace("\r", "") + "\n")
    (workspace / "print.py").write_text(f"import sys\nsys.stdout.buffer.write({EVERYTHING.encode()!r})\nsys.exit(3)\n")
    model_server.reply(
        tool_call("read", {"path": name}),
        tool_call("list", {"path": "."}),
        tool_call("shell", {"command": "python3 print.py"}),
        tool_call("write", {"path": "new\x1b[2J.txt", "content": EVERYTHING}),
        tool_call("shell", {"command": f"echo '{EVERYTHING}'"}),
        text("Seen."),
    )
    reading = chat(rows=40)
    reading.send("read it")
    reading.asked()
    reading.press("n")
    reading.tty.wait_for("new")
    reading.asked()
    reading.tty.wait_for("new")
    for _ in range(3):
        reading.press("n")
        reading.tty.settle(0.3, 2)
        if reading.at_the_input():
            break
    reading.tty.wait_for("Seen.")
    reading.leave()


def test_in_the_branch_the_model_and_the_server(chat: StartChat, model_server: ModelServer, workspace: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=workspace, check=True)
    (workspace / ".git" / "HEAD").write_text("ref: refs/heads/a\u202e\u200bb\n")
    model_server.reply(http(400, {"error": {"message": EVERYTHING}}))
    reading = chat(LAGUNA_MODEL="mo\x1b]0;owned\x07del\x9b2J")
    reading.ask("go", "refuses the request")
    reading.leave()


def test_pasted_text_ends_where_it_ends(chat: StartChat, model_server: ModelServer) -> None:
    model_server.reply(text("Got it."))
    pasting = chat()
    pasting.tty.paste("one \x1b]0;owned\x07 two")
    pasting.tty.wait_for("two")
    pasting.ask("", "Got it.")
    pasting.leave()


@pytest.mark.slow
def test_split_over_many_pieces(chat: StartChat, model_server: ModelServer) -> None:
    attacks = ("\x1b[?2004l", "\x1b]0;x", "\x1bP")
    model_server.reply(
        *(stream(text(f"a{attack}b is all {number}", pieces=100)) for number, attack in enumerate(attacks))
    )
    reading = chat()
    for number in range(len(attacks)):
        reading.ask("go", f"is all {number}")
    reading.leave()
