"""A question that a server asks the person in the middle of a call, and the answer. Wire-neutral.

https://modelcontextprotocol.io/specification/2025-11-25/client/elicitation
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal

import msgspec


class Elicitation(msgspec.Struct, frozen=True):
    """The question: a form (`schema`, a flat JSON Schema object), or a `url` to visit with the server's `id` for it.
    `call_id` is the call in the course of which it is asked."""

    server: str
    message: str
    call_id: str
    schema: dict[str, Any] | None = None
    url: str = ""
    id: str = ""


class ElicitationAnswer(msgspec.Struct, frozen=True):
    """What the person did with it; `content` is the filled form, only where it was accepted."""

    action: Literal["accept", "decline", "cancel"]
    content: dict[str, Any] | None = None


Elicit = Callable[[Elicitation], Awaitable[ElicitationAnswer]]
"""Asks the person; cancelled, it takes the question back."""
