"""What goes into a request: a prefix that stays, a window that is kept, repeats that are pruned, words that are not."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laguna_agent.agent.context import (
    ELIDED,
    NEWEST,
    TARGET,
    TOO_BIG,
    TokenEstimate,
    Unrepeated,
    shorten,
    shorten_again,
    size_of,
)
from laguna_agent.agent.events import Compaction
from laguna_agent.agent.store import Shortened
from laguna_agent.messages import ImageBlock, Message, TextBlock, ToolCall, text_message
from laguna_agent.trust import look, trust
from tests.agent.driving import converse, posted, require_valid_conversation, text_of, wants_summary
from tests.model_server import ModelServer, Reply, http, stream, text, tool_call
from tests.tools.o200k import count

BYTES_PER_TOKEN = 3.0
"""What the imitated tokenizer makes of a request: less than the program's first guess, so that it has to learn."""


def tokens_of(body: dict[str, Any]) -> int:
    """A request's size as the imitated server counts it."""
    size = sum(len(text_of(message).encode()) + 12 for message in body["messages"])
    size += sum(len(json.dumps(message.get("tool_calls") or "")) for message in body["messages"])
    return int((size + len(json.dumps(body.get("tools") or ""))) / BYTES_PER_TOKEN)


def strict(window: int, answer: Any) -> Any:
    """A server that refuses what does not fit its window, as llama.cpp and vLLM do, and gives summaries."""

    def reply(body: dict[str, Any]) -> Reply:
        tokens = tokens_of(body)
        if tokens >= window:
            message = f"the request exceeds the available context size ({tokens} tokens, n_ctx {window})"
            return http(400, {"error": {"type": "exceed_context_size_error", "code": 400, "message": message}})
        parts = text("## State\nAll is well.") if wants_summary(body) else answer(body)
        usage = {"prompt_tokens": tokens, "completion_tokens": 20, "total_tokens": tokens + 20}
        return stream(*(parts if isinstance(parts, list) else [parts]), usage=usage)

    return reply


def calling(limit: int, make: Any) -> Any:
    """An answer that makes `limit` calls, one a request, then says that it is done."""
    left = [limit]

    def answer(_: dict[str, Any]) -> Any:
        left[0] -= 1
        return make(left[0]) if left[0] >= 0 else text("Done.")

    return answer


# -- the window ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("told", ["props", "models"])
def test_the_window_is_kept(model_server: ModelServer, workspace: Path, told: str) -> None:
    window = 6_000
    if told == "props":
        model_server.props = {"default_generation_settings": {"n_ctx": window}}
    else:
        model_server.models = [{"id": "test-model", "context_length": window}]
    shell = calling(12, lambda n: tool_call("shell", {"command": f"seq {n}000 {n}300"}))
    model_server.always(strict(window, shell))
    spoken = converse(model_server, workspace, "Remember the word xylophone.")
    assert spoken.result.exit_code == 0, spoken.result.message
    assert len([body for body in model_server.chats if not wants_summary(body)]) == 13
    sizes = [tokens_of(body) for body in model_server.chats]
    assert max(sizes) < window
    assert spoken.of(Compaction)
    for at in range(len(model_server.chats)):
        require_valid_conversation(posted(model_server, at))
        assert "xylophone" in text_of(posted(model_server, at)[1])
    assert any(text_of(message) == ELIDED for body in model_server.chats for message in body["messages"])
    assert "[exit code 0]" in text_of(posted(model_server)[-1])


def test_a_whole_window_in_one_answer(model_server: ModelServer, workspace: Path) -> None:
    """Five big files read at once do not fit together, and need not end the run."""
    window = 8_000
    model_server.props = {"default_generation_settings": {"n_ctx": window}}
    for number in range(5):
        (workspace / f"{number}.txt").write_text(f"line of file {number}\n" * 4_000)
    reads = [tool_call("read", {"path": f"{number}.txt"}) for number in range(5)]
    model_server.always(strict(window, calling(1, lambda _: reads)))
    spoken = converse(model_server, workspace, "Read them all.")
    assert spoken.result.exit_code == 0, spoken.result.message
    assert max(map(tokens_of, model_server.chats)) < window
    require_valid_conversation(posted(model_server))


def test_a_session_longer_than_its_window(model_server: ModelServer, workspace: Path) -> None:
    """So many calls that even with every result dropped they do not fit: the oldest go, the person's words stay."""
    window = 4_096
    model_server.props = {"default_generation_settings": {"n_ctx": window}}
    model_server.always(strict(window, calling(60, lambda n: tool_call("shell", {"command": f"echo {n} {'x' * 90}"}))))
    spoken = converse(model_server, workspace, "Remember the word xylophone.")
    assert spoken.result.exit_code == 0, spoken.result.message
    assert max(map(tokens_of, model_server.chats)) < window
    assert len(spoken.of(Compaction)) < 20
    for at in range(len(model_server.chats)):
        require_valid_conversation(posted(model_server, at))
        assert "xylophone" in text_of(posted(model_server, at)[1])


def test_a_result_that_does_not_fit_alone(model_server: ModelServer, workspace: Path) -> None:
    model_server.props = {"default_generation_settings": {"n_ctx": 4_096}}
    (workspace / "big.txt").write_text(f"{'needle ' * 40}\n" * 300)
    model_server.always(strict(4_096, calling(1, lambda _: tool_call("grep", {"pattern": "needle"}))))
    spoken = converse(model_server, workspace, "x")
    assert spoken.result.exit_code == 0, spoken.result.message
    assert text_of(posted(model_server)[-1]) == TOO_BIG


def test_what_can_never_fit_is_said_plainly(model_server: ModelServer, workspace: Path) -> None:
    model_server.props = {"default_generation_settings": {"n_ctx": 4_096}}
    model_server.always(text("Hello."))
    spoken = converse(model_server, workspace, "word " * 20_000)
    assert (spoken.result.outcome, spoken.result.exit_code, len(model_server.chats)) == ("provider_error", 3, 0)
    assert "window" in spoken.result.message


def test_a_server_that_counts_otherwise_is_believed(model_server: ModelServer, workspace: Path) -> None:
    """It says nothing of its window, and refuses: what can go is dropped, and it is asked once more."""
    shell = calling(8, lambda n: tool_call("shell", {"command": f"seq {n}000 {n}999"}))
    model_server.always(strict(9_000, shell))
    spoken = converse(model_server, workspace, "x")
    assert spoken.result.exit_code == 0, spoken.result.message
    assert spoken.of(Compaction)
    assert any(text_of(message) == ELIDED for message in posted(model_server))


def test_context_too_long_when_even_that_fails(model_server: ModelServer, workspace: Path) -> None:
    model_server.always(strict(10, lambda _: text("never")))
    spoken = converse(model_server, workspace, "x")
    assert (spoken.result.outcome, spoken.result.exit_code) == ("provider_error", 3)
    assert spoken.result.turns <= 2


def test_chinese_is_counted_as_what_it_is(model_server: ModelServer, workspace: Path) -> None:
    model_server.props = {"default_generation_settings": {"n_ctx": 8_000}}
    model_server.always(text("好"))
    spoken = converse(model_server, workspace, "请把这个函数改成异步的。" * 1_000)
    assert (spoken.result.exit_code, len(model_server.chats)) == (3, 0)


# -- the prefix ------------------------------------------------------------------------------------------------------


def test_the_prefix_stays_byte_for_byte(model_server: ModelServer, workspace: Path) -> None:
    (workspace / "AGENTS.md").write_text("Be kind.\n")
    trust(look(workspace))
    model_server.reply(
        tool_call("write", {"path": "new.txt", "content": "1\n"}),
        [tool_call("list", {"path": "."}), tool_call("shell", {"command": "date +%N"})],
        text("Done."),
        tool_call("read", {"path": "new.txt"}),
        text("Done again."),
    )
    converse(model_server, workspace, "first", "second", check="true")
    bodies = model_server.chats
    assert len(bodies) == 5
    for before, after in pairwise(bodies):
        assert json.dumps(after["tools"]) == json.dumps(before["tools"])
        assert after["messages"][: len(before["messages"])] == before["messages"]
        kept = {key: value for key, value in after.items() if key != "messages"}
        assert kept == {key: value for key, value in before.items() if key != "messages"}
    assert posted(model_server)[0] == posted(model_server, 0)[0]


def test_the_prefix_is_the_same_in_every_session(model_server: ModelServer, workspace: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    model_server.always(text("Done."))
    converse(model_server, workspace, "first")
    converse(model_server, other, "second", approve="ask", check="true")
    first, second = model_server.chats
    assert json.dumps(first["tools"]) == json.dumps(second["tools"])
    assert first["messages"][0] == second["messages"][0]


def test_the_first_request_is_small(model_server: ModelServer, workspace: Path) -> None:
    model_server.always(text("Done."))
    converse(model_server, workspace, "x")
    (body,) = model_server.chats
    assert {tool["function"]["name"] for tool in body["tools"]} >= {"read", "write", "edit", "list", "grep", "shell"}
    # As it is posted: no spaces after commas and colons.
    tokens = sum(count(json.dumps(part, separators=(",", ":"))) for part in (body["messages"][0], body["tools"]))
    print(f"system and tools: {tokens} o200k tokens")
    assert tokens <= 1_500


# -- pure functions: nothing of the person's is lost, pairs stay pairs -----------------------------------------------

IMAGE = ImageBlock("image/png", "AAAA" * 40)
WORDS = st.sampled_from(["a", "b", "Result of read:\n", "x" * 400, "", "函数" * 60])


@st.composite
def histories(draw: st.DrawFn, few: bool = False) -> list[Message]:
    """Conversations as the loop makes them: native and textual calls, one or several, repeated or not; with `few`
    different things in them, many are."""
    history = [text_message("system", "s")]
    number = 0
    for _ in range(draw(st.integers(0, 14))):
        kind = draw(
            st.sampled_from(["native", "native", "textual"] if few else ["prompt", "answer", "native", "textual"])
        )
        if kind in {"prompt", "answer"}:
            history.append(text_message("user" if kind == "prompt" else "assistant", draw(WORDS)))
            continue
        results = draw(st.lists(st.sampled_from(["a", "b"]) if few else WORDS, min_size=1, max_size=1 if few else 3))
        numbers = range(number + 1, number + 1 + len(results))
        number += len(results)
        arguments = {"path": draw(st.sampled_from(["a", "b"]))}
        calls = tuple(ToolCall(f"c{n}", "read", arguments) for n in numbers)
        said = draw(st.sampled_from(["", "call a", "call b"]))
        history.append(Message("assistant", (TextBlock(said),), tool_calls=calls if kind == "native" else ()))
        for call, result in zip(calls, results, strict=True):
            block = TextBlock(result) if few else draw(st.sampled_from([TextBlock(result), IMAGE]))
            role: Any = "tool" if kind == "native" else "user"
            history.append(Message(role, (block,), tool_call_id=call.id, name="read"))
    return history


def words_of_the_person(history: list[Message]) -> list[Message]:
    return [message for message in history if message.role in {"user", "system"} and not message.tool_call_id]


def require_pairs(history: list[Message]) -> None:
    """Every result follows its call, and every native call has its result."""
    open_calls: list[str] = []
    in_text = False
    for message in history:
        if message.role == "tool":
            open_calls.remove(message.tool_call_id)
            continue
        assert not open_calls
        if message.role == "user" and message.tool_call_id:
            assert in_text, "a textual result without the answer that called"
        else:
            in_text = message.role == "assistant" and not message.tool_calls
        open_calls = [call.id for call in message.tool_calls]
    assert not open_calls


def exchanges(history: list[Message]) -> set[tuple[Any, ...]]:
    """The calls with their results, whatever their ids."""
    found = set()
    for question, result in pairwise(history):
        if result.tool_call_id and question.role == "assistant":
            found.add((question.text if result.role == "user" else "", result.content, result.role))
    return found


def parts(history: list[Message]) -> list[list[Message]]:
    """What a request may end with: all up to each prompt, and up to the results of each answer."""
    ends = [at for at in range(1, len(history) + 1) if at == len(history) or not history[at].tool_call_id]
    return [history[:end] for end in ends]


@settings(max_examples=80)
@given(histories(few=True))
def test_without_repeats_loses_nothing_but_repeats(history: list[Message]) -> None:
    kept = Unrepeated().of(history)
    assert words_of_the_person(kept) == words_of_the_person(history)
    require_pairs(kept)
    assert exchanges(kept) == exchanges(history)
    assert [message for message in history if message in kept] == [m for m in history if m in kept]
    assert Unrepeated().of(kept) == kept


@settings(max_examples=80)
@given(histories(few=True))
def test_what_repeats_are_left_out_never_moves_the_prefix(history: list[Message]) -> None:
    """The request after another begins with it, or is its beginning: nothing in the middle changes."""
    growing = Unrepeated()
    shown = [growing.of(part) for part in parts(history)]
    assert shown == [Unrepeated().of(part) for part in parts(history)]
    for before, after in pairwise(shown):
        length = min(len(before), len(after))
        assert before[:length] == after[:length]


def test_a_cycle_is_shown_once() -> None:
    def exchange(number: int, path: str) -> list[Message]:
        call = ToolCall(f"c{number}", "read", {"path": path})
        result = Message("tool", (TextBlock(path * 9),), tool_call_id=call.id, name="read")
        return [Message("assistant", tool_calls=(call,)), result]

    begin = [text_message("system", "s"), text_message("user", "u")]
    history = begin + [message for n in range(9) for message in exchange(n, "abc"[n % 3])]
    assert Unrepeated().of(history) == history[: len(begin) + 6]
    history += exchange(9, "d") + exchange(10, "a") + exchange(11, "a")
    # Not at once: it has seen something else since, and must see what it asked for.
    assert Unrepeated().of(history) == history[: len(begin) + 6] + history[-6:-2]


@settings(max_examples=60)
@given(histories(), st.integers(50, 2_000))
def test_shorten_drops_results_and_nothing_else(history: list[Message], room: int) -> None:
    before, estimate = list(history), TokenEstimate()
    done = shorten(history, room, estimate, 0)
    again = list(before)
    shorten_again(again, done)
    assert again == history
    given_up = done.results
    assert words_of_the_person(history) == words_of_the_person(before)
    require_pairs(history)
    callers = [id(a) for a, b in pairwise(before) if a.role == "assistant" and b.tool_call_id]
    answers = [id(message) for message in before if message.role == "assistant"]
    left = [id(message) for message in history if message.role == "assistant"]
    assert left == [answer for answer in answers if answer in left]
    assert set(answers) - set(left) <= set(callers)
    was = {message.tool_call_id: message for message in before if message.tool_call_id}
    now = {message.tool_call_id: message for message in history if message.tool_call_id}
    elided = [message for key, message in now.items() if message != was[key]]
    assert len(elided) + len(was) - len(now) <= given_up
    assert all(message.text == (TOO_BIG if message is history[-1] else ELIDED) for message in elided)
    assert before[-1].role == history[-1].role
    if estimate.tokens(size_of(history)) > room:
        assert all(message.text in {ELIDED, TOO_BIG} or len(message.text) < len(TOO_BIG) for message in now.values())
        assert len(now) <= NEWEST
    if estimate.tokens(size_of(before)) <= room * TARGET:
        assert history == before


@settings(max_examples=60)
@given(histories())
def test_a_history_that_fits_is_not_touched(history: list[Message]) -> None:
    before = list(history)
    assert shorten(history, 10**9, TokenEstimate(), 0) == Shortened()
    assert history == before
