"""A question that a server asks the person in the middle of a call, and the answer. Wire-neutral.

https://modelcontextprotocol.io/specification/2025-11-25/client/elicitation
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

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


class Person(Protocol):
    """The way to the person, where a face has one."""

    async def elicit(self, question: Elicitation) -> ElicitationAnswer:
        """Ask; being cancelled takes the question back."""
        ...

    async def visited(self, id: str) -> None:
        """What the person was sent to a URL for is done, says the server."""
        ...
