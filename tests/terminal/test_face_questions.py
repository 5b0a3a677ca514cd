"""Each kind of permission question on the real screen: what it shows, what the answer does, what the model is told."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from laguna_agent.trust import SERVERS, look, trust
from tests.mcp.serving import HERE
from tests.model_server import ModelServer, text, tool_call
from tests.terminal import snapshots
from tests.terminal.conftest import StartChat, StartTty
from tests.terminal.driving import Chat

WIDE = {"rows": 30, "columns": 200}
"""So that no path of this run is wrapped, which would be another snapshot on another machine."""


def question(asking: Chat, about: str) -> list[str]:
    """The rows of the question about this, once it takes keys."""
    found: list[str] = []

    def shown(_: object) -> bool:
        rows = asking.tty.screen()
        starts = [at for at, row in enumerate(rows) if row.startswith("? May it")]
        found[:] = rows[starts[-1] : rows.index(asking.status)] if starts else []
        return any(about in row for row in found) and any("refuse, and say why" in row for row in found)

    asking.tty.wait_for(shown)
    return list(found)


def answer(asking: Chat, name: str, about: str, key: str, workspace: Path) -> None:
    """Hold the question against its snapshot and press a key."""
    snapshots.check(f"question_{name}", question(asking, about), workspace)
    asking.press(key)


def told(server: ModelServer) -> list[str]:
    """What the model was told of its calls, in order."""
    return [str(message["content"]) for message in server.chats[-1]["messages"] if message["role"] == "tool"]


def test_files_outside_hidden_and_obeyed(chat: StartChat, model_server: ModelServer, workspace: Path) -> None:
    outside, keys = workspace.parent / "outside", workspace.parent / "home" / ".ssh"
    outside.mkdir()
    keys.mkdir()
    (outside / "notes.txt").write_text("the notes of another project\n")
    (keys / "id_test").write_text("a key\n")
    model_server.reply(
        tool_call("read", {"path": "../outside/notes.txt"}),
        tool_call("grep", {"pattern": "notes", "path": "../outside"}),
        tool_call("edit", {"path": "../outside/notes.txt", "old": "another", "new": "one more"}),
        tool_call("read", {"path": "../home/.ssh/id_test"}),
        tool_call("write", {"path": ".envrc", "content": "export PATH=.\n"}),
        tool_call("write", {"path": ".envrc", "content": "export PATH=.\n"}),
        text("So far."),
    )
    asking = chat("--approve", "edits", **WIDE)
    asking.send("look around")
    answer(asking, "read_outside", "Read ../outside/notes.txt", "y", workspace)
    answer(asking, "search_outside", "Search 'notes'", "n", workspace)
    answer(asking, "write_outside", "Edit ../outside/notes.txt", "y", workspace)
    answer(asking, "read_hidden", "Read ../home/.ssh/id_test", "n", workspace)
    answer(asking, "write_obeyed", "Write .envrc", "x", workspace)
    asking.tty.wait_for("So far.")
    asking.idle()
    read, searched, written, hidden, obeyed, again = told(model_server)
    assert "the notes of another project" in read
    assert searched == hidden == obeyed == "Denied: the person refused. Do not repeat it."
    assert "Denied" not in written
    assert (outside / "notes.txt").read_text() == "the notes of one more project\n"
    assert again == "Denied: the person refuses this for the whole session."
    assert not (workspace / ".envrc").exists()
    asking.leave()


def test_commands_that_want_more(chat: StartChat, model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(
        tool_call("shell", {"command": "echo net > got", "network": True}),
        tool_call("shell", {"command": "touch free", "unconfined": True}),
        tool_call("shell", {"command": "echo x > ../beside; echo y > .envrc"}),
        tool_call("shell", {"command": "./watch.sh", "background": True}),
        text("So far."),
    )
    asking = chat(**WIDE)
    asking.send("more")
    answer(asking, "network", "echo net > got", "y", workspace)
    answer(asking, "unconfined", "touch free", "n", workspace)
    answer(asking, "redirections", "echo x > ../beside", "n", workspace)
    answer(asking, "background", "./watch.sh &", "n", workspace)
    asking.tty.wait_for("So far.")
    asking.idle()
    assert (workspace / "got").read_text() == "net\n"
    assert not (workspace / "free").exists()
    assert not (workspace.parent / "beside").exists()
    got, *denied = told(model_server)
    assert "Denied" not in got
    assert denied == ["Denied: the person refused. Do not repeat it."] * 3
    asking.leave()


def test_without_a_sandbox_and_by_a_rule(chat: StartChat, model_server: ModelServer, workspace: Path) -> None:
    config = Path(os.environ["XDG_CONFIG_HOME"]) / "laguna-agent"
    config.mkdir(parents=True)
    rule = 'rule = "edit(migrations/**)"\nverdict = "ask"\nreason = "a migration is run on the real data"\n'
    (config / "config.toml").write_text(f"[[rules]]\n{rule}")
    (workspace / "migrations").mkdir()
    model_server.reply(
        tool_call("shell", {"command": "make install"}),
        tool_call("write", {"path": "migrations/1.sql", "content": "drop table users;\n"}),
        text("So far."),
    )
    asking = chat("--approve", "edits", LAGUNA_SANDBOX="none", **WIDE)
    asking.send("install")
    answer(asking, "no_sandbox", "make install", "n", workspace)
    answer(asking, "rule", "Write migrations/1.sql", "y", workspace)
    asking.tty.wait_for("So far.")
    asking.idle()
    refused, written = told(model_server)
    assert refused == "Denied: the person refused. Do not repeat it."
    assert "Denied" not in written
    assert (workspace / "migrations" / "1.sql").read_text() == "drop table users;\n"
    asking.leave()


def test_a_file_of_the_persons_that_an_undo_would_overwrite(
    chat: StartChat, model_server: ModelServer, workspace: Path
) -> None:
    model_server.reply(tool_call("write", {"path": "a.txt", "content": "of the agent\n"}), text("Written."))
    asking = chat("--approve", "all", **WIDE)
    asking.ask("write it", "Written.")
    (workspace / "a.txt").write_text("of the person\n")
    asking.send("/undo")
    answer(asking, "undo", "a.txt", "n", workspace)
    asking.tty.wait_for("Nothing was changed")
    asking.idle()
    assert (workspace / "a.txt").read_text() == "of the person\n"
    asking.send("/undo")
    question(asking, "a.txt")
    asking.press("y")
    asking.tty.wait_for("took back")
    asking.tty.wait_for(lambda _: asking.line == "> write it")
    assert not (workspace / "a.txt").exists()
    assert len(model_server.chats) == 2, "the model has no part in it"
    asking.tty.send("\x15")
    asking.leave()


def test_a_tool_of_a_server_shows_what_it_is_given(chat: StartChat, model_server: ModelServer, workspace: Path) -> None:
    server = {"command": sys.executable, "args": [str(HERE / "bare.py")]}
    (workspace / SERVERS).write_text(json.dumps({"mcpServers": {"notes": server}}))
    trust(look(workspace))
    model_server.reply(
        tool_call("notes__echo", {"text": "drop table users;\n-- all of it"}),
        tool_call("notes__echo", {"text": "select"}),
        tool_call("notes__echo", {"text": "what was not shown"}),
        text("So far."),
    )
    asking = chat(**WIDE)
    asking.send("ask the notes")
    answer(asking, "tool_of_a_server", "drop table users", "n", workspace)
    question(asking, "select")
    asking.press("a")
    asking.tty.wait_for("So far.")
    asking.idle()
    refused, said, unasked = told(model_server)
    assert refused == "Denied: the person refused. Do not repeat it."
    assert "select" in said
    assert "what was not shown" in unasked, "always holds for the tool, and the answer said so"
    asking.leave()


def test_another_agent_asks_for_a_command_with_the_network(
    tty: StartTty, model_server: ModelServer, workspace: Path
) -> None:
    model_server.reply(tool_call("shell", {"command": "echo net > got", "network": True}), text("So far."))
    shown = tty("--agent", f"{sys.executable} -m laguna_agent acp", rows=30, columns=200, **model_server.env)
    asking = Chat(shown, workspace)
    asking.idle()
    asking.send("more")
    answer(asking, "of_another_agent", "echo net > got", "n", workspace)
    shown.wait_for("So far.")
    asking.idle()
    assert told(model_server)[0].startswith("Denied")
    assert not (workspace / "got").exists()
    asking.leave()
