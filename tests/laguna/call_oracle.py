"""What a whole output text holds, read by regular expressions over all of it: the oracle for the streaming parser.

Nothing is shared with the parser but `typed_value`, `call_from` and `read_json`. A broken call is (name, None).
"""

from __future__ import annotations

import re
from typing import Any

from laguna_agent.backend.call_values import argument_schemas, call_from, claimed_call, read_json, typed_value
from laguna_agent.messages import ToolSpec

Calls = list[tuple[str, dict[str, Any] | None]]

PAIR = (
    r"\s*<arg_key>((?:(?!</arg_key>|<arg_value>|</tool_call>).)*)</arg_key>"
    r"(?:\s*<arg_value>(.*?)</arg_value>|(?=\s*<arg_key>|\s*</tool_call>))"
)
NAMED = re.compile(
    r"<tool_call>\s*+(?P<name>(?:(?!<arg_key>|</tool_call>)[^\n])*?)[^\S\n]*(?=\n|<arg_key>|</tool_call>)"
)
HEAD = re.compile(r'\{\s*"name"\s*:\s*"([^"\\<]{1,128})"\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{[^{])')
AFTER = re.compile(r"\s*\}?\s*</tool_call>|(?:\s*\}\s*)?")
BODY = re.compile(rf"(?P<pairs>(?>{PAIR})*+)\s*</tool_call>", re.DOTALL)
EVENT = re.compile(r"<think>|</think>|<tool_call>|</assistant>")


def read_whole(text: str, tools: list[ToolSpec], in_thought: bool, padded: bool) -> tuple[str, str, Calls]:
    """Reasoning, content and calls of a whole output."""
    known = {tool.name: tool for tool in tools}
    thoughts, content, calls = [""] if in_thought else [], "", Calls()
    thinking, line, at = in_thought, "", 0
    while found := EVENT.search(text, at):
        before, tag = text[at : found.start()], found[0]
        line = (line + before).rpartition("\n")[2]
        if thinking:
            thoughts[-1] += before
        else:
            content += before
        at = found.end()
        literal = tag
        if tag == "</assistant>":
            break
        if tag == "</think>" and (thinking or not content.strip()):
            thinking, literal, line = False, "", ""
        elif tag == "<think>" and thinking and not thoughts[-1].strip():
            literal = ""
        elif tag == "<think>" and not thinking and not line.strip():
            thinking, literal = True, ""
            thoughts.append("")
        elif tag == "<tool_call>":
            call, end = call_at(text, found.start(), known, thinking)
            if end:
                calls += call
                at, literal, line = end, "", ""
            elif text[at:].lstrip().startswith("{"):
                line = ""
        line += literal
        if thinking:
            thoughts[-1] += literal
        else:
            content += literal
    else:
        if thinking:
            thoughts[-1] += text[at:]
        else:
            content += text[at:]
    return joined(thoughts, padded), trimmed(content, padded), calls


def trimmed(text: str, padded: bool) -> str:
    """A channel's text, as the parser's docstring says."""
    if not text.strip():
        return ""
    return text.strip() if padded else text


def joined(thoughts: list[str], padded: bool) -> str:
    """Several stretches of thought as one, a line break before each but the first that says anything."""
    whole = ""
    for index, thought in enumerate(thoughts):
        whole += ("\n" if index and whole.strip() else "") + thought
    return trimmed(whole, padded)


def call_at(text: str, start: int, known: dict[str, ToolSpec], thinking: bool) -> tuple[Calls, int]:
    """The call whose tag is at `start` and the offset after it; 0 where there is none."""
    body = re.compile(r"<tool_call>\s*").match(text, start).end()
    if text.startswith("{", body):
        return json_call(text, body)
    named = NAMED.match(text, start)
    if named is None or named.end() - body >= 190:
        rest = text[body:].strip()
        return ([(rest, None)], len(text)) if rest in known and len(text) - body < 200 else ([], 0)
    name, at = named["name"].strip(), named.end()
    if not name:
        end = text.find("</tool_call>", at)
        return [], end + 12 if end >= 0 else len(text)
    follows = text[at:].lstrip().startswith(("<arg_key>", "</tool_call>"))
    if name not in known and (thinking or not follows or not re.fullmatch(r"[\w.:/-]{1,128}", name)):
        return [], 0
    whole = BODY.match(text, at)
    if whole:
        schemas = argument_schemas(known.get(name))
        values: dict[str, Any] = {}
        position = at
        while (pair := re.compile(PAIR, re.DOTALL).match(text, position)) and pair.end() <= whole.end():
            if pair[2] is not None:
                values[pair[1].strip()] = typed_value(pair[2], schemas.get(pair[1].strip()))
            position = pair.end()
        return [(name, values)], re.compile(r"\s*</tool_call>").match(text, position).end()
    return [(name, None)], end_of_broken(text, at)


def end_of_broken(text: str, at: int) -> int:
    """Where a call that is not whole ends: at the tag after the first thing that does not belong, or with the text."""
    pair = re.compile(PAIR, re.DOTALL)
    while found := pair.match(text, at):
        at = found.end()
    unclosed = re.compile(
        r"\s*<arg_key>(?:(?!</arg_key>|<arg_value>|</tool_call>).)*</arg_key>\s*<arg_value>", re.DOTALL
    )
    if unclosed.match(text, at):
        return len(text)
    end = text.find("</tool_call>", at)
    return end + 12 if end >= 0 else len(text)


def json_call(text: str, body: int) -> tuple[Calls, int]:
    """A call in the hermes form."""
    head = HEAD.match(text, body)
    if head:
        value, end = read_json(text, head.end())
        if value is not None:
            return [(head[1].strip(), value)], AFTER.match(text, end).end()
        # An argument object that is not JSON ends where its braces balance outside strings, or at a tag there.
        depth = 0
        for token in re.finditer(r'"(?:[^"\\]|\\.)*(?:"|\\?\Z)|[{}]|</tool_call>', text[head.end() :], re.DOTALL):
            depth += {"{": 1, "}": -1}.get(token[0], 0)
            if token[0] == "</tool_call>":
                return [(head[1].strip(), None)], head.end() + token.end()
            if depth == 0:
                return [(head[1].strip(), None)], AFTER.match(text, head.end() + token.end()).end()
        return [(head[1].strip(), None)], len(text)
    for end in [found.start() for found in re.finditer("</tool_call>", text[body:])] + [len(text) - body]:
        inside = text[body : body + end]
        value, stop = read_json(text, body, body + end)
        if value is None and re.sub(r"\\.", "", inside, flags=re.DOTALL).count('"') % 2 and end < len(text) - body:
            continue
        call = call_from(value) if value is not None else claimed_call(inside)
        if call is None:
            return [], 0
        if value is None:
            return [(call.name, None)], min(body + end + 12, len(text))
        after = re.compile(r"\s*</tool_call>|").match(text, stop)
        return [(call.name, None if call.error else call.arguments)], after.end()
    raise AssertionError("the end of the text is always tried")
