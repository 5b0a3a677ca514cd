"""What a run may spend: turns, tokens, dollars, wall time. Checked before each request; time cuts a running one too."""

from __future__ import annotations

from dataclasses import dataclass, field

from laguna_agent.backend.base import Usage
from laguna_agent.config import Settings
from laguna_agent.errors import BudgetSpent


@dataclass
class Budget:
    """Limits for a run (None: none), and what is spent: `turns` and `usage` by this run, `total` by the session. A cost
    is None as soon as one request's price is unknown."""

    max_turns: int | None = None
    max_tokens: int | None = None
    max_cost: float | None = None
    max_time: float | None = None
    turns: int = 0
    usage: Usage = field(default_factory=Usage)
    total: Usage = field(default_factory=Usage)
    _requests: int = 0

    @classmethod
    def of(cls, settings: Settings) -> Budget:
        """The limits that the settings give."""
        return cls(settings.max_turns, settings.max_tokens, settings.max_cost, settings.max_time)

    def begin_run(self) -> None:
        """A new prompt has all of the budget again."""
        self.turns, self.usage = 0, Usage()

    def take_turn(self) -> None:
        """Account for one more request; raises BudgetSpent instead where that would pass a limit."""
        tokens = self.usage.input_tokens + self.usage.output_tokens
        if self.max_turns is not None and self.turns >= self.max_turns:
            raise BudgetSpent(f"the budget of {self.max_turns} turns is spent (--max-turns)", budget="turns")
        if self.max_tokens is not None and tokens >= self.max_tokens:
            raise BudgetSpent(f"{tokens} tokens spent of {self.max_tokens} (--max-tokens)", budget="tokens")
        if self.max_cost is not None and (self.usage.cost or 0.0) >= self.max_cost:
            raise BudgetSpent(f"${self.usage.cost:.4f} spent of ${self.max_cost} (--max-cost)", budget="cost")
        self.turns += 1

    def out_of_time(self) -> BudgetSpent:
        """The error for a run that `max_time` cut."""
        return BudgetSpent(f"the run took longer than {self.max_time:g} s (--max-time)", budget="time")

    def add(self, usage: Usage) -> None:
        """Add what one request has used."""
        self._requests += 1
        self.usage = _sum(self.usage, usage, first=self.turns <= 1)
        self.total = _sum(self.total, usage, first=self._requests == 1)


def _sum(spent: Usage, usage: Usage, *, first: bool) -> Usage:
    known = usage.cost is not None and (spent.cost is not None or first)
    return Usage(
        input_tokens=spent.input_tokens + usage.input_tokens,
        output_tokens=spent.output_tokens + usage.output_tokens,
        cached_tokens=spent.cached_tokens + usage.cached_tokens,
        reasoning_tokens=spent.reasoning_tokens + usage.reasoning_tokens,
        cost=(spent.cost or 0.0) + (usage.cost or 0.0) if known else None,
    )
