"""What a call is made of, read from text: JSON that must be whole, and values typed by a tool's schema.

Nothing here completes or repairs. What is not a whole value is told apart from one that is, and that is all.
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from laguna_agent.messages import ToolCall, ToolSpec

CUT_OFF = "the call was cut off before its end"
MALFORMED = "the call is malformed"

_JSON = json.JSONDecoder(strict=False)  # models put raw line breaks into strings, and mean them
_SPACE = re.compile(r"\s*")
_CLAIMED_NAME = re.compile(r'\s*[\[{]*\s*"name"\s*:\s*"([^"\n]{1,200})"')
_LITERALS = {"True": True, "False": False, "None": None}


def parse_arguments(raw: str) -> dict[str, Any] | str:
    """The JSON object that `raw` is, or in words why it is none. A JSON string that holds an object counts, as some
    servers encode twice."""
    text = raw.strip()
    try:
        value, end = _JSON.raw_decode(text)
        if text[end:].strip():
            return "the arguments are not one JSON object: more follows it"
        if isinstance(value, str):
            value = _JSON.decode(value)
        if not isinstance(value, dict):
            return "the arguments are not a JSON object"
        msgspec.json.encode(value)
    except RecursionError:
        return "the arguments are nested too deeply"
    except UnicodeEncodeError:
        return "the arguments hold half of a surrogate pair"
    except ValueError as error:
        return f"the arguments are not valid JSON, or were cut off ({error})"
    return value


def skip_space(text: str, at: int) -> int:
    """The offset of the next character that is no white space."""
    found = _SPACE.match(text, at)
    return found.end() if found else at


def read_json(text: str, at: int, stop: int | None = None) -> tuple[Any, int]:
    """The JSON object or array at `at` and the offset after it; (None, at) where there is no whole one.

    With every brace doubled, as a template with a fault teaches some models, it is read up to `stop`.
    """
    try:
        value, end = _JSON.raw_decode(text, at)
    except (ValueError, RecursionError):
        single, end = _single_braces(text, at, len(text) if stop is None else stop)
        try:
            value = _JSON.decode(single)
        except (ValueError, RecursionError):
            return None, at
    return (value, end) if isinstance(value, dict | list) else (None, at)


def _single_braces(text: str, at: int, stop: int) -> tuple[str, int]:
    if not text.startswith("{{", at):
        return "", at
    out: list[str] = []
    depth, quoted, index = 0, False, at
    while index < stop:
        char = text[index]
        out.append(char)
        if quoted and char == "\\":
            index += 1
            out.append(text[index : index + 1])
        elif char == '"':
            quoted = not quoted
        elif char in "{}" and not quoted:
            index += text.startswith(char, index + 1)
            depth += 1 if char == "{" else -1
            if depth == 0:
                return "".join(out), index + 1
        index += 1
    return "", at


def call_from(value: Any, *, need_arguments: bool = False) -> ToolCall | None:
    """The call that a JSON value spells: {"name", "arguments" | "parameters"}, also inside {"function": ...}.

    None where it spells none; a call with an error where its arguments are no object. The id is empty.
    """
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not value["name"].strip():
        return None
    name = value["name"].strip()
    given = next((value[key] for key in ("arguments", "parameters") if key in value), None)
    if given is None:
        return None if need_arguments else ToolCall("", name)
    raw = given if isinstance(given, str) else json.dumps(given)
    arguments = parse_arguments(raw)
    return ToolCall("", name, raw=raw, error=arguments) if isinstance(arguments, str) else ToolCall("", name, arguments)


def claimed_call(text: str, error: str = CUT_OFF) -> ToolCall | None:
    """The broken call that `text`, which is no whole JSON, set out to be."""
    name = _CLAIMED_NAME.match(text)
    return ToolCall("", name[1].strip(), raw=text, error=error) if name else None


def element(text: str, at: int, tag: str) -> tuple[str | None, int]:
    """The raw inside of <tag>...</tag> at `at` and the offset after it; (None, at) where it is not there, whole."""
    if not text.startswith(f"<{tag}>", at):
        return None, at
    start = at + len(tag) + 2
    end = text.find(f"</{tag}>", start)
    return (None, at) if end < 0 else (text[start:end], end + len(tag) + 3)


def typed_value(text: str, schema: Any) -> Any:
    """The value that the text between two tags stands for.

    Where the schema allows a string the text is the value, untouched, for white space is code. Else JSON is tried, then
    the words True, False and None, and what is neither stays text for the argument check to refuse.
    """
    types = declared_types(schema)
    word = text.strip()
    if "string" in types:
        return None if "null" in types and word == "null" else text
    if types and word in _LITERALS:
        return _LITERALS[word]
    try:
        value = _JSON.decode(word)
        msgspec.json.encode(value)
    except (ValueError, RecursionError):
        return text
    return value


def declared_types(schema: Any) -> set[str]:
    """The JSON types that a schema allows by name, a value of it or a branch; empty where it declares none."""
    if not isinstance(schema, dict):
        return set()
    named = schema.get("type")
    types = {named} if isinstance(named, str) else set(named or ())
    for branch in (*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())):
        types |= declared_types(branch)
    if any(isinstance(value, str) for value in (*schema.get("enum", ()), schema.get("const"))):
        types.add("string")
    return types


def argument_schemas(tool: ToolSpec | None) -> dict[str, Any]:
    """The schema of each argument that `tool` declares, with references into its own `$defs` followed."""
    properties = tool.parameters.get("properties") if tool else None
    if tool is None or not isinstance(properties, dict):
        return {}
    return {name: _resolved(schema, tool.parameters, 0) for name, schema in properties.items()}


def _resolved(schema: Any, root: dict[str, Any], depth: int) -> Any:
    """`schema` with the references followed that decide its type: its own, and those of its branches."""
    # A reference may lead back to itself; no real schema nests a choice this deep.
    if not isinstance(schema, dict) or depth > 8:
        return schema
    reference = schema.get("$ref")
    if isinstance(reference, str):
        target = _pointed_at(reference, root)
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        return schema if target is None else _resolved({**target, **beside}, root, depth + 1)
    branches = {key: schema[key] for key in ("anyOf", "oneOf", "allOf") if isinstance(schema.get(key), list)}
    if not branches:
        return schema
    followed = {key: [_resolved(branch, root, depth + 1) for branch in value] for key, value in branches.items()}
    return {**schema, **followed}


def _pointed_at(reference: str, root: dict[str, Any]) -> dict[str, Any] | None:
    found: Any = root if reference.startswith("#") else None
    for step in reference.removeprefix("#").strip("/").split("/"):
        name = step.replace("~1", "/").replace("~0", "~")
        if name:
            found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else None
