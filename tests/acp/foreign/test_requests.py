"""What an agent asks of its client: the person's leave, files of the workspace, commands there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from laguna_agent.acp.client.agent import ForeignAgent
from laguna_agent.agent.events import (
    Event,
    PermissionOption,
    PermissionRequested,
    PermissionResolved,
    ToolCallStarted,
    ToolCallUpdate,
)
from laguna_agent.agent.permissions import PermissionAnswer
from laguna_agent.config import Rule, Settings
from laguna_agent.messages import FileDiff, TextBlock
from tests.acp.foreign.driving import Person, all_of, driven, ended, reported, scripted, turn
from tests.acp.program import wait_for


def asked_for(
    workspace: Path, *prompts: list[Any], person: Callable[[PermissionRequested], Any] | None = None, **settings: Any
) -> list[list[Event]]:
    """The events of turns in which the agent makes these requests."""

    async def run() -> list[list[Event]]:
        async with driven(scripted("calls"), workspace, person, settings=Settings(**settings)) as agent:
            return [await turn(agent, json.dumps(each)) for each in prompts]

    return anyio.run(run)


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (PermissionAnswer(True), {"outcome": "selected", "optionId": "here"}),
        (PermissionAnswer(True, option="everywhere"), {"outcome": "selected", "optionId": "everywhere"}),
        (PermissionAnswer(True, remember=True), {"outcome": "selected", "optionId": "always"}),
        (PermissionAnswer(False), {"outcome": "selected", "optionId": "no"}),
        # There is no option to refuse for good, and none that allows may stand for a refusal.
        (PermissionAnswer(False, remember=True, option="always"), {"outcome": "selected", "optionId": "no"}),
    ],
)
def test_a_question_with_options_of_the_agents_own(answer: PermissionAnswer, outcome: Any, workspace: Path) -> None:
    person = Person(answer)

    async def run() -> list[Event]:
        async with driven(scripted("asks"), workspace, person) as agent:
            return await turn(agent, "Go")

    events = anyio.run(run)
    assert reported(events) == [outcome]
    (asked,) = person.asked
    assert asked.options[1] == PermissionOption("everywhere", "allow_once", "everywhere")
    assert (asked.title, asked.kind, asked.parts) == ("Deploy", "execute", ("make 'deploy now'",))
    assert asked.unusual == ("whether anything confines it is up to the agent",)
    # What was asked about and never ran is closed.
    assert [update.status for update in all_of(events, ToolCallUpdate)] == ["failed"]
    assert ended(events).outcome == "completed"


def test_no_answer_ever_grants_more_than_was_said(workspace: Path) -> None:
    options = [{"optionId": "all", "name": "All", "kind": "allow_always"}]
    asked = ["session/request_permission", {"toolCall": {"toolCallId": "c"}, "options": options}]
    (events,) = asked_for(workspace, [asked])
    assert reported(events) == [{"outcome": {"outcome": "cancelled"}}]


def test_one_question_at_a_time_and_none_that_was_taken_back(workspace: Path) -> None:
    asked: list[str] = []
    open_questions = 0

    async def person(request: PermissionRequested) -> PermissionAnswer:
        nonlocal open_questions
        open_questions += 1
        assert open_questions == 1
        asked.append(request.call_id)
        await anyio.sleep(0.2)
        open_questions -= 1
        return PermissionAnswer(True)

    async def run() -> list[Event]:
        async with driven(scripted("asks_thrice"), workspace, person) as agent:
            return await turn(agent, "Go")

    events = anyio.run(run)
    assert reported(events) == [["selected", -32800, "selected"]]
    assert asked == ["one", "three"]


def test_a_cancel_answers_what_is_open(workspace: Path) -> None:
    async def run() -> list[Event]:
        async with driven(scripted("waits_for_its_answer"), workspace, lambda _: anyio.sleep_forever()) as agent:
            events = []
            async with aclosing(agent.prompt((TextBlock("Go"),))) as stream, anyio.create_task_group() as group:
                async for event in stream:
                    events.append(event)
                    if isinstance(event, PermissionRequested):
                        group.start_soon(cancel_soon, agent)
            return events

    async def cancel_soon(agent: ForeignAgent) -> None:
        await anyio.sleep(0.1)
        agent.cancel()

    assert reported(anyio.run(run)) == [{"outcome": {"outcome": "cancelled"}}]


def test_a_question_of_an_agent_that_dies_is_withdrawn(workspace: Path) -> None:
    async def never(_: PermissionRequested) -> PermissionAnswer:
        await anyio.sleep_forever()
        raise AssertionError

    async def run() -> list[Event]:
        async with driven(scripted("dies_with_a_question"), workspace, never) as agent:
            events = await turn(agent, "Go")
            await agent.aclose()
            return events

    events = anyio.run(run)
    assert [each.allowed for each in all_of(events, PermissionResolved)] == [False]
    assert "ended with exit code 5" in ended(events).message


def read(path: str, **more: Any) -> list[Any]:
    return ["fs/read_text_file", {"path": path} | more]


def write(path: str, content: str) -> list[Any]:
    return ["fs/write_text_file", {"path": path, "content": content}]


def test_files_are_read_within_the_workspace_and_the_rules(workspace: Path) -> None:
    (workspace / "a.txt").write_bytes(b"one\r\ntwo\r\nthr\xc3\xa9e")
    (workspace / "secret.key").write_text("no")
    (workspace / "binary").write_bytes(b"\0\1\2")
    (workspace.parent / "outside.txt").write_text("no")
    (workspace / "link.txt").symlink_to(workspace.parent / "outside.txt")
    (workspace / "alias.txt").symlink_to(workspace / "secret.key")
    (events,) = asked_for(
        workspace,
        [
            read(str(workspace / "a.txt")),
            read(str(workspace / "a.txt"), line=2, limit=1),
            read(str(workspace / "a.txt"), line=9),
            *(read(str(workspace / name)) for name in ("gone", "secret.key", "alias.txt", "binary", "link.txt", ".")),
            read("/etc/hostname"),
            read("/proc/self/environ"),
        ],
        rules=(Rule("read(*.key)", "deny"),),
    )
    whole, second, behind, gone, *refused = reported(events)
    assert (whole, second, behind) == ({"content": "one\ntwo\nthrée"}, {"content": "two\n"}, {"content": ""})
    assert (gone["code"], gone["message"]) == (-32002, "There is no file gone.")
    said = " ".join(each["message"] for each in refused)
    assert "secret.key is not read: the person's rules deny it." in said
    assert len(refused) == 7
    assert not any("content" in each for each in refused)
    assert ended(events).files_changed == ()


def test_a_write_is_asked_about_and_keeps_what_a_file_is(workspace: Path) -> None:
    (workspace / "dos.txt").write_bytes(b"\xef\xbb\xbfone\r\n")
    person = Person(PermissionAnswer(False, reason="not now"), PermissionAnswer(True), PermissionAnswer(True, True))
    events, more = asked_for(
        workspace,
        [
            write(str(workspace / "dos.txt"), "one\ntwo\n"),
            write(str(workspace / "dos.txt"), "one\ntwo\n"),
            write(str(workspace / "deep" / "new.txt"), "made\n"),
        ],
        [write(str(workspace / "more.txt"), "m")],
        person=person,
    )
    refused, *taken = reported(events)
    assert refused["message"] == "Denied: not now."
    assert taken == [{}, {}]
    assert (workspace / "dos.txt").read_bytes() == b"\xef\xbb\xbfone\r\ntwo\r\n"
    assert (workspace / "deep" / "new.txt").read_text() == "made\n"
    assert [request.diffs for request in person.asked] == [
        (FileDiff("dos.txt", "one\n", "one\ntwo\n"),),
        (FileDiff("dos.txt", "one\n", "one\ntwo\n"),),
        (FileDiff("deep/new.txt", None, "made\n"),),
    ]
    assert [each.allowed for each in all_of(events, PermissionResolved)] == [False, True, True]
    assert ended(events).files_changed == ("dos.txt", "deep/new.txt")
    # "Always" was every edit in the workspace.
    assert reported(more) == [{}]
    assert ended(more).files_changed == ("more.txt",)


def test_what_is_never_written(workspace: Path) -> None:
    (workspace / ".git" / "hooks").mkdir(parents=True)
    (workspace / "link.txt").symlink_to(workspace.parent / "outside.txt")
    person = Person()
    paths = [".git/hooks/pre-commit", ".envrc", ".vscode/settings.json", "../outside.txt", "link.txt", "new.key"]
    asked = [write(str(workspace / path), "x") for path in paths]
    (events,) = asked_for(workspace, asked, person=person, rules=(Rule("read(*.key)", "deny"),))
    assert all("message" in each for each in reported(events))
    assert not person.asked
    assert not (workspace.parent / "outside.txt").exists()
    assert not (workspace / ".envrc").exists()


def test_in_plan_mode_nothing_is_written_whatever_the_agent_was_allowed(workspace: Path) -> None:
    path = str(workspace / "a.txt")
    call = {"toolCallId": "c", "kind": "edit", "title": "Write", "locations": [{"path": path}]}
    options = [{"optionId": "yes", "name": "Yes", "kind": "allow_once"}]
    asked = ["session/request_permission", {"toolCall": call, "options": options}]
    (events,) = asked_for(workspace, [asked, write(path, "x")], approve="plan")
    assert "plan mode" in reported(events)[1]["message"]
    assert not Path(path).exists()


def test_leave_that_was_given_is_not_asked_for_again_in_that_turn(workspace: Path) -> None:
    path = str(workspace / "a.txt")
    diff = {"type": "diff", "path": path, "oldText": None, "newText": "x"}
    call = {"toolCallId": "c", "kind": "edit", "title": "Write", "content": [diff]}
    options = [{"optionId": "yes", "name": "Yes", "kind": "allow_once"}]
    asked = ["session/request_permission", {"toolCall": call, "options": options}]
    person = Person()
    one, two = asked_for(workspace, [asked, write(path, "x")], [write(path, "y")], person=person)
    assert reported(one)[1] == {}
    assert [request.call_id for request in person.asked] == ["c", "client-1"]
    assert Path(path).read_text() == "y"
    assert ended(two).files_changed == ("a.txt",)


def terminal(id: int, method: str = "output") -> list[Any]:
    return [f"terminal/{method}", {"terminalId": f"terminal-{id}"}]


def test_a_command_runs_once_it_is_allowed_and_its_output_is_shown_live(workspace: Path) -> None:
    (workspace / "sub").mkdir()
    command = {"command": "sh", "args": ["-c", "touch it; echo $WORD; pwd; exit 3"], "cwd": str(workspace / "sub")}
    call = {"toolCallId": "c", "title": "Run", "kind": "execute", "status": "in_progress"}
    shown = [{"type": "terminal", "terminalId": "terminal-1"}]
    person = Person()
    (events,) = asked_for(
        workspace,
        [
            ["tell", {"update": "tool_call", **call}],
            ["terminal/create", command | {"env": [{"name": "WORD", "value": "a b"}]}],
            ["tell", {"update": "tool_call_update", "toolCallId": "c", "content": shown}],
            terminal(1, "wait_for_exit"),
            terminal(1),
            ["tell", {"update": "tool_call_update", "toolCallId": "c", "status": "completed"}],
            terminal(1, "release"),
            terminal(1),
        ],
        person=person,
    )
    made, waited, output, released, gone = reported(events)
    assert made == {"terminalId": "terminal-1"}
    assert waited == {"exitCode": 3}
    printed = f"a b\n{workspace / 'sub'}\n"
    assert output == {"output": printed, "truncated": False, "exitStatus": {"exitCode": 3}}
    assert released == {}
    assert gone["code"] == -32002
    (asked,) = person.asked
    assert asked.call_id == "c"
    line = f"export WORD='a b'\ncd {workspace / 'sub'}\ntouch it; echo $WORD; pwd; exit 3"
    assert (asked.kind, asked.input, asked.title) == ("execute", {"command": line}, f"$ {line}")
    assert (workspace / "sub" / "it").exists()
    assert "".join(update.output for update in all_of(events, ToolCallUpdate)) == printed
    done = all_of(events, ToolCallUpdate)[-1]
    assert done.content[0].text == printed  # type: ignore[union-attr]


def test_a_command_is_refused_killed_and_cut(workspace: Path) -> None:
    person = Person(PermissionAnswer(False), PermissionAnswer(True), PermissionAnswer(True))
    (events,) = asked_for(
        workspace,
        [
            ["terminal/create", {"command": "touch refused"}],
            ["terminal/create", {"command": "echo $$ > pid; echo begun; sleep 300"}],
            ["sleep", 0.5],
            terminal(1, "kill"),
            terminal(1),
            ["terminal/create", {"command": "echo", "args": ["0123456789"], "outputByteLimit": 4, "cwd": "/"}],
            ["terminal/create", {"command": "touch x; echo 0123456789", "outputByteLimit": 4}],
            terminal(2, "wait_for_exit"),
            terminal(2),
        ],
        person=person,
    )
    refused, _, killed, output, outside, _, _, cut = reported(events)
    assert refused["message"] == "Denied: the person refused it."
    assert not (workspace / "refused").exists()
    assert killed == {}
    assert output == {"output": "begun\n", "truncated": False, "exitStatus": {"signal": "SIGTERM"}}
    assert "outside the workspace" in outside["message"]
    assert (cut["output"], cut["truncated"]) == ("789\n", True)
    # The agent tells of no calls, so the client shows what it was asked for.
    assert [(call.id, call.title) for call in all_of(events, ToolCallStarted)] == [
        ("client-1", "$ touch refused"),
        ("client-2", "$ echo $$ > pid; echo begun; sleep 300"),
        ("client-3", "$ touch x; echo 0123456789"),
    ]
    ends = [update for update in all_of(events, ToolCallUpdate) if update.status in {"completed", "failed"}]
    assert [(end.id, end.status, end.exit_code) for end in ends] == [
        ("client-1", "failed", None),
        ("client-2", "failed", None),
        ("client-3", "completed", 0),
    ]
    assert ends[2].content == (TextBlock("789\n"),)


def command_lines() -> Iterator[str]:
    """Those of all processes."""
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            yield place.read_bytes().decode(errors="replace")


def test_nothing_that_runs_outlives_the_agent(workspace: Path) -> None:
    asked_for(
        workspace, [["terminal/create", {"command": f"echo here > begun; sleep 300; : {workspace}"}], ["sleep", 0.5]]
    )
    assert wait_for(workspace / "begun")
    assert not [line for line in command_lines() if f": {workspace}" in line]


def test_the_agent_has_the_persons_keys_and_its_commands_have_not(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from laguna_agent.held_keys import take_secrets

    monkeypatch.setenv("FOREIGN_API_KEY", "sk-of-the-foreign-agent")
    take_secrets()
    assert "FOREIGN_API_KEY" not in os.environ
    command = "touch x; echo key:$FOREIGN_API_KEY"
    (events,) = asked_for(
        workspace,
        [["key", {}], ["terminal/create", {"command": command}], terminal(1, "wait_for_exit"), terminal(1)],
    )
    key, _, _, output = reported(events)
    assert key == "sk-of-the-foreign-agent"
    assert output["output"] == "key:\n"
