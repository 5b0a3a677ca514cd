"""Copies of a conversation: the same history, another session."""

from __future__ import annotations

import os
from pathlib import Path

from laguna_agent.agent.archive import fork_session, list_sessions
from laguna_agent.agent.events import Forked, TextDelta
from laguna_agent.agent.store import Opened, find_session, read_log
from laguna_agent.trust import look, trust
from tests.agent.driving import Conversation, converse, posted, replayed, text_of
from tests.agent.test_resume import kill_in_mid_call
from tests.agent.test_rewind import require_prefix, shown
from tests.conftest import RunCli, StartCli
from tests.model_server import ModelServer, reasoning, text, tool_call


def copy_of(id: str) -> Conversation:
    return Conversation(id=id)


def test_the_command_copies_all_but_itself(model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(text("1"), text("2"), text("3"), text("4"))
    # The replay of the command gives the recorded id, and makes no third session.
    spoken = converse(model_server, workspace, "one", "/fork", "two")
    (forked,) = spoken.of(Forked)
    assert {each.id for each in list_sessions()} == {spoken.id, forked.session_id}
    words = "".join(event.text for event in spoken.turns[1] if isinstance(event, TextDelta))
    assert words == (
        f"Session {forked.session_id} is a copy of this conversation. "
        "Files were not copied: both work on the same ones."
    )
    copy = copy_of(forked.session_id)
    assert shown(copy) == ["one", "1"]
    assert [type(event) for event in replayed(copy.log)] == [type(event) for event in spoken.turns[0]]
    settings_of = read_log(copy.log)[0]
    assert isinstance(settings_of, Opened)
    assert (settings_of.id, settings_of.copy_of) == (copy.id, spoken.id)


def test_both_go_on_from_the_same_prefix(run_cli: RunCli, model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(*(text(str(number)) for number in range(1, 6)))
    spoken = converse(model_server, workspace, "one", "two")
    made = run_cli("sessions", "fork", spoken.id)
    assert made.returncode == 0, made.stderr
    copy = made.stdout.strip()
    spoken = converse(model_server, workspace, "left", resume=spoken)
    require_prefix(model_server, earlier=1, later=2)
    there = run_cli("run", "right", "--resume", copy, env=model_server.env)
    assert there.returncode == 0, there.stderr
    require_prefix(model_server, earlier=1, later=3)
    assert posted(model_server, 3)[:-1] == posted(model_server, 2)[:-1]
    assert "left" not in text_of(posted(model_server, 3)[-1])
    assert shown(spoken) == ["one", "1", "two", "2", "left", "3"]
    assert shown(copy_of(copy)) == ["one", "1", "two", "2", "right", "4"]
    assert run_cli("run", "--replay", copy, "--output", "json").returncode == 0
    assert run_cli("sessions", "fork", "nobody").returncode == 2


def test_a_run_that_was_killed_is_copied_as_far_as_it_came(
    start_cli: StartCli, run_cli: RunCli, model_server: ModelServer, workspace: Path
) -> None:
    session = kill_in_mid_call(start_cli, model_server, workspace)
    copy = fork_session(session)
    originals, copies = read_log(find_session(session)), read_log(find_session(copy))
    assert originals[1:] == copies[1:]
    # One that a person asked for between two prompts knows nothing of the one that has no end.
    assert [type(record) for record in read_log(find_session(fork_session(session, between_prompts=True)))] == [Opened]
    model_server.reply(text("Going on."), text("Again."), text("And again."))
    assert run_cli("run", "go on", "--resume", copy, env=model_server.env).returncode == 0
    # Once it went on, it belongs to what was said.
    later = fork_session(copy, between_prompts=True)
    assert read_log(find_session(later))[1:-1] != []
    assert shown(copy_of(later)) == shown(copy_of(copy))
    assert os.path.isdir(find_session(later).parent)


def test_what_changed_between_two_runs_is_told_at_the_end(
    run_cli: RunCli, model_server: ModelServer, workspace: Path
) -> None:
    """Other instructions, other files, another mode, another day: what was said before is posted again as it was."""
    (workspace / "AGENTS.md").write_text("Write tests first.\n")
    trust(look(workspace))
    as_text = '<tool_call>{"name": "list", "arguments": {"path": "."}}</tool_call>'
    answers = [[reasoning("Hm."), text("Look."), tool_call("read", {"path": "AGENTS.md"})], text(as_text), text("1")]
    model_server.reply(*answers, text("2"), *answers, *map(text, "3456"))
    assert run_cli("run", "one", "--approve", "all", env=model_server.env).returncode == 0
    (workspace / "AGENTS.md").write_text("Write no tests.\n")
    trust(look(workspace))
    (workspace / "new.txt").write_text("x")
    options = ["--continue", "--approve", "plan", "--check", "false"]
    assert run_cli("run", "two", *options, env=model_server.env | {"TZ": "Asia/Tokyo"}).returncode == 8
    require_prefix(model_server, earlier=2, later=3)
    newest = text_of(posted(model_server, 3)[-1])
    assert "Write no tests." in newest
    assert "Plan mode" in newest
    assert "new.txt" in newest
    # Within a turn too, and after the failing check.
    for later in range(4, len(model_server.chats)):
        earlier = posted(model_server, later - 1)
        assert posted(model_server, later)[: len(earlier)] == earlier
