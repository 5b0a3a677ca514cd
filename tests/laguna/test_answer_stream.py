"""The streaming parser: any split gives what the batch oracle reads, and every known failure of models is survived."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laguna_agent.backend.base import ReasoningDelta, TextDelta, ToolCallDelta
from laguna_agent.backend.laguna.answer_stream import AnswerStream
from laguna_agent.messages import ToolSpec
from tests.laguna.call_oracle import read_whole
from tests.laguna.reading import deltas, read

TOOLS = [
    ToolSpec(
        "shell",
        "",
        {
            "type": "object",
            "properties": {
                "cmd": {"type": "string"},
                "timeout": {"type": "integer"},
                "env": {"type": "object"},
                "cwd": {"type": ["string", "null"]},
                "mode": {"$ref": "#/$defs/mode"},
            },
            "$defs": {"mode": {"type": "string", "enum": ["1", "2"]}},
        },
    ),
    ToolSpec("read", "", {"type": "object", "properties": {"path": {"type": "string"}}}),
]

FRAGMENTS = [
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<arg_key>",
    "</arg_key>",
    "<arg_value>",
    "</arg_value>",
    "</assistant>",
    "shell",
    "read",
    "cmd",
    "timeout",
    "other",
    "5",
    "null",
    "True",
    "\n",
    " ",
    "\n\n",
    "ls <b>",
    "</arg",
    "<tool",
    "é\U0001f600",
    '"',
    "\\",
    "{",
    "}",
    "{{",
    '{"name": "read", "arguments": {"path": "a"}}',
    '{"name": "read", "arguments": ',
    '{"arguments": {"path": "</tool_call>"}, "name": "read"}',
    '"x": "a\\"b"',
    "<tool_call>shell<arg_key>cmd</arg_key><arg_value>ls\n</arg_value></tool_call>",
    "<arg_key>timeout</arg_key><arg_value>5</arg_value>",
    "<tool_call>shell<arg_key>cmd</arg_key><arg_value>",
    "<tool_call>read\n<arg_key>path</arg_key>\n<arg_value>a.py</arg_value>\n</tool_call>",
    "prose",
]
OUTPUTS = st.lists(st.sampled_from(FRAGMENTS), max_size=14).map("".join)


@st.composite
def _split(draw: st.DrawFn) -> tuple[str, list[str]]:
    text = draw(OUTPUTS)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=12)))
    ends = [*cuts, len(text)]
    return text, [text[a:b] for a, b in zip([0, *cuts], ends, strict=True)]


def _compare(text: str, pieces: list[str], in_thought: bool, padded: bool) -> None:
    expected = read_whole(text, TOOLS, in_thought, padded)
    assert read(pieces, TOOLS, in_thought, padded) == expected


@given(_split(), st.booleans(), st.booleans())
@settings(max_examples=400, deadline=None, derandomize=True)
def test_any_split_reads_as_the_oracle_does(split: tuple[str, list[str]], in_thought: bool, padded: bool) -> None:
    text, pieces = split
    _compare(text, pieces, in_thought, padded)
    _compare(text, list(text), in_thought, padded)


@pytest.mark.slow
@pytest.mark.timeout(900)
@given(_split(), st.booleans(), st.booleans())
@settings(max_examples=20_000, deadline=None)
def test_any_split_reads_as_the_oracle_does_at_length(
    split: tuple[str, list[str]], in_thought: bool, padded: bool
) -> None:
    text, pieces = split
    _compare(text, pieces, in_thought, padded)
    _compare(text, list(text), in_thought, padded)


def test_a_string_is_passed_on_as_it_comes_and_the_name_before_it() -> None:
    stream = AnswerStream(TOOLS)
    assert stream.feed("<tool_call>shell<arg_key>cmd</arg_key>") == [ToolCallDelta(0, name="shell")]
    assert stream.feed("<arg_value>ls") == [ToolCallDelta(0, arguments='{"cmd": "ls')]
    assert stream.feed(' "x"</arg_') == [ToolCallDelta(0, arguments=' \\"x\\"')]
    assert stream.feed("value></tool_call>") == [ToolCallDelta(0, arguments='"}')]
    assert stream.finish() == []


def test_hermes_arguments_are_passed_on_as_they_come() -> None:
    stream = AnswerStream(TOOLS, padded=True)
    assert stream.feed('<tool_call>\n{"name": "read", "arguments": {"pa') == [
        ToolCallDelta(0, name="read"),
        ToolCallDelta(0, arguments='{"pa'),
    ]
    assert stream.feed('th": "x</tool_call>') == [ToolCallDelta(0, arguments='th": "x</tool_call>')]
    assert stream.feed('"}}\n</tool_call>') == [ToolCallDelta(0, arguments='"}')]


CASES = [
    ("thinking never ends", "and so on and", True, ("and so on and", "", [])),
    ("think repeated at the start", "<think>why</think>so", True, ("why", "so", [])),
    ("think opened again after content", "a</think>b\n<think>c</think>d", True, ("a\nc", "b\nd", [])),
    ("think mentioned", "the <think> tag", False, ("", "the <think> tag", [])),
    ("nothing after the thought", "done.</think>", True, ("done.", "", [])),
    ("turn ended in the thought", "hm</assistant>no", True, ("hm", "", [])),
    ("skipped reasoning", "</think>yes", True, ("", "yes", [])),
    ("reasoning closed twice", "</think>yes", False, ("", "yes", [])),
    (
        "call inside reasoning",
        "I look.<tool_call>read<arg_key>path</arg_key><arg_value>a</arg_value></tool_call>",
        True,
        ("I look.", "", [("read", {"path": "a"})]),
    ),
    ("a call's tag mentioned in reasoning", "a <tool_call> tag\n</think>x", True, ("a <tool_call> tag\n", "x", [])),
    ("no arguments", "<tool_call>read</tool_call>", False, ("", "", [("read", {})])),
    ("no name", "a<tool_call></tool_call>b", False, ("", "ab", [])),
    ("unknown name", "<tool_call>nope</tool_call>", False, ("", "", [("nope", {})])),
    ("a key without a value", "<tool_call>read<arg_key>path</arg_key></tool_call>", False, ("", "", [("read", {})])),
    (
        "a key twice",
        "<tool_call>read<arg_key>path</arg_key><arg_value>1</arg_value>"
        "<arg_key>path</arg_key><arg_value>2</arg_value></tool_call>",
        False,
        ("", "", [("read", {"path": "2"})]),
    ),
    ("cut off in the name", "<tool_call>read", False, ("", "", [("read", None)])),
    ("cut off in a value", "<tool_call>read<arg_key>path</arg_key><arg_value>a", False, ("", "", [("read", None)])),
    ("cut off between", "<tool_call>read<arg_key>path</arg_key>", False, ("", "", [("read", None)])),
    (
        "a value without its tag, and a call after it",
        "<tool_call>read<arg_key>path</arg_key>a</arg_value></tool_call><tool_call>read</tool_call>",
        False,
        ("", "", [("read", None), ("read", {})]),
    ),
    (
        "a value closed twice",
        "<tool_call>read<arg_key>path</arg_key><arg_value>a</arg_value>b</arg_value></tool_call>c",
        False,
        ("", "c", [("read", None)]),
    ),
    (
        "a key without a value, and another argument after it",
        "<tool_call>read<arg_key>path</arg_key>a<arg_key>path</arg_key><arg_value>b</arg_value></tool_call>c",
        False,
        ("", "c", [("read", None)]),
    ),
    (
        "a value with tags in it",
        "<tool_call>shell<arg_key>cmd</arg_key><arg_value><a></arg</tool_call>\n</arg_value></tool_call>",
        False,
        ("", "", [("shell", {"cmd": "<a></arg</tool_call>\n"})]),
    ),
    (
        "python's words, and a string that looks like a number",
        "<tool_call>shell<arg_key>timeout</arg_key><arg_value>None</arg_value><arg_key>mode</arg_key>"
        "<arg_value>1</arg_value><arg_key>cwd</arg_key><arg_value>null</arg_value></tool_call>",
        False,
        ("", "", [("shell", {"timeout": None, "mode": "1", "cwd": None})]),
    ),
    (
        "JSON in the other family's tags, braces doubled",
        '<tool_call>{{"name": "read", "arguments": {{"path": "a"}}}}</tool_call>',
        False,
        ("", "", [("read", {"path": "a"})]),
    ),
    ("JSON cut off", '<tool_call>{"name": "read", "arguments": {"path": "a', False, ("", "", [("read", None)])),
    ("JSON without the closing tag", '<tool_call>{"name": "read", "arguments": {}}', False, ("", "", [("read", {})])),
    ("bare JSON is no call", '{"name": "read", "arguments": {}}', False, ("", '{"name": "read", "arguments": {}}', [])),
]


@pytest.mark.parametrize(("what", "text", "in_thought", "expected"), CASES, ids=[case[0] for case in CASES])
def test_the_failures_of_models(what: str, text: str, in_thought: bool, expected: object) -> None:
    assert read([text], TOOLS, in_thought, False) == expected
    assert read(list(text), TOOLS, in_thought, False) == expected
    assert read_whole(text, TOOLS, in_thought, False) == expected


def test_white_space_is_kept_in_the_compact_style_and_dropped_in_the_padded_one() -> None:
    text = "\n why\n</think>\n\n so \n<tool_call>read</tool_call>\n"
    assert read([text], TOOLS, True, False)[:2] == ("\n why\n", "\n\n so \n\n")
    assert read([text], TOOLS, True, True)[:2] == ("why", "so")


def test_a_long_value_costs_time_in_proportion_to_its_length() -> None:
    stream = AnswerStream(TOOLS)
    stream.feed("<tool_call>shell<arg_key>cmd</arg_key><arg_value>")
    out = deltas(["x<" * 50] * 10_000 + ["</arg_value></tool_call>"], stream)
    text = "".join(delta.arguments for delta in out if isinstance(delta, ToolCallDelta))
    assert json.loads('{"cmd": "' + text.removeprefix('{"cmd": "'))["cmd"] == "x<" * 500_000


def test_it_says_whether_the_next_text_is_thought() -> None:
    stream = AnswerStream(TOOLS, in_thought=True)
    assert stream.feed("a") == [ReasoningDelta("a")]
    assert stream.in_thought
    assert stream.feed("</think>b") == [TextDelta("b")]
    assert not stream.in_thought
