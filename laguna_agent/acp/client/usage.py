"""What a foreign agent tells of tokens and cost: some tell how full the window is, some the totals, some neither."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from laguna_agent.acp import schema
from laguna_agent.agent.events import UsageUpdated


class TokenUsage(schema.Wire, frozen=True):
    """Totals of the session, as the draft of the protocol has them in the answer to a prompt."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_read_tokens: int | None = None
    thought_tokens: int | None = None


class Usage:
    """The totals so far."""

    def __init__(self) -> None:
        self._known = UsageUpdated(0, 0)

    def take(self, update: schema.UsageUpdate) -> UsageUpdated:
        """How full the window is, and the cost where it is in dollars. Our own agent says the totals beside it."""
        cost = update.cost.amount if update.cost is not None and update.cost.currency == "USD" else None
        known = self._known if cost is None else replace(self._known, cost=cost)
        self._known = replace(
            known,
            context_used=update.used,
            context_window=update.size or None,
            input_tokens=_count(update.meta, "inputTokens", known.input_tokens),
            cached_tokens=_count(update.meta, "cachedTokens", known.cached_tokens),
        )
        return self._known

    def take_totals(self, usage: TokenUsage) -> UsageUpdated:
        """What the answer to a prompt says."""
        self._known = replace(
            self._known,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cached_tokens=usage.cached_read_tokens or 0,
            reasoning_tokens=usage.thought_tokens or 0,
        )
        return self._known


def _count(meta: Mapping[str, Any] | None, name: str, known: int) -> int:
    value = (meta or {}).get(name)
    return value if type(value) is int and value >= 0 else known
