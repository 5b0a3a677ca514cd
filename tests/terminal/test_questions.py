"""Permission questions: nothing is hidden, nothing is allowed unread, and the reason of a denial reaches the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laguna_agent.agent.events import PermissionOption, PermissionRequested
from laguna_agent.agent.permissions import PermissionAnswer, options
from laguna_agent.event_lines import question_lines
from laguna_agent.messages import FileDiff, Location, ToolKind
from laguna_agent.terminal.folding import folded
from laguna_agent.terminal.questions import PermissionPanel
from laguna_agent.terminal.theme import theme_named
from laguna_agent.tools.base import Need
from tests.model_server import ModelServer, text, tool_call
from tests.terminal.faces import RecordingFace, plain, press, widest, with_face

THEME = theme_named("dark")
CWD = Path("/home/me/project")


def request_for(command: str, kind: ToolKind = "execute", **more: Any) -> PermissionRequested:
    parts = more.get("parts", ())
    return PermissionRequested(
        "1", f"$ {command}", kind, {"command": command}, options(Need("execute", command), parts), **more
    )


def shown(request: PermissionRequested, **how: bool) -> tuple[PermissionPanel, list[PermissionAnswer]]:
    panel = PermissionPanel(request, THEME, CWD, **how)
    answers: list[PermissionAnswer] = []
    panel.done = answers.append
    return panel, answers


def test_a_command_is_shown_with_its_parts_and_what_is_unusual() -> None:
    parts = ("git add -A", "git push origin main")
    panel, _ = shown(request_for("git add -A && git push origin main", parts=parts, unusual=("wants the network",)))
    words = plain(panel.lines(80, 30))
    for piece in ("git add -A && git push origin main", "it runs:", "- git push origin main", "! wants the network"):
        assert piece in words
    assert "a  always: allow exactly this for this session\n" in words
    assert "> n  refuse this once" in words, "what is unusual is not allowed by Enter alone"


def test_a_grant_that_is_not_what_stands_above_is_told_whole() -> None:
    request = request_for("make")
    wider = tuple(
        msgspec.structs.replace(each, grant="allow every command for this session") if each.id == "always" else each
        for each in options(Need("execute", "make install", grant="network"))
    )
    words = plain(shown(msgspec.structs.replace(request, options=wider))[0].lines(80, 30))
    assert "always: allow every command for this session" in words
    assert "never: refuse exactly this for this session, with the network: make install" in words
    told = PermissionOption("1", "allow_always", "always allow db: query")
    other = PermissionRequested("1", "db: query", "other", {}, (told,))
    assert "always: always allow db: query\n" in plain(shown(other)[0].lines(80, 30))


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("y", PermissionAnswer(True)),
        ("a", PermissionAnswer(True, remember=True)),
        ("n", PermissionAnswer(False, reason="the person refused")),
        ("x", PermissionAnswer(False, remember=True, reason="the person refused")),
        ("enter", PermissionAnswer(True)),
        ("Y", PermissionAnswer(True)),
    ],
)
def test_each_key_is_its_answer(key: str, answer: PermissionAnswer) -> None:
    panel, answers = shown(request_for("make"))
    panel.lines(80, 30)
    press(panel, {"enter": "c-m"}.get(key, key))
    assert answers == [answer]


def test_arrows_go_around_and_the_wider_answer_is_never_in_focus_first() -> None:
    panel, answers = shown(request_for("make"))
    assert plain(panel.lines(80, 30)).count("> y") == 1
    press(panel, "down", "down", "c-m")
    assert answers == [PermissionAnswer(False, reason="the person refused")]
    panel, answers = shown(request_for("make"))
    panel.lines(80, 30)
    press(panel, "up", "c-m")
    assert panel.reading is not None, "the last one says why"
    only_always = request_for("make")
    wide = tuple(option for option in only_always.options if option.kind != "allow_once")
    panel, answers = shown(PermissionRequested("1", "$ make", "execute", {}, wide))
    panel.lines(80, 30)
    press(panel, "c-m")
    assert not answers[0].allowed


def test_saying_why() -> None:
    panel, answers = shown(request_for("pip install x"))
    panel.lines(80, 30)
    press(panel, "r")
    assert panel.reading
    press(panel, "y")
    assert not answers, "keys are letters of the reason now"
    panel.typed(None)
    assert panel.reading is None
    assert not answers
    press(panel, "tab")
    panel.typed("use uv instead")
    assert answers == [PermissionAnswer(False, reason="the person refused and says: use uv instead")]
    assert panel.answered_line(answers[0]) == "denied: pip install x (use uv instead)"


def test_interrupted_it_is_denied_and_answered_once() -> None:
    panel, answers = shown(request_for("make"))
    panel.lines(80, 30)
    panel.interrupted()
    press(panel, "y")
    assert [answer.allowed for answer in answers] == [False]


def test_the_answer_in_the_history() -> None:
    panel, _ = shown(request_for("git push"))
    assert panel.answered_line(PermissionAnswer(True)) == "allowed once: git push"
    assert panel.answered_line(PermissionAnswer(True, remember=True)) == "allowed for this session: git push"
    assert panel.answered_line(PermissionAnswer(False, remember=True)) == "denied for this session: git push"


def test_nothing_is_allowed_before_its_end_was_on_the_screen() -> None:
    command = "\n".join(f"echo {number}" for number in range(60)) + "\nrm -rf ~"
    panel, answers = shown(request_for(command))
    pages = [plain(panel.lines(80, 20))]
    while "then allow" in pages[-1]:
        press(panel, "y", "a")
        assert not answers
        press(panel, "pagedown")
        pages.append(plain(panel.lines(80, 20)))
    seen = "\n".join(pages)
    assert len(pages) > 3
    assert all(f"echo {number}\n" in seen for number in range(60)), "no row was passed over"
    assert "rm -rf ~\n" in seen
    press(panel, "y")
    assert answers == [PermissionAnswer(True)]


def test_it_can_be_denied_at_once() -> None:
    panel, answers = shown(request_for("\n".join(map(str, range(99)))))
    panel.lines(80, 20)
    press(panel, "n")
    assert [answer.allowed for answer in answers] == [False]


def test_after_a_resize_the_rows_are_others() -> None:
    panel, answers = shown(request_for("x" * 4000))
    panel.lines(200, 20)
    panel.lines(40, 20)
    press(panel, "y")
    assert not answers
    # What was read to its end stays read.
    panel, answers = shown(request_for("x" * 300))
    panel.lines(200, 30)
    panel.lines(40, 12)
    press(panel, "y")
    assert answers == [PermissionAnswer(True)]


def test_keys_of_somebody_who_types_are_no_answer() -> None:
    panel, answers = shown(request_for("make"), typing=True)
    panel.lines(80, 30)
    press(panel, "y", "a", "n")
    assert not answers


def test_a_letter_of_a_text_that_somebody_goes_on_typing_is_no_answer() -> None:
    panel, answers = shown(request_for("make"))
    panel.lines(80, 30)
    press(panel, *"!ls -la")
    assert not answers


def test_a_change_is_shown_whole() -> None:
    lines = [f"line {number}" for number in range(300)]
    diff = FileDiff("a.txt", "\n".join(lines) + "\n", "\n".join(f"{line}!" for line in lines) + "\n")
    request = PermissionRequested("1", "Edit a.txt", "edit", {}, options(Need("write", "a.txt")), (diff,))
    panel, _ = shown(request)
    seen = plain(panel.lines(80, 700))
    assert all(f"line {number}!" in seen for number in range(300))
    assert "always: allow every edit inside the workspace for this session" in seen


def test_an_edit_that_brings_no_diff_shows_what_it_proposes() -> None:
    given_input = {"path": "a.txt", "old": "before", "new": "after"}
    request = PermissionRequested("1", "Edit a.txt", "edit", given_input, options(Need("write", "a.txt")))
    words = plain(shown(request)[0].lines(80, 40))
    assert "before" in words
    assert "after" in words


def test_a_tool_of_a_server_shows_its_arguments_and_its_places() -> None:
    request = PermissionRequested(
        "1", "db: query", "other", {"sql": "drop table users"}, options(Need("execute", "db: query", tool="q")),
        locations=(Location("/home/me/project/schema.sql", 3),),
    )  # fmt: skip
    words = plain(shown(request)[0].lines(80, 40))
    assert 'sql: "drop table users"' in words
    assert "in schema.sql:3" in words


@pytest.mark.parametrize(
    ("kind", "title", "given", "rows"),
    [
        ("fetch", "Fetch", {"url": "https://example.org/x"}, ['url: "https://example.org/x"']),
        ("delete", "Delete a/b", {"path": "/"}, ['path: "/"']),
        ("move", "Move", {"from": "a", "to": "b"}, ['from: "a"', 'to: "b"']),
        ("edit", "Edit", {"edits": [{"line": 1}]}, ['edits: [{"line": 1}]']),
        ("execute", "Terminal", {"script": "rm -rf build"}, ['script: "rm -rf build"']),
        ("execute", "$ make", {"command": "make", "cwd": "/etc", "timeout": 9}, ['cwd: "/etc"']),
        ("execute", "$ make &", {"command": "make", "background": True, "sandboxed": False}, ["sandboxed: false"]),
        ("execute", "Build it", {"command": "make"}, ['command: "make"']),
        ("read", "Read notes.txt", {"path": "notes.txt"}, []),
        ("search", "Search 'a b' in x", {"pattern": "a b", "path": "x"}, []),
    ],
)
def test_what_the_title_does_not_say_of_the_arguments_is_shown(
    kind: ToolKind, title: str, given: dict[str, Any], rows: list[str]
) -> None:
    """Another agent's title may say anything; what it asks leave for is in the arguments."""
    parts = ("make",) if "command" in given else ()
    request = PermissionRequested("1", title, kind, given, options(Need("read", "x")), parts=parts)
    words = plain(shown(request)[0].lines(80, 40)).split("\n\n")[0].split("  it runs:")[0].strip().split("\n")
    assert [row.strip() for row in words[2:]] == rows
    plain_rows = [row.strip() for row in question_lines(request)[1:] if not row.startswith("  [")]
    assert plain_rows == rows


def test_nothing_that_a_terminal_obeys_comes_through() -> None:
    hostile = "echo \x1b[2J\x1b]0;owned\x07\u202e gnp"
    panel, _ = shown(request_for(hostile, parts=(hostile, hostile), unusual=(hostile,)))
    words = plain(panel.lines(80, 40))
    assert not any(character in words for character in "\x1b\x07\u202e")


@given(
    st.text(st.characters(codec="utf-8"), max_size=200),
    st.integers(20, 200),
    st.integers(5, 50),
    st.lists(st.text(max_size=50), max_size=4),
)
def test_whatever_it_says_it_fits(command: str, width: int, height: int, parts: list[str]) -> None:
    panel, _ = shown(request_for(command, parts=tuple(parts), unusual=tuple(parts)))
    lines = panel.lines(width, height)
    assert len(lines) <= height
    assert widest(lines) <= width


@given(st.text(st.characters(codec="utf-8", exclude_characters="\t\n"), max_size=300), st.integers(2, 60))
def test_folding_keeps_every_character(line: str, width: int) -> None:
    rows = folded(line, width)
    assert "".join(rows) == line
    assert all(widest([]) <= width for _ in rows)


def test_the_reason_reaches_the_model(model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(tool_call("shell", {"command": "pip install x"}), text("Then with uv."))
    faces: list[RecordingFace] = []

    async def approve(request: PermissionRequested) -> PermissionAnswer:
        panel, answers = shown(request)
        panel.lines(80, 30)
        press(panel, "r")
        panel.typed("use uv instead")
        return answers[0]

    async def work(face: RecordingFace) -> None:
        faces.append(face)
        await face.obey("install x")

    with_face(model_server, workspace, work, approver=approve, approve="ask")
    said = model_server.chats[-1]["messages"][-1]
    assert said["role"] == "tool"
    assert said["content"].startswith("Denied: the person refused and says: use uv instead.")
