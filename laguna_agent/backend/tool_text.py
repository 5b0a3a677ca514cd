"""Tool calls that a model wrote as text, read in every known format.

Servers without the right parser, and small models with any, leave calls in the content. The formats:

    poolside    <tool_call>name<arg_key>k</arg_key><arg_value>v</arg_value></tool_call>
    hermes      <tool_call>{"name": ..., "arguments": {...}}</tool_call>
    qwen-coder  <function=name><parameter=k>v</parameter></function>, also inside <tool_call>
    llama       <function=name>{...}</function>, <|python_tag|>{"name": ..., "parameters": {...}}
    mistral     [TOOL_CALLS][{"name": ..., "arguments": {...}}], [TOOL_CALLS]name[ARGS]{...}
    fenced      ```json {"name": ..., "arguments": {...}} ```, also with every brace doubled
    bare        the same object, only where it is the whole message and names a known tool

Two rules hold in all of them. A call that did not close comes back with an error and no arguments, so it can be
answered but never run. And text that shows a call is not one: a tag inside code does not count, a tag in the middle of
a line and an object without tags must name a known tool.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from laguna_agent.backend.call_values import (
    CUT_OFF,
    MALFORMED,
    argument_schemas,
    call_from,
    claimed_call,
    element,
    read_json,
    skip_space,
    typed_value,
)
from laguna_agent.messages import ToolCall, ToolSpec

_OPENING = re.compile(
    r"^[ \t]*(?P<fence>```+|~~~+)(?P<language>[^\n`]*)(?:\n|\Z)|(?P<code>`[^`\n]+`)"
    r"|(?P<tag><tool_call>|<function=|\[TOOL_CALLS\]|<\|python_tag\|>)",
    re.MULTILINE,
)
_CALL_LANGUAGES = {"", "json", "tool_call", "tool", "tool_code"}
_NAME = re.compile(r"[\w.:/-]{1,128}")
_NAME_END = re.compile(r"\n|<arg_key>|</tool_call>")
_NAMED_ARGUMENTS = re.compile(r"\s*([\w.-]{1,128})\s*(?:\[CALL_ID\]\w+)?\[ARGS\]\s*")
_PARAMETER = re.compile(r"\s*<parameter=([^>\n]+)>(.*?)</parameter>", re.DOTALL)
_END = "</tool_call>"

Found = tuple[int, list[ToolCall]]
"""The offset after what was read, and the calls in it."""


def recover_calls(text: str, tools: Sequence[ToolSpec], *, tagged_only: bool = False) -> tuple[ToolCall, ...]:
    """The calls in `text`, in order and without ids.

    Tagged calls win over fenced ones; `tagged_only` leaves the others out, as is right for thought. Of several fenced
    blocks the first call counts, unless all of them are calls. After a broken tagged call nothing more is read: what
    follows may be the inside of a value that never closed.
    """
    known = {tool.name: tool for tool in tools}
    if not tagged_only and (bare := _bare(text.strip(), known)):
        return bare
    scan = _Scan(text, known)
    if scan.tagged:
        return tuple(scan.tagged)
    calls = [call for call in scan.blocks if call is not None]
    if calls and not tagged_only:
        return tuple(calls if len(calls) == len(scan.blocks) else calls[:1])
    if scan.only_fence is not None:
        tagged = _Scan(scan.only_fence, known).tagged
        if all(call.name in known for call in tagged):
            return tuple(tagged)
    return ()


def _bare(text: str, tools: dict[str, ToolSpec]) -> tuple[ToolCall, ...]:
    calls: list[ToolCall] = []
    at = 0
    while text.startswith(("{", "["), at):
        value, end = read_json(text, at)
        if value is None:
            claimed = claimed_call(text[at:])
            return () if claimed is None or claimed.name not in tools else (*calls, claimed)
        for item in value if isinstance(value, list) else [value]:
            call = call_from(item, need_arguments=True)
            if call is None or call.name not in tools:
                return ()
            calls.append(call)
        at = skip_space(text, end)
    return tuple(calls) if at == len(text) else ()


class _Scan:
    """One pass from left to right, so that a fence inside a call's value and a tag inside a fence both stay what they
    are. `blocks` has an entry for each fence, None where it is no call; `only_fence` is the inside of one that is all
    there is."""

    def __init__(self, text: str, tools: dict[str, ToolSpec]) -> None:
        self.text = text
        self.tools = tools
        self.tagged: list[ToolCall] = []
        self.blocks: list[ToolCall | None] = []
        self.only_fence: str | None = None
        at = 0
        while opening := _OPENING.search(text, at):
            if opening["fence"]:
                at = self._fence(opening)
            elif opening["code"]:
                at = opening.end()
            else:
                at = self._tag(opening)

    def _fence(self, opening: re.Match[str]) -> int:
        text, start = self.text, opening.end()
        closing_line = re.compile(rf"^[ \t]*{opening['fence'][0]}{{{len(opening['fence'])},}}[ \t]*$", re.MULTILINE)
        closing = closing_line.search(text, start)
        body = skip_space(text, start)
        call = None
        if opening["language"].strip().lower() in _CALL_LANGUAGES and text.startswith("{", body):
            value, end = read_json(text, body, closing.start() if closing else None)
            if value is None:
                call = claimed_call(
                    text[body : closing.start() if closing else len(text)], MALFORMED if closing else CUT_OFF
                )
            else:
                call = call_from(value, need_arguments=True)
                # A string in the object may hold a fence of its own.
                closing = closing_line.search(text, end)
            if call is not None and call.name not in self.tools:
                call = None
        inside_end, after = (closing.start(), closing.end()) if closing else (len(text), len(text))
        self.blocks.append(call)
        if not text[: opening.start()].strip() and not text[after:].strip():
            self.only_fence = text[start:inside_end]
        return after

    def _tag(self, opening: re.Match[str]) -> int:
        start = opening.start()
        readers = {"<tool_call>": self._tool_call, "<function=": self._function}
        end, calls = readers.get(opening["tag"], self._marked)(opening.end())
        begins_line = not self.text[self.text.rfind("\n", 0, start) + 1 : start].strip()
        for call in calls:
            if call.name in self.tools or begins_line:
                end = len(self.text) if call.error else end
                self.tagged.append(call)
        return max(end, opening.end())

    def _tool_call(self, at: int) -> Found:
        body = skip_space(self.text, at)
        if self.text.startswith("<function=", body):
            end, calls = self._function(body + len("<function="))
            return self._past(_END, end), calls
        if self.text.startswith("{", body):
            return self._hermes(body)
        return self._poolside(at)

    def _hermes(self, at: int) -> Found:
        closing = self.text.find(_END, at)
        value, end = read_json(self.text, at, None if closing < 0 else closing)
        if value is not None:
            # The object closed, so the call is whole even where the model forgot the closing tag.
            call, end = call_from(value), self._past(_END, end)
        else:
            inside_end = len(self.text) if closing < 0 else closing
            call = claimed_call(self.text[at:inside_end], CUT_OFF if closing < 0 else MALFORMED)
            end = self._past(_END, inside_end)
        return end, [] if call is None else [call]

    def _poolside(self, at: int) -> Found:
        text = self.text
        name_end = _NAME_END.search(text, at, at + 200)
        name = text[at : name_end.start() if name_end else at + 200].strip()
        if name_end is None:
            # "<tool_call>read" as the last word is a call that had begun; a sentence about the tag is none.
            if name not in self.tools:
                return at, []
            return len(text), [ToolCall("", name, error=CUT_OFF)]
        if not _NAME.fullmatch(name):
            return at, []
        position = skip_space(text, name_end.end() if name_end[0] == "\n" else name_end.start())
        if name not in self.tools and not text.startswith((_END, "<arg_key>"), position):
            return at, []
        values, position = self._keys_and_values(position)
        if text.startswith(_END, position):
            properties = argument_schemas(self.tools.get(name))
            arguments = {key: typed_value(value, properties.get(key)) for key, value in values.items()}
            return position + len(_END), [ToolCall("", name, arguments)]
        error = MALFORMED if text.rstrip().endswith(_END) else CUT_OFF
        return len(text), [ToolCall("", name, raw=text[at:], error=error)]

    def _keys_and_values(self, at: int) -> tuple[dict[str, str], int]:
        """The pairs at `at`, and where they stop; a key without a value is dropped."""
        values: dict[str, str] = {}
        while True:
            at = skip_space(self.text, at)
            key, after_key = element(self.text, at, "arg_key")
            if key is None:
                return values, at
            value_at = skip_space(self.text, after_key)
            value, after = element(self.text, value_at, "arg_value")
            if value is not None:
                values[key.strip()] = value
            elif self.text.startswith("<arg_value>", value_at):
                return values, value_at
            at = after

    def _function(self, at: int) -> Found:
        text = self.text
        closing = text.find(">", at, at + 200)
        name = text[at:closing].strip() if closing > 0 else ""
        if name not in self.tools:
            return at, []
        body = skip_space(text, closing + 1)
        if text.startswith("{", body):
            value, end = read_json(text, body)
            if not isinstance(value, dict):
                return len(text), [ToolCall("", name, raw=text[body:], error=CUT_OFF)]
            return self._past("</function>", end), [_checked(name, value)]
        arguments: dict[str, Any] = {}
        properties = argument_schemas(self.tools[name])
        at = closing + 1
        while parameter := _PARAMETER.match(text, at):
            # The format puts each value on lines of its own, so one line break on either side is not the value's.
            value = parameter[2].removeprefix("\n").removesuffix("\n")
            arguments[parameter[1].strip()] = typed_value(value, properties.get(parameter[1].strip()))
            at = parameter.end()
        at = skip_space(text, at)
        if text.startswith("</function>", at):
            return at + len("</function>"), [ToolCall("", name, arguments)]
        return len(text), [ToolCall("", name, raw=text[body:], error=CUT_OFF)]

    def _marked(self, at: int) -> Found:
        named = _NAMED_ARGUMENTS.match(self.text, at)
        body = named.end() if named else skip_space(self.text, at)
        value, end = read_json(self.text, body)
        if value is None:
            call = (
                ToolCall("", named[1], raw=self.text[body:], error=CUT_OFF) if named else claimed_call(self.text[body:])
            )
            return len(self.text), [] if call is None else [call]
        if named:
            return end, [_checked(named[1], value)]
        calls = [call_from(item) for item in (value if isinstance(value, list) else [value])]
        return end, [call for call in calls if call is not None]

    def _past(self, closing: str, at: int) -> int:
        position = skip_space(self.text, at)
        return position + len(closing) if self.text.startswith(closing, position) else at


def _checked(name: str, arguments: Any) -> ToolCall:
    call = call_from({"name": name, "arguments": arguments})
    return call or ToolCall("", name, error=MALFORMED)
