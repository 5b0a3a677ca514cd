"""What a person says into a running turn: it reaches the model with the next request, once, or comes back to them.

`converse` replays every conversation here, so each scenario also proves that replays are exact across steering.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from laguna_agent.agent.conversation import conversation_events, rebuild
from laguna_agent.agent.events import (
    Event,
    PermissionRequested,
    Steered,
    TextDelta,
    ThoughtDelta,
    ToolCallStarted,
    ToolCallUpdate,
    TurnEnded,
    TurnStarted,
    UserMessage,
)
from laguna_agent.agent.permissions import PermissionAnswer, deny_all
from laguna_agent.agent.session import Session
from laguna_agent.agent.store import Ended, Waiting, find_session, read_log
from laguna_agent.agent.store import Steered as SteeredRecord
from laguna_agent.agent.timeline import timeline
from laguna_agent.agent.trajectory import atif
from laguna_agent.messages import TextBlock
from laguna_agent.tools.registry import default_registry
from tests.agent.driving import (
    Conversation,
    converse,
    lines,
    posted,
    replayed,
    require_valid_conversation,
    roles,
    settings_for,
    talk,
    text_of,
)
from tests.conftest import RunCli
from tests.model_server import ModelServer, http, reasoning, text, tool_call

SLOW = tool_call("shell", {"command": "echo begun; sleep 0.2"})
Watch = Callable[[Session, Event], None]


def steer_at(kind: type[Event], *words: str, nth: int = 1, then: Callable[[Session], None] | None = None) -> Watch:
    """Say the words when the nth event of a kind has come; all of them must be accepted."""
    left = [nth]

    def watch(session: Session, event: Event) -> None:
        if isinstance(event, kind):
            left[0] -= 1
            if left[0] == 0:
                for each in words:
                    assert session.steer(each)
                if then is not None:
                    then(session)

    return watch


def require_prefixes(server: ModelServer) -> None:
    """Each request begins as the one before it, and is one that servers take."""
    for at, body in enumerate(server.chats):
        require_valid_conversation(body["messages"])
        before = server.chats[at - 1]["messages"] if at else []
        assert body["messages"][: len(before)] == before


def said(spoken: Conversation) -> list[str]:
    return [event.text for event in spoken.of(Steered)]


def untaken_of(session: Session) -> list[str]:
    return ["".join(getattr(block, "text", "") for block in blocks) for blocks in session.untaken]


# -- when it is taken ------------------------------------------------------------------------------------------------


def test_during_a_call_it_follows_the_results(model_server: ModelServer, workspace: Path) -> None:
    model_server.reply([SLOW, tool_call("list", {})], text("Done."))
    spoken = converse(model_server, workspace, "go", watch=steer_at(ToolCallUpdate, "Use tabs."))
    assert roles(model_server) == ["system", "user", "assistant", "tool", "tool", "user"]
    assert text_of(posted(model_server)[-1]) == "Use tabs."
    require_prefixes(model_server)
    kinds = [type(event) for event in spoken.events if isinstance(event, ToolCallUpdate | Steered | TextDelta)]
    assert kinds.index(Steered) > max(at for at, kind in enumerate(kinds) if kind is ToolCallUpdate)
    assert spoken.of(Steered) == [Steered("Use tabs.")]
    assert spoken.result.text == "Done."


def test_during_an_answer_the_turn_goes_on(model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(text("It is done.", pieces=4), text("In verse, then."))
    spoken = converse(model_server, workspace, "go", watch=steer_at(TextDelta, "In verse."))
    assert [text_of(message) for message in posted(model_server)[2:]] == ["It is done.", "In verse."]
    assert len(spoken.turns) == 1
    assert (spoken.result.text, spoken.result.turns) == ("In verse, then.", 2)
    require_prefixes(model_server)


def test_twice_and_two_at_once(model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(SLOW, tool_call("list", {}), text("Done."))
    first, second = steer_at(ToolCallUpdate, "one", "two"), steer_at(ToolCallStarted, "three", nth=2)

    def watch(session: Session, event: Event) -> None:
        first(session, event)
        second(session, event)

    spoken = converse(model_server, workspace, "go", watch=watch)
    assert said(spoken) == ["one", "two", "three"]
    assert [text_of(message) for message in posted(model_server) if message["role"] == "user"][1:] == said(spoken)
    require_prefixes(model_server)


def test_before_the_first_request(model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(text("Done."))

    def watch(session: Session, event: Event) -> None:
        if isinstance(event, TurnStarted):
            assert session.steer("And quickly.")

    spoken = converse(model_server, workspace, "go", watch=watch)
    assert len(model_server.chats) == 1
    assert text_of(posted(model_server)[-1]) == "And quickly."
    assert said(spoken) == ["And quickly."]


def test_instead_of_an_unusable_answer_being_asked_for_again(model_server: ModelServer, workspace: Path) -> None:
    model_server.reply([reasoning("Hm."), text("", pieces=1)], text("Done."))
    spoken = converse(model_server, workspace, "go", watch=steer_at(ThoughtDelta, "Well?"))
    assert spoken.result.text == "Done."
    assert [text_of(message) for message in posted(model_server) if message["role"] == "user"][1:] == ["Well?"]
    require_prefixes(model_server)


def test_before_the_check_is_run(model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(text("Done."), tool_call("write", {"path": "b", "content": ""}), text("Done, b too."))
    watch = steer_at(TextDelta, "Write b.")
    spoken = converse(model_server, workspace, "go", check="test -f b || echo no b", watch=watch)
    assert [run.when for run in spoken.result.checks] == ["before", "after"]
    assert spoken.result.checks[-1].output == ""


@pytest.mark.parametrize("passes", [True, False])
def test_while_the_check_runs(model_server: ModelServer, workspace: Path, passes: bool) -> None:
    """Also where the check would have ended the turn: the person's words are worth another try."""
    # The second time it is the check after the work.
    check = f"echo >> runs; sleep 0.2; test -f ok {'|| true' if passes else ''}"
    give_up = [] if passes else [text(f"No {n}.") for n in range(4)]
    model_server.reply(*give_up, text("Done."), tool_call("write", {"path": "ok", "content": ""}), text("Now."))
    runs = workspace / "runs"

    async def say_when_the_last_check_runs(session: Session) -> None:
        while not (runs.exists() and runs.read_text().count("\n") == 2 + len(give_up)):
            await anyio.sleep(0.01)
        assert session.steer("Write ok.")

    async def run() -> tuple[Session, list[Event]]:
        session = await Session.start(workspace, settings_for(model_server), approver=deny_all, check=check)
        async with anyio.create_task_group() as group:
            group.start_soon(say_when_the_last_check_runs, session)
            events = await talk(session, "go")
        await session.aclose()
        return session, events

    session, events = anyio.run(run)
    assert session.record().exit_code == 0, session.record().message
    assert (workspace / "ok").exists()
    assert lines(replayed(find_session(session.id))) == lines(events)


class Saying:
    """Says something when so many events have come; `left` is what came back at the end."""

    def __init__(self, moment: int) -> None:
        self.moment = moment
        self.accepted = False
        self.left: list[str] = []

    def __call__(self, session: Session, event: Event) -> None:
        self.moment -= 1
        if self.moment == 0:
            self.accepted = session.steer("Mind the gap.")
        if isinstance(event, TurnEnded):
            self.left = untaken_of(session)


def test_at_any_event_it_is_taken_once_or_comes_back(model_server: ModelServer, workspace: Path) -> None:
    (workspace / "a.txt").write_text("a\n")

    def scripted() -> int:
        model_server.forget()
        model_server.reply([text("I look."), SLOW], tool_call("edit", {"path": "a.txt", "old": "a", "new": "a"}))
        model_server.always(text("Done.", pieces=2))
        return len(model_server.chats)

    scripted()
    moments = len(converse(model_server, workspace, "go", check="true").events)
    for moment in range(1, moments + 1, 3):
        saying = Saying(moment)
        before = scripted()
        spoken = converse(model_server, workspace, "go", check="true", watch=saying)
        assert len(said(spoken)) + len(saying.left) == saying.accepted, moment
        told = "".join(text_of(message) for message in posted(model_server))
        assert told.count("Mind the gap.") == len(said(spoken))
        assert len(model_server.chats) > before


# -- what it changes -------------------------------------------------------------------------------------------------


def test_what_was_tried_before_is_no_repetition(model_server: ModelServer, workspace: Path) -> None:
    same = tool_call("list", {})
    model_server.reply(*[same] * 4, *[same] * 4, text("Done."))
    spoken = converse(model_server, workspace, "go", watch=steer_at(ToolCallStarted, "Look again.", nth=4))
    assert spoken.result.exit_code == 0, spoken.result.message


def test_what_was_denied_is_no_longer_wanted(model_server: ModelServer, workspace: Path) -> None:
    async def person(_: PermissionRequested) -> PermissionAnswer:
        return PermissionAnswer(False, reason="no")

    model_server.reply(tool_call("write", {"path": "a", "content": ""}), text("So: no file."))
    watch = steer_at(PermissionRequested, "Just tell me.")
    spoken = converse(model_server, workspace, "go", approve="ask", approver=person, watch=watch)
    assert spoken.result.exit_code == 0, spoken.result.message
    assert spoken.result.denied
    assert text_of(posted(model_server)[-1]) == "Just tell me."


def test_a_small_model_is_asked_anew_with_both(model_server: ModelServer, workspace: Path) -> None:
    (workspace / "add.py").write_text("def add(a, b):\n    return a - b\n")
    (workspace / "mul.py").write_text("def mul(a, b):\n    return a / b\n")
    model_server.reply(text("add.py\n```python\ndef add(a, b):\n    return a + b\n```\n", pieces=3))
    model_server.reply(text("mul.py\n```python\ndef mul(a, b):\n    return a * b\n```\n"))
    watch = steer_at(TextDelta, "Fix `mul` in mul.py too.")
    spoken = converse(model_server, workspace, "Fix add in add.py.", edit_format="symbol", watch=watch)
    assert spoken.result.exit_code == 0, spoken.result.message
    assert roles(model_server) == ["system", "user"]
    asked = text_of(posted(model_server)[-1])
    assert asked.startswith("Fix add in add.py.\n\nFix `mul` in mul.py too.")
    assert "return a + b" in asked, "the files are shown as they are by now"
    assert "return a / b" in asked
    assert "a * b" in (workspace / "mul.py").read_text()
    assert said(spoken) == ["Fix `mul` in mul.py too."]


def test_keys_and_hidden_characters(model_server: ModelServer, workspace: Path) -> None:
    token = "ghp_" + "a1B2" * 9
    model_server.reply(SLOW, text("Done."))
    spoken = converse(model_server, workspace, "go", watch=steer_at(ToolCallUpdate, f"It is {token}, \u202eok."))
    told = text_of(posted(model_server)[-1])
    assert token not in told
    assert "\\u{202E}ok." in told
    assert not any(token in repr(record) for record in spoken.records(SteeredRecord))


# -- when it is not taken ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["cancelled", "failed"])
def test_it_comes_back_where_the_turn_ends_before(model_server: ModelServer, workspace: Path, end: str) -> None:
    model_server.reply([SLOW] if end == "cancelled" else text("one", pieces=3))
    model_server.always(http(400, {"error": {"message": "no"}}) if end == "failed" else text("Again."))
    left: list[list[str]] = []

    def stop(session: Session) -> None:
        if end == "cancelled":
            session.cancel()
            assert not session.steer("too late")

    kind = ToolCallUpdate if end == "cancelled" else TextDelta
    steer = steer_at(kind, "one", "two", then=stop)

    def watch(session: Session, event: Event) -> None:
        steer(session, event)
        if isinstance(event, TurnEnded):
            left.append(untaken_of(session))

    spoken = converse(model_server, workspace, "go", watch=watch)
    assert left == [["one", "two"] if end == "cancelled" else []]
    if end == "failed":
        # They were taken before the request that failed, so the conversation has them.
        assert said(spoken) == ["one", "two"]
        return
    assert said(spoken) == []
    # Another process finds them too, and the next prompt, which may be one of them, forgets them.
    assert [content[0] for content in rebuild(read_log(spoken.log)).untaken] == [TextBlock("one"), TextBlock("two")]
    again = converse(model_server, workspace, "one", resume=spoken, watch=watch)
    assert left[1] == []
    assert rebuild(read_log(again.log)).untaken == []


def test_killed_before_it_was_taken(model_server: ModelServer, workspace: Path, tmp_path: Path) -> None:
    model_server.reply(SLOW, text("Done."))
    spoken = converse(model_server, workspace, "go", watch=steer_at(ToolCallUpdate, "Use tabs."))
    records = read_log(spoken.log)
    waiting, taken, ended = (
        next(at for at, record in enumerate(records) if isinstance(record, kind))
        for kind in (Waiting, SteeredRecord, Ended)
    )
    for cut in range(waiting + 1, ended + 1):
        past = rebuild(records[:cut])
        assert len(past.untaken) == (cut <= taken), cut
        # Taken is taken: the model has it in the session that goes on.
        assert any(message.text == "Use tabs." for message in past.history) == (cut > taken), cut
        left = tmp_path / "cut.jsonl"
        left.write_bytes(b"".join(spoken.log.read_bytes().splitlines(keepends=True)[:cut]))
        assert lines(spoken.events).startswith(lines(replayed(left))), cut


def test_what_is_not_accepted(model_server: ModelServer, workspace: Path) -> None:
    model_server.always(text("Done."))
    refused: list[bool] = []

    def watch(session: Session, event: Event) -> None:
        if isinstance(event, TextDelta):
            refused.extend(not session.steer(words) for words in ("/undo", "/mine with words", " /usage"))
        if isinstance(event, TurnEnded):
            refused.append(not session.steer("too late"))
        if session.prompts[-1:] == ["/usage"]:
            refused.append(not session.steer("no turn is there"))

    async def run() -> None:
        session = await Session.start(workspace, settings_for(model_server), approver=deny_all)
        assert not session.steer("nothing runs")
        for prompt in ("go", "/usage"):
            await talk(session, prompt, watch)
        assert session.untaken == ()
        await session.aclose()

    anyio.run(run)
    assert refused
    assert all(refused)


def test_what_cannot_be_written_down_is_not_accepted(model_server: ModelServer, workspace: Path) -> None:
    accepted: list[bool] = []

    def watch(session: Session, event: Event) -> None:
        if isinstance(event, TextDelta) and not accepted:
            limits = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
            try:
                accepted.append(session.steer("Use tabs."))
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            assert session.untaken == ()

    model_server.always(text("Done."))
    spoken = converse(model_server, workspace, "go", "Use tabs.", watch=watch)
    assert accepted == [False]
    assert said(spoken) == []


# -- afterwards --------------------------------------------------------------------------------------------------------


def test_resumed_and_rewound_with_the_prompt_that_it_was_said_into(model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(text("1"), SLOW, text("2"), text("3"), text("4"))
    first = converse(model_server, workspace, "one", "two", watch=steer_at(ToolCallUpdate, "Use tabs."))
    second = converse(model_server, workspace, "three", resume=first)
    require_prefixes(model_server)
    assert "Use tabs." in [text_of(message) for message in posted(model_server)]
    shown = list(conversation_events(read_log(second.log), default_registry()))
    assert [event.text for event in shown if isinstance(event, UserMessage | Steered)] == [
        "one", "two", "Use tabs.", "three",
    ]  # fmt: skip
    third = converse(model_server, workspace, "/rewind 2", "four", resume=second)
    told = [text_of(message) for message in posted(model_server)]
    assert "Use tabs." not in told
    assert len(told) == 4
    assert rebuild(read_log(third.log)).words == ["one", "four"]


def test_other_readers_of_the_log(run_cli: RunCli, model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(SLOW, text("Done."))
    spoken = converse(model_server, workspace, "go", watch=steer_at(ToolCallUpdate, "Use tabs."))
    steps = [(step["source"], step["message"]) for step in atif(spoken.log)["steps"]]
    assert ("user", "Use tabs.") in steps
    assert steps[-1] == ("agent", "Done.")
    assert timeline(read_log(spoken.log)).prompts[0].requests[0].notes == ["the person said more"]
    assert "\n> Use tabs.\n" in run_cli("sessions", "show", spoken.id).stdout
    again = run_cli("run", "--replay", spoken.id)
    assert "you: Use tabs." in again.stderr
