"""What a session's walls mean for its turns: what runs unasked, what is said of it, what the model is shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from laguna_agent.agent.events import PermissionRequested, ToolCallUpdate, TurnStarted
from laguna_agent.config import Rule
from laguna_agent.sandbox.tiers import prove
from tests.agent.driving import converse, posted, text_of
from tests.conftest import RunCli
from tests.model_server import ModelServer, text, tool_call
from tests.processes import commands_in

BEST = prove("auto")
confined = pytest.mark.skipif(BEST.tier == "none", reason=f"no sandbox works here: {BEST.reasons}")
full = pytest.mark.skipif(BEST.boundary != "full", reason=f"the sandbox is {BEST.summary}: {BEST.reasons}")


def shell(command: str, **more: object) -> object:
    return tool_call("shell", {"command": command, **more})


@confined
def test_every_result_says_what_confined_the_command(model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(shell("echo out"), shell("ls"), text("Done."))
    spoken = converse(model_server, workspace, "x", approve="edits" if BEST.boundary == "full" else "all")
    assert spoken.of(TurnStarted)[0].sandbox == BEST.tier
    ended = [event for event in spoken.of(ToolCallUpdate) if event.status == "completed"]
    assert ended[0].sandbox in (BEST.tier, f"{BEST.tier}, reading")
    assert spoken.result.sandbox == BEST.tier


@confined
def test_a_command_that_only_looks_cannot_do_more(model_server: ModelServer, workspace: Path) -> None:
    """Whatever the table of such programs says: it runs where writing is impossible."""
    (workspace / "a").write_text("x")
    model_server.reply(shell("cat a"), text("Done."))
    spoken = converse(model_server, workspace, "x", approve="ask")
    assert spoken.of(PermissionRequested) == []
    (ended,) = [event for event in spoken.of(ToolCallUpdate) if event.status == "completed"]
    assert ended.sandbox == f"{BEST.tier}, reading"


@full
def test_edits_runs_confined_commands_and_asks_for_the_network(model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(shell("touch made"), shell("touch far", network=True), text("Done."))
    spoken = converse(model_server, workspace, "x", approve="edits")
    assert (workspace / "made").exists()
    assert not (workspace / "far").exists()
    (asked,) = spoken.of(PermissionRequested)
    assert any("network" in fact for fact in asked.unusual)


@confined
def test_what_keeps_absent_names_free_is_not_shown_to_the_model(model_server: ModelServer, workspace: Path) -> None:
    (workspace / ".zed").mkdir()
    (workspace / ".zed" / "settings.json").write_text("{}")
    model_server.reply(shell("touch made"), tool_call("list", {"path": "."}), text("Done."))
    converse(model_server, workspace, "x", approve="all")
    listed = text_of(posted(model_server)[-1])
    assert ".zed" in listed
    assert ".vscode" not in listed
    assert sorted(path.name for path in workspace.iterdir()) == [".zed", "made"]


@confined
def test_where_denials_cannot_be_kept_commands_ask(model_server: ModelServer, workspace: Path) -> None:
    (workspace / ".env").write_text("KEY=1")
    rules = (Rule("read(.env)", "deny"),)
    model_server.reply(shell("cat .env"), text("Done."))
    spoken = converse(model_server, workspace, "x", approve="all", sandbox="landlock", rules=rules)
    assert "KEY=1" not in json.dumps(list(posted(model_server)))
    assert any("rules deny" in fact for asked in spoken.of(PermissionRequested) for fact in asked.unusual) or (
        "Denied" in text_of(posted(model_server)[-1])
    )


def test_a_run_that_nobody_watches_needs_walls(run_cli: RunCli, model_server: ModelServer, workspace: Path) -> None:
    """The only program that could put them up is taken from its place by naming a tier of another system."""
    other = "seatbelt" if BEST.tier != "seatbelt" else "bubblewrap"
    done = run_cli("run", "x", "--approve", "all", "--sandbox", other, "--output", "json", env=model_server.env)
    assert done.returncode == 2
    assert other in json.loads(done.stdout)["message"]
    assert model_server.chats == []


def test_without_walls_by_the_persons_own_word(run_cli: RunCli, model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(shell("echo $$ > pid"), text("Done."))
    done = run_cli("run", "x", "--approve", "all", "--sandbox=none", "--output", "json", env=model_server.env)
    record = json.loads(done.stdout)
    assert (done.returncode, record["sandbox"]) == (0, "none")
    assert (workspace / "pid").exists()
    assert not commands_in(workspace)
