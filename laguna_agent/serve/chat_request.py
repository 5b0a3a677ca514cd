"""The body of POST /v1/chat/completions as a `Request`, and how it is to be answered.

The mirror of `encode_request` in `backend/wire.py`, for every dialect of it. Whatever a client asks for is honoured or
refused by name: a field that nobody here knows is an error, as it is at OpenAI, unless it is null or asks for nothing.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import msgspec

from laguna_agent.backend.base import Request, Sampling
from laguna_agent.messages import ToolSpec
from laguna_agent.serve.conversation import AnyMessage, read_messages
from laguna_agent.serve.refusals import Refused

DEPTH_LIMIT = 100
"""How deep a body may nest; the schemas of real tools stay under 20."""

Count = Annotated[int, msgspec.Meta(ge=1, le=2**53)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]
StopText = Annotated[str, msgspec.Meta(min_length=1)]
Effort = Literal["none", "low", "medium", "high"]

# Asks for nothing that an answer could show: whom to bill, what to store, hints for caches.
_PASSED_OVER = frozenset(
    {
        *("user", "metadata", "service_tier", "prediction", "safety_identifier"),
        *("prompt_cache_key", "prompt_cache_retention", "cache_prompt"),
    }
)
# Known fields that this server cannot honour, with the value that asks for nothing, and what to do instead.
_NOT_HONOURED: dict[str, tuple[Any, str]] = {
    "n": (1, "there is one answer a request; ask n times"),
    "logit_bias": ({}, "no bias can be set on tokens"),
    "parallel_tool_calls": (True, "how many calls an answer makes is left to the model"),
    "modalities": (["text"], "the model answers with text"),
    "audio": (None, "the model answers with text"),
    "functions": ([], "give the functions as `tools`"),
    "function_call": ("auto", "give the functions as `tools` and choose with `tool_choice`"),
    "store": (False, "nothing is stored here"),
    "verbosity": ("medium", "say in the messages how long the answer should be"),
    "web_search_options": (None, "this server searches no web"),
}
_PLACE = re.compile(r" - at `\$\.?(.*)`$")
_MISSING = re.compile(r"Object missing required field `(.+)`")


class _Function(msgspec.Struct):
    name: Annotated[str, msgspec.Meta(min_length=1)]
    description: str | None = None
    parameters: dict[str, Any] | None = None


class _Tool(msgspec.Struct, tag_field="type", tag="function"):
    function: _Function


class _Schema(msgspec.Struct):
    schema: dict[str, Any]


class _TextFormat(msgspec.Struct, tag_field="type", tag="text"):
    pass


class _ObjectFormat(msgspec.Struct, tag_field="type", tag="json_object"):
    pass


class _SchemaFormat(msgspec.Struct, tag_field="type", tag="json_schema"):
    json_schema: _Schema


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _TemplateArguments(msgspec.Struct, forbid_unknown_fields=True):
    enable_thinking: bool | None = None


class _Reasoning(msgspec.Struct, forbid_unknown_fields=True):
    """OpenRouter's object."""

    enabled: bool | None = None
    effort: Effort | None = None
    max_tokens: Count | None = None


class _Body(msgspec.Struct, kw_only=True):
    model: str
    messages: Annotated[list[AnyMessage], msgspec.Meta(min_length=1)]
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    return_progress: bool | None = None
    tools: list[_Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    response_format: _TextFormat | _ObjectFormat | _SchemaFormat | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0)] | None = None
    top_p: Share | None = None
    top_k: Annotated[int, msgspec.Meta(ge=-1, le=2**53)] | None = None
    min_p: Share | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, msgspec.Meta(gt=0)] | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    seed: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: StopText | list[StopText] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    reasoning_effort: Effort | None = None
    chat_template_kwargs: _TemplateArguments | None = None
    reasoning: _Reasoning | None = None


_FIELDS = frozenset(_Body.__struct_fields__)


class ChatRequest(msgspec.Struct, frozen=True):
    """A request and how its answer is to be sent. `request.model` is the name that the client used.

    `include_usage` asks for a last chunk with the usage, `return_progress` (llama.cpp's) for chunks that say how much
    of the prompt is read.
    """

    request: Request
    stream: bool = False
    include_usage: bool = False
    return_progress: bool = False


def read_chat_request(body: bytes) -> ChatRequest:
    """The request that a body holds. Raises Refused, which names the field."""
    wire = _read(_object(body))
    request = Request(
        model=wire.model,
        messages=tuple(read_messages(wire.messages)),
        tools=_tools(wire),
        sampling=_sampling(wire),
        response_schema=_response_schema(wire),
    )
    usage = wire.stream_options is not None and bool(wire.stream_options.include_usage)
    return ChatRequest(request, bool(wire.stream), usage, bool(wire.return_progress))


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(body)
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:  # msgspec's own errors, and UnicodeDecodeError
        reason = " ".join(str(error).split())
        raise Refused(f"the body is not valid JSON: {reason}", code="invalid_json") from None
    if not isinstance(value, dict):
        raise Refused("the body is not a JSON object", code="invalid_json")
    if _deeper_than(value, DEPTH_LIMIT):
        raise _too_deep()
    return value


def _too_deep() -> Refused:
    return Refused(f"the body nests deeper than {DEPTH_LIMIT} levels", code="invalid_json")


def _deeper_than(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def _read(body: dict[str, Any]) -> _Body:
    given = {name: value for name, value in body.items() if value is not None}
    for name, value in given.items():
        if name in _NOT_HONOURED:
            neutral, instead = _NOT_HONOURED[name]
            if type(value) is not type(neutral) or value != neutral:
                raise Refused(
                    f"{name} = {_shown(value)} cannot be honoured: {instead}", param=name, code="unsupported_value"
                )
        elif name not in _FIELDS and name not in _PASSED_OVER:
            raise Refused(f"unknown parameter: {name[:80]!r}", param=name[:80], code="unknown_parameter")
    try:
        return msgspec.convert(given, _Body)
    except msgspec.ValidationError as error:
        place, reason = _place_and_reason(str(error))
        raise Refused(f"{place}: {reason}" if place else reason, param=place or None, code="invalid_value") from None


def _place_and_reason(said: str) -> tuple[str, str]:
    """Where a body is wrong, as a path, and how, from what msgspec says."""
    found, reason = _PLACE.search(said), _PLACE.sub("", said)
    place = found[1] if found else ""
    if missing := _MISSING.fullmatch(reason):
        return f"{place}.{missing[1]}".lstrip("."), "is required"
    return place, reason[:1].lower() + reason[1:]


def _shown(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 60 else text[:57] + "..."


def _tools(wire: _Body) -> tuple[ToolSpec, ...]:
    """The tools that the model may call: "none" takes them away. That it must call is nothing a `Request` can say."""
    choice = wire.tool_choice
    if choice is None or choice == "auto":
        return tuple(_tool(tool.function) for tool in wire.tools or ())
    if choice == "none":
        return ()
    if choice == "required" or isinstance(choice, dict):
        instead = "this server cannot make the model call a tool; send auto, or none"
        raise Refused(
            f"tool_choice = {_shown(choice)} cannot be honoured: {instead}",
            param="tool_choice",
            code="unsupported_value",
        )
    raise Refused(
        f"tool_choice: expected auto or none, got {_shown(choice)}", param="tool_choice", code="invalid_value"
    )


def _tool(function: _Function) -> ToolSpec:
    parameters = {"type": "object", "properties": {}} if function.parameters is None else function.parameters
    return ToolSpec(function.name, function.description or "", parameters)


def _response_schema(wire: _Body) -> dict[str, Any] | None:
    wanted = wire.response_format
    if isinstance(wanted, _SchemaFormat):
        return wanted.json_schema.schema
    return {"type": "object"} if isinstance(wanted, _ObjectFormat) else None


def _sampling(wire: _Body) -> Sampling:
    if wire.top_logprobs is not None and not wire.logprobs:
        raise Refused("top_logprobs needs logprobs: true", param="top_logprobs", code="invalid_value")
    effort, thought = _thinking(wire)
    stop = (wire.stop,) if isinstance(wire.stop, str) else tuple(wire.stop or ())
    return Sampling(
        temperature=wire.temperature,
        top_p=wire.top_p,
        top_k=0 if wire.top_k == -1 else wire.top_k,  # vLLM's spelling of "all"
        min_p=wire.min_p,
        frequency_penalty=wire.frequency_penalty,
        presence_penalty=wire.presence_penalty,
        repetition_penalty=wire.repetition_penalty,
        max_tokens=wire.max_completion_tokens or wire.max_tokens,
        reasoning_tokens=thought,
        seed=wire.seed,
        stop=stop,
        reasoning_effort=effort,
        logprobs=(wire.top_logprobs or 0) if wire.logprobs else None,
    )


def _thinking(wire: _Body) -> tuple[Literal["off", "low", "medium", "high"] | None, int | None]:
    """(effort, longest thought in tokens), from the three ways to say it. Raises Refused where they contradict."""
    said = wire.reasoning or _Reasoning()
    switch = wire.chat_template_kwargs.enable_thinking if wire.chat_template_kwargs else None
    efforts: list[Effort] = [each for each in (wire.reasoning_effort, said.effort) if each is not None]
    switches = [each for each in (switch, said.enabled) if each is not None]
    switches += [each != "none" for each in efforts]
    if len({*efforts}) > 1 or len({*switches}) > 1:
        raise Refused(
            "reasoning_effort, reasoning and chat_template_kwargs.enable_thinking contradict each other",
            param="reasoning_effort" if wire.reasoning_effort else "reasoning",
            code="invalid_value",
        )
    if switches and not switches[0]:
        return "off", None
    # A template that is told to think sets no limit; OpenRouter's `enabled` means medium.
    effort = efforts[0] if efforts else "high" if switch else "medium" if said.enabled else None
    return (None if effort == "none" else effort), said.max_tokens
