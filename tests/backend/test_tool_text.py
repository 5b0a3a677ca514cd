"""Calls written as text: every format round-trips, no cut ever runs, and a text that shows a call is none."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laguna_agent.backend.tool_text import recover_calls
from laguna_agent.messages import ToolSpec

EDIT = ToolSpec(
    "edit",
    "",
    {
        "type": "object",
        "properties": {
            "path": {"type": "string"},
            "new": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "count": {"type": "integer"},
            "all": {"type": "boolean"},
            "lines": {"type": "array", "items": {"type": "integer"}},
        },
    },
)
LIST = ToolSpec("list", "", {"type": "object", "properties": {}})
TOOLS = (EDIT, LIST)


def found(text: str) -> list[tuple[str, dict[str, Any]]]:
    calls = recover_calls(text, TOOLS)
    assert not any(call.error for call in calls)
    return [(call.name, call.arguments) for call in calls]


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def poolside(name: str, args: dict[str, Any]) -> str:
    pairs = "".join(f"<arg_key>{k}</arg_key><arg_value>{as_text(v)}</arg_value>" for k, v in args.items())
    return f"<tool_call>{name}{pairs}</tool_call>"


def poolside_lines(name: str, args: dict[str, Any]) -> str:
    pairs = "".join(f"<arg_key>{k}</arg_key>\n<arg_value>{as_text(v)}</arg_value>\n" for k, v in args.items())
    return f"<tool_call>{name}\n{pairs}</tool_call>"


def qwen(name: str, args: dict[str, Any]) -> str:
    pairs = "".join(f"<parameter={k}>\n{as_text(v)}\n</parameter>\n" for k, v in args.items())
    return f"<tool_call>\n<function={name}>\n{pairs}</function>\n</tool_call>"


def object_text(name: str, args: dict[str, Any], key: str = "arguments") -> str:
    return json.dumps({"name": name, key: args})


def doubled(name: str, args: dict[str, Any]) -> str:
    inner = ", ".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in args.items())
    return "```json\n" + f'{{{{"name": "{name}", "arguments": {{{{{inner}}}}}}}}}' + "\n```"


FORMATS: dict[str, Callable[[str, dict[str, Any]], str]] = {
    "poolside": poolside,
    "poolside lines": poolside_lines,
    "qwen": qwen,
    "hermes": lambda n, a: f"<tool_call>\n{object_text(n, a)}\n</tool_call>",
    "fenced": lambda n, a: f"```json\n{object_text(n, a)}\n```",
    "doubled": doubled,
    "bare": object_text,
    "llama": lambda n, a: f"<function={n}>{json.dumps(a)}</function>",
    "python tag": lambda n, a: f"<|python_tag|>{object_text(n, a, 'parameters')}",
    "mistral": lambda n, a: f"[TOOL_CALLS][{object_text(n, a)}]",
    "mistral args": lambda n, a: f"[TOOL_CALLS]{n}[ARGS]{json.dumps(a)}",
}
# What no format can carry as plain text between its tags is left out; all else, white space above all, must survive.
VALUES = st.text(st.characters(exclude_categories=["Cs"]), max_size=60).filter(
    lambda v: "</arg_value>" not in v and "</parameter>" not in v and v.strip() != "null"
) | st.sampled_from(
    [
        "def f():\n    return {}\n",
        "```py\nx = 1\n```\n",
        "f'{{x}}'",
        "\n\nleading",
        "<tool_call>list</tool_call>",
        "</tool_call><tool_call>list</tool_call>",
        "{",
        '"}',
    ]
)
ARGUMENTS = st.fixed_dictionaries(
    {"path": VALUES},
    optional={
        "new": VALUES,
        "count": st.integers(-5, 5),
        "all": st.booleans(),
        "lines": st.lists(st.integers(0, 9), max_size=3),
    },
)


@pytest.mark.parametrize("form", FORMATS)
@given(ARGUMENTS)
def test_every_format_round_trips(form: str, args: dict[str, Any]) -> None:
    assert found(FORMATS[form]("edit", args)) == [("edit", args)]


@pytest.mark.parametrize("form", FORMATS)
@given(ARGUMENTS, st.floats(0, 1))
def test_a_call_cut_anywhere_is_whole_or_has_an_error(form: str, args: dict[str, Any], share: float) -> None:
    whole = FORMATS[form]("edit", args)
    for call in recover_calls(whole[: int(len(whole) * share)], TOOLS):
        assert call.error or (call.name, call.arguments) == ("edit", args)
        assert not (call.error and call.arguments)


@given(
    st.lists(
        st.sampled_from(
            [
                *'<>{}[]`\n"ab',
                "<tool_call>",
                "</tool_call>",
                "```json\n",
                '{"name": "edit", ',
                "<function=edit>",
                "<arg_key>",
                "</arg_key>",
                "<arg_value>",
                "{{",
                "[TOOL_CALLS]",
            ]
        ),
        max_size=30,
    ).map("".join)
)
def test_no_text_makes_it_fail(text: str) -> None:
    for call in recover_calls(text, TOOLS):
        assert call.name
        assert not (call.error and call.arguments)


def test_several_calls_after_text() -> None:
    text = "I look first." + poolside("edit", {"path": "a"}) + "\n" + poolside("list", {})
    assert [name for name, _ in found(text)] == ["edit", "list"]


def test_values_are_typed_by_the_schema() -> None:
    args = {"path": "12", "new": "null", "count": "12", "all": "True", "lines": "[1, 2]", "other": "1", "more": "a b"}
    pairs = "".join(f"<arg_key> {k} </arg_key><arg_value>{v}</arg_value>" for k, v in args.items())
    assert found(f"<tool_call>edit{pairs}</tool_call>") == [
        ("edit", {"path": "12", "new": None, "count": 12, "all": True, "lines": [1, 2], "other": 1, "more": "a b"})
    ]
    python_repr = "<tool_call>edit<arg_key>lines</arg_key><arg_value>{'a': 1}</arg_value></tool_call>"
    assert found(python_repr) == [("edit", {"lines": "{'a': 1}"})]


def test_a_key_without_a_value_is_dropped() -> None:
    orphan = "<tool_call>edit<arg_key>old</arg_key><arg_key>path</arg_key><arg_value>a</arg_value></tool_call>"
    assert found(orphan) == [("edit", {"path": "a"})]


def test_a_value_may_hold_anything_but_its_end_tag() -> None:
    value = '</arg>{"name": "list", "arguments": {}}\n</tool_call>\n```\n<tool_call>'
    assert found(poolside("edit", {"path": value})) == [("edit", {"path": value})]


EXAMPLE = '{"name": "edit", "arguments": {"path": "a"}}'


@pytest.mark.parametrize(
    "text",
    [
        "To do this, call `<tool_call>edit</tool_call>` yourself.",
        f"Tags look like this:\n```xml\n<tool_call>{EXAMPLE}</tool_call>\n```\nand so on.",
        "In the middle of a line, <tool_call>frobnicate</tool_call> is prose.",
        "The <tool_call> tag begins a call.",
        '```json\n{"name": "frobnicate", "arguments": {}}\n```',
        '```json\n{"name": "edit", "version": "1.0.0"}\n```',
        f"```python\ncall = {EXAMPLE}\n```",
        f"The object {EXAMPLE} is a call.",
        EXAMPLE + "\nThat was it.",
        '{"name": "frobnicate", "arguments": {}}',
        '{"name": "edit", "scripts": {}}',
        "def f():\n    return {}\n",
        "",
    ],
)
def test_what_only_shows_a_call_is_none(text: str) -> None:
    assert recover_calls(text, TOOLS) == ()


def test_an_unknown_name_in_tags_of_its_own_line_is_a_call_that_can_be_answered() -> None:
    assert found('<tool_call>{"name": "frobnicate", "arguments": {}}</tool_call>') == [("frobnicate", {})]


def test_of_several_fences_the_first_call_counts_unless_all_are_calls() -> None:
    first, second = FORMATS["fenced"]("edit", {"path": "a"}), FORMATS["fenced"]("edit", {"path": "b"})
    assert [args["path"] for _, args in found(f"{first}\nthen\n{second}")] == ["a", "b"]
    assert [args["path"] for _, args in found(f"{first}\n```python\nx\n```\n{second}")] == ["a"]


def test_a_fence_whose_closing_line_a_stop_word_took_is_whole() -> None:
    assert found(f"```json\n{EXAMPLE}\n") == [("edit", {"path": "a"})]


def test_a_call_that_is_the_whole_message_counts_inside_a_fence_too() -> None:
    assert found(f"```xml\n{poolside('edit', {'path': 'a'})}\n```") == [("edit", {"path": "a"})]


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name": "edit", "arguments": {"path": "a',
        '<tool_call>{"name": "edit", "arguments": {\'path\': \'a\'}}</tool_call>',
        "<tool_call>edit<arg_key>path</arg_key><arg_value>a</arg_value>",
        "<tool_call>edit",
        '```json\n{"name": "edit", "arguments": {"path": ...}}\n```',
        '{"name": "edit", "arguments": {"path": "a"',
        "<function=edit><parameter=path>a</parameter>",
        '[TOOL_CALLS][{"name": "edit", "arguments": {"path": "a"}',
        '{"name": "edit", "arguments": "no object"}',
    ],
)
def test_a_broken_call_has_an_error_and_nothing_to_run(text: str) -> None:
    (call,) = recover_calls(text, TOOLS)
    assert call.name == "edit"
    assert call.error
    assert call.arguments == {}


@pytest.mark.parametrize(
    "piece", ["<tool_call> ", "```\n{{\n```\n", "<tool_call>edit<arg_key>", '{"name": "edit"', "`", "<function=edit>{"]
)
def test_hostile_repetition_is_read_quickly(piece: str) -> None:
    recover_calls(piece * (100_000 // len(piece)), TOOLS)


def test_in_thought_only_tags_count() -> None:
    assert recover_calls(EXAMPLE, TOOLS, tagged_only=True) == ()
    (call,) = recover_calls("I read.\n" + poolside("edit", {"path": "a"}), TOOLS, tagged_only=True)
    assert call.arguments == {"path": "a"}
