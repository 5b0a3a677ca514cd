"""Small models: what the prompt is about is put before them, and the code that they write goes where it belongs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from laguna_agent.agent.cloze import GAP
from laguna_agent.agent.events import Event, TextDelta, ToolCallStarted
from laguna_agent.agent.store import Said, ToolRan
from tests.agent.driving import converse, posted, text_of
from tests.agent.test_replay import cancel_at
from tests.model_server import ModelServer, Part, reset, stream, text, tool_call

WRONG = "def add(a, b):\n    return a - b\n"
RIGHT = "def add(a, b):\n    return a + b\n"
CHECK = "python3 -c 'import add; assert add.add(2, 3) == 5, \"2 + 3 is \" + str(add.add(2, 3))'"


def block(code: str, language: str = "python") -> str:
    return f"```{language}\n{code}```"


@pytest.fixture
def adding(workspace: Path) -> Path:
    (workspace / "add.py").write_text(WRONG + "\n\nKEPT = 1\n")
    (workspace / "other.py").write_text("def unrelated():\n    pass\n")
    return workspace


def test_the_file_is_posted_and_the_block_applied(model_server: ModelServer, adding: Path) -> None:
    model_server.reply(text(f"Here:\n{block(RIGHT)}\nIt adds now."))
    spoken = converse(model_server, adding, "Fix the function add in add.py.", edit_format="symbol", check=CHECK)
    assert spoken.result.exit_code == 0, spoken.result.message
    assert (adding / "add.py").read_text() == RIGHT + "\n\nKEPT = 1\n"
    assert spoken.result.files_changed == ("add.py",)
    (body,) = model_server.chats
    assert "tools" not in body
    opening = text_of(posted(model_server)[1])
    assert opening.startswith("Fix the function add in add.py.")
    assert f"add.py:\n```python\n{WRONG}" in opening
    assert "unrelated" not in opening
    assert "2 + 3 is -1" in opening


def test_a_failing_check_goes_back_with_what_fails_now(model_server: ModelServer, adding: Path) -> None:
    worse = "def add(a, b):\n    return a * b\n"
    model_server.reply(text(block(worse)), text(block(RIGHT)))
    spoken = converse(model_server, adding, "Fix add in add.py.", edit_format="symbol", check=CHECK)
    assert spoken.result.exit_code == 0, spoken.result.message
    assert [run.exit_code for run in spoken.result.checks] == [1, 1, 0]
    returned = text_of(posted(model_server)[-1])
    assert "2 + 3 is 6" in returned
    assert "return" not in returned, "a small model copies a wrong body that it sees"
    assert (adding / "add.py").read_text().startswith(RIGHT)


def test_whole_files(model_server: ModelServer, adding: Path) -> None:
    model_server.reply(text(f"add.py\n{block(RIGHT)}"))
    spoken = converse(model_server, adding, "Fix add.py.", edit_format="whole", check=CHECK)
    assert spoken.result.exit_code == 0, spoken.result.message
    assert (adding / "add.py").read_text() == RIGHT


def test_several_files_and_a_new_one(model_server: ModelServer, workspace: Path) -> None:
    (workspace / "shapes.py").write_text("from units import scale\n\n\ndef area(w, h):\n    return scale(w + h)\n")
    (workspace / "units.py").write_text("def scale(x):\n    return x\n")
    answer = (
        "shapes.py\n" + block("def area(w, h):\n    return scale(w * h)\n")
        + "\n\nunits.py\n" + block("def scale(x):\n    return 2 * x\n")
        + "\n\nnotes/why.md\n" + block("Because.\n", "markdown")
    )  # fmt: skip
    model_server.reply(text(answer))
    check = "python3 -c 'import shapes; assert shapes.area(2, 3) == 12'"
    spoken = converse(model_server, workspace, "Fix `area` in shapes.py.", edit_format="symbol", check=check)
    assert spoken.result.exit_code == 0, spoken.result.message
    assert "from units import scale" in (workspace / "shapes.py").read_text()
    assert (workspace / "notes" / "why.md").read_text() == "Because.\n"
    opening = text_of(posted(model_server)[1])
    assert "shapes.py:\n```python" in opening
    assert "units.py:\n```python" in opening


@pytest.mark.parametrize("finish", ["length", "content_filter"])
def test_a_block_that_did_not_close_is_never_applied(model_server: ModelServer, adding: Path, finish: str) -> None:
    model_server.always(stream(text("```python\ndef add(a, b):\n    return a"), finish=finish))
    spoken = converse(model_server, adding, "Fix add in add.py.", edit_format="symbol", check=CHECK)
    assert spoken.result.exit_code in {4, 8}
    assert (adding / "add.py").read_text().startswith(WRONG)
    assert spoken.records(ToolRan) == []


def test_never_right(model_server: ModelServer, adding: Path) -> None:
    model_server.always(text(block("def add(a, b):\n    return a * b\n")))
    spoken = converse(model_server, adding, "Fix add in add.py.", edit_format="symbol", check=CHECK)
    assert (spoken.result.outcome, spoken.result.exit_code) == ("check_failed", 8)
    assert all(text_of(posted(model_server, at)[0]) for at in range(len(model_server.chats)))
    strategies = [said.strategy for said in spoken.records(Said) if said.strategy]
    assert len(strategies) == len(model_server.chats)
    ids = [event.id for event in spoken.of(ToolCallStarted)]
    assert len(ids) == len(set(ids))


def test_prose_alone_and_then_nothing(model_server: ModelServer, adding: Path) -> None:
    model_server.always(text("You should add instead of subtracting."))
    spoken = converse(model_server, adding, "Fix add in add.py.", edit_format="symbol", check=CHECK)
    assert spoken.result.exit_code == 8
    assert (adding / "add.py").read_text().startswith(WRONG)


def test_a_question_without_a_check(model_server: ModelServer, adding: Path) -> None:
    model_server.reply(text("It subtracts."))
    spoken = converse(model_server, adding, "What does add.py do?", edit_format="symbol")
    assert (spoken.result.exit_code, spoken.result.text) == (0, "It subtracts.")


def test_files_are_chosen_where_the_prompt_leaves_them_open(model_server: ModelServer, adding: Path) -> None:
    model_server.props = {"default_generation_settings": {"n_ctx": 8_192}}
    changed = "def unrelated():\n    return 1\n"
    model_server.reply(text('{"action": "change", "files": ["other.py"]}'), text(block(changed)))
    check = "grep -q 'return 1' *.py"
    spoken = converse(model_server, adding, "Make it return one.", edit_format="symbol", check=check)
    assert spoken.result.exit_code == 0, spoken.result.message
    question, work = model_server.chats
    offered = question["response_format"]["json_schema"]["schema"]["properties"]["files"]["items"]["enum"]
    assert sorted(offered) == ["add.py", "other.py"]
    assert "other.py:\n```python" in text_of(work["messages"][1])
    assert (adding / "other.py").read_text() == changed
    # The choice is no answer, and nobody is shown it.
    assert "action" not in "".join(event.text for event in spoken.of(TextDelta))


def test_the_second_prompt_starts_anew(model_server: ModelServer, adding: Path) -> None:
    model_server.always(text(block(RIGHT)))
    converse(model_server, adding, "Fix add in add.py.", "Now look at other.py.", edit_format="symbol")
    second = posted(model_server)
    assert [message["role"] for message in second][:2] == ["system", "user"]
    assert "def unrelated" in text_of(second[1])
    assert "Fix add in add.py." in text_of(second[1])
    assert not any("return a - b" in text_of(message) for message in second)


def test_edits_need_leave_too(model_server: ModelServer, adding: Path) -> None:
    model_server.always(text(block(RIGHT)))
    spoken = converse(model_server, adding, "Fix add in add.py.", edit_format="symbol", check=CHECK, approve="ask")
    assert (spoken.result.outcome, spoken.result.exit_code) == ("denied", 7)
    assert (adding / "add.py").read_text().startswith(WRONG)


@pytest.mark.parametrize(("kind", "nth"), [(TextDelta, 2), (ToolCallStarted, 1)])
def test_interrupted_and_replayed(model_server: ModelServer, adding: Path, kind: type[Event], nth: int) -> None:
    model_server.always(text(block(RIGHT)))
    watch = cancel_at(kind, nth)
    spoken = converse(
        model_server, adding, "Fix add.py.", "Fix add.py.", edit_format="symbol", check=CHECK, watch=watch
    )
    assert [result.outcome for result in spoken.results] == ["interrupted", "completed"]


def test_a_provider_error_and_replayed(model_server: ModelServer, adding: Path) -> None:
    model_server.reply(text(block("def add(a, b):\n    return 0\n")), stream(text("```py"), reset()))
    spoken = converse(model_server, adding, "Fix add.py.", edit_format="symbol", check=CHECK)
    assert spoken.result.outcome == "provider_error"
    assert spoken.result.turns == 2


def test_a_small_model_that_calls_a_tool_is_not_obeyed(model_server: ModelServer, adding: Path) -> None:
    """None was offered. What it wrote is no code block either, so nothing happens to the files."""
    model_server.reply([tool_call("shell", {"command": "touch made"})], text(block(RIGHT)))
    converse(model_server, adding, "Fix add.py.", edit_format="symbol", check=CHECK)
    assert not (adding / "made").exists()
    for message in posted(model_server):
        assert not message.get("tool_calls")


def test_known_small_models_get_it_by_name(model_server: ModelServer, adding: Path) -> None:
    model_server.always(text(block(RIGHT)))
    spoken = converse(model_server, adding, "Fix add.py.", model="qwen2.5-coder-1.5b-instruct", check=CHECK)
    assert spoken.result.exit_code == 0
    assert "tools" not in model_server.chats[0]
    assert re.search(r"code block", text_of(posted(model_server, 0)[1]))


SIGN = "def sign(n):\n    if n > 1:\n        return 1\n    return -1 if n < 0 else 0\n"
SIGN_CHECK = "python3 -c 'import sign; assert [sign.sign(n) for n in (-3, 0, 1)] == [-1, 0, 1], sign.sign(1)'"


def test_a_gap_in_a_line_after_the_other(model_server: ModelServer, workspace: Path) -> None:
    """A model that copies what it sees and, where it sees a gap, knows what belongs there."""
    (workspace / "sign.py").write_text(SIGN)

    def answer(body: dict[str, Any]) -> Part:
        question = text_of(body["messages"][-1])
        shown = question.rpartition("```python\n")[2].partition("```")[0]
        if GAP not in shown:
            return text(block(SIGN))
        return text(block(shown.replace(f"if {GAP}:", "if n > 0:").replace(GAP, "-1 if n < 0 else 0")))

    model_server.always(answer)
    spoken = converse(model_server, workspace, "Fix sign in sign.py.", edit_format="symbol", check=SIGN_CHECK)
    assert spoken.result.exit_code == 0, spoken.result.message
    assert (workspace / "sign.py").read_text() == SIGN.replace("n > 1", "n > 0")
    last = text_of(posted(model_server)[1])
    assert "n > 1" not in last, "a small model copies a wrong line that it sees"
    assert f"if {GAP}:" in last
    assert "gap" in [said.strategy for said in spoken.records(Said)]


def test_the_gap_alone_may_be_answered(model_server: ModelServer, workspace: Path) -> None:
    (workspace / "sign.py").write_text(SIGN)

    def answer(body: dict[str, Any]) -> Part:
        return text("`if n > 0:`" if f"if {GAP}:" in text_of(body["messages"][-1]) else "I do not know.")

    model_server.always(answer)
    spoken = converse(model_server, workspace, "Fix sign in sign.py.", edit_format="symbol", check=SIGN_CHECK)
    assert spoken.result.exit_code == 0, spoken.result.message
    assert (workspace / "sign.py").read_text() == SIGN.replace("n > 1", "n > 0")


def test_the_same_answer_over_and_over_is_no_loop(model_server: ModelServer, adding: Path) -> None:
    """It changes nothing, so every one of the tries has its turn and the check has the last word."""
    model_server.always(text(block(WRONG)))
    spoken = converse(model_server, adding, "Fix add in add.py.", edit_format="symbol", check=CHECK)
    assert (spoken.result.outcome, spoken.result.exit_code) == ("check_failed", 8)
    assert (adding / "add.py").read_text().startswith(WRONG)
