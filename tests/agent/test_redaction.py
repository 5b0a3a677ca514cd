"""Secrets in whole turns: what the model, the faces, the log and a replay see. Every conversation is replayed too."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import msgspec
import pytest

from laguna_agent import held_keys
from laguna_agent.agent.events import Event, TextDelta, ToolCallUpdate
from laguna_agent.agent.session import Session
from laguna_agent.agent.store import Prompted, Replied, ToolRan
from laguna_agent.credentials import store_key
from laguna_agent.messages import ToolCall
from laguna_agent.redaction import MARK
from tests.agent.driving import converse, lines
from tests.model_server import ModelServer, reasoning, text, tool_call

CANARY = "sk-canary-0123456789abcdef/+"
STORED = "stored-canary-0123456789abcdef"
GITHUB = "ghp_" + "a1B2" * 9


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    store_key("poolside", STORED)
    monkeypatch.setenv("OPENROUTER_API_KEY", CANARY)
    held_keys.take_secrets()


def everything(server: ModelServer, log: Path) -> str:
    """All that was posted, and all that lies on disk below the home directory but the stored keys themselves."""
    posted = [json.dumps(body, ensure_ascii=False) for body in server.chats]
    home = Path(os.environ["HOME"])
    kept = [
        file.read_bytes().decode("utf-8", "replace")
        for file in home.rglob("*")
        if file.is_file() and file.name != "credentials.json"
    ]
    assert log.exists()
    return "\n".join([*posted, *kept])


def test_a_key_in_files_and_output_reaches_nobody(model_server: ModelServer, workspace: Path) -> None:
    (workspace / ".env").write_text(f"A=1\nKEY={CANARY}\nTOKEN={GITHUB}\n")
    (workspace / "AGENTS.md").write_text(f"The key is {CANARY}.\n")
    encoded = base64.b64encode(f"x{CANARY}y".encode()).decode()
    (workspace / "encoded").write_text(encoded)
    halves = f"printf %s {CANARY[:9]}; sleep 0.2; printf '%s\\n' '{CANARY[9:]}'"
    model_server.reply(
        tool_call("read", {"path": ".env"}),
        tool_call("grep", {"pattern": "KEY"}),
        tool_call("shell", {"command": "cat .env encoded; python3 -c \"print(open('.env').read()*2000)\""}),
        tool_call("shell", {"command": halves.replace(CANARY[:9], '"$(cut -c5-13 .env | sed -n 2p)"')}),
    )
    model_server.reply(text("done"))
    came = converse(model_server, workspace, f"My key is {CANARY}, or {STORED}. What is in .env?")
    assert came.result.exit_code == 0
    seen = everything(model_server, came.log) + lines(came.events).decode()
    for secret in (CANARY, STORED, encoded[8:-8], json.dumps(CANARY)[1:-1].replace("/", "\\/")):
        assert secret not in seen
    assert GITHUB not in seen
    read = next(ran for ran in came.records(ToolRan) if ran.call.name == "read")
    assert "A=1" in read.result.text
    assert f"{MARK} OPENROUTER_API_KEY\u27e7" in read.result.text
    assert f"{MARK} github token\u27e7" in read.result.text
    assert (workspace / ".env").read_text() == f"A=1\nKEY={CANARY}\nTOKEN={GITHUB}\n"
    (prompted,) = came.records(Prompted)
    assert "What is in .env?" in msgspec.json.encode(prompted).decode()


def test_what_the_model_says_is_redacted_however_it_is_split(model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(
        [
            reasoning(f"the key {CANARY} is", pieces=9),
            text(f"It is {CANARY}, I think: {CANARY[:10]}", pieces=30),
            tool_call("shell", {"command": f"echo {CANARY}"}, pieces=20),
        ]
    )
    model_server.reply(text("done"))
    came = converse(model_server, workspace, "Go.")
    assert came.result.exit_code == 0
    said = "".join(event.text for event in came.of(TextDelta))
    assert said == f"It is {MARK} OPENROUTER_API_KEY\u27e7, I think: {CANARY[:10]}done"
    assert CANARY not in everything(model_server, came.log) + lines(came.events).decode()
    assert "".join(delta.text for delta in came.records(Replied)[0].deltas if hasattr(delta, "text"))
    (ran,) = came.records(ToolRan)
    assert ran.call.arguments == {"command": f"echo {MARK} OPENROUTER_API_KEY\u27e7"}


def test_live_output_is_what_a_replay_shows(model_server: ModelServer, workspace: Path) -> None:
    script = workspace / "slow.py"
    script.write_text(
        "import sys, time\n"
        f"for piece in ({GITHUB[:15]!r}, {GITHUB[15:]!r}, ' and ', {CANARY[:5]!r}, {CANARY[5:]!r}, '\\n'):\n"
        "    sys.stdout.write(piece); sys.stdout.flush(); time.sleep(0.1)\n"
    )
    model_server.reply(tool_call("shell", {"command": "python3 slow.py"}))
    model_server.reply(text("done"))
    came = converse(model_server, workspace, "Go.")
    live = "".join(event.output or "" for event in came.of(ToolCallUpdate))
    assert live == f"{MARK} github token\u27e7 and {MARK} OPENROUTER_API_KEY\u27e7\n"


def test_an_edit_acts_on_the_file_and_never_writes_a_mark(model_server: ModelServer, workspace: Path) -> None:
    file = workspace / "settings.py"
    file.write_text(f"A = 1\nKEY = '{CANARY}'\nT = '{GITHUB}'\n")
    marked = f"A = 2\nKEY = '{MARK} OPENROUTER_API_KEY\u27e7'\n"
    model_server.reply(tool_call("read", {"path": "settings.py"}))
    model_server.reply(
        tool_call("write", {"path": "settings.py", "content": marked}),
        tool_call("edit", {"path": "settings.py", "old": "A = 1", "new": "A = 3"}),
    )
    model_server.reply(text("done"))
    came = converse(model_server, workspace, "Go.")
    assert file.read_text() == f"A = 3\nKEY = '{CANARY}'\nT = '{GITHUB}'\n"
    write = next(ran for ran in came.records(ToolRan) if ran.call.name == "write")
    assert write.result.is_error
    assert "Edit the other lines only" in write.result.text
    assert CANARY not in everything(model_server, came.log) + lines(came.events).decode()


def test_a_check_that_names_a_key(model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(text("done"))
    came = converse(model_server, workspace, "Go.", check=f"echo {CANARY} {CANARY}")
    assert came.result.exit_code == 0
    assert CANARY not in everything(model_server, came.log) + lines(came.events).decode()


def test_what_is_no_secret_is_not_touched(model_server: ModelServer, workspace: Path) -> None:
    lock = '"integrity": "sha512-' + base64.b64encode(os.urandom(64)).decode() + '"\n' + "46780ebf0cae" * 3 + "\n"
    (workspace / "lock.json").write_text(lock)
    model_server.reply(tool_call("read", {"path": "lock.json"}))
    model_server.reply(text("done"))
    came = converse(model_server, workspace, "Go.")
    (ran,) = came.records(ToolRan)
    assert all(line in ran.result.text for line in lock.splitlines())
    assert isinstance(ran.call, ToolCall)


def test_a_prompt_is_redacted_before_anything_is_made_of_it(model_server: ModelServer, workspace: Path) -> None:
    """What small models are driven by is read out of the prompts themselves, live and in a replay."""
    model_server.reply(text("done"))
    seen: list[str] = []

    def watch(session: Session, _: Event) -> None:
        seen.extend(session.prompts)

    converse(model_server, workspace, f"Use {CANARY}.", watch=watch)
    assert seen
    assert set(seen) == {f"Use {MARK} OPENROUTER_API_KEY\u27e7."}
