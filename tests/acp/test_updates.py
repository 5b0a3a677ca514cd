"""Events as session updates: every one valid by the official schema, and what editors need of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from laguna_agent.acp import schema
from laguna_agent.acp.prompts import prompt_blocks
from laguna_agent.acp.updates import LIVE_TAIL, Renderer, fenced
from laguna_agent.agent import events
from laguna_agent.agent.permissions import options
from laguna_agent.messages import FileDiff, ImageBlock, Location, PlanEntry, TextBlock, ToolKind
from laguna_agent.tools.base import Need
from tests.acp.official import require_valid

CWD = Path("/repo")
RICH = schema.ClientCapabilities(
    session=schema.ClientSessionCapabilities(
        notices=schema.NoticeCapabilities(), compaction=schema.CompactionCapabilities()
    )
)


def renderer(client: schema.ClientCapabilities | None = None, clock: Any = lambda: 0.0) -> Renderer:
    return Renderer(CWD, client or schema.ClientCapabilities(), clock=clock)


def wire(updates: Any) -> list[dict[str, Any]]:
    """What goes over the wire, held against the official schema."""
    sent = [msgspec.json.decode(msgspec.json.encode(update)) for update in updates]
    for update in sent:
        require_valid({"sessionId": "s", "update": update}, "SessionNotification")
    return sent


words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
call_ids = st.sampled_from(["a", "b"])
kinds = st.sampled_from(get_args(ToolKind))
paths = st.sampled_from(["src/a.py", "/else/b.py"])
locations = st.lists(st.builds(Location, paths, st.none() | st.integers(1, 9)), max_size=2).map(tuple)
diffs = st.lists(st.builds(FileDiff, paths, st.none() | words, st.none() | words), max_size=2).map(tuple)
blocks = st.lists(
    st.builds(TextBlock, words) | st.builds(ImageBlock, st.just("image/png"), st.just("AA==")), max_size=2
)
inputs = st.dictionaries(words, words, max_size=2)
any_event = st.one_of(
    st.builds(events.TurnStarted, st.integers(1, 9), words, words),
    st.builds(events.UserMessage, words),
    st.builds(events.Steered, words),
    st.builds(events.TextDelta, words),
    st.builds(events.ThoughtDelta, words),
    st.builds(events.ToolCallStarted, call_ids, words, kinds, words, inputs, locations),
    st.builds(
        events.ToolCallUpdate,
        call_ids,
        st.sampled_from(get_args(events.ToolStatus)),
        words | st.just(""),
        blocks.map(tuple),
        diffs,
        locations,
        st.none() | st.integers(0, 255),
        st.none() | st.floats(0, 9),
    ),
    st.builds(events.PermissionResolved, call_ids, st.booleans()),
    st.builds(events.PlanUpdated, st.lists(st.builds(PlanEntry, words), max_size=2).map(tuple)),
    st.builds(
        events.UsageUpdated,
        st.integers(0, 9),
        st.integers(0, 9),
        cost=st.none() | st.floats(0, 9),
        context_used=st.none() | st.integers(0, 9),
        context_window=st.none() | st.integers(0, 9),
    ),
    st.builds(events.Notice, st.sampled_from(["info", "warning", "error"]), words),
    st.builds(events.ModelProgress, st.sampled_from(["waiting", "loading", "packing", "reading", "retrying"]), words),
    st.builds(events.Retrying, st.integers(1, 9), st.floats(0, 9), words, st.booleans()),
    st.builds(events.Rewound, st.integers(1, 9), words | st.just("")),
    st.builds(events.Redone),
    st.builds(events.Checkpoint, st.just("0" * 40)),
    st.builds(events.Forked, words),
    st.builds(
        events.Compaction,
        st.sampled_from(["started", "completed", "failed"]),
        words | st.just(""),
        text=words | st.just(""),
    ),
    st.builds(
        events.TurnEnded,
        st.sampled_from(get_args(events.StopReason)),
        words,
        st.integers(0, 8),
        words | st.just(""),
        evidence=st.sampled_from(["", "verified", "unverified", "none_needed"]),
        evidence_note=words,
    ),
)


@settings(max_examples=150)
@given(sequence=st.lists(any_event, max_size=8), client=st.sampled_from([RICH, schema.ClientCapabilities()]))
def test_whatever_happens_is_valid_on_the_wire(sequence: list[events.Event], client: schema.ClientCapabilities) -> None:
    render = renderer(client).render
    sent = [update for event in sequence for update in wire(render(event))]
    if client is not RICH:
        assert not {"notice", "compaction_update"} & {update["sessionUpdate"] for update in sent}
    for update in sent:
        places = [*update.get("locations", []), *(c for c in update.get("content", []) if "path" in c)]
        assert all(place["path"].startswith("/") for place in places if isinstance(place, dict))


def test_what_is_said_into_a_turn_is_a_message_of_its_own() -> None:
    render = renderer().render
    image = ImageBlock("image/png", "AA==")
    sequence = [events.TextDelta("a"), events.Steered("now b", (image,)), events.TextDelta("c"), events.Steered("d")]
    sent = [update for event in sequence for update in wire(render(event))]
    kinds = [update["sessionUpdate"].partition("_")[0] for update in sent]
    assert kinds == ["agent", "user", "user", "agent", "user"]
    assert sent[1]["content"] == {"type": "text", "text": "now b"}
    ids = [update["messageId"] for update in sent]
    assert ids[1] == ids[2]
    assert len(set(ids)) == 4


def test_chunks_of_one_message_share_an_id_and_the_next_message_has_another() -> None:
    render = renderer().render
    started = events.ToolCallStarted("c", "read", "read", "Read a")
    sequence = [
        events.ThoughtDelta("h"),
        events.ThoughtDelta("m"),
        events.TextDelta("a"),
        events.TextDelta("b"),
        started,
        events.TextDelta("c"),
    ]
    sent = [update for event in sequence for update in wire(render(event)) if "messageId" in update]
    ids = [update["messageId"] for update in sent]
    assert ids[0] == ids[1]
    assert ids[2] == ids[3]
    assert len(set(ids)) == 3


def test_an_edit_shows_its_diff_with_an_absolute_path() -> None:
    render = renderer().render
    list(render(events.ToolCallStarted("c", "edit", "edit", "Edit a.py", {"path": "a.py"}, (Location("a.py", 3),))))
    (done,) = wire(
        render(events.ToolCallUpdate("c", "completed", content=(TextBlock("ok"),), diffs=(FileDiff("a.py", "1", "2"),)))
    )
    assert done["content"] == [
        {"type": "diff", "path": "/repo/a.py", "oldText": "1", "newText": "2"},
        {"type": "content", "content": {"type": "text", "text": "ok"}},
    ]


def test_live_output_replaces_itself_with_a_bounded_tail_and_not_too_often() -> None:
    now = [0.0]
    render = renderer(clock=lambda: now[0]).render
    list(render(events.ToolCallStarted("c", "shell", "execute", "$ yes")))
    sent = []
    for _ in range(1000):
        now[0] += 0.01
        sent += wire(render(events.ToolCallUpdate("c", "in_progress", output="y" * 100)))
    assert 90 <= len(sent) <= 110
    assert max(len(update["content"][0]["content"]["text"]) for update in sent) <= LIVE_TAIL + 10
    done = events.ToolCallUpdate("c", "completed", content=(TextBlock("y"),), exit_code=0)
    (update,) = wire(render(done))
    assert update["rawOutput"] == {"exitCode": 0}
    assert update["content"][0]["content"]["text"] == "```\ny\n```"


def test_a_call_that_was_cut_off_is_closed_when_the_turn_ends() -> None:
    render = renderer().render
    list(render(events.ToolCallStarted("c", "shell", "execute", "$ sleep 9")))
    sent = wire(render(events.TurnEnded("cancelled", "interrupted", 130, "interrupted")))
    assert sent == [{"sessionUpdate": "tool_call_update", "toolCallId": "c", "status": "failed"}]


def test_an_end_that_is_no_success_says_why() -> None:
    spent = events.TurnEnded("max_turn_requests", "budget_spent", 5, "5 turns are spent")
    (plain,) = wire(renderer().render(spent))
    assert plain["content"]["text"] == "5 turns are spent"
    (notice,) = wire(renderer(RICH).render(spent))
    assert (notice["sessionUpdate"], notice["title"]) == ("notice", "5 turns are spent")


def test_an_end_without_evidence_says_so() -> None:
    unproved = events.TurnEnded("end_turn", "completed", 0, evidence="unverified", evidence_note="no test ran")
    (thought,) = wire(renderer().render(unproved))
    assert (thought["sessionUpdate"], thought["content"]["text"]) == (
        "agent_thought_chunk",
        "unverified: no test ran\n",
    )
    (notice,) = wire(renderer(RICH).render(unproved))
    assert (notice["severity"], notice["title"]) == ("info", "unverified: no test ran")
    assert not wire(renderer().render(events.TurnEnded("end_turn", "completed", 0, evidence="verified")))


def test_an_end_looked_back_at_is_a_message_of_its_own() -> None:
    for client in (None, RICH):
        rendered = renderer(client)
        (said,) = wire(rendered.render(events.TextDelta("Half an answer")))
        (ended,) = wire(rendered.look_back(events.Notice("warning", "5 turns are spent")))
        assert (ended["sessionUpdate"], ended["content"]["text"]) == ("agent_message_chunk", "\n\n5 turns are spent")
        assert ended["messageId"] != said["messageId"]


def test_an_answer_that_begins_anew_is_another_message() -> None:
    for client in (None, RICH):
        rendered = renderer(client)
        (void,) = wire(rendered.render(events.TextDelta("I shall")))
        (told,) = wire(rendered.render(events.Retrying(1, 2.0, "the connection broke", void=True)))
        (anew,) = wire(rendered.render(events.TextDelta("I shall")))
        assert void["messageId"] != anew["messageId"]
        said = told["title"] if client else told["content"]["text"].strip()
        assert said == "the connection broke; what it had said is void; attempt 2 in 2.0 s"


def test_what_a_cache_spared_is_told_beside_the_usage() -> None:
    (told,) = wire(renderer().render(events.UsageUpdated(120, 9, 100, context_used=60, context_window=8_000)))
    assert (told["used"], told["size"]) == (60, 8_000)
    assert told["_meta"] == {"inputTokens": 120, "cachedTokens": 100}


def test_progress_before_the_first_token_is_for_terminals() -> None:
    assert not wire(renderer(RICH).render(events.ModelProgress("loading", "m", 1, 2)))


def test_each_compaction_has_an_id_of_its_own_and_one_end() -> None:
    render = renderer(RICH).render
    sent = []
    for turn in (1, 2):
        list(render(events.TurnStarted(turn, "s", "m")))
        for status in ("started", "completed", "completed"):
            sent += wire(render(events.Compaction(status, "dropped 3 old tool results")))
    ids = [update["compactionId"] for update in sent]
    assert [ids.count(id) for id in dict.fromkeys(ids)] == [2, 1, 2, 1]
    assert [update["status"] for update in sent] == ["in_progress", "completed", "completed"] * 2
    assert not any("summary" in update for update in sent)


def test_a_compaction_gives_its_summary() -> None:
    done = events.Compaction(
        "completed", "summarised 9 older messages", 900, 300, "## State\n![x](http://evil.example)"
    )
    (update,) = wire(renderer(RICH).render(done))
    assert update["summary"][0]["text"].startswith("## State\n")
    assert "](http" not in update["summary"][0]["text"]
    (thought,) = wire(renderer().render(done))
    assert thought["content"]["text"].startswith("summarised 9 older messages\n## State\n")
    assert "](http" not in thought["content"]["text"]
    (failed,) = wire(renderer(RICH).render(events.Compaction("failed", "the server is out of order", 900, 300)))
    assert (failed["status"], failed["error"]) == ("failed", "the server is out of order")


def test_a_compaction_that_was_cut_off_has_an_end() -> None:
    render = renderer(RICH).render
    begun = wire(render(events.Compaction("started", before=900)))
    ended = wire(render(events.TurnEnded("cancelled", "interrupted", 130)))
    assert [update["status"] for update in [*begun, *ended]] == ["in_progress", "cancelled"]
    assert begun[0]["compactionId"] == ended[0]["compactionId"]


def test_a_question_is_complete_in_itself() -> None:
    asked = events.PermissionRequested(
        "c",
        "$ rm -rf build",
        "execute",
        {"command": "rm -rf build"},
        options(Need("execute", "rm -rf build")),
        locations=(Location("build"),),
    )
    request = msgspec.json.decode(msgspec.json.encode(renderer().permission("s", asked)))
    require_valid(request, "RequestPermissionRequest")
    call = request["toolCall"]
    assert (call["title"], call["kind"], call["rawInput"]) == ("$ rm -rf build", "execute", {"command": "rm -rf build"})
    assert call["locations"] == [{"path": "/repo/build"}]
    assert call["content"][0]["content"]["text"] == "```\nrm -rf build\n```"
    assert [option["kind"] for option in request["options"]] == [
        "allow_once",
        "allow_always",
        "reject_once",
        "reject_always",
    ]
    edit = msgspec.structs.replace(asked, kind="edit", diffs=(FileDiff("a.py", None, "new"),))
    request = msgspec.json.decode(msgspec.json.encode(renderer().permission("s", edit)))
    assert request["toolCall"]["content"] == [{"type": "diff", "path": "/repo/a.py", "newText": "new"}]


def test_a_question_tells_an_editor_the_parts_and_what_is_unusual() -> None:
    asked = events.PermissionRequested(
        "c",
        "$ a; \x1b[2Jb",
        "execute",
        {"command": "a; \x1b[2Jb"},
        options(Need("execute", "a; \x1b[2Jb")),
        parts=("a", "'\x1b[2Jb'"),
        unusual=("wants the network",),
    )
    request = msgspec.json.decode(msgspec.json.encode(renderer().permission("s", asked)))
    require_valid(request, "RequestPermissionRequest")
    told = [item["content"]["text"] for item in request["toolCall"]["content"]]
    assert told == ["```\na; \\u{1B}[2Jb\n```", "It runs:\n```\na\n'\\u{1B}[2Jb'\n```", "- wants the network"]
    shown = [request["toolCall"]["title"], *told, *(option["name"] for option in request["options"])]
    assert "\x1b" not in "".join(shown)


@given(text=st.text(st.sampled_from("`\na "), max_size=30))
def test_no_output_breaks_out_of_its_fence(text: str) -> None:
    first, *middle, last = fenced(text).split("\n")
    assert first == last
    assert set(first) == {"`"}
    assert not any(line.strip().startswith(first) for line in middle)


def test_a_prompt_keeps_its_text_images_links_and_resources() -> None:
    blocks = prompt_blocks(
        [
            schema.TextContent(text="Fix"),
            schema.ResourceLink(uri="file:///repo/a%20b.py", name="a b.py"),
            schema.ResourceLink(uri="https://example.org/x", name="https://example.org/x"),
            schema.EmbeddedResource(resource=schema.EmbeddedResourceResource(uri="file:///repo/c.py", text="x = 1")),
            schema.EmbeddedResource(
                resource=schema.EmbeddedResourceResource(uri="file:///i.png", mime_type="image/png", blob="AA==")
            ),
            schema.ImageContent(data="AA==", mime_type="image/jpeg"),
        ]
    )
    text = "".join(block.text for block in blocks if isinstance(block, TextBlock))
    assert text.startswith("Fix /repo/a b.py (a b.py)  https://example.org/x ")
    assert '<resource path="/repo/c.py">\nx = 1\n</resource>' in text
    assert [block for block in blocks if isinstance(block, ImageBlock)] == [
        ImageBlock("image/png", "AA=="),
        ImageBlock("image/jpeg", "AA=="),
    ]
