"""The status line: what is so just now, in one row; what matters least goes first where there is no room.

Knows facts and widths; asks nobody anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.segment import Segment

from laguna_agent.event_lines import one_line
from laguna_agent.terminal.folding import cut
from laguna_agent.terminal.lines import Line

if TYPE_CHECKING:
    from laguna_agent.agent.events import UsageUpdated
    from laguna_agent.terminal.face import Facts
    from laguna_agent.terminal.git_state import GitState
    from laguna_agent.terminal.theme import Theme

BETWEEN = " \u00b7 "
MODES = {"plan": "plans only", "ask": "asks first", "edits": "edits freely", "all": "acts freely"}
FULL = 0.8
"""Share of the window from which on it is worth a colour."""
LONGEST = 60


@dataclass(frozen=True)
class _Part:
    """One fact: its place in the line, how long it is kept (the smallest the longest), its words, shorter ones."""

    place: int
    rank: int
    words: str
    short: str = ""
    style: str = "dim"


def status_line(
    facts: Facts,
    usage: UsageUpdated | None,
    git: GitState | None,
    elapsed: float | None,
    queued: int,
    width: int,
    theme: Theme,
) -> Line:
    """The line, at most `width - 1` cells: model and context stay the longest. `elapsed` is in seconds, None where no
    turn runs; a cost is shown where one is known."""
    room = max(1, width - 1)
    parts = [part for part in _parts(facts, usage, git, elapsed, queued) if part.words]
    taken: list[tuple[_Part, str]] = []
    used = 0
    for part in sorted(parts, key=lambda each: each.rank):
        between = cell_len(BETWEEN) if taken else 0
        for words in filter(None, (part.words, part.short)):
            if used + between + cell_len(words) <= room:
                taken.append((part, words))
                used += between + cell_len(words)
                break
        else:
            if not taken:
                return (Segment(cut(part.short or part.words, room), theme.style(part.style)),)
    line: list[Segment] = []
    for part, words in sorted(taken, key=lambda each: each[0].place):
        if line:
            line.append(Segment(BETWEEN, theme.style("dim")))
        line.append(Segment(words, theme.style(part.style)))
    return tuple(line)


def _parts(
    facts: Facts, usage: UsageUpdated | None, git: GitState | None, elapsed: float | None, queued: int
) -> list[_Part]:
    model, provider = one_line(facts.model, LONGEST), one_line(facts.agent or facts.provider, LONGEST)
    model = model.removeprefix(f"{provider}/") or "no model"
    sandbox = one_line(facts.sandbox, LONGEST)
    walls = "no sandbox" if sandbox == "none" else f"sandbox {sandbox}" if sandbox else ""
    waiting = f"{queued} queued" if queued else ""
    cost = "" if usage is None or not usage.cost else f"${usage.cost:.2f}" if usage.cost >= 1 else _cents(usage.cost)
    return [
        _Part(0, 0, model, model.rpartition("/")[2], "text"),
        _Part(1, 8, provider),
        _mode(one_line(facts.mode, LONGEST)),
        _Part(3, 7, walls, sandbox, "warning" if sandbox == "none" else "dim"),
        _branch(git),
        _context(usage),
        _Part(6, 6, cost),
        _Part(7, 2, "" if elapsed is None else duration(elapsed), style="accent"),
        _Part(8, 3, waiting, style="accent"),
    ]


def _mode(mode: str) -> _Part:
    return _Part(2, 4, MODES.get(mode, mode), mode, {"plan": "accent", "all": "warning"}.get(mode, "dim"))


def _cents(cost: float) -> str:
    """A small sum with as many digits as say something."""
    return f"${cost:.4f}" if cost < 0.1 else f"${cost:.3f}"


def _branch(git: GitState | None) -> _Part:
    if git is None:
        return _Part(4, 5, "")
    changed = "*" if git.dirty else ""
    name = cut(one_line(git.branch, LONGEST), 30)
    return _Part(4, 5, name + changed, cut(name, 12) + changed)


def _context(usage: UsageUpdated | None) -> _Part:
    if usage is None or usage.context_used is None:
        return _Part(5, 1, "")
    used = amount(usage.context_used)
    if not usage.context_window:
        return _Part(5, 1, f"context {used}")
    share = usage.context_used / usage.context_window
    style = "warning" if share >= FULL else "dim"
    percent = f"{share:.0%}"
    return _Part(5, 1, f"context {percent} ({used} of {amount(usage.context_window)})", f"context {percent}", style)


def amount(tokens: int) -> str:
    """A number of tokens in a few characters: 812, 24k, 1.2M."""
    if tokens < 1_000:
        return str(tokens)
    if tokens < 999_500:
        return f"{tokens / 1_000:.1f}k" if tokens < 9_950 else f"{tokens / 1_000:.0f}k"
    return f"{tokens / 1_000_000:.1f}M"


def duration(seconds: float) -> str:
    """`7 s`, `2 min 05 s`, `1 h 02 min`."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"
