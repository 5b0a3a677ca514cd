"""Leave is for what was shown: what changes between question and call is noticed, and nothing leaks by asking."""

from __future__ import annotations

from pathlib import Path

import pytest

from laguna_agent.agent.events import PermissionRequested
from laguna_agent.agent.permissions import PermissionAnswer
from tests.agent.driving import converse, posted, text_of
from tests.model_server import ModelServer, text, tool_call

CANARY = "CANARY-7f3a"


@pytest.fixture
def key() -> Path:
    """A hidden file, there before the session is."""
    folder = Path.home() / ".ssh"
    folder.mkdir()
    (folder / "config").write_text(f"Host {CANARY}\n")
    return folder / "config"


def test_a_link_that_comes_while_a_person_is_asked_gets_nothing(
    model_server: ModelServer, workspace: Path, key: Path
) -> None:
    (workspace / "dir").mkdir()
    (workspace / "dir" / "config").write_text("Host mine\n")

    async def person(_: PermissionRequested) -> PermissionAnswer:
        (workspace / "dir").rename(workspace / "aside")
        (workspace / "dir").symlink_to(key.parent)
        return PermissionAnswer(True)

    model_server.reply(tool_call("edit", {"path": "dir/config", "old": "Host ", "new": "Evil "}), text("Done."))
    spoken = converse(model_server, workspace, "x", approve="ask", approver=person)
    (asked,) = spoken.of(PermissionRequested)
    assert asked.diffs[0].old_text == "Host mine\n"
    assert key.read_text() == f"Host {CANARY}\n"
    assert (workspace / "aside" / "config").read_text() == "Host mine\n"
    assert "there is no leave for" in str(posted(model_server))
    assert CANARY not in str(posted(model_server))


def test_a_hidden_file_is_not_shown_to_ask_whether_it_may_be_changed(
    model_server: ModelServer, workspace: Path, key: Path
) -> None:
    async def person(_: PermissionRequested) -> PermissionAnswer:
        return PermissionAnswer(False)

    model_server.reply(tool_call("edit", {"path": str(key), "old": "Host", "new": "Evil"}), text("Done."))
    spoken = converse(model_server, workspace, "x", approve="ask", approver=person)
    (asked,) = spoken.of(PermissionRequested)
    assert asked.diffs == ()
    assert CANARY not in spoken.log.read_text()


def test_each_call_has_the_leave_that_it_was_given(
    model_server: ModelServer, workspace: Path, tmp_path: Path, key: Path
) -> None:
    (tmp_path / "else").write_text("elsewhere\n")
    (tmp_path / "more").write_text("more\n")
    (workspace / "a").write_text("inside\n")
    calls = [tool_call("read", {"path": path}) for path in (str(tmp_path / "else"), "a", str(tmp_path / "more"))]
    model_server.reply(*calls, text("Done."))
    converse(model_server, workspace, "x", approve="all")
    results = [text_of(message) for message in posted(model_server) if message["role"] == "tool"]
    assert results == ["1\telsewhere", "1\tinside", "1\tmore"]
