"""What was used and done, and back to it: /context /usage /diff /rewind /resume /sessions /new /export."""

from __future__ import annotations

import datetime
import json
import stat
from pathlib import Path

import anyio
import pytest

from laguna_agent.agent.filling import NAMES, Filling
from laguna_agent.agent.session import Session
from laguna_agent.errors import UsageError
from laguna_agent.terminal.slash.numbers import MARKS, bar
from laguna_agent.terminal.slash.sessions import age
from laguna_agent.terminal.theme import theme_named
from tests.agent.driving import settings_for, talk
from tests.model_server import ModelServer, Part, stream, text, tool_call
from tests.terminal.faces import OwnLink, RecordingFace, deny_all, plain, rendered, with_face

NOW = datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.UTC)


def write(path: str, content: str) -> Part:
    return tool_call("write", {"path": path, "content": content})


def test_context_before_and_after_a_prompt(model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(text("An answer of some words."))

    async def work(face: RecordingFace) -> None:
        await face.obey("/context")
        assert "Nothing was sent" in face.said
        await face.obey("hello there")
        await face.obey("/context")

    face = with_face(model_server, workspace, work, context_length=32_000)
    assert "The next request takes about" in face.said
    for words in (NAMES["system"], NAMES["tools"], NAMES["person"], NAMES["answers"], "free", "/compact makes it now"):
        assert words in face.said
    assert len(model_server.chats) == 1


def test_context_of_a_session_that_was_taken_up_again(model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(text("An answer."))

    async def run() -> RecordingFace:
        settings = settings_for(model_server)
        first = await Session.start(workspace, settings, approver=deny_all)
        await talk(first, "hello")
        await first.aclose()
        again = await Session.resume(first.id, settings, approver=deny_all)
        face = RecordingFace(OwnLink(again))
        await face.obey("/context")
        assert "The next request takes about" in "".join(getattr(event, "text", "") for event in face.link.events)
        await face.obey("/context")
        await again.aclose()
        return face

    assert "The next request takes about" in anyio.run(run).said


def test_the_bar_is_as_wide_as_it_is_told() -> None:
    found = Filling(100, 2_000, 30, 0, 5, 7_000, 1, 12_000, 0, total=21_136, room=30_000)
    for width in (12, 39, 60):
        (line,) = rendered(bar(found, width, theme_named("mono")), 80)
        row = "".join(segment.text for segment in line)
        assert len(row) == width
        assert all(MARKS[name] in row for name in ("system", "plan", "results"))
    unknown = Filling(100, 200, 0, 0, 5, 0, 0, 0, 0, total=305)
    (line,) = rendered(bar(unknown, 30, theme_named("mono")), 80)
    assert "".join(segment.text for segment in line).count("\u00b7") == 0


def test_usage_by_model(model_server: ModelServer, workspace: Path) -> None:
    usage = {
        "prompt_tokens": 1_000,
        "completion_tokens": 50,
        "prompt_tokens_details": {"cached_tokens": 400},
        "completion_tokens_details": {"reasoning_tokens": 20},
        "cost": 0.0125,
    }
    model_server.reply(stream(text("One."), usage=usage), text("Two."))

    async def work(face: RecordingFace) -> None:
        await face.obey("/usage")
        assert "Nothing was asked" in face.said
        await face.obey("first")
        await face.obey("/model other-model")
        await face.obey("second")
        await face.obey("/usage")

    said = with_face(model_server, workspace, work).said
    assert "test-model" in said
    assert "other-model" in said
    for piece in ("1,000", "40% of it", "50", "20", "$0.0125", "not known", "2 prompts, 2 requests"):
        assert piece in said


def test_what_changed_in_files(model_server: ModelServer, workspace: Path) -> None:
    (workspace / "b.txt").write_text("old\n")
    model_server.reply(
        write("a.txt", "one\ntwo\n"), text("Done."), tool_call("shell", {"command": "echo new > b.txt"}), text("Done.")
    )

    async def work(face: RecordingFace) -> None:
        await face.obey("/diff")
        assert face.said == "Nothing was changed: no prompt was sent yet."
        await face.obey("write a")
        await face.obey("change b")
        assert (workspace / "b.txt").read_text() == "new\n", face.link.events
        await face.obey("/diff 2")
        assert "a.txt" not in face.said
        await face.obey("/diff")
        for wrong in ("/diff 3", "/diff 0", "/diff x"):
            with pytest.raises(UsageError):
                await face.obey(wrong)

    said = with_face(model_server, workspace, work).said
    for piece in ("a.txt  +2 -0 (new)", "  +one", "b.txt  +1 -1", "  -old", "  +new", "2 files, +3 -1"):
        assert piece in said


def test_nothing_changed(model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(text("Hello."))

    async def work(face: RecordingFace) -> None:
        await face.obey("hello")
        await face.obey("/diff")

    assert with_face(model_server, workspace, work).said == "No files were changed."


def test_back_to_a_prompt(model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(text("One."), text("Two."))

    async def work(face: RecordingFace) -> None:
        await face.obey("/rewind")
        assert "no prompt to go back to" in face.said
        await face.obey("the first thing")
        await face.obey("the second thing")
        face.keys.append(("down", "enter"))
        await face.obey("/rewind")
        assert face.submitted == ["/rewind 2"]
        await face.obey(face.submitted[0])
        assert face.link.session is not None
        assert face.link.session.asked == []

    face = with_face(model_server, workspace, work)
    assert "> the second thing" in face.panels[0]
    assert "takes back 2 prompts" in face.panels[0]


def test_other_sessions_of_the_directory(model_server: ModelServer, workspace: Path, tmp_path: Path) -> None:
    model_server.reply(text("One."))
    ids: list[str] = []

    async def work(face: RecordingFace) -> None:
        await face.obey("/resume")
        assert "There is no other session" in face.said
        other = await Session.start(workspace, settings_for(model_server), approver=deny_all)
        ids.append(other.id)
        await talk(other, "fix the \x1b[31mparser")
        await other.aclose()
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        far = await Session.start(elsewhere, settings_for(model_server), approver=deny_all)
        await far.aclose()
        face.keys.append(("enter",))
        await face.obey("/sessions")
        face.keys.append(("escape",))
        await face.obey("/resume")
        await face.obey(f"/resume {other.id[:-2]}")
        with pytest.raises(UsageError):
            await face.obey("/resume nosuch")
        with pytest.raises(UsageError, match="belongs to"):
            await face.obey(f"/resume {far.id}")
        assert face.link.session is not None
        with pytest.raises(UsageError, match="you are in"):
            await face.obey(f"/resume {face.link.session.id}")

    face = with_face(model_server, workspace, work)
    assert face.went_to == ids * 2
    assert "parser" in face.panels[0]
    assert "\x1b" not in face.panels[0]
    assert "now, 1 prompt, test-model" in face.panels[0]


@pytest.mark.parametrize(
    ("stamp", "words"),
    [
        ("2026-01-31T11:59:30Z", "now"),
        ("2026-01-31T11:15:00Z", "45 min ago"),
        ("2026-01-31T09:00:00Z", "3 h ago"),
        ("2026-01-30T11:00:00Z", "1 day ago"),
        ("2026-01-25T11:00:00Z", "6 days ago"),
        ("2025-12-01T11:00:00Z", "2025-12-01"),
        ("2027-12-01T11:00:00Z", "now"),
        ("nonsense", "nonsense"),
    ],
)
def test_ages(stamp: str, words: str) -> None:
    assert age(stamp, NOW) == words


def test_new_sessions(model_server: ModelServer, workspace: Path) -> None:
    async def work(face: RecordingFace) -> None:
        await face.obey("/new")
        await face.obey("/clear")

    face = with_face(model_server, workspace, work)
    assert face.went_to == [None, None]
    assert "/resume finds it" in face.said


def test_exports(model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(write("a.txt", "one\n```\nfence\n"), text("Done, **boldly**."))

    async def work(face: RecordingFace) -> None:
        with pytest.raises(UsageError, match="nothing was said"):
            await face.obey("/export")
        await face.obey('write a file, password = "correcthorse1battery"')
        await face.obey("/export")
        await face.obey("/export atif")
        await face.obey("/export log my log.jsonl")
        await face.obey("/export page.md")
        with pytest.raises(UsageError, match="there already"):
            await face.obey("/export page.md")
        with pytest.raises(UsageError, match="not a format; there are md, atif, log"):
            await face.obey("/export html")
        with pytest.raises(UsageError, match="cannot write"):
            await face.obey("/export md no/such/place.md")

    face = with_face(model_server, workspace, work)
    page = (workspace / "page.md").read_text()
    (named,) = workspace.glob("session-*.md")
    assert named.read_text() == page
    assert "## Prompt\n\n> write a file" in page
    assert "Done, **boldly**." in page
    assert "correcthorse1battery" not in page
    assert "**write**" in page
    assert stat.S_IMODE((workspace / "page.md").stat().st_mode) == 0o600
    (trajectory,) = workspace.glob("session-*.json")
    assert json.loads(trajectory.read_text())["schema_version"] == "ATIF-v1.8"
    assert (workspace / "my log.jsonl").read_bytes().count(b"\n") > 5
    assert "wrote" in face.said
    assert plain(face.lines)
