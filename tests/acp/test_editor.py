"""Files through the editor: unsaved text is seen and kept, bytes stay what they were, and the disk is always there."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.acp.editor_client import EVERYTHING, FILES, Desk
from tests.acp.program import Message, Program, prompt
from tests.conftest import StartCli
from tests.model_server import ModelServer, Part, text, tool_call

Open = Callable[..., tuple[Program, Desk, str]]


@pytest.fixture
def open_desk(start_cli: StartCli, model_server: ModelServer, workspace: Path) -> Iterator[Open]:
    """Starts the program with an editor's desk, and opens a session in the workspace."""

    def begin(capabilities: Message = FILES, **env: str) -> tuple[Program, Desk, str]:
        program = Program(start_cli("acp", env=model_server.env | env))
        desk = Desk(program)
        return program, desk, program.begin(workspace, capabilities)

    yield begin


def result(program: Program, model_server: ModelServer, session: str, call: Part) -> Message:
    """Have the model make one call; the update that ended it, with the words for the model as `text`."""
    program.seen.clear()
    model_server.reply(call, text("Done."))
    assert program.prompt(session) == {"stopReason": "end_turn"}
    ended: Message = next(u for u in program.updates() if u.get("status") in {"completed", "failed"})
    words = model_server.chats[-1]["messages"][-1]["content"]
    return ended | {"text": words}


def test_unsaved_text_is_read_and_an_edit_goes_through_the_editor(
    open_desk: Open, model_server: ModelServer, workspace: Path
) -> None:
    file = workspace / "a.py"
    file.write_text("saved = 1\n")
    program, desk, session = open_desk()
    desk.buffers[file] = "saved = 1\nunsaved = 2\n"
    seen = result(program, model_server, session, tool_call("read", {"path": "a.py"}))
    assert "unsaved = 2" in seen["text"]
    edit = tool_call("edit", {"path": "a.py", "old": "unsaved = 2", "new": "unsaved = 3"})
    done = result(program, model_server, session, edit)
    assert done["status"] == "completed"
    assert done["content"][0]["oldText"] == "saved = 1\nunsaved = 2\n"
    assert desk.of("fs/write_text_file")[0]["content"] == "saved = 1\nunsaved = 3\n"
    assert file.read_text() == desk.buffers[file] == "saved = 1\nunsaved = 3\n"
    created = result(program, model_server, session, tool_call("write", {"path": "new/b.py", "content": "b = 1\n"}))
    assert created["status"] == "completed"
    assert (workspace / "new" / "b.py").read_text() == "b = 1\n"
    assert program.close() == 0


@pytest.mark.parametrize("bare", [False, True], ids=["verbatim", "bare newlines"])
def test_line_ends_and_the_mark_survive_an_edit(
    open_desk: Open, model_server: ModelServer, workspace: Path, bare: bool
) -> None:
    file = workspace / "dos.txt"
    file.write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\nthree")
    program, desk, session = open_desk()
    desk.bare = bare
    for old, new in (("two", "zwei"), ("one", "eins")):
        edit = tool_call("edit", {"path": "dos.txt", "old": old, "new": new})
        assert result(program, model_server, session, edit)["status"] == "completed"
    assert file.read_bytes() == b"\xef\xbb\xbfeins\r\nzwei\r\nthree"
    # Unsaved text that the client speaks of in its own way is written with the file's line ends.
    desk.buffers[file] = "eins\nzwei\nvier" if bare else "eins\r\nzwei\r\nvier"
    edit = tool_call("edit", {"path": "dos.txt", "old": "zwei", "new": "2"})
    assert "Repeat the call" in result(program, model_server, session, edit)["text"]
    assert result(program, model_server, session, edit)["status"] == "completed"
    assert file.read_bytes() == b"\xef\xbb\xbfeins\r\n2\r\nvier"


def test_what_the_protocol_cannot_carry_stays_with_the_disk(
    open_desk: Open, model_server: ModelServer, workspace: Path, tmp_path: Path
) -> None:
    (workspace / "latin.txt").write_bytes("Stra\xdfe\n".encode("latin-1"))
    (workspace / "dot.gif").write_bytes(b"GIF89a\x01\x00\x01\x00\x00\x00\x00")
    (workspace / "sub").mkdir()
    outside = tmp_path / "outside.txt"
    outside.write_text("far away\n")
    program, desk, session = open_desk()
    for path in ("latin.txt", "dot.gif", "sub", "missing.txt", str(outside)):
        result(program, model_server, session, tool_call("read", {"path": path}))
    result(program, model_server, session, tool_call("edit", {"path": "latin.txt", "old": "Stra", "new": "Gro"}))
    assert (workspace / "latin.txt").read_bytes() == "Gro\xdfe\n".encode("latin-1")
    assert desk.asked == []


@pytest.mark.parametrize("code", [-32002, -32601, -32603])
def test_a_client_that_refuses_leaves_the_disk(
    open_desk: Open, model_server: ModelServer, workspace: Path, code: int
) -> None:
    file = workspace / "a.py"
    file.write_text("a = 1\n")
    program, desk, session = open_desk()
    desk.refused = {"fs/read_text_file": code, "fs/write_text_file": code}
    for number in range(1, 3):
        edit = tool_call("edit", {"path": "a.py", "old": f"a = {number}", "new": f"a = {number + 1}"})
        assert result(program, model_server, session, edit)["status"] == "completed"
    assert file.read_text() == "a = 3\n"
    # A method that does not exist is not tried twice.
    assert desk.methods().count("fs/write_text_file") == (1 if code == -32601 else 2)


def test_a_client_that_only_changes_its_buffer_is_not_fought(
    open_desk: Open, model_server: ModelServer, workspace: Path
) -> None:
    file = workspace / "a.py"
    file.write_text("a = 1\n")
    program, desk, session = open_desk()
    desk.saves = False
    for number in range(1, 4):
        edit = tool_call("edit", {"path": "a.py", "old": f"a = {number}", "new": f"a = {number + 1}"})
        assert result(program, model_server, session, edit)["status"] == "completed"
    assert "a = 4" in result(program, model_server, session, tool_call("read", {"path": "a.py"}))["text"]
    assert (file.read_text(), desk.buffers[file]) == ("a = 1\n", "a = 4\n")
    # A new file has to exist, for the commands that follow.
    result(program, model_server, session, tool_call("write", {"path": "b.py", "content": "b = 1\n"}))
    assert (workspace / "b.py").read_text() == "b = 1\n"


def test_a_client_that_formats_on_saving_has_its_way_and_the_model_hears_of_it(
    open_desk: Open, model_server: ModelServer, workspace: Path
) -> None:
    file = workspace / "a.py"
    file.write_text("a = 1\n")
    program, desk, session = open_desk()
    desk.formats = {"'": '"'}
    edit = tool_call("edit", {"path": "a.py", "old": "a = 1", "new": "a = 'x'"})
    assert result(program, model_server, session, edit)["status"] == "completed"
    assert file.read_text() == 'a = "x"\n'
    edit = tool_call("edit", {"path": "a.py", "old": 'a = "x"', "new": "a = 2"})
    assert '+a = "x"' in result(program, model_server, session, edit)["text"]
    assert result(program, model_server, session, edit)["status"] == "completed"
    assert file.read_text() == "a = 2\n"


def test_a_client_that_claims_to_write_and_does_not(
    open_desk: Open, model_server: ModelServer, workspace: Path
) -> None:
    file = workspace / "a.py"
    file.write_text("a = 1\n")
    program, desk, session = open_desk({"fs": {"writeTextFile": True}})
    desk.saves = False
    edit = tool_call("edit", {"path": "a.py", "old": "a = 1", "new": "a = 2"})
    assert result(program, model_server, session, edit)["status"] == "completed"
    assert file.read_text() == "a = 2\n"
    assert desk.methods() == ["fs/write_text_file"]


def test_a_file_that_cannot_be_written_is_refused_before_the_editor_is_asked(
    open_desk: Open, model_server: ModelServer, workspace: Path
) -> None:
    (workspace / "taken").write_text("a file, not a directory\n")
    program, desk, session = open_desk()
    below = tool_call("write", {"path": "taken/x.txt", "content": "x\n"})
    ended = result(program, model_server, session, below)
    assert ended["status"] == "failed"
    assert "taken" in ended["text"]
    assert desk.of("fs/write_text_file") == []


CHANGE = f"{sys.executable} -c \"import pathlib; p = pathlib.Path('a.py'); p.write_text(p.read_text() + 'b = 2\\n')\""


@pytest.mark.parametrize("capabilities", [FILES, EVERYTHING], ids=["launcher", "terminal"])
def test_a_command_that_changes_a_file_refreshes_its_buffer(
    open_desk: Open, model_server: ModelServer, workspace: Path, capabilities: Message
) -> None:
    file = workspace / "a.py"
    file.write_text("a = 1\n")
    program, desk, session = open_desk(capabilities)
    result(program, model_server, session, tool_call("read", {"path": "a.py"}))
    desk.buffers[file] = "a = 1\n"
    done = result(program, model_server, session, tool_call("shell", {"command": f"{CHANGE}; echo x > new.txt"}))
    assert done["locations"] == [{"path": str(file), "line": 1}, {"path": str(workspace / "new.txt")}]
    assert done["content"][0] == {
        "type": "diff",
        "path": str(file),
        "oldText": "a = 1\n",
        "newText": "a = 1\nb = 2\n",
    }
    assert desk.buffers[file] == file.read_text() == "a = 1\nb = 2\n"
    assert "unsaved" not in done["text"]
    assert workspace / "new.txt" not in desk.buffers
    desk.require_all_released()
    # The model did not see what became of it: its next edit is held against that, and then goes through.
    edit = tool_call("edit", {"path": "a.py", "old": "a = 1", "new": "a = 5"})
    assert "+b = 2" in result(program, model_server, session, edit)["text"]
    assert result(program, model_server, session, edit)["status"] == "completed"
    assert file.read_text() == "a = 5\nb = 2\n"


def test_unsaved_text_and_a_command_s_change_are_both_kept(
    open_desk: Open, model_server: ModelServer, workspace: Path
) -> None:
    file = workspace / "a.py"
    file.write_text("a = 1\n")
    program, desk, session = open_desk()
    desk.buffers[file] = "a = 1\nmine = 1\n"
    result(program, model_server, session, tool_call("read", {"path": "a.py"}))
    done = result(program, model_server, session, tool_call("shell", {"command": CHANGE}))
    assert done["text"].endswith(
        "[a.py was changed on disk, but has unsaved changes in the editor, which were left as they are]"
    )
    assert desk.of("fs/write_text_file") == []
    edit = tool_call("edit", {"path": "a.py", "old": "a = 1", "new": "a = 5"})
    assert "unsaved changes" in result(program, model_server, session, edit)["text"]
    assert (file.read_text(), desk.buffers[file]) == ("a = 1\nb = 2\n", "a = 1\nmine = 1\n")
    # The person merges the two and saves.
    desk.buffers[file] = "a = 1\nb = 2\nmine = 1\n"
    file.write_text(desk.buffers[file])
    result(program, model_server, session, tool_call("read", {"path": "a.py"}))
    assert result(program, model_server, session, edit)["status"] == "completed"
    assert file.read_text() == "a = 5\nb = 2\nmine = 1\n"


def test_a_file_that_nobody_read_is_not_pushed_into_the_editor(
    open_desk: Open, model_server: ModelServer, workspace: Path
) -> None:
    (workspace / "a.py").write_text("a = 1\n")
    program, desk, session = open_desk()
    desk.buffers[workspace / "a.py"] = "a = 1\n"
    done = result(program, model_server, session, tool_call("shell", {"command": CHANGE}))
    assert done["locations"] == [{"path": str(workspace / "a.py")}]
    assert desk.asked == []


@pytest.mark.parametrize("method", ["fs/read_text_file", "fs/write_text_file"])
@pytest.mark.parametrize("end", ["cancel", "close"])
def test_a_turn_ends_while_the_editor_is_silent(
    open_desk: Open, model_server: ModelServer, workspace: Path, method: str, end: str
) -> None:
    file = workspace / "a.py"
    file.write_text("a = 1\n")
    program, desk, session = open_desk()
    desk.held = {method}
    model_server.reply(tool_call("edit", {"path": "a.py", "old": "a = 1", "new": "a = 2"}))
    id = program.send("session/prompt", prompt(session, "Edit it"))
    program.until(lambda m: m.get("method") == method)
    if end == "close":
        assert program.close() == 0
        assert {m["id"]: m.get("result") for m in program.seen if "method" not in m}[id] == {"stopReason": "cancelled"}
    else:
        program.notify("session/cancel", {"sessionId": session})
        assert program.answer_to(id)["result"] == {"stopReason": "cancelled"}
        desk.held.clear()
        desk.let_go()
        done = result(program, model_server, session, tool_call("read", {"path": "a.py"}))
        # What the client was asked to write before the cancel it wrote whole.
        assert ("a = 2" if method == "fs/write_text_file" else "a = 1") in done["text"]
    assert [path.name for path in workspace.iterdir()] == ["a.py"]


def test_nothing_is_asked_of_a_client_that_offers_nothing(
    open_desk: Open, model_server: ModelServer, workspace: Path
) -> None:
    (workspace / "a.py").write_text("a = 1\n")
    program, desk, session = open_desk({})
    result(program, model_server, session, tool_call("shell", {"command": "echo hi"}))
    result(program, model_server, session, tool_call("edit", {"path": "a.py", "old": "1", "new": "2"}))
    assert desk.asked == []
    assert (workspace / "a.py").read_text() == "a = 2\n"
