"""Prompts taken back: the conversation ends before them, for the model, for whoever looks at it, and after a kill."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from laguna_agent.agent.archive import list_sessions
from laguna_agent.agent.conversation import conversation_events, rebuild
from laguna_agent.agent.events import Compaction, Rewound, TextDelta, ToolCallStarted, TurnStarted, UserMessage
from laguna_agent.agent.store import Ended, Prompted, read_log
from laguna_agent.agent.store import Rewound as RewoundRecord
from laguna_agent.agent.trajectory import atif
from laguna_agent.tools.registry import default_registry
from tests.agent.driving import Conversation, converse, posted, require_valid_conversation, roles, text_of
from tests.agent.test_replay import cancel_at
from tests.agent.test_resume import kill_in_mid_call
from tests.conftest import RunCli, StartCli
from tests.model_server import ModelServer, Part, stream, text, tool_call


def require_prefix(server: ModelServer, earlier: int, later: int, kept: int | None = None) -> None:
    """The later request begins, byte for byte, as the earlier one did, up to the end of the message `kept - 1`, and has
    one message more. `kept` None: all of it is kept, and the answer to it comes before the new message."""
    before, after = server.chats[earlier], server.chats[later]
    if kept is None:
        kept = len(before["messages"])
        assert after["messages"][kept]["role"] == "assistant"
        assert len(after["messages"]) == kept + 2
    else:
        assert len(after["messages"]) == kept + 1
    first = json.dumps(before | {"messages": before["messages"][:kept]})
    assert json.dumps(after | {"messages": after["messages"][:kept]}) == first
    # The messages come last in what is posted, so that is a prefix of the whole body too.
    assert list(after)[-1] == "messages"


def shown(spoken: Conversation) -> list[str]:
    """What a face shows of the session that is resumed: prompts and answers."""
    events = conversation_events(read_log(spoken.log), default_registry())
    return [event.text for event in events if isinstance(event, UserMessage | TextDelta)]


def test_the_newest_prompts_are_taken_back(model_server: ModelServer, workspace: Path) -> None:
    (workspace / "a.txt").write_text("content\n")
    model_server.reply(text("1"), [tool_call("read", {"path": "a.txt"})], text("2"), text("3"), text("4"))
    spoken = converse(model_server, workspace, "one", "two", "three", "/rewind 2", "four")
    require_prefix(model_server, earlier=3, later=4, kept=3)
    assert "four" in text_of(posted(model_server)[-1])
    assert spoken.of(Rewound) == [Rewound(2, "two")]
    assert [event.turn for event in spoken.of(TurnStarted)] == [1, 2, 3, 4, 5]
    said = "".join(event.text for event in spoken.turns[3] if isinstance(event, TextDelta))
    assert said == "Took back your last 2 prompts and all that followed. No files had to be put back."
    assert shown(spoken) == ["one", "1", "four", "4"]


def test_everything_can_be_taken_back(model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(text("1"), text("2"), text("3"))
    spoken = converse(model_server, workspace, "one", "two", "/rewind", "/rewind", "three")
    assert [event.text for event in spoken.of(Rewound)] == ["two", "one"]
    assert roles(model_server) == ["system", "user"]
    require_prefix(model_server, earlier=0, later=2, kept=1)
    assert shown(spoken) == ["three", "3"]


@pytest.mark.parametrize(
    ("prompts", "answer"),
    [
        (["/rewind"], "there is no prompt to take back"),
        (["one", "/rewind 2"], "there is only 1 of your prompts to take back"),
        (["one", "/rewind 0"], "/rewind takes a number of prompts, such as /rewind 2, and not '0'"),
        (["one", "/rewind -1"], "/rewind takes a number of prompts, such as /rewind 2, and not '-1'"),
        (["one", "/rewind all of it"], "/rewind takes a number of prompts, such as /rewind 2, and not 'all of it'"),
    ],
)
def test_what_cannot_be_taken_back(model_server: ModelServer, workspace: Path, prompts: list[str], answer: str) -> None:
    model_server.always(text("Done."))
    spoken = converse(model_server, workspace, *prompts, "next")
    assert [event.text for event in spoken.turns[len(prompts) - 1] if isinstance(event, TextDelta)] == [answer]
    assert not spoken.of(Rewound)
    assert roles(model_server).count("user") == len(prompts)


def test_commands_are_no_prompts_and_go_with_what_they_followed(model_server: ModelServer, workspace: Path) -> None:
    model_server.always(text("Done."))
    spoken = converse(model_server, workspace, "one", "/usage", "two", "/usage", "/compact", "/rewind", "three")
    assert spoken.of(Rewound) == [Rewound(1, "two")]
    kept = shown(spoken)
    assert [kept[0], kept[2], kept[4]] == ["one", "/usage", "three"]
    assert len(kept) == 6


def test_after_a_resume_in_another_process(run_cli: RunCli, model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(text("1"), text("2"), text("3"), text("4"), text("5"))
    for prompt in ("one", "two"):
        options = ["--continue"] if prompt == "two" else []
        assert run_cli("run", prompt, *options, env=model_server.env).returncode == 0
    require_prefix(model_server, earlier=0, later=1)
    done = run_cli("run", "three", "--continue", "--rewind", "1", "--output", "json", env=model_server.env)
    assert done.returncode == 0, done.stderr
    require_prefix(model_server, earlier=1, later=2, kept=3)
    done = run_cli("run", "four", "--continue", env=model_server.env)
    require_prefix(model_server, earlier=2, later=3)
    assert "three" in text_of(posted(model_server)[3])
    (summary,) = list_sessions(workspace)
    assert (summary.title, summary.prompts, summary.turns) == ("one", 3, 4)
    replayed = run_cli("run", "--replay", summary.id, "--output", "stream-json")
    assert replayed.returncode == 0, replayed.stderr
    # A copy has what is left, and its origin nothing of what the copy does.
    copied = run_cli("run", "five", "--continue", "--fork", "--rewind", "2", "--output", "json", env=model_server.env)
    assert copied.returncode == 0, copied.stderr
    require_prefix(model_server, earlier=3, later=4, kept=3)
    assert json.loads(copied.stdout)["session_id"] != summary.id
    assert {each.id: each.prompts for each in list_sessions()}[summary.id] == 3


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--rewind", "1"], "--rewind needs a session"),
        (["--fork"], "--fork needs a session"),
        (["--continue", "--rewind", "0"], "--rewind '0' is not valid"),
        (["--continue", "--rewind", "x"], "--rewind 'x' is not valid"),
        (["--continue", "--rewind", "2"], "has 1 prompts to take back, not 2"),
        (["--replay", "ID", "--rewind", "1"], "leave out --rewind"),
    ],
)
def test_options_that_make_no_sense(
    run_cli: RunCli, model_server: ModelServer, workspace: Path, options: list[str], complaint: str
) -> None:
    model_server.always(text("Done."))
    first = converse(model_server, workspace, "one")
    prompt = [] if "--replay" in options else ["next"]
    done = run_cli("run", *prompt, *(first.id if each == "ID" else each for each in options), env=model_server.env)
    assert (done.returncode, complaint in done.stderr) == (2, True), done.stderr
    assert len(model_server.chats) == 1


def test_a_run_that_was_cut_off_is_taken_back_whole(model_server: ModelServer, workspace: Path) -> None:
    calls = [tool_call("shell", {"command": "echo quick"}), tool_call("shell", {"command": "echo slow; sleep 30"})]
    model_server.reply(text("1"), calls).always(text("Done."))

    def cancel_the_second(session: Any, event: Any) -> None:
        if session.prompt_number == 2:
            cancel(session, event)

    from laguna_agent.agent.events import ToolCallUpdate

    cancel = cancel_at(ToolCallUpdate, 5)
    converse(model_server, workspace, "one", "two", "/rewind", "three", watch=cancel_the_second)
    require_prefix(model_server, earlier=1, later=2, kept=3)


def test_the_cut_off_run_before_what_is_taken_back_keeps_its_results(
    start_cli: StartCli, run_cli: RunCli, model_server: ModelServer, workspace: Path
) -> None:
    kill_in_mid_call(start_cli, model_server, workspace)
    model_server.reply(text("2"), text("3"))
    assert run_cli("run", "two", "--continue", env=model_server.env).returncode == 0
    done = run_cli("run", "three", "--continue", "--rewind", "1", env=model_server.env)
    assert done.returncode == 0, done.stderr
    require_valid_conversation(posted(model_server))
    require_prefix(model_server, earlier=1, later=2, kept=6)
    # Taken back as a whole, the killed run is gone.
    model_server.reply(text("4"))
    assert run_cli("run", "four", "--continue", "--rewind", "2", env=model_server.env).returncode == 0
    require_prefix(model_server, earlier=0, later=3, kept=1)


def test_killed_in_the_middle_of_rewinding(model_server: ModelServer, workspace: Path) -> None:
    """The log cut after any of the records of /rewind: either all is taken back, or nothing."""
    model_server.always(text("Done."))
    spoken = converse(model_server, workspace, "one", "two", "/rewind")
    whole = spoken.log.read_bytes().splitlines(keepends=True)
    records = read_log(spoken.log)
    begun = max(at for at, record in enumerate(records) if isinstance(record, Prompted))
    taken_back = next(at for at, record in enumerate(records) if isinstance(record, RewoundRecord))
    assert [type(record) for record in records[taken_back:]] == [RewoundRecord, Ended]
    for cut in range(begun, len(whole) + 1):
        spoken.log.write_bytes(b"".join(whole[:cut]) + b'{"record":"rewo')
        past = rebuild(read_log(spoken.log))
        assert past.asked == (["one"] if cut > taken_back else ["one", "two"])
        assert len(past.history) == (3 if cut > taken_back else 5)


def test_the_model_must_look_again_before_it_writes_over_a_file(model_server: ModelServer, workspace: Path) -> None:
    path = workspace / "a.txt"
    path.write_text("old\n")
    read = tool_call("read", {"path": "a.txt"})
    model_server.reply(read, text("It is old."))
    model_server.reply(tool_call("write", {"path": "a.txt", "content": "new\n"}), text("Now it is new."))
    model_server.reply(tool_call("write", {"path": "a.txt", "content": "from old\n"}), text("I did not read it."))
    converse(model_server, workspace, "one", "two", "/rewind keep", "three")
    assert "you have not read it" in text_of(posted(model_server)[-1])
    assert path.read_text() == "new\n"


def test_a_grant_outlives_what_is_taken_back(model_server: ModelServer, workspace: Path) -> None:
    from laguna_agent.agent.events import PermissionRequested
    from laguna_agent.agent.permissions import PermissionAnswer

    async def always(_: PermissionRequested) -> PermissionAnswer:
        return PermissionAnswer(True, remember=True)

    call = tool_call("shell", {"command": "touch x"})
    model_server.reply(call, text("1"), call, text("2"))
    spoken = converse(model_server, workspace, "one", "/rewind", "two", approver=always, approve="ask")
    assert len(spoken.of(PermissionRequested)) == 1


def test_no_call_gets_the_id_of_one_that_was_taken_back(model_server: ModelServer, workspace: Path) -> None:
    """Editors know calls by their ids, and still show those that were taken back."""
    (workspace / "a.txt").write_text("content\n")
    nameless = stream(tool_call("read", {"path": "a.txt"}, id=""))
    as_text = '<tool_call>{"name": "read", "arguments": {"path": "a.txt"}}</tool_call>'
    model_server.reply(nameless, text(as_text), text("1"), nameless, text(as_text), text("2"))
    first = converse(model_server, workspace, "one", "/rewind", "two")
    model_server.reply(nameless, text("3"))
    spoken = converse(model_server, workspace, "/rewind", "three", resume=first)
    ids = [event.id for event in spoken.of(ToolCallStarted)]
    assert len(ids) == 5
    assert len(set(ids)) == 5


def test_what_was_taken_back_is_in_no_trajectory_and_no_title(
    run_cli: RunCli, model_server: ModelServer, workspace: Path
) -> None:
    model_server.reply(text("1"), text("2"), text("3"))
    spoken = converse(model_server, workspace, "the first", "the second", "/rewind 2", "the third")
    trajectory = atif(spoken.log)
    assert [step["source"] for step in trajectory["steps"]] == ["system", "user", "agent"]
    assert [step["step_id"] for step in trajectory["steps"]] == [1, 2, 3]
    assert "the third" in trajectory["steps"][1]["message"]
    assert trajectory["extra"]["prompts_taken_back"] == 2
    assert trajectory["final_metrics"]["total_steps"] == 3
    (summary,) = list_sessions()
    assert (summary.title, summary.prompts) == ("the third", 1)
    listed = run_cli("sessions", "show", spoken.id).stdout
    # The log is history: it tells of what was taken back, and that it was.
    assert listed.index("> the second") < listed.index("[2 of the prompts before this were taken back]")


# -- the window: what is shortened stays so ---------------------------------------------------------------------------


def reading(workspace: Path, *names: str, size: int = 6_000) -> list[Part]:
    """Calls that read files of this many characters."""
    for name in names:
        (workspace / name).write_text(f"{name}\n" * (size // (len(name) + 1)))
    return [tool_call("read", {"path": name}) for name in names]


def test_what_was_shortened_stays_so_after_a_resume(model_server: ModelServer, workspace: Path) -> None:
    calls = reading(workspace, *(f"file{n}.txt" for n in range(8)))
    model_server.reply(*calls, text("1"), text("2"))
    first = converse(model_server, workspace, "one", context_length=16_000)
    assert first.of(Compaction)
    before = len(model_server.chats) - 1
    converse(model_server, workspace, "two", resume=first, context_length=16_000)
    require_prefix(model_server, earlier=before, later=before + 1)


def test_a_compaction_that_was_taken_back(model_server: ModelServer, workspace: Path) -> None:
    calls = reading(workspace, *(f"file{n}.txt" for n in range(6)))
    model_server.reply(*calls[:3], text("1"), text("What was read."), text("2"), text("3"))
    spoken = converse(model_server, workspace, "one", "/compact", "two", "/rewind 1", "three")
    # /compact came after "one", before "two": it is still in force.
    assert spoken.of(Compaction)
    require_prefix(model_server, earlier=5, later=6, kept=len(posted(model_server, 5)) - 1)
    model_server.reply(calls[3], text("4"), text("What was read."), text("5"))
    spoken = converse(model_server, workspace, "/rewind", "four", "/compact", "/rewind", "five", resume=spoken)
    require_prefix(model_server, earlier=5, later=10, kept=len(posted(model_server, 5)) - 1)


def test_a_resumed_session_knows_how_its_server_counts(model_server: ModelServer, workspace: Path) -> None:
    """Its tokens are smaller than we guess: a fresh estimate would shorten what fits well."""
    calls = reading(workspace, *(f"file{n}.txt" for n in range(4)))

    def counted(reply: Part) -> Any:
        return lambda body: stream(reply, usage={"prompt_tokens": len(json.dumps(body)) // 5, "completion_tokens": 5})

    model_server.reply(*map(counted, [*calls, text("1"), text("2"), text("3")]))
    first = converse(model_server, workspace, "one", "two", context_length=12_500)
    second = converse(model_server, workspace, "three", resume=first, context_length=12_500)
    assert not second.of(Compaction)
    require_prefix(model_server, earlier=5, later=6)


def test_a_killed_program_s_session_can_be_rewound(
    start_cli: StartCli, run_cli: RunCli, model_server: ModelServer, workspace: Path
) -> None:
    from tests.model_server import stall

    model_server.reply(text("1"), stream(text("half", pieces=1), stall()))
    assert run_cli("run", "one", env=model_server.env).returncode == 0
    process = start_cli("run", "two", "--continue", "--output", "stream-json", env=model_server.env)
    assert process.stdout is not None
    while "half" not in (line := process.stdout.readline()):
        assert line
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)
    model_server.reply(text("3"))
    done = run_cli("run", "three", "--continue", "--rewind", "1", env=model_server.env)
    assert done.returncode == 0, done.stderr
    require_prefix(model_server, earlier=1, later=2, kept=3)
