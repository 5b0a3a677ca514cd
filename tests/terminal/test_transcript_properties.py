"""Whatever the events and however their text is split: the same history, nothing too wide, nothing raw."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from laguna_agent.agent.events import (
    Event,
    Notice,
    PermissionResolved,
    TextDelta,
    ThoughtDelta,
    ToolCallStarted,
    ToolCallUpdate,
    TurnEnded,
    TurnStarted,
    UserMessage,
)
from laguna_agent.messages import FileDiff, TextBlock
from laguna_agent.terminal.cards import FOLDED_CHARACTERS
from laguna_agent.terminal.lines import Line
from laguna_agent.terminal.theme import THEMES
from tests.terminal.scenes import plain, plan, transcript

PIECES = ("word ", "\n", "\r", "\r\n", "\n\n", "\x1b[31m", "\u202e", "\u200b", "\f", "\t", "世界", "👩", "\u200d", "💻")
MARKS = ("**", "`", "```\n", "- ", "| a |\n|---|\n", "e\u0301", "\ud83d", "\U000e0041", "\ufeff", "שלום", "x" * 50)
texts = st.lists(st.sampled_from(PIECES + MARKS), min_size=1, max_size=12).map("".join)
ids = st.sampled_from("abc")
others: st.SearchStrategy[Event] = st.one_of(
    st.builds(UserMessage, texts),
    st.builds(TurnStarted, st.just(1), st.just("s"), st.just("m")),
    st.builds(
        ToolCallStarted, ids, st.sampled_from(("shell", "plan")), st.sampled_from(("execute", "edit", "think")), texts
    ),
    st.builds(ToolCallUpdate, ids, st.just("in_progress"), texts),
    st.builds(
        ToolCallUpdate,
        ids,
        st.sampled_from(("completed", "failed")),
        content=st.builds(TextBlock, texts).map(lambda block: (block,)),
        diffs=st.one_of(st.just(()), st.builds(FileDiff, texts, texts, texts).map(lambda diff: (diff,))),
        exit_code=st.sampled_from((None, 0, 1)),
        seconds=st.sampled_from((None, 0.1, 5.0)),
        sandbox=st.sampled_from(("", "bubblewrap")),
    ),
    st.builds(PermissionResolved, ids, st.booleans(), texts),
    st.builds(Notice, st.sampled_from(("info", "warning", "error")), texts),
    st.just(plan("Read the test")),
    st.builds(TurnEnded, st.just("end_turn"), st.just("completed"), st.sampled_from((0, 1)), texts),
)
events = st.lists(
    st.one_of(st.builds(TextDelta, texts), st.builds(ThoughtDelta, texts), others), min_size=1, max_size=10
)


def split(event: Event, cuts: Sequence[int]) -> list[Event]:
    """A delta in pieces; any other event as it is."""
    if not isinstance(event, TextDelta | ThoughtDelta):
        return [event]
    places = [0, *sorted({min(each, len(event.text)) for each in cuts}), len(event.text)]
    return [type(event)(event.text[begin:end]) for begin, end in pairwise(places)]


@settings(max_examples=150)
@given(events, st.lists(st.integers(0, 60), max_size=6), st.sampled_from((20, 33, 80, 200)), st.integers(1, 15))
def test_the_history_depends_on_no_split_and_fits(said: list[Event], cuts: list[int], width: int, height: int) -> None:
    whole, pieces = transcript(width), transcript(width)
    for event in said:
        whole.feed(event)
    whole.settle()
    rows: list[Line] = []
    for at, piece in enumerate(piece for event in said for piece in split(event, cuts)):
        pieces.tick(at / 4)
        pieces.feed(piece)
        rows += pieces.finished()
        live = pieces.live(height)
        assert len(live) <= height
        assert_good(live, width)
    pieces.settle()
    rows += pieces.finished()
    assert without_times(rows) == without_times(whole.finished())
    assert_good(rows, width)
    while folded := pieces.unfold():
        assert_good(folded, width)


def without_times(rows: Sequence[Line]) -> list[str]:
    """The rows but for those that tell how long a turn took, which is nothing where no clock ran."""
    return [row for row in plain(rows) if row and not row.removeprefix("took ").removesuffix(" s").isdecimal()]


def assert_good(rows: Sequence[Line], width: int) -> None:
    for row in plain(rows):
        assert cell_len(row) <= width
        assert not [each for each in row if each < " " or each in "\x7f\x9b\u202e\ud83d"]


def test_memory_is_bounded_by_what_can_be_unfolded() -> None:
    shown = transcript()
    huge = "line of output\n" * 20_000
    for number in range(40):
        shown.feed(ToolCallStarted(str(number), "shell", "execute", "$ x", {}))
        shown.feed(ToolCallUpdate(str(number), "completed", content=(TextBlock(huge),), exit_code=0))
        shown.feed(ThoughtDelta(huge))
        shown.finished()
    sizes = []
    while rows := shown.unfold():
        sizes.append(sum(map(len, plain(rows))))
    assert 10 <= len(sizes) <= 30
    assert max(sizes) <= 2 * FOLDED_CHARACTERS


def test_a_long_answer_is_not_kept() -> None:
    shown = transcript(theme="mono")
    assert shown.theme is THEMES["mono"]
    for number in range(2_000):
        shown.feed(TextDelta(f"Sentence {number} of a paragraph that has no end. "))
        shown.finished()
    assert len(plain(shown.live(100))) <= 2
