"""What a server tells of its models: the real context length, prices, what it supports.

    every server  GET  /v1/models   context_length | max_model_len | max_context_length | context_window | meta.n_ctx
    OpenRouter    the same, with pricing (strings, US dollars per token), top_provider and supported_parameters
    llama.cpp     GET  /props       default_generation_settings.n_ctx, the room of one slot
    ollama        POST /api/show    model_info and parameters; GET /api/ps for what is loaded

A server that does not say leaves None; only a missing connection or a refused key is an error.
"""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import msgspec

from laguna_agent.backend.base import ModelInfo

ServerKind = Literal["openrouter", "poolside", "ollama", "llamacpp", "vllm", "unknown"]

Ask = Callable[..., Awaitable[Any]]
"""(method, path, body) -> decoded JSON or None."""

OLLAMA_DEFAULT_CONTEXT = 4096
_CONTEXT_KEYS = ("context_length", "max_model_len", "max_context_length", "context_window")
_CONSTRAINS: tuple[ServerKind, ...] = ("llamacpp", "vllm", "ollama")


async def list_models(kind: ServerKind, ask: Ask) -> list[ModelInfo]:
    """Every model of the server's list, in its order."""
    return [info for info in (_listed(entry, kind) for entry in _entries(await ask("GET", "/v1/models"))) if info.id]


async def probe_model(model: str, kind: ServerKind, ask: Ask) -> tuple[ModelInfo, bool]:
    """What the server says of `model`, and whether that will not change while it runs."""
    listing = await list_models(kind, ask)
    info = _find(model, listing, kind)
    if kind in {"llamacpp", "unknown"}:
        props = await ask("GET", "/props")
        settings = props.get("default_generation_settings") if isinstance(props, dict) else None
        if isinstance(settings, dict):
            slot = _positive(settings.get("n_ctx"))
            return _with(info, slot or info.context_length, supports_schema=True), True
    if kind == "ollama" or (kind == "unknown" and info.context_length is None):
        shown = await ask("POST", "/api/show", {"model": model})
        if isinstance(shown, dict) and isinstance(shown.get("model_info"), dict):
            return await _ollama(info, shown, ask)
    return info, True


async def _ollama(info: ModelInfo, shown: dict[str, Any], ask: Ask) -> tuple[ModelInfo, bool]:
    """Ollama cuts off what does not fit, silently, and the room is not the model's own: it is the model file's num_ctx,
    else what the loaded model was given, else the server's default."""
    capabilities = shown.get("capabilities")
    tools = "tools" in capabilities if isinstance(capabilities, list) else True
    trained = next((_positive(v) for k, v in shown["model_info"].items() if k.endswith(".context_length")), None)
    written = re.search(r"^num_ctx\s+(\d+)", str(shown.get("parameters") or ""), re.MULTILINE)
    if written:
        return _with(info, int(written[1]), supports_schema=True, supports_tools=tools), True
    running = await ask("GET", "/api/ps")
    entries = running.get("models") if isinstance(running, dict) else None
    names = {info.id, f"{info.id}:latest"}
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and {entry.get("name"), entry.get("model")} & names:
            loaded = _positive(entry.get("context_length"))
            if loaded:
                return _with(info, loaded, supports_schema=True, supports_tools=tools), True
    wished = os.environ.get("OLLAMA_CONTEXT_LENGTH", "")
    room = int(wished) if wished.isdigit() and int(wished) > 0 else OLLAMA_DEFAULT_CONTEXT
    # Once the model is loaded, /api/ps knows better.
    return _with(info, min(room, trained or room), supports_schema=True, supports_tools=tools), False


def _with(info: ModelInfo, context_length: int | None, **known: bool) -> ModelInfo:
    return msgspec.structs.replace(info, context_length=context_length, **known)


def _entries(listing: Any) -> list[dict[str, Any]]:
    found = listing.get("data", listing.get("models")) if isinstance(listing, dict) else listing
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def _find(model: str, listing: list[ModelInfo], kind: ServerKind) -> ModelInfo:
    # OpenRouter's :nitro, :floor and the like choose a route; :free is a model of its own and listed as one.
    for name in (model, f"{model}:latest", model.rpartition(":")[0]):
        for info in listing:
            if info.id == name:
                return msgspec.structs.replace(info, id=model)
    if kind in {"llamacpp", "unknown"} and len(listing) == 1:
        return msgspec.structs.replace(listing[0], id=model)  # llama.cpp serves its one model under any name
    return ModelInfo(id=model, supports_schema=kind in _CONSTRAINS)


def _listed(entry: dict[str, Any], kind: ServerKind) -> ModelInfo:
    top, pricing, meta = (_object(entry.get(key)) for key in ("top_provider", "pricing", "meta"))
    lengths = [_positive(entry.get(key)) for key in _CONTEXT_KEYS]
    lengths += [_positive(top.get("context_length")), _positive(meta.get("n_ctx"))]
    parameters = entry.get("supported_parameters")
    schema, tools = kind in _CONSTRAINS, True
    if isinstance(parameters, list):
        schema, tools = "structured_outputs" in parameters, "tools" in parameters
    return ModelInfo(
        id=str(entry.get("id") or entry.get("name") or ""),
        context_length=min((length for length in lengths if length), default=None),
        max_output_tokens=_positive(top.get("max_completion_tokens")),
        input_price=_price(pricing.get("prompt")),
        output_price=_price(pricing.get("completion")),
        cached_price=_price(pricing.get("input_cache_read")),
        supports_schema=schema,
        supports_tools=tools,
    )


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _positive(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e12 else None


def _price(value: Any) -> float | None:
    """US dollars per token; OpenRouter's -1 means that the price depends on the route."""
    try:
        price = float(value)
    except (TypeError, ValueError):
        return None
    return price if 0 <= price < 1 else None
