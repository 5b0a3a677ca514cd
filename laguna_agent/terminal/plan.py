"""The plan as a checklist.

Knows its entries and how much room there is; must not know when it is shown. The marks say what the styles say too.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.segment import Segment

from laguna_agent.event_lines import one_line
from laguna_agent.messages import PlanEntry
from laguna_agent.terminal.lines import Line
from laguna_agent.terminal.theme import Theme
from laguna_agent.terminal.wrapping import Wrapper, clipped

MARKS = {"pending": "[ ]", "in_progress": "[>]", "completed": "[x]"}
STYLES = {"pending": "text", "in_progress": "strong", "completed": "dim"}
ENTRY_CHARACTERS = 300


def plan_lines(entries: Sequence[PlanEntry], width: int, theme: Theme) -> list[Line]:
    """The whole plan, its entries wrapped."""
    rows: list[Line] = [_heading(entries, width, theme)]
    for entry in entries:
        mark = Segment(f"  {MARKS[entry.status]} ", theme.style("dim"))
        wrapper = Wrapper(width, (mark,), (Segment(" " * len(mark.text)),))
        wrapper.feed(one_line(entry.content, ENTRY_CHARACTERS) or "-", theme.style(STYLES[entry.status]))
        rows += wrapper.end()
    return rows


def plan_window(entries: Sequence[PlanEntry], width: int, theme: Theme, height: int) -> list[Line]:
    """The plan in at most `height` rows, one for each entry; of a longer one the part that is worked on."""
    if height < 1:
        return []
    rows = [_heading(entries, width, theme)]
    room = height - 1
    current = next((at for at, entry in enumerate(entries) if entry.status != "completed"), len(entries))
    begin = 0 if len(entries) <= room else max(0, min(current - 1, len(entries) - room))
    for entry in entries[begin : begin + room]:
        mark = Segment(f"  {MARKS[entry.status]} ", theme.style("dim"))
        text = Segment(one_line(entry.content, ENTRY_CHARACTERS), theme.style(STYLES[entry.status]))
        rows.append(clipped([mark, text], width))
    return rows


def _heading(entries: Sequence[PlanEntry], width: int, theme: Theme) -> Line:
    done = sum(entry.status == "completed" for entry in entries)
    words = f"  {done} of {len(entries)} done"
    return clipped([Segment("Plan", theme.style("strong")), Segment(words, theme.style("dim"))], width)
