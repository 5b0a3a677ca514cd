"""From messages to lines: the other way is `acp.decoding`. Knows nothing of JSON-RPC."""

from __future__ import annotations

from typing import Any

import msgspec


def encode(message: dict[str, Any]) -> bytes:
    """A message as a line. Text that is not Unicode (file names can be so) is sent with replacement characters."""
    try:
        return msgspec.json.encode(message) + b"\n"
    except UnicodeEncodeError:
        return msgspec.json.encode(without_surrogates(msgspec.to_builtins(message))) + b"\n"


def without_surrogates(value: Any) -> Any:
    """`value` with every string made encodable."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {without_surrogates(key): without_surrogates(item) for key, item in value.items()}
    return [without_surrogates(item) for item in value] if isinstance(value, list | tuple) else value
