"""How a turn ended: why, where it did not go well, what stands behind it, and which files it changed.

Knows the end of one turn; the numbers of lines come from the diffs that its calls brought.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.segment import Segment

from laguna_agent.agent.events import TurnEnded
from laguna_agent.event_lines import evidence_words, on_one_line, one_line, printable
from laguna_agent.messages import FileDiff
from laguna_agent.terminal.cards import elapsed_words
from laguna_agent.terminal.diffs import counts, counts_words
from laguna_agent.terminal.lines import Line
from laguna_agent.terminal.theme import Theme
from laguna_agent.terminal.wrapping import Wrapper, wrapped

FILES_NAMED = 3


class Changes:
    """Lines added and removed in a turn, by file: what its calls did, one after the other."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[int, int]] = {}

    def add(self, diffs: Sequence[FileDiff]) -> None:
        """Count what a call changed."""
        for diff in diffs:
            added, removed = counts(diff)
            before = self._files.get(diff.path, (0, 0))
            self._files[diff.path] = before[0] + added, before[1] + removed

    def words(self, path: str) -> str:
        """` +3 \u22121` of a file; "" where no diff told."""
        return f" {counts_words(*self._files[path])}" if path in self._files else ""


def closing_lines(event: TurnEnded, changes: Changes, elapsed: float, width: int, theme: Theme) -> list[Line]:
    """The last rows of a turn; none where there is nothing to say."""
    rows: list[Line] = []
    if event.exit_code != 0:
        outcome, cancelled = event.outcome.replace("_", " "), event.stop_reason == "cancelled"
        said = event.message.lower().startswith(outcome)
        why = event.message if said else f"{outcome}: {event.message}" if event.message else outcome
        # The person's own doing is no failure, and needs no words.
        text = printable(outcome if cancelled else why)
        style = theme.style("warning" if cancelled else "error")
        rows += wrapped(text, width, style, (Segment("\u25a0 ", style),), (Segment("  "),))
    for check in event.checks:
        if check.when == "after":
            passed = "passed" if check.exit_code == 0 else f"failed, exit {check.exit_code}"
            style = theme.style("ok" if check.exit_code == 0 else "error")
            text = f"check {passed}: {on_one_line(check.command)}"
            rows += wrapped(text, width, style, (Segment("\u25a0 ", style),), (Segment("  "),))
    return rows + _facts(event, changes, elapsed, width, theme)


def _facts(event: TurnEnded, changes: Changes, elapsed: float, width: int, theme: Theme) -> list[Line]:
    """What stands behind the end, the files, the time."""
    style = theme.style({"verified": "ok", "unverified": "warning"}.get(event.evidence, "dim"))
    told = [(evidence_words(event.evidence, event.evidence_note).removeprefix(", "), style)]
    told += [(_files(event.files_changed, changes), theme.style("dim"))] if event.files_changed else []
    told += [(f"took {elapsed_words(elapsed)}", theme.style("dim"))] if elapsed >= 1 else []
    wrapper = Wrapper(width)
    for index, (text, style) in enumerate(each for each in told if each[0]):
        wrapper.feed(" \u00b7 " if index else "", theme.style("dim"))
        wrapper.feed(text, style)
    return wrapper.end()


def _files(paths: Sequence[str], changes: Changes) -> str:
    named = [f"{one_line(path)}{changes.words(path)}" for path in paths[:FILES_NAMED]]
    more = f" and {len(paths) - FILES_NAMED} more" if len(paths) > FILES_NAMED else ""
    return f"{len(paths)} file{'s' * (len(paths) != 1)} changed: {', '.join(named)}{more}"
