"""Files put back with the conversation: whole turns, then /undo, /rewind, /redo and /fork."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from laguna_agent.agent.archive import delete_session, list_sessions
from laguna_agent.agent.conversation import conversation_events
from laguna_agent.agent.events import (
    Checkpoint,
    Event,
    Forked,
    Notice,
    PermissionRequested,
    Redone,
    Rewound,
    TextDelta,
    ToolCallUpdate,
    UserMessage,
)
from laguna_agent.agent.permissions import PermissionAnswer
from laguna_agent.agent.store import Checkpointed, Ended, Restored, Restoring, ToolRan, read_log
from laguna_agent.checkpoints import scan
from laguna_agent.checkpoints.store import stores_directory
from laguna_agent.tools.registry import default_registry
from tests.agent.driving import Conversation, converse, roles
from tests.checkpoints.disks import git, make, repository_of, state_of
from tests.model_server import ModelServer, Part, text, tool_call


def write(path: str, content: str) -> Part:
    return tool_call("write", {"path": path, "content": content})


def shell(command: str) -> Part:
    return tool_call("shell", {"command": command})


def told(spoken: Conversation, turn: int = -1) -> str:
    """What the person was told in a turn."""
    return "".join(event.text for event in spoken.turns[turn] if isinstance(event, TextDelta))


def prompts(spoken: Conversation) -> list[str]:
    events = conversation_events(read_log(spoken.log), default_registry())
    return [event.text for event in events if isinstance(event, UserMessage)]


def test_files_and_conversation_are_taken_back_and_brought_again(model_server: ModelServer, workspace: Path) -> None:
    make(workspace, nested=True)
    first, repository = state_of(workspace), repository_of(workspace)
    commands = (
        "rm a; mkdir -p a/deep; echo x > a/deep/f; chmod 755 staged; ln -s nowhere link; printf 'x\\r\\n' > sub/new"
    )
    model_server.reply(write("new.txt", "new\n"), shell(commands), text("Done."), text("Looked."))
    model_server.reply(text("And on."))
    spoken = converse(model_server, workspace, "work", "/undo")
    assert state_of(workspace) == first
    assert repository_of(workspace) == repository
    (rewound,) = spoken.of(Rewound)
    assert (rewound.prompts, rewound.text) == (1, "work")
    assert set(rewound.files) == {"new.txt", "a", "a/deep/f", "staged", "link", "sub/new"}
    assert told(spoken).startswith("Took back your last prompt and all that followed. Put back a, a/deep/f, ")
    spoken = converse(model_server, workspace, "/redo", resume=spoken)
    assert (workspace / "a" / "deep" / "f").read_text() == "x\n"
    assert (workspace / "sub" / "new").read_bytes() == b"x\r\n"
    assert (workspace / "staged").stat().st_mode & 0o777 == 0o755
    assert spoken.of(Redone)
    assert prompts(spoken)[0] == "work"
    assert repository_of(workspace) == repository
    converse(model_server, workspace, "and on", resume=spoken)
    assert roles(model_server)[:3] == ["system", "user", "assistant"]
    assert roles(model_server).count("user") == 2


def test_kept_once_before_the_first_call_that_may_write(model_server: ModelServer, workspace: Path) -> None:
    (workspace / "a.txt").write_text("content\n")
    looks = [tool_call("read", {"path": "a.txt"}), tool_call("grep", {"pattern": "x"}), tool_call("list", {})]
    model_server.reply(*looks, write("b.txt", "1\n"), write("c.txt", "2\n"), text("Done."), looks[0], text("Looked."))
    spoken = converse(model_server, workspace, "work", "look")
    assert [type(record) for record in read_log(spoken.log) if isinstance(record, ToolRan | Checkpointed | Ended)] == [
        *[ToolRan] * 3,
        Checkpointed,
        *[ToolRan] * 2,
        Ended,
        Checkpointed,
        ToolRan,
        Ended,
    ]
    assert len(spoken.of(Checkpoint)) == 1
    kinds = [type(event) for event in spoken.turns[0]]
    before = [e for e in spoken.turns[0][: kinds.index(Checkpoint)] if isinstance(e, ToolCallUpdate)]
    assert len([event for event in before if event.status == "completed"]) == 3


@pytest.mark.parametrize("mode", ["plan", "ask"])
def test_what_is_refused_costs_no_checkpoint(model_server: ModelServer, workspace: Path, mode: str) -> None:
    model_server.reply(write("b.txt", "1\n"), text("I may not."))
    spoken = converse(model_server, workspace, "work", approve=mode)
    assert not spoken.records(Checkpointed)
    assert not stores_directory().exists()


def edit_after(turn: int, change: Any) -> Any:
    """A person who changes something when the nth prompt has ended, before the next begins."""
    from laguna_agent.agent.events import TurnStarted

    def watch(session: Any, event: Event) -> None:
        if isinstance(event, TurnStarted) and event.turn == turn + 1:
            change()

    return watch


def test_the_persons_change_is_shown_and_not_overwritten(model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(write("a.txt", "agent\n"), write("b.txt", "agent\n"), text("Done."))
    asked: list[PermissionRequested] = []

    async def refuse(request: PermissionRequested) -> PermissionAnswer:
        asked.append(request)
        return PermissionAnswer(False, reason="mine")

    watch = edit_after(1, lambda: (workspace / "a.txt").write_text("agent\nand person\n"))
    spoken = converse(model_server, workspace, "work", "/undo", approver=refuse, watch=watch)
    assert (workspace / "a.txt").read_text() == "agent\nand person\n"
    assert (workspace / "b.txt").read_text() == "agent\n"
    assert not spoken.of(Rewound)
    assert told(spoken).startswith("Nothing was changed: a.txt changed since")
    (request,) = asked
    (diff,) = request.diffs
    assert (diff.path, diff.old_text, diff.new_text) == ("a.txt", "agent\nand person\n", None)
    assert prompts(spoken) == ["work", "/undo"]

    async def allow(_: PermissionRequested) -> PermissionAnswer:
        return PermissionAnswer(True)

    spoken = converse(model_server, workspace, "/undo", approver=allow, resume=spoken)
    assert not list(workspace.iterdir())
    spoken = converse(model_server, workspace, "/redo", resume=spoken)
    assert (workspace / "a.txt").read_text() == "agent\nand person\n"


def test_force_and_keep(model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(write("a.txt", "agent\n"), text("Done."))
    change = edit_after(1, lambda: (workspace / "a.txt").write_text("person\n"))
    spoken = converse(model_server, workspace, "one", "/undo keep", watch=change)
    assert (workspace / "a.txt").read_text() == "person\n"
    assert told(spoken).endswith("Files were left as they are.")
    model_server.reply(shell("echo agent > b.txt"), text("Done."))
    change = edit_after(3, lambda: (workspace / "b.txt").write_text("person\n"))
    converse(model_server, workspace, "two", "/undo force", resume=spoken, watch=change)
    assert not (workspace / "b.txt").exists()
    assert (workspace / "a.txt").read_text() == "person\n"


def test_the_persons_other_files_stay(model_server: ModelServer, workspace: Path) -> None:
    (workspace / "theirs.txt").write_text("old\n")
    model_server.reply(write("d/a.txt", "1\n"), text("Done."), write("d/b.txt", "2\n"), text("Done."))

    def change() -> None:
        (workspace / "theirs.txt").write_text("new\n")
        (workspace / "d" / "theirs too.txt").write_text("new\n")

    converse(model_server, workspace, "one", "two", "/rewind 2", watch=edit_after(1, change))
    left = {str(path.relative_to(workspace)) for path in workspace.rglob("*") if path.is_file()}
    assert left == {"theirs.txt", "d/theirs too.txt"}
    assert (workspace / "theirs.txt").read_text() == "new\n"


def test_a_later_prompt_goes_on_from_the_files_as_they_were(model_server: ModelServer, workspace: Path) -> None:
    (workspace / "a.txt").write_text("old\n")
    read = tool_call("read", {"path": "a.txt"})
    model_server.reply(shell("echo one > a.txt"), text("1"), shell("echo two > a.txt"), text("2"))
    model_server.reply(read, text("3"))
    spoken = converse(model_server, workspace, "one", "two", "/rewind", "look", "/rewind 2")
    assert (workspace / "a.txt").read_text() == "old\n"
    assert "one" in spoken.records(ToolRan)[2].result.text
    assert [event.files for event in spoken.of(Rewound)] == [("a.txt",), ("a.txt",)]


def test_fork_with_a_number_takes_files_along(model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(write("a.txt", "1\n"), text("1"), write("b.txt", "2\n"), text("2"), text("3"))
    spoken = converse(model_server, workspace, "one", "two", "/fork 1")
    assert [path.name for path in workspace.iterdir()] == ["a.txt"]
    (forked,) = spoken.of(Forked)
    copy = Conversation(id=forked.session_id)
    assert prompts(copy) == ["one"]
    assert prompts(spoken) == ["one", "two", "/fork 1"]
    # What the origin kept is kept for the copy as well.
    delete_session(spoken.id)
    assert converse_unreplayed(model_server, workspace, "/undo", copy).endswith("Put back a.txt.")
    assert not list(workspace.iterdir())
    assert [summary.id for summary in list_sessions()] == [copy.id]
    delete_session(copy.id)
    assert not list(stores_directory().rglob("objects/??/*"))
    assert not list(stores_directory().rglob("*.pack"))


def test_files_that_are_put_back_already_are_nobodys_work(model_server: ModelServer, workspace: Path) -> None:
    """A fork takes the files along and leaves the conversation; then that goes back further."""
    (workspace / "f").write_text("mine\n")
    replies = (write("f", "one\n"), text("One."), write("f", "two\n"), text("Two."))
    model_server.reply(tool_call("read", {"path": "f"}), *replies)
    spoken = converse(model_server, workspace, "one", "two", "/fork 1")
    assert (workspace / "f").read_text() == "one\n"
    spoken = converse(model_server, workspace, "/rewind 2", resume=spoken)
    assert not spoken.of(PermissionRequested)
    assert [event.prompts for event in spoken.of(Rewound)] == [2]
    assert (workspace / "f").read_text() == "mine\n"


def test_what_was_redone_is_not_redone_again(model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(write("a.txt", "1\n"), text("1"), write("b.txt", "2\n"), text("2"))
    spoken = converse(
        model_server, workspace, "one", "two", "/undo", "/undo", "/redo", "/undo", "/redo", "/redo", "/redo"
    )
    assert told(spoken).startswith("Nothing was changed: there is nothing to redo")
    assert sorted(path.name for path in workspace.iterdir()) == ["a.txt", "b.txt"]
    assert [prompt for prompt in prompts(spoken) if not prompt.startswith("/")] == ["one", "two"]


def test_directories_alone(model_server: ModelServer, workspace: Path) -> None:
    (workspace / "d").mkdir(mode=0o755)
    model_server.reply(shell("mkdir -p empty/deep; chmod 700 d"), text("1"))
    spoken = converse(model_server, workspace, "one", "/undo")
    assert [path.name for path in workspace.iterdir()] == ["d"]
    assert (workspace / "d").stat().st_mode & 0o777 == 0o755
    converse(model_server, workspace, "/redo", resume=spoken)
    assert (workspace / "empty" / "deep").is_dir()
    assert (workspace / "d").stat().st_mode & 0o777 == 0o700


def test_nothing_to_redo(model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(write("a.txt", "1\n"), text("1"), text("2"))
    spoken = converse(model_server, workspace, "/redo", "one", "/undo", "two", "/redo")
    assert told(spoken, 0) == told(spoken, 4)
    assert told(spoken, 0).startswith("Nothing was changed: there is nothing to redo")
    assert not list(workspace.iterdir())


def test_a_workspace_too_large_is_said_once(
    model_server: ModelServer, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(30):
        (workspace / str(number)).touch()
    monkeypatch.setattr(scan, "FILES_CAP", 20)
    model_server.reply(write("a.txt", "1\n"), text("1"), write("b.txt", "2\n"), text("2"))
    spoken = converse(model_server, workspace, "one", "two", "/undo")
    assert [event.text for event in spoken.of(Notice)] == [
        "what this session does to files cannot be undone: it has more than 20 files"
    ]
    assert told(spoken).endswith("Files were left as they are: it has more than 20 files.")
    assert (workspace / "b.txt").exists()
    assert spoken.of(Rewound)


def test_turned_off(model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(write("a.txt", "1\n"), text("1"))
    spoken = converse(model_server, workspace, "one", "/undo", checkpoints=False)
    assert told(spoken).endswith("checkpoints are turned off.")
    assert (workspace / "a.txt").exists()
    assert not stores_directory().exists()
    assert spoken.of(Rewound) == [Rewound(1, "one")]


def test_a_cut_off_undo_is_finished_or_taken_back(model_server: ModelServer, workspace: Path) -> None:
    """The log and the disk as a kill in the middle of an undo leaves them: some files are put back, others not."""
    for name in ("a", "b", "c"):
        (workspace / name).write_text("old\n")
    change = "for f in a b c; do echo new > $f; done; rm c; mkdir c; echo x > c/d"
    model_server.reply(shell(change), text("1"))
    spoken = converse(model_server, workspace, "one")
    whole = state_of(workspace)
    log = spoken.log.read_bytes()
    undone = converse(model_server, workspace, "/undo", resume=spoken)
    lines = undone.log.read_bytes().splitlines(keepends=True)
    records = read_log(undone.log)
    cut = next(at for at, record in enumerate(records) if isinstance(record, Restored))
    for again in ("/undo", "/redo"):
        assert len(log) < len(b"".join(lines[:cut]))
        undone.log.write_bytes(b"".join(lines[:cut]) + b'{"record":"resto')
        (workspace / "a").write_text("old\n")
        (workspace / "b").write_text("new\n")
        if (workspace / "c").is_file():
            (workspace / "c").unlink()
        spoken = Conversation(id=undone.id)
        resumed = converse_unreplayed(model_server, workspace, again, spoken)
        if again == "/undo":
            assert {path.name: path.read_text() for path in workspace.iterdir()} == dict.fromkeys("abc", "old\n")
        else:
            assert state_of(workspace) == whole, resumed
    assert any(isinstance(record, Restoring) for record in records)


def converse_unreplayed(server: ModelServer, workspace: Path, prompt: str, spoken: Conversation) -> str:
    """One prompt in a session whose log was cut by hand; what the person was told."""
    import anyio

    from laguna_agent.agent.permissions import deny_all
    from laguna_agent.agent.session import Session
    from tests.agent.driving import settings_for, talk

    async def run() -> list[Event]:
        session = await Session.resume(spoken.id, settings_for(server), approver=deny_all)
        try:
            return await talk(session, prompt)
        finally:
            await session.aclose()

    return "".join(event.text for event in anyio.run(run) if isinstance(event, TextDelta))


def test_a_run_that_was_cut_off_before_its_end_was_kept(model_server: ModelServer, workspace: Path) -> None:
    """Nobody knows then who changed what, so all of it is shown."""
    model_server.reply(write("a.txt", "agent\n"), text("1"))
    spoken = converse(model_server, workspace, "one")
    lines = spoken.log.read_bytes().splitlines(keepends=True)
    spoken.log.write_bytes(b"".join(lines[:-1]))
    assert converse_unreplayed(model_server, workspace, "/undo", spoken).startswith("Nothing was changed: a.txt")
    assert (workspace / "a.txt").exists()
    assert converse_unreplayed(model_server, workspace, "/undo force", spoken).startswith("Took back")
    assert not list(workspace.iterdir())


def test_what_the_policy_keeps_from_us_is_left_alone(model_server: ModelServer, workspace: Path) -> None:
    from laguna_agent.config import Rule

    (workspace / ".envrc").write_text("export A=1\n")
    (workspace / "secret.txt").write_text("secret\n")
    (workspace / "a.txt").write_text("old\n")
    rules = (Rule("read(secret.txt)", "deny"),)
    model_server.reply(write("a.txt", "new\n"), shell("echo new > a.txt"), text("1"))
    spoken = converse(model_server, workspace, "one", "/undo", rules=rules)
    assert (workspace / "a.txt").read_text() == "old\n"
    stored = [git(store, "cat-file", "--batch-all-objects", "--batch") for store in stores_directory().iterdir()]
    assert b"old\n" in b"".join(stored)
    assert b"secret" not in b"".join(stored) and b"export A" not in b"".join(stored)
    assert spoken.of(Rewound)
