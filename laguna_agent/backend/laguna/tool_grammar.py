"""A grammar of whole answers: thinking and prose are free, every call names a real tool and fits its schema.

Knows tools and the call syntaxes; must not know tokens. The text is in llguidance's dialect of Lark. Within a thought
`<tool_call>` cannot be written; after it every `<tool_call>` begins a call.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from laguna_agent.backend.call_values import argument_schemas, declared_types
from laguna_agent.backend.laguna.argument_grammar import Compiles, json_rule, lark_text, string_rule
from laguna_agent.backend.laguna.chat_family import ChatFamily
from laguna_agent.messages import ToolSpec

_ANY_ORDER = 5
"""Up to so many arguments may come in any order; the states double with each. More come in the schema's order."""
_CHECKED_ABOVE = {"type", "properties", "required", "additionalProperties", "$defs", "definitions", "$schema", "$id"}
_ANNOTATIONS = {"title", "description", "examples", "$comment", "default"}


class ToolGrammar(msgspec.Struct, frozen=True):
    """`text` is the grammar; `loose` names what it does not guarantee, as "tool.argument" or "tool"."""

    text: str
    loose: tuple[str, ...]


def tool_grammar(
    tools: Sequence[ToolSpec],
    family: ChatFamily,
    compiles: Compiles,
    *,
    in_thought: bool,
    must_call: bool = False,
) -> ToolGrammar:
    """The grammar of an answer that may call `tools`.

    `in_thought`: the prompt has left a `<think>` open; the answer must then close it. `must_call`: a call follows at
    once, without prose. Family decides on the syntax and on line breaks inside the tags.
    """
    writer = _Writer(family, compiles)
    names = [writer.tool(index, tool) for index, tool in enumerate(tools)]
    call = " | ".join(names)
    first = '"<tool_call>" call ' if must_call else ""
    space = 'lead "<tool_call>" call ' if must_call and family.line_tags else first
    lines = [
        "%llguidance {}",
        f"start: {'thought ' if in_thought else ''}{space}(to_call call)* PROSE",
        r"thought[lazy]: PROSE_OF_THOUGHT",
        r"PROSE_OF_THOUGHT: /(?s:.*)<\/think>/ & ~/(?s:.*)<tool_call>(?s:.*)/",
        r"to_call[lazy]: /(?s:.*)<tool_call>/",
        # A complement alone would match what is no UTF-8, and then every tag after it.
        r"PROSE: /(?s:.*)/ & ~/(?s:.*)<tool_call>(?s:.*)/",
        r"lead: /\n{0,2}/",
        f"call: {call}",
        *writer.lines,
    ]
    return ToolGrammar("\n".join(lines) + "\n", tuple(writer.loose))


def schema_grammar(schema: dict[str, Any], compiles: Compiles, *, in_thought: bool) -> ToolGrammar:
    """The grammar of an answer that is JSON valid under `schema` and nothing else; a thought that is open is closed
    first. `loose` is ("",) where the schema says more than the grammar can."""
    answer, loose = json_rule(schema, schema, compiles, tagged=False)
    lines = [
        "%llguidance {}",
        f"start: {'thought lead ' if in_thought else ''}answer",
        r"thought[lazy]: /(?s:.*)<\/think>/",
        r"lead: /\n{0,2}/",
        f"answer: {answer}",
    ]
    return ToolGrammar("\n".join(lines) + "\n", ("",) if loose else ())


class _Writer:
    """Collects the rules of the tools; every method gives the name of a rule."""

    def __init__(self, family: ChatFamily, compiles: Compiles) -> None:
        self.hermes = family.call_syntax == "hermes"
        self.line = "\n" if family.line_tags else ""
        self.compiles = compiles
        self.lines: list[str] = [] if self.hermes else [r"any_text[lazy]: /(?s:.*)<\/arg_value>/"]
        self.loose: list[str] = []

    def tool(self, index: int, tool: ToolSpec) -> str:
        """One tool's call, after the opening tag."""
        rule = f"tool{index}"
        if set(tool.parameters) - _CHECKED_ABOVE - _ANNOTATIONS:
            self.loose.append(tool.name)
        if self.hermes:
            schema = {"type": "object", **tool.parameters}
            arguments, loose = json_rule(schema, tool.parameters, self.compiles, tagged=False)
            head = lark_text(f'{self.line}{{"name": {json.dumps(tool.name)}, "arguments": ')
            self.lines.append(f"{rule}: {head} {arguments} {lark_text('}' + self.line + '</tool_call>')}")
            self.loose += [tool.name] * (loose and tool.name not in self.loose)
            return rule
        after = self._free_keys(rule, tool) if self._takes_any_key(tool) else self._declared(rule, tool)
        self.lines.append(f"{rule}: {lark_text(tool.name + self.line)} {after}")
        return rule

    def _takes_any_key(self, tool: ToolSpec) -> bool:
        extra = tool.parameters.get("additionalProperties", True)
        return (
            not tool.parameters.get("properties") and extra is not False and "additionalProperties" in tool.parameters
        )

    def _free_keys(self, rule: str, tool: ToolSpec) -> str:
        """Arguments of a tool that declares none and takes all."""
        extra = tool.parameters["additionalProperties"]
        value, loose = json_rule(extra, tool.parameters, self.compiles, tagged=True)
        self.loose += [f"{tool.name}.*"] * loose
        opening = lark_text(f"</arg_key>{self.line}<arg_value>")
        closing = lark_text(f"</arg_value>{self.line}")
        self.lines.append(f'{rule}_pair: "<arg_key>" /[A-Za-z_][A-Za-z0-9_.-]{{0,63}}/ {opening} {value} {closing}')
        return f'{rule}_pair* "</tool_call>"'

    def _declared(self, rule: str, tool: ToolSpec) -> str:
        schemas = argument_schemas(tool)
        required = [name for name in tool.parameters.get("required", ()) if name in schemas]
        self.loose += [f"{tool.name}.{name}" for name in tool.parameters.get("required", ()) if name not in schemas]
        pairs = {}
        for number, (name, schema) in enumerate(schemas.items()):
            pairs[name] = f"{rule}_arg{number}"
            self._pair(pairs[name], f"{tool.name}.{name}", name, schema, tool.parameters)
        if len(pairs) > _ANY_ORDER:
            return " ".join(pair + "?" * (name not in required) for name, pair in pairs.items()) + ' "</tool_call>"'
        return self._in_any_order(rule, list(pairs.items()), set(required))

    def _in_any_order(self, rule: str, pairs: list[tuple[str, str]], required: set[str]) -> str:
        """One rule for each set of arguments already given."""
        for given in range(1 << len(pairs)):
            ways = [
                f"{pair} {rule}_given{given | 1 << bit}" for bit, (_, pair) in enumerate(pairs) if not given >> bit & 1
            ]
            if all(given >> bit & 1 for bit, (name, _) in enumerate(pairs) if name in required):
                ways.append('"</tool_call>"')
            self.lines.append(f"{rule}_given{given}: {' | '.join(ways)}")
        return f"{rule}_given0"

    def _pair(self, rule: str, label: str, name: str, schema: Any, root: dict[str, Any]) -> None:
        opening = lark_text(f"<arg_key>{name}</arg_key>{self.line}<arg_value>")
        if "string" in declared_types(schema):
            value = self._text(rule, label, schema)
        else:
            expression, loose = json_rule(schema, root, self.compiles, tagged=True)
            self.loose += [label] * loose
            value = f'{expression} "</arg_value>"'
        self.lines.append(f"{rule}: {opening} {value}{' ' + lark_text(self.line) if self.line else ''}")

    def _text(self, rule: str, label: str, schema: dict[str, Any]) -> str:
        expression = string_rule(schema)
        if expression is None:
            return "any_text"
        # One terminal with its closing tag: a text that may itself begin like the tag must not swallow half of it.
        terminal = f"{rule.upper()}_TEXT"
        line = f'{terminal}: ({expression}) "</arg_value>"'
        if not expression or not self.compiles(f"start: {terminal}\n{line}"):
            self.loose.append(label)
            return "any_text"
        self.lines.append(line)
        return terminal
