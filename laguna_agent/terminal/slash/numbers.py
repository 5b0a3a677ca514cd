"""`/context` and `/usage`: what fills the model's window, and what the session has used.

The core is imported when a command runs: the face is there before it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import anyio.to_thread
import msgspec
from rich.console import RenderableType
from rich.text import Text

from laguna_agent.event_lines import one_line
from laguna_agent.messages import TextBlock
from laguna_agent.terminal.face import SlashCommand
from laguna_agent.terminal.slash.tables import Cell, counted, show, table, text

if TYPE_CHECKING:
    from laguna_agent.agent.filling import Filling
    from laguna_agent.agent.store import AnyRecord
    from laguna_agent.terminal.face import Face
    from laguna_agent.terminal.theme import Theme

WIDEST_BAR = 60
MARKS = {
    "system": "s", "tools": "t", "notes": "w", "summary": "c", "person": "y", "answers": "m", "plan": "p",
    "results": "r", "images": "i",
}  # fmt: skip
"""A letter for each part, because a colour alone says nothing to some."""
STYLES = ("accent", "ok", "warning", "text")
FREE = "\u00b7"


async def _context(face: Face, argument: str) -> None:
    from laguna_agent.agent.filling import NAMES, filled, head, when_full

    session = face.link.session
    assert session is not None, "the command needs our own session"
    found = await face.link.call(filled, session)
    if found is None and session.history:
        # Taken up again, and not asked yet: the core finds out what there is, and says it in words.
        await face.link.send((TextBlock("/context"),))
        return
    if found is None:
        face.say("Nothing was sent to the model yet; its window is empty.", "dim")
        return
    theme = face.theme
    parts = [(name, words, getattr(found, name)) for name, words in NAMES.items() if getattr(found, name)]
    whole = max(found.room or 0, found.total, 1)
    rows = [
        ((MARKS[name], _style(name)), words, f"{tokens:,}", (f"{tokens / whole:.0%}", "dim"))
        for name, words, tokens in parts
    ]
    if found.room is not None:
        free = max(0, found.room - found.total)
        rows.append(((FREE, "dim"), "free", f"{free:,}", (f"{free / whole:.0%}", "dim")))
    legend = table(theme, rows, right=(2, 3))
    full = [text(theme, (when_full(found), "dim"))] if found.room is not None else []
    show(face, text(theme, head(found)), bar(found, min(face.width - 1, WIDEST_BAR), theme), legend, *full)


def bar(found: Filling, width: int, theme: Theme) -> Text:
    """The parts as a bar of `width` cells, each part that is there at least one."""
    whole = max(found.room or 0, found.total, 1)
    sizes = {name: getattr(found, name) for name in MARKS if getattr(found, name)}
    cells = {name: max(1, round(tokens / whole * width)) for name, tokens in sizes.items()}
    while sum(cells.values()) > width and max(cells.values()) > 1:
        cells[max(cells, key=lambda name: cells[name])] -= 1
    row: list[Cell] = [(MARKS[name] * number, _style(name)) for name, number in cells.items()]
    return text(theme, *row, (FREE * (width - sum(cells.values())), "dim"))


def _style(name: str) -> str:
    return STYLES[list(MARKS).index(name) % len(STYLES)]


class Used(msgspec.Struct):
    """What one model has used; `cost` is in dollars, None where nothing is known of it."""

    requests: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost: float | None = None


def used(records: Iterable[AnyRecord]) -> tuple[dict[str, Used], int]:
    """What each model has used by a log, and how many prompts there were; what was taken back was paid for too."""
    from laguna_agent.agent.commands import is_for_the_model
    from laguna_agent.agent.store import Described, Prompted, Replied
    from laguna_agent.backend.base import UsageDelta

    models: dict[str, Used] = {}
    model, prompts = "", 0
    for record in records:
        match record:
            case Described():
                model = record.model
            case Prompted(content=content):
                prompts += is_for_the_model(content)
            case Replied():
                sums = models.setdefault(model, Used())
                sums.requests += 1
                for delta in record.deltas:
                    if isinstance(delta, UsageDelta):
                        _add(sums, delta)
    return models, prompts


def _add(sums: Used, delta: object) -> None:
    usage = delta.usage  # type: ignore[attr-defined]
    for name in ("input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens"):
        setattr(sums, name, getattr(sums, name) + getattr(usage, name))
    if usage.cost is not None:
        sums.cost = (sums.cost or 0.0) + usage.cost


async def _usage(face: Face, argument: str) -> None:
    session = face.link.session
    assert session is not None, "the command needs our own session"
    models, prompts = await anyio.to_thread.run_sync(lambda: used(session.records()))
    if not models:
        face.say("Nothing was asked of a model yet.", "dim")
        return
    theme = face.theme
    parts: list[RenderableType] = []
    for name, sums in models.items():
        parts += [text(theme, (one_line(name) or "the model", "strong")), table(theme, _rows(sums), right=(1,))]
    requests = sum(sums.requests for sums in models.values())
    said = f"{counted(prompts, 'prompt')}, {counted(requests, 'request')} since the session began"
    show(face, *parts, text(theme, (said, "dim")))


def _rows(sums: Used) -> list[tuple[Cell, ...]]:
    cached = f"{sums.cached_tokens / sums.input_tokens:.0%} of it" if sums.input_tokens else ""
    rows: list[tuple[Cell, ...]] = [
        ("  requests", f"{sums.requests:,}", ""),
        ("  tokens in", f"{sums.input_tokens:,}", ""),
        ("    from the cache", f"{sums.cached_tokens:,}", (cached, "dim")),
        ("  tokens out", f"{sums.output_tokens:,}", ""),
    ]
    if sums.reasoning_tokens:
        rows.append(("    of them thought", f"{sums.reasoning_tokens:,}", ""))
    rows.append(("  cost", "not known" if sums.cost is None else f"${sums.cost:.4f}", ""))
    return rows


CONTEXT = SlashCommand("context", "Show what fills the model's window", _context, session=True)
USAGE = SlashCommand(
    "usage", "Show the tokens that the session has used, and their cost", _usage, at_work=True, session=True
)
