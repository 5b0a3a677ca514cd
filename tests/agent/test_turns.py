"""Whole turns: what is posted, what is done, how it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from laguna_agent.agent.events import (
    Event,
    PermissionRequested,
    PlanUpdated,
    Retrying,
    TextDelta,
    ThoughtDelta,
    ToolCallUpdate,
    TurnEnded,
)
from laguna_agent.agent.permissions import PermissionAnswer
from laguna_agent.agent.session import Session
from laguna_agent.agent.store import Replied, ToolRan
from laguna_agent.config import Rule
from laguna_agent.errors import ConfigError
from laguna_agent.tools.base import ToolContext, ToolResult
from laguna_agent.tools.shell import Shell, ShellArguments
from tests.agent.driving import converse, posted, require_valid_conversation, roles, text_of
from tests.model_server import ModelServer, Part, cut, http, raw, reasoning, stream, text, tool_call


def shell(command: str) -> Part:
    return tool_call("shell", {"command": command})


def test_a_call_its_result_and_the_answer(model_server: ModelServer, workspace: Path) -> None:
    (workspace / "a.txt").write_text("forty-two\n")
    model_server.reply([reasoning("Look."), tool_call("read", {"path": "a.txt"})], text("It says forty-two."))
    spoken = converse(model_server, workspace, "What does a.txt say?")
    assert roles(model_server) == ["system", "user", "assistant", "tool"]
    system, user, assistant, result = posted(model_server)
    assert "What does a.txt say?" in text_of(user)
    assert str(workspace) in text_of(user)
    assert str(workspace) not in text_of(system)
    assert assistant["tool_calls"][0]["function"] == {"name": "read", "arguments": '{"path":"a.txt"}'}
    assert assistant["reasoning_content"] == "Look."
    assert "forty-two" in text_of(result)
    assert "".join(event.text for event in spoken.of(TextDelta)) == "It says forty-two."
    assert "".join(event.text for event in spoken.of(ThoughtDelta)) == "Look."
    assert (spoken.result.outcome, spoken.result.turns, spoken.result.text) == ("completed", 2, "It says forty-two.")


def test_several_calls_in_one_answer(model_server: ModelServer, workspace: Path) -> None:
    (workspace / "a.txt").write_text("first\n")
    model_server.reply(
        [tool_call("read", {"path": "a.txt"}), shell("echo second"), tool_call("nonsense", {"x": 1})], text("Done.")
    )
    converse(model_server, workspace, "x")
    require_valid_conversation(posted(model_server))
    first, second, third = posted(model_server)[3:]
    assert "first" in text_of(first)
    assert "second" in text_of(second)
    assert "There is no tool named 'nonsense'" in text_of(third)


def test_the_plan_is_an_event(model_server: ModelServer, workspace: Path) -> None:
    steps = [{"content": "look", "status": "completed"}, {"content": "fix", "status": "in_progress"}]
    model_server.reply(tool_call("plan", {"steps": steps}), text("Done."))
    plans = converse(model_server, workspace, "x").of(PlanUpdated)
    assert [(entry.content, entry.status) for entry in plans[-1].entries] == [
        ("look", "completed"),
        ("fix", "in_progress"),
    ]


def test_an_edit_and_a_check_that_fails_and_then_passes(model_server: ModelServer, workspace: Path) -> None:
    (workspace / "add.py").write_text("def add(a, b):\n    return a - b\n")
    edit = {"path": "add.py", "old": "return a - b", "new": "return a * b"}
    right = {"path": "add.py", "old": "return a * b", "new": "return a + b"}
    model_server.reply(tool_call("edit", edit), text("Fixed."), tool_call("edit", right), text("Now it is."))
    check = "python3 -c 'import add; assert add.add(2, 3) == 5, \"2 + 3\"'"
    spoken = converse(model_server, workspace, "Fix add.", check=check)
    assert (workspace / "add.py").read_text() == "def add(a, b):\n    return a + b\n"
    assert [(run.when, run.exit_code) for run in spoken.result.checks] == [("before", 1), ("after", 1), ("after", 0)]
    assert spoken.result.files_changed == ("add.py",)
    assert spoken.result.exit_code == 0
    opening, returned = text_of(posted(model_server, 0)[1]), text_of(posted(model_server, 2)[-1])
    assert check in opening
    assert "AssertionError: 2 + 3" in opening
    assert "AssertionError: 2 + 3" in returned
    assert "fails (exit 1)" in returned


def test_a_check_that_never_passes(model_server: ModelServer, workspace: Path) -> None:
    model_server.always(lambda body: text(f"It works after {len(body['messages'])}."))
    spoken = converse(model_server, workspace, "x", check="echo still broken; exit 3")
    assert (spoken.result.outcome, spoken.result.exit_code) == ("check_failed", 8)
    assert len(model_server.chats) == 5
    assert sum("still broken" in text_of(message) for message in posted(model_server)) == 5


POSITIONS = {
    "poolside": "<tool_call>write\n<arg_key>path</arg_key>\n<arg_value>made.txt</arg_value>\n<arg_key>content</arg_key>"
    "\n<arg_value>by text</arg_value>\n</tool_call>",
    "hermes": '<tool_call>\n{"name": "write", "arguments": {"path": "made.txt", "content": "by text"}}\n</tool_call>',
    "fenced": '```json\n{"name": "write", "arguments": {"path": "made.txt", "content": "by text"}}\n```',
}


@pytest.mark.parametrize("form", POSITIONS)
def test_a_call_that_arrives_as_text_runs(model_server: ModelServer, workspace: Path, form: str) -> None:
    model_server.reply(text(f"I will write it.\n{POSITIONS[form]}", pieces=9), text("Done."))
    spoken = converse(model_server, workspace, "Write made.txt")
    assert (workspace / "made.txt").read_text() == "by text"
    # The server saw no call, so it would refuse a result of one.
    assert roles(model_server) == ["system", "user", "assistant", "user"]
    assert text_of(posted(model_server)[-1]).startswith("Result of write:\n")
    assert spoken.result.exit_code == 0


def test_calls_as_text_have_ids_of_their_own_in_every_prompt(model_server: ModelServer, workspace: Path) -> None:
    model_server.always(lambda body: text(POSITIONS["hermes"] if len(body["messages"]) % 4 == 2 else "Done."))
    spoken = converse(model_server, workspace, "one", "two")
    ids = [ran.call.id for ran in spoken.records(ToolRan)]
    assert len(ids) == len(set(ids)) == 2


@pytest.mark.parametrize(
    "cut",
    [
        stream(tool_call("shell", '{"command": "touch made'), finish="length"),
        stream(tool_call("write", '{"path": "made", "content": "half'), finish="tool_calls"),
        stream(text('<tool_call>\n{"name": "write", "arguments": {"path": "made", "content": "ha'), finish="length"),
        stream(text("<tool_call>shell\n<arg_key>command</arg_key>\n<arg_value>touch made"), finish="length"),
    ],
)
def test_truncated_arguments_are_never_executed(model_server: ModelServer, workspace: Path, cut: Any) -> None:
    model_server.reply(cut, text("I stop."))
    spoken = converse(model_server, workspace, "x")
    assert list(workspace.iterdir()) == []
    assert "was not executed" in text_of(posted(model_server)[-1])
    assert spoken.records(ToolRan)[0].result.is_error
    require_valid_conversation(posted(model_server))


@pytest.mark.parametrize(
    "path", ["a\0b", "~nobody-of-this-name/x", "x" * 5000], ids=["nul", "no such home", "too long"]
)
@pytest.mark.parametrize("tool", ["read", "write", "edit", "list", "grep"])
def test_an_impossible_path_is_the_models_problem(
    model_server: ModelServer, workspace: Path, tool: str, path: str
) -> None:
    more = {"write": {"content": ""}, "edit": {"old": "a", "new": "b"}, "grep": {"pattern": "a"}}
    model_server.reply(tool_call(tool, {"path": path} | more.get(tool, {})), text("Sorry."))
    spoken = converse(model_server, workspace, "x")
    assert spoken.result.exit_code == 0, spoken.result.message
    assert len(text_of(posted(model_server)[-1])) > 10


def test_a_repeated_call_is_pruned_and_then_stopped(model_server: ModelServer, workspace: Path) -> None:
    (workspace / "a.txt").write_text("the same\n")
    model_server.always(tool_call("read", {"path": "a.txt"}))
    spoken = converse(model_server, workspace, "x")
    assert (spoken.result.outcome, spoken.result.exit_code) == ("loop", 6)
    assert len(model_server.chats) == 5
    for at in range(1, 5):
        assert roles(model_server, at) == ["system", "user", "assistant", "tool"]
        require_valid_conversation(posted(model_server, at))


def test_polling_and_work_in_between_are_no_loop(model_server: ModelServer, workspace: Path) -> None:
    for number in range(12):
        write = tool_call("write", {"path": "n.txt", "content": f"{number}\n"})
        model_server.reply(shell("cat n.txt 2>/dev/null || true"), write if number % 2 else shell("date +%N"))
    model_server.reply(text("Done."))
    assert converse(model_server, workspace, "x").result.exit_code == 0


def test_denied_at_the_end(model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(shell("touch made"), text("I may not."))
    spoken = converse(model_server, workspace, "x", approve="ask")
    assert (spoken.result.outcome, spoken.result.exit_code) == ("denied", 7)
    assert spoken.result.denied == ("$ touch made",)
    assert list(workspace.iterdir()) == []
    assert "Denied: nobody is here to ask" in text_of(posted(model_server)[-1])
    (asked,) = spoken.of(PermissionRequested)
    assert [option.kind for option in asked.options] == ["allow_once", "allow_always", "reject_once", "reject_always"]


def test_full_auto_asks_nobody_for_the_network_and_goes_on(model_server: ModelServer, workspace: Path) -> None:
    def confined(session: Session, event: Event) -> None:
        session.permissions.boundary = "full"

    model_server.reply(
        tool_call("shell", {"command": "touch out", "network": True}), shell("touch made"), text("Without it.")
    )
    spoken = converse(model_server, workspace, "x", approve="all", watch=confined)
    assert spoken.result.exit_code == 0
    assert spoken.result.denied == ("$ touch out",)
    assert [path.name for path in workspace.iterdir()] == ["made"]
    denial = text_of(posted(model_server, 1)[-1])
    assert denial == "Denied: nobody is here to ask; wants the network. Do not repeat it."
    (asked,) = spoken.of(PermissionRequested)
    assert (asked.parts, asked.unusual) == (("touch out",), ("wants the network",))


def test_a_rule_of_the_person_denies_in_full_auto_and_says_why(model_server: ModelServer, workspace: Path) -> None:
    rule = Rule("shell(touch *)", "deny", "nothing is touched here")
    model_server.reply(shell("true; bash -c 'touch made'"), shell("echo ok"), text("Done."))
    spoken = converse(model_server, workspace, "x", approve="all", rules=(rule,))
    assert spoken.result.exit_code == 0
    assert list(workspace.iterdir()) == []
    assert text_of(posted(model_server, 1)[-1]) == "Denied: nothing is touched here."
    assert not spoken.of(PermissionRequested)


def test_a_rule_that_fails_its_example_starts_no_session(model_server: ModelServer, workspace: Path) -> None:
    rule = Rule("shell(git push *)", "deny", match=("git pull",))
    with pytest.raises(ConfigError, match="git pull"):
        converse(model_server, workspace, "x", rules=(rule,))
    assert not model_server.chats


@pytest.mark.parametrize(
    ("approve", "command", "kind"),
    [
        ("ask", "ls", "reading"),
        ("plan", "ls", "reading"),
        ("all", "ls", "workspace"),
        ("edits", "true > a", "workspace"),
    ],
)
def test_a_tool_is_told_how_its_command_is_confined(
    model_server: ModelServer, workspace: Path, monkeypatch: pytest.MonkeyPatch, approve: str, command: str, kind: str
) -> None:
    seen: list[str] = []

    original = Shell.run

    async def watched(self: Shell, args: ShellArguments, context: ToolContext) -> ToolResult:
        seen.append(context.kind)
        return await original(self, args, context)

    def confined(session: Session, event: Event) -> None:
        session.permissions.boundary = "full"

    monkeypatch.setattr(Shell, "run", watched)
    model_server.reply(shell(command), text("Done."))
    converse(model_server, workspace, "x", approve=approve, watch=confined)
    assert seen == [kind]


def test_denied_but_another_way_was_found(model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(shell("touch made"), tool_call("list", {"path": "."}), text("It is empty."))
    assert converse(model_server, workspace, "x", approve="ask").result.exit_code == 0


def test_never_touches_that_one_call_and_is_remembered(model_server: ModelServer, workspace: Path) -> None:
    answers = iter([PermissionAnswer(False, remember=True), PermissionAnswer(True, remember=True)])

    async def person(_: PermissionRequested) -> PermissionAnswer:
        return next(answers)

    model_server.reply([shell("touch a"), shell("touch b")], [shell("touch a"), shell("touch b")], text("Done."))
    spoken = converse(model_server, workspace, "one", approve="ask", approver=person)
    assert spoken.result.exit_code == 0
    assert spoken.result.denied == ("$ touch a", "$ touch a")
    # "always" was for exactly this command, both times, so each is asked about once.
    assert len(spoken.of(PermissionRequested)) == 2
    assert [path.name for path in workspace.iterdir()] == ["b"]
    require_valid_conversation(posted(model_server))
    assert "Denied" in text_of(posted(model_server)[3])
    assert "for the whole session" in text_of(posted(model_server)[-2])


def test_empty_answers(model_server: ModelServer, workspace: Path) -> None:
    model_server.always(stream(text("")))
    spoken = converse(model_server, workspace, "x")
    assert (spoken.result.outcome, spoken.result.exit_code, len(model_server.chats)) == ("model_stopped", 4, 2)
    assert "empty" in text_of(posted(model_server)[-1])


def test_one_empty_answer_now_and_then_is_no_end(model_server: ModelServer, workspace: Path) -> None:
    for number in range(4):
        model_server.reply(stream(text("")), shell(f"echo {number}"))
    model_server.reply(text("Done."))
    assert converse(model_server, workspace, "x").result.exit_code == 0


def test_cut_at_the_length_limit(model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(stream(text("a long st"), finish="length"), text("short"))
    assert converse(model_server, workspace, "x").result.text == "short"
    assert "cut off" in text_of(posted(model_server)[-1])
    model_server.always(stream(text("a long st"), finish="length"))
    spoken = converse(model_server, workspace, "x")
    assert (spoken.result.exit_code, spoken.result.stop_reason) == (4, "max_tokens")


@pytest.mark.parametrize("finish", ["content_filter", "refusal"])
def test_refusals(model_server: ModelServer, workspace: Path, finish: str) -> None:
    model_server.reply(stream(text("I can not"), finish=finish))
    spoken = converse(model_server, workspace, "x")
    assert (spoken.result.exit_code, spoken.result.stop_reason, len(model_server.chats)) == (4, "refusal", 1)


def test_output_schema(model_server: ModelServer, workspace: Path) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    model_server.reply(shell("echo 42"), text("It is 42."), text('```json\n{"n": 42}\n```'))
    spoken = converse(model_server, workspace, "How many?", schema=schema)
    assert spoken.result.exit_code == 0
    assert '"n"' in text_of(posted(model_server)[-1])
    assert "tools" in model_server.chats[1]


def test_a_schema_is_constrained_where_the_server_can(model_server: ModelServer, workspace: Path) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    model_server.props = {"default_generation_settings": {"n_ctx": 32_768}}
    model_server.reply(text("It is 42."), text('{"n": 42}'))
    assert converse(model_server, workspace, "How many?", schema=schema).result.exit_code == 0
    constrained = model_server.chats[1]
    assert constrained["response_format"]["json_schema"]["schema"] == schema
    assert "tools" not in constrained


def test_live_output_is_bounded_and_the_log_with_it(model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(shell("head -c 3000000 /dev/zero | tr '\\0' 'x' | fold -w 100"), text("Done."))
    spoken = converse(model_server, workspace, "x")
    live = "".join(event.output for event in spoken.of(ToolCallUpdate))
    assert 100_000 < len(live) < 140_000
    assert live.endswith("not shown live]\n")
    assert spoken.log.stat().st_size < 400_000


def test_what_json_cannot_hold_does_not_break_a_run(model_server: ModelServer, workspace: Path) -> None:
    (workspace / "caf\udce9.txt").write_text("x")
    big = '{"path": "a", "offset": 123456789012345678901234567890}'
    model_server.reply(
        tool_call("read", big),
        tool_call("read", '{"path": "\\ud83d"}'),
        tool_call("list", {"path": "."}),
        text('{"name": "read", "arguments": {"path": "\\ud83d"}}'),
        [raw(b'data: {"choices": [{"index": 0, "delta": {"content": "half \\ud83d an emoji"}}]}\n\n')],
    )
    spoken = converse(model_server, workspace, "x \udce9 y")
    assert spoken.result.exit_code == 0, spoken.result.message


def test_numbers_that_are_none_replay_too(model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(tool_call("read", '{"path": "a", "offset": NaN, "limit": Infinity}'), text("Done."))
    assert converse(model_server, workspace, "x").result.exit_code == 0


def test_retries_are_told_and_replayed(model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(http(503, "busy", {"Retry-After": "0.01"}), stream(text("half an ans"), cut()), text("whole"))
    spoken = converse(model_server, workspace, "x", retry_budget=20.0)
    assert spoken.result.text == "whole"
    assert [(event.attempt, event.void) for event in spoken.of(Retrying)] == [(1, False), (2, True)]
    assert len(spoken.records(Replied)) == 1


def test_a_provider_error_ends_the_run_by_name(model_server: ModelServer, workspace: Path) -> None:

    model_server.reply(http(401, {"error": {"message": "bad key"}}), text("Hello."))
    spoken = converse(model_server, workspace, "x", "again")
    assert [result.exit_code for result in spoken.results] == [3, 0]
    assert spoken.of(TurnEnded)[0].error == "AuthenticationFailed"
    assert json.dumps(roles(model_server)) == '["system", "user", "user"]'


def test_a_workspace_that_vanishes_is_said_and_no_bug(model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(shell("rm -rf ../workspace"), text("Gone."))
    spoken = converse(model_server, workspace, "x", snapshot=True, sandbox="none")
    assert spoken.result.outcome == "completed"
    assert "could not be listed" in spoken.result.message


def test_changes_by_commands_count_where_a_snapshot_is_kept(model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(shell("echo 1 > by_command.txt"), tool_call("write", {"path": "b", "content": ""}), text("."))
    spoken = converse(model_server, workspace, "x", snapshot=True)
    assert set(spoken.result.files_changed) == {"by_command.txt", "b"}
