"""Compaction: the older part of a conversation gives place to what is known of it, whatever the model makes of that.

`converse` replays every conversation here, so each scenario also proves that replays are exact across compactions.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laguna_agent.agent.commands import COMMANDS
from laguna_agent.agent.compaction import BEGIN, BY_THE_MODEL, LEFT_OUT, newest_from, transcript, words_said
from laguna_agent.agent.context import size_of
from laguna_agent.agent.conversation import conversation_events, rebuild
from laguna_agent.agent.events import Compaction, Event, TextDelta, ToolCallStarted
from laguna_agent.agent.session import Session
from laguna_agent.agent.store import Compacted, read_log
from laguna_agent.messages import Message, TextBlock, text_message
from laguna_agent.tools.registry import default_registry
from laguna_agent.trust import look, trust
from tests.agent.driving import (
    Conversation,
    converse,
    posted,
    require_valid_conversation,
    roles,
    text_of,
    wants_summary,
)
from tests.agent.test_context import calling, histories, require_pairs, strict, tokens_of
from tests.conftest import RunCli
from tests.model_server import ModelServer, Part, http, text, tool_call

WINDOW = 9_000
SUMMARY = "## State\nThe umbrella is green."
PLAN = tool_call("plan", {"steps": [{"content": "find the leak", "status": "in_progress"}]})


def looking(number: int) -> Part:
    """A call that takes much room itself, which no pruning of results gives back."""
    return tool_call("shell", {"command": f"seq {number}000 {number}200 # {'long ' * 100}"})


def working(workspace: Path, calls: int = 24) -> Any:
    """An answer that plans, writes a file, reads it, changes it, and then looks at this and that."""
    (workspace / "old.py").write_text("x = 1\n")
    begin = [
        PLAN,
        tool_call("write", {"path": "new.py", "content": "y = 1\n"}),
        tool_call("read", {"path": "old.py"}),
        tool_call("edit", {"path": "old.py", "old": "x = 1", "new": "x = 2"}),
    ]
    steps = iter(begin)

    def make(left: int) -> Part:
        return next(steps, None) or looking(left)

    return calling(calls, make)


def summarising(window: int, answer: Any, summary: Any) -> Any:
    """A strict server that answers requests for a summary with `summary`."""
    reply = strict(window, answer)
    return lambda body: (summary(body) if callable(summary) else summary) if wants_summary(body) else reply(body)


def long_session(model_server: ModelServer, workspace: Path, *prompts: str, summary: Any, **more: Any) -> Conversation:
    window = more.pop("window", WINDOW)
    model_server.props = {"default_generation_settings": {"n_ctx": window}}
    answer = more.pop("answer", None) or working(workspace)
    model_server.always(summarising(window, answer, summary))
    return converse(model_server, workspace, *prompts, **more)


def asking(model_server: ModelServer) -> list[int]:
    """Which of the requests asked for a summary."""
    return [at for at, body in enumerate(model_server.chats) if wants_summary(body)]


# -- what stays ------------------------------------------------------------------------------------------------------


def test_what_is_kept(model_server: ModelServer, workspace: Path) -> None:
    (workspace / "AGENTS.md").write_text("Never use tabs.\n")
    trust(look(workspace))
    spoken = long_session(model_server, workspace, "Mend the xylophone.", summary=text(SUMMARY), check="true")
    assert spoken.result.exit_code == 0, spoken.result.message
    started, ended = [event for event in spoken.of(Compaction) if event.before][:2]
    assert (started.status, ended.status, ended.text) == ("started", "completed", SUMMARY)
    assert ended.before > 1.5 * ended.after
    assert max(map(tokens_of, model_server.chats)) < WINDOW
    at = asking(model_server)[0]
    after = posted(model_server, at + 1)
    require_valid_conversation(after)
    assert after[0] == posted(model_server, 0)[0]
    known = text_of(after[1])
    assert known.startswith(BEGIN)
    kept = ("Mend the xylophone.", "- [>] find the leak", "- new.py: created", "- old.py: edited", SUMMARY)
    assert known.index("Mend the xylophone.") < known.index(BY_THE_MODEL) < known.index(SUMMARY)
    for words in (*kept, "Never use tabs.", "Working directory: ", "`true`"):
        assert words in known, words
    # The newest exchanges are there as they were.
    assert after[-2:] == posted(model_server, at)[-3:-1]


def test_the_summary_is_asked_for_at_the_end_of_what_the_server_has_read(
    model_server: ModelServer, workspace: Path
) -> None:
    long_session(model_server, workspace, "x", summary=text(SUMMARY))
    for at in asking(model_server):
        before, body = model_server.chats[at - 1], model_server.chats[at]
        assert body["tools"] == before["tools"]
        assert body["messages"][: len(before["messages"])] == before["messages"]
        assert roles(model_server, at)[0] == "system"


def test_later_prompts_go_on_from_it(model_server: ModelServer, workspace: Path) -> None:
    first = long_session(model_server, workspace, "Mend the xylophone.", summary=text(SUMMARY))
    before = len(model_server.chats)
    converse(model_server, workspace, "And the drum.", resume=first)
    # A resumed session posts the same bytes.
    assert posted(model_server, before)[:-2] == posted(model_server, before - 1)
    assert "xylophone" in text_of(posted(model_server, before)[1])


def test_many_compactions_keep_every_word_of_the_person(model_server: ModelServer, workspace: Path) -> None:
    prompts = [f"Remember {word}." for word in ("ash", "birch", "cedar", "elm")]
    answer = calling(10**6, lambda n: looking(n) if n % 12 else text("Done."))
    spoken = long_session(model_server, workspace, *prompts, summary=text(SUMMARY), answer=answer)
    assert len(spoken.records(Compacted)) > 1
    last = "".join(map(text_of, posted(model_server)))
    for prompt in prompts:
        assert last.count(prompt) == 1, prompt
    (workspace / "x").write_text("")  # the listing changes, and is told anew
    assert BEGIN in last


def test_what_was_said_into_the_turn_is_kept_word_for_word(model_server: ModelServer, workspace: Path) -> None:
    left = [6]

    def watch(session: Session, event: Event) -> None:
        left[0] -= isinstance(event, ToolCallStarted)
        if left[0] == 0 and isinstance(event, ToolCallStarted):
            assert session.steer("Leave the drum alone.")

    long_session(model_server, workspace, "Mend the xylophone.", summary=text(SUMMARY), watch=watch)
    at = asking(model_server)[0]
    assert "Leave the drum alone." in [text_of(message) for message in posted(model_server, at)]
    known = text_of(posted(model_server, at + 1)[1])
    words = known[known.index("# What the person said, word for word") : known.index(BY_THE_MODEL)]
    assert words.index("Mend the xylophone.\n---\n") < words.index("Leave the drum alone.")


# -- models that give no summary ---------------------------------------------------------------------------------------


def fails_at_first(*answers: Any) -> Callable[[Any], Any]:
    left = list(answers)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


def test_a_model_that_calls_instead_is_asked_without_tools(model_server: ModelServer, workspace: Path) -> None:
    summary = fails_at_first(tool_call("shell", {"command": "touch called"}), text(SUMMARY))
    spoken = long_session(model_server, workspace, "Mend the xylophone.", summary=summary)
    first, second = asking(model_server)[:2]
    assert second == first + 1
    assert "tools" not in model_server.chats[second]
    assert roles(model_server, second) == ["system", "user"]
    assert "[calls shell(" in text_of(posted(model_server, second)[1])
    assert not (workspace / "called").exists()
    assert SUMMARY in {event.text for event in spoken.of(Compaction)}
    assert spoken.result.exit_code == 0


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(http(500, {"error": {"message": "out of order"}}), id="error"),
        pytest.param(text(""), id="empty"),
        pytest.param(http(400, {"error": {"message": "context length exceeded", "code": 400}}), id="too long"),
        pytest.param(tool_call("read", {"path": "old.py"}), id="calls"),
    ],
)
def test_without_a_summary_the_session_goes_on(model_server: ModelServer, workspace: Path, broken: Any) -> None:
    spoken = long_session(model_server, workspace, "Mend the xylophone.", summary=broken)
    assert spoken.result.exit_code == 0, spoken.result.message
    ended = [event for event in spoken.of(Compaction) if event.status == "failed"]
    assert ended
    assert all(event.before > event.after for event in ended)
    # Twice for each, never in a circle.
    assert len(asking(model_server)) == 2 * len(ended)
    known = text_of(posted(model_server)[1])
    assert "Mend the xylophone." in known
    assert "find the leak" in known
    require_valid_conversation(posted(model_server))


def test_a_run_keeps_its_last_turn_for_the_work(model_server: ModelServer, workspace: Path) -> None:
    spoken = long_session(model_server, workspace, "x", summary=text(SUMMARY), max_turns=200)
    calls = asking(model_server)[0]
    spoken = long_session(model_server, workspace, "x", summary=text(SUMMARY), max_turns=calls + 1)
    assert [event.status for event in spoken.of(Compaction)][-1] == "failed"
    assert spoken.result.exit_code == 5


def test_interrupted_while_the_summary_is_made(model_server: ModelServer, workspace: Path) -> None:
    def watch(session: Session, event: Event) -> None:
        if isinstance(event, Compaction) and event.status == "started":
            session.cancel()

    first = long_session(model_server, workspace, "Mend it.", summary=text(SUMMARY), watch=watch)
    assert first.result.outcome == "interrupted"
    assert not first.records(Compacted)
    second = converse(model_server, workspace, "Go on.", resume=first)
    assert second.result.exit_code == 0, second.result.message
    assert second.records(Compacted)


# -- by the person's word ----------------------------------------------------------------------------------------------


def small(workspace: Path) -> Any:
    names = iter(range(100))
    return lambda body: (
        text("Done.")
        if body["messages"][-1]["role"] == "tool"
        else tool_call("shell", {"command": f"seq {next(names)} 700"})
    )


def test_compact_keeps_what_the_person_names(model_server: ModelServer, workspace: Path) -> None:
    answer = small(workspace)
    spoken = long_session(
        model_server, workspace, "one", "two", "/compact the colour", "three", summary=text(SUMMARY), answer=answer
    )
    (at,) = asking(model_server)
    assert text_of(posted(model_server, at)[-1]).endswith("keep this: the colour")
    assert [event.status for event in spoken.of(Compaction)] == ["started", "completed"]
    assert [event.text for event in spoken.of(Compaction)] == ["", SUMMARY]
    assert SUMMARY in text_of(posted(model_server, at + 1)[1])
    shown = list(conversation_events(read_log(spoken.log), default_registry()))
    assert [event.text for event in shown if isinstance(event, Compaction)] == [SUMMARY]


def test_compact_undo(model_server: ModelServer, workspace: Path) -> None:
    answer = small(workspace)
    prompts = ("one", "two", "/compact", "three", "/compact undo", "four", "/compact undo")
    spoken = long_session(model_server, workspace, *prompts, summary=text(SUMMARY), answer=answer, window=30_000)
    (at,) = asking(model_server)
    before, after = posted(model_server, at)[:-1], posted(model_server)
    # All is there again: what was before, and what came since.
    assert after[: len(before)] == before
    assert [text_of(message)[:5] for message in after if message["role"] == "user"][-2:] == ["three", "four"]
    assert "No compaction is in force" in "".join(event.text for event in spoken.of(TextDelta))
    resumed = converse(model_server, workspace, "five", resume=spoken)
    assert posted(model_server)[: len(after)] == after
    assert resumed.result.exit_code == 0


def test_rewind_across_a_compaction(model_server: ModelServer, workspace: Path) -> None:
    answer = small(workspace)
    prompts = ("one", "two", "/compact", "three", "/rewind 2", "four")
    long_session(model_server, workspace, *prompts, summary=text(SUMMARY), answer=answer)
    (at,) = asking(model_server)
    last = posted(model_server)
    said = [text_of(message) for message in last if message["role"] == "user"]
    assert [words.split("\n")[0] for words in said] == ["one", "four"]
    # What was before "two" is as the server knows it.
    kept = [message["role"] for message in last].index("user", 2)
    assert last[:kept] == posted(model_server, at)[:kept]


def test_rewind_to_after_a_compaction(model_server: ModelServer, workspace: Path) -> None:
    answer = small(workspace)
    prompts = ("one", "two", "/compact", "three", "/rewind 1", "four")
    long_session(model_server, workspace, *prompts, summary=text(SUMMARY), answer=answer)
    assert SUMMARY in text_of(posted(model_server)[1])


@pytest.mark.parametrize("prompts", [("/compact",), ("Hello.", "/compact")])
def test_too_little_to_compact(model_server: ModelServer, workspace: Path, prompts: tuple[str, ...]) -> None:
    model_server.always(text("Hello."))
    spoken = converse(model_server, workspace, *prompts)
    assert not spoken.of(Compaction)
    assert "to compact" in spoken.of(TextDelta)[-1].text
    assert not asking(model_server)


def test_a_summary_longer_than_what_it_is_for(model_server: ModelServer, workspace: Path) -> None:
    answer = small(workspace)
    prompts = ("w" * 1_500, "v" * 1_200, "/compact", "/compact undo", "three")
    (workspace / "AGENTS.md").write_text("Rule.\n" * 1_200)
    trust(look(workspace))
    model_server.always(lambda body: text("word " * 9_000) if wants_summary(body) else answer(body))
    spoken = converse(model_server, workspace, *prompts)
    for done in spoken.of(Compaction):
        assert done.status == "started" or done.after <= done.before
    assert LEFT_OUT not in text_of(posted(model_server)[1])


def test_it_is_listed_for_faces() -> None:
    assert {"compact", "context"} <= {command.name for command in COMMANDS}


def test_context_says_what_fills_the_window(model_server: ModelServer, workspace: Path) -> None:
    prompts = ("one", "two", "/compact", "three", "/context")
    spoken = long_session(model_server, workspace, *prompts, summary=text(SUMMARY), answer=small(workspace))
    words = spoken.of(TextDelta)[-1].text
    for part in (
        "the system's rules",
        "the tools",
        "what was compacted",
        "your words",
        "results of tools",
        "a request",
    ):
        assert part in words, part


def test_a_script_is_told_on_stderr(model_server: ModelServer, workspace: Path, run_cli: RunCli) -> None:
    model_server.props = {"default_generation_settings": {"n_ctx": WINDOW}}
    model_server.always(summarising(WINDOW, working(workspace), text(SUMMARY)))
    done = run_cli("run", "Mend it.", "--approve", "all", "--sandbox", "none", env=model_server.env)
    assert done.returncode == 0, done.stderr
    assert "history: summarised " in done.stderr
    listed = run_cli("sessions", "show", json.loads(run_cli("sessions", "list", "--json").stdout)[0]["id"])
    assert "[compacted: summarised " in listed.stdout
    assert "The umbrella is green." in listed.stdout


# -- pure functions ----------------------------------------------------------------------------------------------------


def test_a_conversation_as_one_text_is_bounded() -> None:
    long = [text_message("user", "begin"), *[Message("tool", (TextBlock("好" * 4_000),), tool_call_id="c")] * 90]
    told = transcript([*long, text_message("assistant", "end")], 5_000)
    assert len(told.encode()) <= 5_000
    assert told.startswith("[person] begin")
    assert told.endswith("[assistant] end")


def test_the_log_tells_the_same(model_server: ModelServer, workspace: Path) -> None:
    """Cut anywhere, the log gives a conversation that a server takes."""
    spoken = long_session(model_server, workspace, "Mend the xylophone.", summary=text(SUMMARY))
    records = read_log(spoken.log)
    at = next(at for at, record in enumerate(records) if isinstance(record, Compacted))
    before, after = rebuild(records[:at]), rebuild(records[: at + 1])
    done = records[at]
    assert isinstance(done, Compacted)
    assert after.history == [before.history[0], *done.messages, *before.history[done.until :]]
    assert (after.work.plan, after.work.files) == (before.work.plan, before.work.files)


@settings(max_examples=30)
@given(histories(), st.integers(0, 3_000))
def test_what_stays_of_any_conversation_is_one_that_servers_take(history: list[Message], goal: int) -> None:
    begin = newest_from(history, goal)
    newest = history[begin:]
    require_pairs([history[0], text_message("user", "what is known"), *newest])
    if len(history) > 1:
        assert newest[-1] == history[-1]
        assert 1 <= begin < len(history)
        ends = [at for at in range(1, len(history)) if not history[at].tool_call_id]
        # No more than was wanted, unless the newest exchange alone is that.
        assert size_of(newest) <= goal or begin == ends[-1]
        assert begin == 1 or size_of(history[max(at for at in ends if at < begin) :]) > goal


PROMPTS = st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=60).map(lambda text: text + "."))


@settings(max_examples=30)
@given(PROMPTS, PROMPTS, st.integers(0, 2_000))
def test_the_person_s_words_stay_as_far_as_they_fit(asked: list[str], new: list[str], cap: int) -> None:
    newest = [text_message("user", f"{text}\n\nWorking directory: /x") for text in new]
    told = words_said([*asked, *new], newest, cap)
    assert len(told.encode()) <= cap + 80 + 20 * len(asked)
    if cap >= 2 * sum(len(text.encode()) for text in asked) + 200:
        for text in asked:
            assert text.strip() in told or text.strip() in {each.strip() for each in new}
        assert "no room" not in told
