"""Answers that repeat themselves while they stream, and thoughts without end: cut off, asked for again, then named."""

from __future__ import annotations

import random
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laguna_agent.agent.events import Retrying
from laguna_agent.agent.permissions import deny_all
from laguna_agent.agent.runaway import ARGUMENTS, PROSE, Repeating, Runaway, StreamWatch
from laguna_agent.agent.session import Session
from laguna_agent.agent.store import Replied
from laguna_agent.backend.base import ReasoningDelta, RetryDelta, TextDelta, ToolCallDelta
from laguna_agent.config import Settings
from tests.agent.driving import converse, posted, require_valid_conversation, roles, talk, text_of
from tests.agent.listed_backend import ListedBackend, answer
from tests.model_server import ModelServer, http, reasoning, stall, stream, text, tool_call

WORDS = ("the", "model", "reads", "files", "then", "runs", "tests", "because", "they", "failed", "after", "edits")


def prose(length: int, seed: int = 1) -> str:
    """Words in no order that comes again."""
    chance = random.Random(seed)
    return " ".join(chance.choice(WORDS) + str(chance.randrange(100)) for _ in range(length // 6 + 1))[:length]


def cut_at(whole: str, limit: int = PROSE, piece: int = 7) -> int | None:
    """Where a text that comes in pieces is cut; None where it is not."""
    watching = Repeating(limit)
    for at in range(0, len(whole), piece):
        if watching.feed(whole[at : at + piece]) is not None:
            return at + piece
    return None


@pytest.mark.parametrize("length", [1, 2, 7, 48, 49, 300, 1_000, 2_300])
def test_a_piece_again_and_again(length: int) -> None:
    piece = prose(length, seed=length)
    at = cut_at(prose(5_000) + piece * (40_000 // length))
    assert at is not None
    assert at <= 5_000 + max(PROSE, 5 * length) + 1_100


@given(st.integers(0, 1 << 30), st.integers(1, 400))
def test_prose_goes_on(seed: int, piece: int) -> None:
    assert cut_at(prose(20_000, seed), piece=piece) is None


def test_what_a_program_may_hold_goes_on() -> None:
    table = "".join(f"    ({n}, 0x{n * 7919:08x}),\n" for n in range(2_000))
    rulers = "\n".join("=" * 200 + f"\nchapter {n}\n" for n in range(50))
    assert cut_at(table) is None
    assert cut_at(rulers) is None
    assert cut_at("| --- " * 400) is None
    assert cut_at("0, " * 6_000, limit=ARGUMENTS) is None
    assert cut_at("0, " * 8_000, limit=ARGUMENTS) is not None


def test_calls_have_more_room_and_a_retry_begins_anew() -> None:
    watch = StreamWatch(None, lambda size: size)
    watch.feed(ToolCallDelta(0, arguments="ab" * PROSE))
    watch.feed(TextDelta("ab" * (PROSE // 4)))
    watch.feed(RetryDelta(1, 0.0, "reset"))
    watch.feed(TextDelta("ab" * (PROSE // 4)))
    with pytest.raises(Runaway, match="answer repeated itself"):
        watch.feed(TextDelta("ab" * PROSE))


def test_thought_counts_until_the_model_acts() -> None:
    watch = StreamWatch(100, lambda size: size // 4)
    watch.feed(ReasoningDelta(prose(390)))
    watch.feed(TextDelta(prose(2_000)))
    watch.feed(ToolCallDelta(0, name="read"))
    watch.feed(ReasoningDelta(prose(2_000)))
    fresh = StreamWatch(100, lambda size: size // 4)
    with pytest.raises(Runaway, match="thought for 100 tokens"):
        fresh.feed(ReasoningDelta(prose(410)))


@pytest.mark.parametrize("piece", [1, 3, 400])
@pytest.mark.parametrize(
    ("content", "cut"),
    [
        ("\n<think>" + prose(500), True),
        ("<think>" + prose(300) + "</think>" + prose(3_000), False),
        ("<thing>" + prose(3_000), False),
        (prose(3_000), False),
    ],
)
def test_thought_in_the_content_counts(content: str, cut: bool, piece: int) -> None:
    watch = StreamWatch(100, lambda size: size // 4)
    pieces = [TextDelta(content[at : at + piece]) for at in range(0, len(content), piece)]
    if cut:
        with pytest.raises(Runaway, match="thought for"):
            for each in pieces:
                watch.feed(each)
    else:
        for each in pieces:
            watch.feed(each)


ENDLESS = "I will check it again. "


def test_a_degenerate_stream_is_cut_and_asked_for_again(model_server: ModelServer, workspace: Path) -> None:
    endless = [text("Well. "), text(ENDLESS * 400, pieces=200), stall()]
    model_server.reply(endless, text("All is well."))
    spoken = converse(model_server, workspace, "x", temperature=0.0, seed=7)
    assert (spoken.result.exit_code, spoken.result.text) == (0, "All is well.")
    # What repeated itself is not shown to the model again, and nothing is said of it.
    assert posted(model_server, 1) == posted(model_server, 0)
    assert (model_server.chats[0]["temperature"], model_server.chats[1]["temperature"]) == (0.0, 0.7)
    assert "seed" not in model_server.chats[1]
    (warning,) = spoken.of(Retrying)
    assert "repeated itself" in warning.reason
    assert warning.void
    # Its tokens count though the server could not say how many they were.
    assert spoken.result.output_tokens > 700
    cut = spoken.records(Replied)[0]
    assert cut.error is None
    assert len("".join(delta.text for delta in cut.deltas if isinstance(delta, TextDelta))) < PROSE + 2_000


def test_one_that_repeats_itself_twice_ends_the_run(model_server: ModelServer, workspace: Path) -> None:
    model_server.always(lambda _: stream(reasoning(ENDLESS * 400, pieces=50), text("x")))
    spoken = converse(model_server, workspace, "x")
    assert (spoken.result.outcome, spoken.result.exit_code) == ("loop", 6)
    assert len(model_server.chats) == 2
    assert ENDLESS.strip()[:20] in spoken.result.message


def test_it_may_happen_now_and_then(model_server: ModelServer, workspace: Path) -> None:
    for number in range(3):
        model_server.reply(text(ENDLESS * 400, pieces=50), tool_call("shell", {"command": f"echo {number}"}))
    model_server.reply(text("Done."))
    assert converse(model_server, workspace, "x").result.exit_code == 0


def test_an_endless_thought_is_cut_and_the_answer_asked_for(model_server: ModelServer, workspace: Path) -> None:
    thought = reasoning(prose(60_000), pieces=300)
    model_server.reply([thought, stall()], tool_call("shell", {"command": "echo 1"}), [thought, stall()], text("Done."))
    spoken = converse(model_server, workspace, "x", reasoning_budget=2_000)
    assert (spoken.result.exit_code, spoken.result.text) == (0, "Done.")
    efforts = [body.get("reasoning_effort") for body in model_server.chats]
    assert efforts == [None, "none", None, "none"]
    # Told once.
    assert sum("long enough" in text_of(message) for message in posted(model_server)) == 1
    assert roles(model_server) == ["system", "user", "user", "assistant", "tool"]
    require_valid_conversation(posted(model_server))
    assert sum("reasoning_budget" in event.reason for event in spoken.of(Retrying)) == 2


def test_a_thought_that_nothing_ends(model_server: ModelServer, workspace: Path) -> None:
    model_server.always(lambda _: stream(reasoning(prose(30_000), pieces=100), text("x")))
    spoken = converse(model_server, workspace, "x", reasoning_budget=1_000)
    assert (spoken.result.outcome, spoken.result.exit_code) == ("model_stopped", 4)
    assert len(model_server.chats) == 2


def test_a_server_that_cannot_close_thinking_is_only_told(model_server: ModelServer, workspace: Path) -> None:
    unknown = http(400, {"error": {"message": "unknown value for reasoning_effort"}})
    model_server.reply(reasoning(prose(30_000), pieces=100), unknown, text("Done."))
    spoken = converse(model_server, workspace, "x", reasoning_budget=1_000)
    assert spoken.result.exit_code == 0
    assert "reasoning_effort" not in model_server.chats[2]
    assert "long enough" in text_of(posted(model_server)[-1])


def test_without_a_budget_a_thought_may_be_long(model_server: ModelServer, workspace: Path) -> None:
    model_server.reply([reasoning(prose(120_000), pieces=20), text("42.")])
    assert converse(model_server, workspace, "x", reasoning_budget=0).result.text == "42."


@pytest.mark.parametrize(("name", "expected"), [("local", 1_000), ("listed", None)])
def test_in_process_the_engine_closes_the_thought(workspace: Path, name: str, expected: int | None) -> None:
    backend = ListedBackend([answer("42.")])
    backend.name = name

    async def run() -> None:
        session = await Session.start(
            workspace, Settings(model="local/listed", reasoning_budget=1_000), approver=deny_all
        )
        session.backend, session.wire_model = backend, "listed"
        await talk(session, "x")
        await session.aclose()

    anyio.run(run)
    assert backend.requests[0].sampling.reasoning_tokens == expected


def test_a_small_model_that_runs_away(model_server: ModelServer, workspace: Path) -> None:
    (workspace / "add.py").write_text("def add(a, b):\n    return a - b\n")
    endless = text("```python\n" + "# the sum\n" * 2_000, pieces=100)
    model_server.reply([endless, stall()], text("```python\ndef add(a, b):\n    return a + b\n```"))
    check = "python3 -c 'import add; assert add.add(2, 3) == 5'"
    spoken = converse(model_server, workspace, "Fix add in add.py", check=check, edit_format="symbol", temperature=0.0)
    assert (spoken.result.exit_code, spoken.result.evidence) == (0, "verified")
    assert [body["temperature"] for body in model_server.chats] == [0.0, 0.7]
