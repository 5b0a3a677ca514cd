"""What a person sees of a run while it goes on: a live panel on a terminal, plain lines elsewhere.

Knows the values of a step's line and how to show them; must not know the trainer. For rank 0 alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

BARS = "▁▂▃▄▅▆▇█"
SPARKS = 60
PLAIN_SECONDS = 5.0
"""Between two lines where nobody looks at a terminal; the first step and evaluations are always told."""


def sparkline(values: Sequence[float], width: int = SPARKS) -> str:
    """A curve as one line of text: means of neighbouring values, scaled to the least and the greatest of them."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return ""
    count = min(width, len(finite))
    edges = [round(at * len(finite) / count) for at in range(count + 1)]
    means = [sum(finite[low:high]) / (high - low) for low, high in pairwise(edges) if high > low]
    least, most = min(means), max(means)
    scale = (len(BARS) - 1) / (most - least) if most > least else 0.0
    return "".join(BARS[round((mean - least) * scale)] for mean in means)


def duration(seconds: float) -> str:
    """1:02:03, or 2:03 below an hour."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


class Dashboard:
    """Told of each step; draws the panel where `stream` is a terminal. To be closed."""

    def __init__(self, name: str, steps: int, stream: TextIO, *, earlier: Sequence[Mapping[str, Any]] = ()) -> None:
        self.name, self.steps = name, steps
        self._losses = [float(values["loss"]) for values in earlier]
        self._held_out = next((values for values in reversed(earlier) if "val_loss" in values), None)
        self._begun, self._taken, self._told = time.monotonic(), 0, -math.inf
        self._state = "watching"
        self._console = Console(file=stream)
        self._live: Live | None = None
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(console=self._console, refresh_per_second=4, transient=False)
            self._live.start()

    def step(self, values: Mapping[str, Any]) -> None:
        """A step was applied: show its line."""
        self._losses.append(float(values["loss"]))
        self._taken += 1
        if "val_loss" in values:
            self._held_out = dict(values)
        if self._live is not None:
            self._live.update(self.panel(values))
        elif self._taken == 1 or "val_loss" in values or time.monotonic() - self._told >= PLAIN_SECONDS:
            self._told = time.monotonic()
            self._say(self.line(values))

    def notice(self, text: str, *, state: str | None = None) -> None:
        """Something happened that a person should know; `state` is what the guard is shown as from now on."""
        self._state = state or self._state
        self._say(text)

    def rolled_back(self, step: int) -> None:
        """Steps behind this one will be taken again."""
        del self._losses[step:]

    def close(self) -> None:
        """Leave the last picture on the screen."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def line(self, values: Mapping[str, Any]) -> str:
        """A step as one line of text."""
        parts = [
            f"step {values['step']}/{self.steps}",
            f"loss {values['loss']:.4f}",
            *([f"val {values['val_loss']:.4f}"] if "val_loss" in values else []),
            f"lr {values['lr']:.2e}",
            f"norm {values['gradient_norm']:.2f}",
            f"{values['tokens_per_second']:,.0f} tok/s",
            *([f"MaxVio {values['max_vio']:.2f}", f"dead {values['dead_experts']}"] if "max_vio" in values else []),
            f"ETA {self._remaining(values)}",
        ]
        return "  ".join(parts)

    def panel(self, values: Mapping[str, Any]) -> Panel:
        """A step as the live picture."""
        figures = Table.grid(padding=(0, 3))
        held_out = "" if self._held_out is None else f"{self._held_out['val_loss']:.4f} (step {self._held_out['step']})"
        rows = [
            ("loss", f"{values['loss']:.4f}", "held out", held_out),
            ("learning rate", f"{values['lr']:.3e}", "gradient norm", f"{values['gradient_norm']:.3f}"),
            ("tokens/s", f"{values['tokens_per_second']:,.0f}", "ETA", self._remaining(values)),
        ]
        if "max_vio" in values:
            balance = f"{values['max_vio']:.2f}, {values['dead_experts']} dead, entropy {values['load_entropy']:.3f}"
            rows.append(("MaxVio", balance, "guard", self._state))
        else:
            rows.append(("guard", self._state, "", ""))
        for row in rows:
            figures.add_row(*(Text(cell, style="dim" if at % 2 == 0 else "bold") for at, cell in enumerate(row)))
        # Last: it ends without a line end, which would swallow what comes behind it.
        bar = ProgressBar(total=self.steps, completed=int(values["step"]))
        curve = Text(sparkline(self._losses, max(10, min(SPARKS, self._console.width - 6))), style="cyan")
        return Panel(Group(curve, figures, bar), title=f"{self.name}  {values['step']}/{self.steps}", expand=False)

    def _remaining(self, values: Mapping[str, Any]) -> str:
        each = (time.monotonic() - self._begun) / max(self._taken, 1)
        return duration(each * (self.steps - int(values["step"])))

    def _say(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)
