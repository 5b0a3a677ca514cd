"""The tools a session offers: how the model sees them, and how its calls become arguments.

Knows names, schemas and decoding; it must not know what a tool does, nor how a server spells a call.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

import msgspec

from laguna_agent.errors import ToolError
from laguna_agent.messages import ToolCall, ToolSpec
from laguna_agent.tools.base import SchemaTool, StructTool, Tool


class Registry:
    """A fixed set of tools. `internal` ones can be called but are not advertised to the model."""

    def __init__(self, tools: Sequence[Tool], internal: Sequence[Tool] = ()) -> None:
        self._advertised = tuple(tools)
        self._internal = tuple(internal)
        self._tools = {tool.name: tool for tool in (*tools, *internal)}

    def joined(self, tools: Sequence[Tool]) -> Registry:
        """These tools and `tools` after them."""
        return Registry((*self._advertised, *tools), self._internal)

    def specs(self) -> tuple[ToolSpec, ...]:
        """The advertised tools, always in the same order and the same bytes."""
        return tuple(spec(tool) for tool in self._advertised)

    def get(self, name: str) -> Tool:
        """The tool of that name; ToolError that names the nearest one when there is none."""
        tool = self._tools.get(name)
        if tool is None:
            known = [each.name for each in self._advertised]
            near = difflib.get_close_matches(name.lower(), known, 1, 0.5)
            hint = f"did you mean {near[0]}?" if near else f"the tools are {', '.join(known)}."
            raise ToolError(f"There is no tool named {name!r}; {hint}")
        return tool

    def decode(self, call: ToolCall) -> Any:
        """The call's arguments as the tool's struct. ToolError, one sentence, when the call must not be executed."""
        tool = self.get(call.name)
        if call.error:
            raise ToolError(f"The call of {call.name} was not executed: {call.error}")
        if isinstance(tool, SchemaTool):
            from laguna_agent.tools.schema_arguments import checked

            return checked(call.name, call.arguments, tool.spec.parameters)
        kind = _struct(tool)
        try:
            return msgspec.convert(_lenient(call.arguments, kind), kind, strict=False)
        except msgspec.ValidationError as error:
            raise ToolError(f"{call.name}: {_explain(str(error), kind)}") from None


def default_registry() -> Registry:
    """Every tool of the program."""
    from laguna_agent.tools.edit import Edit
    from laguna_agent.tools.grep import Grep
    from laguna_agent.tools.list import List
    from laguna_agent.tools.plan import Plan
    from laguna_agent.tools.read import Read
    from laguna_agent.tools.rewrite import RewriteSymbol
    from laguna_agent.tools.shell import Shell
    from laguna_agent.tools.write import Write

    return Registry([Read(), Write(), Edit(), List(), Grep(), Shell(), Plan()], internal=[RewriteSymbol()])


def spec(tool: Tool) -> ToolSpec:
    """A tool as the model sees it: its own words and schema, or words from its .md and parameters from its struct."""
    return tool.spec if isinstance(tool, SchemaTool) else _spec(tool.name, _struct(tool))


def _struct(tool: Tool) -> type[msgspec.Struct]:
    # Every tool that brings no schema is one of ours.
    return cast(StructTool, tool).arguments


@cache
def _spec(name: str, arguments: type[msgspec.Struct]) -> ToolSpec:
    text = (Path(__file__).parent / f"{name}.md").read_text(encoding="utf-8")
    described = dict(re.findall(r"^- (\w+): (.+)$", text, re.MULTILINE))
    parameters = _schema(msgspec.inspect.type_info(arguments))
    unknown = described.keys() - parameters["properties"].keys()
    if unknown:
        raise ValueError(f"{name}.md describes fields that the tool lacks: {sorted(unknown)}")
    for field, words in described.items():
        parameters["properties"][field]["description"] = words
    description = re.sub(r"\s+", " ", text.split("\n\n", 1)[0]).strip()
    return ToolSpec(name, description, parameters)


def _schema(kind: msgspec.inspect.Type) -> dict[str, Any]:
    """JSON Schema of an argument type, with nothing a model can do without."""
    simple = {
        msgspec.inspect.StrType: "string",
        msgspec.inspect.IntType: "integer",
        msgspec.inspect.FloatType: "number",
        msgspec.inspect.BoolType: "boolean",
    }
    match kind:
        case msgspec.inspect.StructType(fields=fields):
            properties = {field.encode_name: _schema(field.type) for field in fields}
            return {
                "type": "object",
                "properties": properties,
                "required": [field.encode_name for field in fields if field.required],
            }
        case msgspec.inspect.LiteralType(values=values):
            return {"type": "string", "enum": list(values)}
        case msgspec.inspect.VarTupleType(item_type=item) | msgspec.inspect.ListType(item_type=item):
            return {"type": "array", "items": _schema(item)}
        case msgspec.inspect.UnionType(types=types):
            return _schema(next(each for each in types if not isinstance(each, msgspec.inspect.NoneType)))
    return {"type": simple[type(kind)]}


@cache
def _forgiven(struct: type[msgspec.Struct]) -> tuple[frozenset[str], frozenset[str]]:
    """The fields that may be null, and those that may be a string of JSON."""
    fields = msgspec.inspect.type_info(struct).fields  # type: ignore[attr-defined]
    lists = (field.encode_name for field in fields if isinstance(field.type, msgspec.inspect.VarTupleType))
    return frozenset(field.encode_name for field in fields if not field.required), frozenset(lists)


def _lenient(arguments: dict[str, Any], struct: type[msgspec.Struct]) -> dict[str, Any]:
    """Forgive what models often get wrong and what has only one meaning: null for "not given", and a list or object
    written as a string of JSON. (Numbers and booleans as strings are msgspec's own leniency.)"""
    optional, lists = _forgiven(struct)
    kept: dict[str, Any] = {}
    for name, value in arguments.items():
        if value is None and name in optional:
            continue
        kept[name] = value
        if name in lists and isinstance(value, str):
            try:
                kept[name] = msgspec.json.decode(value)
            except msgspec.DecodeError:
                continue
    return kept


def _explain(error: str, struct: type[msgspec.Struct]) -> str:
    """msgspec's message as one sentence that names the field."""
    known = [field.encode_name for field in msgspec.structs.fields(struct)]
    problem, _, where = error.partition(" - at ")
    where = where.strip("`").removeprefix("$").removeprefix(".")
    inside = f" in {where}" if where else ""
    if found := re.match(r"Object contains unknown field `(.*)`", problem):
        near = difflib.get_close_matches(found[1], known, 1, 0.4)
        hint = f"did you mean {near[0]!r}?" if near and not where else f"the fields are {', '.join(known)}."
        return f"there is no field {found[1]!r}{inside}; {hint}"
    if found := re.match(r"Object missing required field `(.*)`", problem):
        return f"the field {found[1]!r} is missing{inside}."
    return f"the field {where!r} is wrong: {problem.replace('`', '').lower()}."
