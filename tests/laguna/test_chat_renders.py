"""Every assistant turn of the golden renders reads back into the message it was rendered from."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from laguna_agent.messages import ToolSpec
from tests.laguna.call_oracle import read_whole
from tests.laguna.reading import Answer, read
from tests.laguna.shared_golden import chat_renders

OPENING = re.compile(r"<assistant>\n?(?P<thought><think>|</think>)")
PADDED = {"xs2_v5": True, "v4_newline": True, "v8": False, "v8_s21": False}


def _turns() -> Iterator[tuple[str, str, bool, bool, list[ToolSpec], Answer]]:
    """(label, text after the prompt's opening tag, in thought, padded, tools, expected) of each turn."""
    for entry in chat_renders():
        rendered = entry["expected"]
        messages = [message for message in entry["messages"] if message["role"] == "assistant"]
        openings = list(OPENING.finditer(rendered))
        # The system text of a template with an example call may hold an <assistant> of its own; the last opening is
        # the generation prompt.
        turns = openings[-1 - len(messages) : -1]
        assert len(turns) == len(messages)
        tools = [
            ToolSpec(tool["function"]["name"], "", tool["function"]["parameters"]) for tool in entry["tools"] or ()
        ]
        for opening, message in zip(turns, messages, strict=True):
            text = rendered[opening.end() : rendered.index("</assistant>", opening.end()) + len("</assistant>")]
            label = f"{entry['template']}-{entry['case']}-{entry['enable_thinking']}"
            in_thought = opening["thought"] == "<think>"
            yield label, text, in_thought, PADDED[entry["template"]], tools, _expected(message, in_thought)


def _expected(message: dict[str, Any], in_thought: bool) -> Answer:
    reasoning, content = message.get("reasoning") or message.get("reasoning_content") or "", message["content"]
    if "</think>" in content:
        # Thought in the content is told apart wherever it is read back, as the newline templates themselves do.
        reasoning, content = content.split("</think>")
        reasoning, content = reasoning.removeprefix("<think>").strip(), content.strip()
    elif not in_thought:
        reasoning = ""
    calls = [(call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls", ())]
    return reasoning, content, calls


def _settled(answer: Answer) -> Answer:
    return answer[0].strip(), answer[1].strip(), answer[2]


def test_every_turn_reads_back_under_sampled_splits() -> None:
    seen = 0
    pick = random.Random(4)
    for label, text, in_thought, padded, tools, expected in _turns():
        cuts = [[text], list(text), *([text[:at], text[at:]] for at in range(0, len(text), 3))]
        cuts += [re.findall(rf"(?s).{{1,{pick.randint(2, 9)}}}", text) for _ in range(5)]
        for pieces in cuts:
            found = read(pieces, tools, in_thought, padded)
            assert found == read_whole(text, tools, in_thought, padded), (label, pieces)
            # White space around a thought that was given in the content is kept by the compact templates.
            assert (_settled(found) if "think_in_content" in label else found) == expected, (label, pieces)
        seen += 1
    assert seen == 24


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_turn_reads_back_under_every_split() -> None:
    """Every split in two and in three; every way to cut a window of eight characters, wherever it starts; pieces of
    every equal size, single characters too; and random splits into up to forty pieces. Equal turns are read once."""
    pick = random.Random(7)
    reads, seen = 0, set()
    for label, text, in_thought, padded, tools, expected in _turns():
        alike = (text, in_thought, padded, tuple(tool.name for tool in tools))
        if alike in seen:
            continue
        seen.add(alike)
        for pieces in _splits(text, pick):
            found = read(pieces, tools, in_thought, padded)
            assert (_settled(found) if "think_in_content" in label else found) == expected, (label, pieces)
            reads += 1
    print(f"{reads:,} splits of {len(seen)} different turns")
    assert len(seen) == 9


def _splits(text: str, pick: random.Random) -> Iterator[list[str]]:
    for first in range(len(text) + 1):
        yield [text[:first], text[first:]]
        for second in range(first + 1, len(text)):
            yield [text[:first], text[first:second], text[second:]]
    for start in range(len(text) - 7):
        # The first character of the window is always cut off, for the rest are other windows' splits.
        for cut in range(1, 256, 2):
            yield _cut(text, [start + bit + 1 for bit in range(8) if cut >> bit & 1])
    for size in range(1, len(text)):
        yield _cut(text, range(size, len(text), size))
    for _ in range(1000):
        yield _cut(text, sorted(pick.choices(range(len(text) + 1), k=pick.randrange(2, 40))))


def _cut(text: str, places: Iterable[int]) -> list[str]:
    """The text in pieces, cut at these places."""
    ends = [*places, len(text)]
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]
