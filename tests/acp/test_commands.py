"""What a person tells the agent itself, with a slash: answered without the model, in the editor."""

from __future__ import annotations

from pathlib import Path

from tests.acp.program import Start, opened
from tests.model_server import ModelServer, text, tool_call


def test_commands_are_answered_without_the_model(start: Start, model_server: ModelServer, workspace: Path) -> None:
    program = start()
    session = program.begin(workspace, {"session": {"compaction": {}}})
    model_server.reply(*(tool_call("read", {"path": "file.txt"}) for _ in range(3)), text("Seen."))
    (workspace / "file.txt").write_text("a line of the file\n" * 400)
    program.prompt(session, "Look")
    asked = len(model_server.chats)
    assert program.prompt(session, "/usage") == {"stopReason": "end_turn"}
    assert "tokens in" in program.updates()[-1]["content"]["text"]
    assert program.prompt(session, "/context") == {"stopReason": "end_turn"}
    assert "results of tools" in program.updates()[-1]["content"]["text"]
    assert len(model_server.chats) == asked
    model_server.reply(text("## State\nThe file was read."))
    assert program.prompt(session, "/compact") == {"stopReason": "end_turn"}
    updates = [u for u in program.updates() if u["sessionUpdate"] == "compaction_update"]
    assert [u["status"] for u in updates] == ["in_progress", "completed"]
    assert updates[-1]["summary"] == [{"type": "text", "text": "## State\nThe file was read."}]
    model_server.reply(text("Hm."))
    program.prompt(session, "/etc/hosts looks odd")
    assert "/etc/hosts looks odd" in str(model_server.chats[-1]["messages"][-1])
    program.call("session/load", opened(session, workspace))
    assert any("tokens in" in str(u.get("content")) for u in program.updates()[-20:])


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


def test_the_commands_of_the_project_are_announced_when_they_are_trusted(
    start: Start, model_server: ModelServer, workspace: Path
) -> None:
    folder = workspace / ".laguna" / "commands"
    folder.mkdir(parents=True)
    (folder / "greet.md").write_text("---\ndescription: Greet somebody\nhint: whom\n---\nGreet $1.\n")
    program = start()
    session = program.begin(workspace)
    program.update(sessionUpdate="available_commands_update")
    model_server.always(text("Hello."))

    def announced() -> list[list[str]]:
        updates = [u for u in program.updates() if u["sessionUpdate"] == "available_commands_update"]
        return [[each["name"] for each in update["availableCommands"]] for update in updates]

    answer = program.prompt(session, "/greet Ada")
    assert "/greet was not run" in str(answer) + str(program.updates()), answer
    assert model_server.chats == []
    program.prompt(session, "/trust")
    assert len(announced()) == 1
    assert "greet" not in announced()[0]
    program.prompt(session, "/trust yes")
    assert announced()[1:] == [[*announced()[0], "greet"]]
    update = [u for u in program.updates() if u["sessionUpdate"] == "available_commands_update"][-1]
    assert update["availableCommands"][-1] == {
        "name": "greet",
        "description": "Greet somebody",
        "input": {"hint": "whom"},
    }
    assert program.prompt(session, "/greet Ada") == {"stopReason": "end_turn"}
    assert "Greet Ada." in str(model_server.chats[-1]["messages"][-1])
    assert len(announced()) == 2
