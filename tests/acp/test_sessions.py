"""Sessions over their life: listed, resumed, closed, deleted, forked, named; their modes and options."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acp.program import Message, Program, allow, prompt, wait_for
from tests.conftest import StartCli
from tests.model_server import ModelServer, text, tool_call
from tests.processes import commands_in

Start = Callable[..., Program]


@pytest.fixture
def start(start_cli: StartCli, model_server: ModelServer) -> Iterator[Start]:
    """Starts the program against the model server, with further arguments."""

    def begin(*arguments: str, answer: Callable[[Message], Message | None] = allow, **env: str) -> Program:
        return Program(start_cli("acp", *arguments, env=model_server.env | env), answer)

    yield begin


@pytest.fixture
def program(start: Start) -> Program:
    return start()


def new(program: Program, cwd: Path, **more: Any) -> Message:
    return program.call("session/new", {"cwd": str(cwd), "mcpServers": [], **more})


def opened(session: str, cwd: Path) -> Message:
    return {"sessionId": session, "cwd": str(cwd), "mcpServers": []}


def option(answer: Message, id: str) -> Message:
    return next(each for each in answer["configOptions"] if each["id"] == id)


def test_sessions_are_listed_newest_first_and_by_directory(
    program: Program, model_server: ModelServer, workspace: Path, tmp_path: Path
) -> None:
    model_server.always(text("Done."))
    other = tmp_path / "other"
    other.mkdir()
    first, empty, second = (
        program.begin(workspace),
        new(program, workspace)["sessionId"],
        new(program, other)["sessionId"],
    )
    program.prompt(first, "First thing\nin two lines")
    program.prompt(second, "Second thing")
    listed = program.call("session/list", {})
    assert [(s["sessionId"], s["title"], s["cwd"]) for s in listed["sessions"]] == [
        (second, "Second thing", str(other)),
        (first, "First thing", str(workspace)),
    ]
    assert "nextCursor" not in listed
    assert [s["sessionId"] for s in program.call("session/list", {"cwd": str(other)})["sessions"]] == [second]
    assert program.call("session/list", {"cwd": "/nonexistent"}) == {"sessions": []}
    assert program.call("session/list", {"cwd": "relative"})["code"] == -32602
    program.prompt(empty, "Third thing")
    assert program.call("session/list", {})["sessions"][0]["sessionId"] == empty


def test_a_long_list_comes_in_pages(program: Program, model_server: ModelServer, workspace: Path) -> None:
    model_server.always(text("Done."))
    program.call("initialize", {"protocolVersion": 1})
    made = [new(program, workspace)["sessionId"] for _ in range(53)]
    for session in made:
        program.prompt(session)
    first = program.call("session/list", {})
    assert len(first["sessions"]) == 50
    rest = program.call("session/list", {"cursor": first["nextCursor"]})
    assert "nextCursor" not in rest
    assert [s["sessionId"] for s in first["sessions"] + rest["sessions"]] == made[::-1]
    for cursor in ("nonsense", "", "ÿ", base64.b64encode(b"12").decode(), base64.b64encode(b"x.y").decode()):
        assert program.call("session/list", {"cursor": cursor})["code"] == -32602


def test_resume_restores_the_context_and_shows_nothing(
    start: Start, model_server: ModelServer, workspace: Path
) -> None:
    before = start()
    model_server.reply(text("Remembered."))
    session = before.begin(workspace)
    before.prompt(session, "Remember 42")
    ids = {u["messageId"] for u in before.updates() if "messageId" in u}
    assert before.close() == 0
    after = start()
    after.call("initialize", {"protocolVersion": 1})
    answer = after.call("session/resume", opened(session, workspace))
    assert answer["modes"]["currentModeId"] == "ask"
    assert not after.updates()
    model_server.reply(text("It is 42."))
    assert after.prompt(session, "What was it?") == {"stopReason": "end_turn"}
    assert "Remember 42" in str(model_server.chats[-1]["messages"])
    # An editor that still has the earlier messages would append to them.
    assert not ids & {u["messageId"] for u in after.updates() if "messageId" in u}
    assert after.call("session/resume", opened("20200101-000000-abcdef", workspace))["code"] == -32002
    # A prefix is no id.
    assert after.call("session/resume", opened(session[:8], workspace))["code"] == -32002


def test_close_cancels_the_turn_and_leaves_the_session_to_be_loaded(
    program: Program, model_server: ModelServer, workspace: Path
) -> None:
    model_server.reply(tool_call("shell", {"command": "echo $$ > pid; sleep 300"}))
    session = program.begin(workspace)
    id = program.send("session/prompt", prompt(session, "Run it"))
    wait_for_pid(program, workspace)
    closing = program.send("session/close", {"sessionId": session})
    assert program.answer_to(closing)["result"] == {}
    assert not commands_in(workspace)
    answers = {m["id"]: m["result"] for m in program.seen if "result" in m}
    if id not in answers:
        answers[id] = program.answer_to(id)["result"]
    assert answers[id] == {"stopReason": "cancelled"}
    assert program.prompt(session)["code"] == -32002
    assert program.call("session/close", {"sessionId": session})["code"] == -32002
    assert "modes" in program.call("session/load", opened(session, workspace))


def wait_for_pid(program: Program, workspace: Path) -> str:
    program.update(status="in_progress")
    return wait_for(workspace / "pid")


def test_delete_takes_the_session_away_and_missing_ones_are_no_error(
    program: Program, model_server: ModelServer, workspace: Path
) -> None:
    model_server.always(text("Done."))
    session, kept = program.begin(workspace), new(program, workspace)["sessionId"]
    program.prompt(session)
    program.prompt(kept)
    # A prefix of both ids must not take either.
    for id in (session[:8], "nobody", "../..", "", session, session):
        assert program.call("session/delete", {"sessionId": id}) == {}
    assert [s["sessionId"] for s in program.call("session/list", {})["sessions"]] == [kept]
    assert program.call("session/load", opened(session, workspace))["code"] == -32002
    assert program.prompt(session)["code"] == -32002


def test_the_session_is_introduced_after_the_answer_and_named_by_its_first_prompt(
    program: Program, model_server: ModelServer, workspace: Path
) -> None:
    model_server.always(text("Done."))
    session = program.begin(workspace)
    assert not program.updates()
    update = program.update(sessionUpdate="available_commands_update")["params"]["update"]
    assert {command["name"] for command in update["availableCommands"]} == {
        "compact",
        "usage",
        "undo",
        "rewind",
        "redo",
        "fork",
        "trust",
        "init",
    }
    program.prompt(session, "Mend the pump")
    program.prompt(session, "And the sink")
    titles = [u["title"] for u in program.updates() if u["sessionUpdate"] == "session_info_update"]
    assert titles == ["Mend the pump", "Mend the pump"]


def test_a_resumed_session_has_the_title_that_the_list_gives_it(
    start: Start, model_server: ModelServer, workspace: Path
) -> None:
    model_server.always(text("Done."))
    before = start()
    session = before.begin(workspace)
    before.prompt(session, "\nMend the pump\nIt is in the cellar.")
    assert before.close() == 0
    after = start()
    after.call("initialize", {"protocolVersion": 1})
    after.call("session/resume", opened(session, workspace))
    after.prompt(session, "And the sink")
    listed = after.call("session/list", {})["sessions"][0]["title"]
    assert listed == "Mend the pump"
    assert [u["title"] for u in after.updates() if u["sessionUpdate"] == "session_info_update"] == [listed]


def test_modes_are_the_same_by_mode_and_by_option(start: Start, model_server: ModelServer, workspace: Path) -> None:
    asked: list[Message] = []
    program = start(answer=lambda message: asked.append(message) or allow(message))
    program.call("initialize", {"protocolVersion": 1})
    answer = new(program, workspace)
    session = answer["sessionId"]
    assert answer["modes"]["currentModeId"] == option(answer, "mode")["currentValue"] == "ask"
    assert [m["id"] for m in answer["modes"]["availableModes"]] == ["plan", "ask", "edits", "all"]
    write = tool_call("write", {"path": "a.txt", "content": "1\n"})
    shell = tool_call("shell", {"command": "echo ran > b.txt", "network": True})

    assert program.call("session/set_mode", {"sessionId": session, "modeId": "edits"}) == {}
    told = program.update(sessionUpdate="config_option_update")["params"]["update"]
    assert option(told, "mode")["currentValue"] == "edits"
    model_server.reply(write, shell, text("Done."))
    program.prompt(session)
    assert [m["params"]["toolCall"]["kind"] for m in asked] == ["execute"]

    answer = program.call("session/set_config_option", {"sessionId": session, "configId": "mode", "value": "plan"})
    assert option(answer, "mode")["currentValue"] == "plan"
    assert [o["id"] for o in answer["configOptions"]] == ["mode", "model", "thought_level"]
    assert program.update(sessionUpdate="current_mode_update")["params"]["update"]["currentModeId"] == "plan"
    (workspace / "a.txt").unlink()
    (workspace / "b.txt").unlink()
    model_server.reply(write, shell, text("I would write a.txt."))
    assert program.prompt(session) == {"stopReason": "end_turn"}
    assert len(asked) == 1
    assert not [path for path in workspace.rglob("*") if path.is_file()]
    assert "Plan mode" in str(model_server.chats[-1]["messages"])

    for wrong in ({"modeId": "yolo"}, {"modeId": ""}):
        assert program.call("session/set_mode", {"sessionId": session, **wrong})["code"] == -32602
    assert program.call("session/set_mode", {"sessionId": "nobody", "modeId": "ask"})["code"] == -32002


def test_a_mode_that_is_set_while_the_turn_runs_holds_at_once(
    start: Start, model_server: ModelServer, workspace: Path
) -> None:
    program = start(answer=lambda _: None)
    session = program.begin(workspace)
    model_server.reply(
        tool_call("shell", {"command": "touch first"}), tool_call("shell", {"command": "touch second"}), text("Done.")
    )
    id = program.send("session/prompt", prompt(session, "Run both"))
    question = program.until(lambda m: m.get("method") == "session/request_permission")
    assert program.call("session/set_mode", {"sessionId": session, "modeId": "all"}) == {}
    program.respond(question, allow(question))
    assert program.answer_to(id)["result"] == {"stopReason": "end_turn"}
    assert sum(m.get("method") == "session/request_permission" for m in program.seen) == 1


def test_options_change_the_next_request(start: Start, model_server: ModelServer, workspace: Path) -> None:
    program = start()
    program.call("initialize", {"protocolVersion": 1})
    answer = new(program, workspace)
    session, current = answer["sessionId"], option(answer, "model")["currentValue"]
    assert current in {o["value"] for o in option(answer, "model")["options"]}
    model_server.always(text("Done."))
    program.prompt(session)
    asked = {"sessionId": session, "configId": "thought_level", "value": "high"}
    answer = program.call("session/set_config_option", asked)
    assert option(answer, "thought_level")["currentValue"] == "high"
    answer = program.call("session/set_config_option", asked | {"configId": "model", "value": "another-model"})
    assert option(answer, "model")["currentValue"] == "another-model"
    program.prompt(session)
    assert model_server.chats[-1]["model"] == "another-model"
    assert model_server.chats[0]["model"] != "another-model"
    for id, value in (("model", ""), ("thought_level", "huge"), ("colour", "red"), ("mode", True)):
        wrong = asked | {"configId": id, "value": value} | ({"type": "boolean"} if value is True else {})
        assert program.call("session/set_config_option", wrong)["code"] == -32602
    # What was chosen is part of the record, so the session replays with it.
    log = next((Path.home() / "state").rglob("log.jsonl"))
    assert '"record":"configured"' in log.read_text()


def test_further_directories_belong_to_the_workspace(
    program: Program, model_server: ModelServer, workspace: Path, tmp_path: Path
) -> None:
    library = tmp_path / "library"
    library.mkdir()
    (library / "note.txt").write_text("from the library\n")
    program.call("initialize", {"protocolVersion": 1})
    session = new(program, workspace, additionalDirectories=[str(library)])["sessionId"]
    model_server.reply(tool_call("read", {"path": str(library / "note.txt")}), text("Read."))
    program.prompt(session, "Read it")
    assert not [m for m in program.seen if m.get("method") == "session/request_permission"]
    assert "from the library" in str(model_server.chats[-1]["messages"])
    listed = program.call("session/list", {})["sessions"][0]
    assert listed["additionalDirectories"] == [str(library)]
    for wrong in (["relative"], ["/nonexistent"], [str(library), ""]):
        assert new(program, workspace, additionalDirectories=wrong)["code"] == -32602


def test_commands_are_answered_without_the_model(start: Start, model_server: ModelServer, workspace: Path) -> None:
    program = start()
    session = program.begin(workspace, {"session": {"compaction": {}}})
    model_server.reply(*(tool_call("list", {"path": "."}) for _ in range(3)), text("Seen."))
    (workspace / "file.txt").write_text("x")
    program.prompt(session, "Look")
    asked = len(model_server.chats)
    assert program.prompt(session, "/usage") == {"stopReason": "end_turn"}
    assert "tokens in" in program.updates()[-1]["content"]["text"]
    assert program.prompt(session, "/compact") == {"stopReason": "end_turn"}
    statuses = [u["status"] for u in program.updates() if u["sessionUpdate"] == "compaction_update"]
    assert statuses == ["in_progress", "completed"]
    assert len(model_server.chats) == asked
    model_server.reply(text("Hm."))
    program.prompt(session, "/etc/hosts looks odd")
    assert "/etc/hosts looks odd" in str(model_server.chats[-1]["messages"][-1])
    program.call("session/load", opened(session, workspace))
    assert any("tokens in" in str(u.get("content")) for u in program.updates()[-6:])


def test_prompts_are_taken_back(start: Start, model_server: ModelServer, workspace: Path) -> None:
    program = start()
    session = program.begin(workspace)
    model_server.reply(text("One."), text("Two."), text("Three."))
    program.prompt(session, "Say one")
    program.prompt(session, "Say two")
    before = len(program.updates())
    assert program.prompt(session, "/rewind") == {"stopReason": "end_turn"}
    told = [u for u in program.updates()[before:] if u["sessionUpdate"] == "agent_message_chunk"]
    assert "No files had to be put back" in told[0]["content"]["text"]
    # The editor cannot be made to put it into its field; the person copies it.
    assert told[-1]["content"]["text"].endswith("```\nSay two\n```")
    assert told[0]["messageId"] != told[-1]["messageId"]
    program.prompt(session, "Say three")
    ids = [u["messageId"] for u in program.updates() if u["sessionUpdate"] == "agent_message_chunk"]
    assert "4-agent-1" in ids
    assert [m["role"] for m in model_server.chats[-1]["messages"]] == ["system", "user", "assistant", "user"]
    program.call("session/load", opened(session, workspace))
    shown = [u["content"]["text"] for u in program.updates() if u["sessionUpdate"] == "user_message_chunk"]
    assert shown == ["Say one", "Say three"]


def test_the_command_fork_says_where_the_copy_is(start: Start, model_server: ModelServer, workspace: Path) -> None:
    program = start()
    session = program.begin(workspace)
    model_server.always(text("Seven."))
    program.prompt(session, "Remember seven")
    program.prompt(session, "/fork")
    words = "".join(u["content"]["text"] for u in program.updates() if u["sessionUpdate"] == "agent_message_chunk")
    listed = {each["sessionId"] for each in program.call("session/list", {})["sessions"]}
    (copy,) = listed - {session}
    assert f"Session {copy} is a copy" in words
    assert "Files were not copied" in words
    # The client's session is the one that it had.
    program.prompt(session, "Only here")
    program.call("session/load", opened(copy, workspace))
    program.prompt(copy, "What was it?")
    asked = [m["content"] for m in model_server.chats[-1]["messages"] if m["role"] == "user"]
    assert [words.split("\n")[0] for words in asked] == ["Remember seven", "What was it?"]


def test_fork_and_title_only_when_asked_for(start: Start, model_server: ModelServer, workspace: Path) -> None:
    plain = start()
    session = plain.begin(workspace)
    for method in ("session/fork", "session/set_title"):
        assert plain.call(method, opened(session, workspace) | {"title": "x"})["code"] == -32601
    assert plain.close() == 0

    program = start("--unstable")
    capabilities = program.call("initialize", {"protocolVersion": 1})["agentCapabilities"]["sessionCapabilities"]
    assert {"fork", "title"} <= capabilities.keys()
    model_server.always(text("Seven."))
    session = new(program, workspace)["sessionId"]
    program.prompt(session, "Remember seven")
    fork = program.call("session/fork", opened(session, workspace))["sessionId"]
    assert fork != session
    program.prompt(fork, "What was it?")
    assert "Remember seven" in str(model_server.chats[-1]["messages"])
    assert program.call("session/set_title", {"sessionId": fork, "title": " The\nfork "}) == {"title": "The fork"}
    titles = {s["sessionId"]: s["title"] for s in program.call("session/list", {})["sessions"]}
    assert titles == {session: "Remember seven", fork: "The fork"}
    assert program.call("session/set_title", {"sessionId": "nobody", "title": "x"})["code"] == -32002
    assert program.call("session/fork", opened("nobody", workspace))["code"] == -32002


def test_the_servers_models_can_be_chosen(start: Start, model_server: ModelServer, workspace: Path) -> None:
    model_server.models = [{"id": "first"}, {"id": "second"}, {"id": "mute", "supported_parameters": ["stop"]}]
    model_server.always(text("Done."))
    program = start()
    program.call("initialize", {"protocolVersion": 1})
    session = new(program, workspace)["sessionId"]
    told = program.update(sessionUpdate="config_option_update")["params"]["update"]
    offered = [each["value"] for each in option(told, "model")["options"]]
    assert offered[0] == "default"
    assert {"first", "second"} <= set(offered)
    assert "mute" not in offered
    asked = {"sessionId": session, "configId": "model", "value": "second"}
    assert option(program.call("session/set_config_option", asked), "model")["currentValue"] == "second"
    program.prompt(session)
    assert model_server.chats[-1]["model"] == "second"
