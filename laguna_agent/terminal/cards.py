"""Tool calls as cards: a row for the call, and of what it said what a person needs at once.

Knows one call, running or over, and how it looks at a moment; must not know the clock, the other calls or the screen.
What is left out can be unfolded, so a card says that it left something out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.segment import Segment

from laguna_agent.agent.events import ToolCallUpdate
from laguna_agent.event_lines import on_one_line, one_line, printable
from laguna_agent.messages import FileDiff, TextBlock, ToolKind
from laguna_agent.terminal.diffs import DIFF_ROWS, body_lines, counts_words, diff_lines, hunks
from laguna_agent.terminal.lines import Line
from laguna_agent.terminal.theme import Theme
from laguna_agent.terminal.wrapping import Wrapper, cells, clipped, joined, wrapped

TAIL_ROWS = 5
TAIL_CHARACTERS = 4_000
SHORT = 2
"""Lines of output that are shown rather than counted."""
UNFOLDED_DIFF_ROWS = 2_000
FOLDED_CHARACTERS = 256 * 1024
BULLET = "\u25cf "
SPINNER = "\u280b\u2819\u2839\u2838\u283c\u2834\u2826\u2827\u2807\u280f"
HINT = "ctrl-o unfolds"
QUIET: tuple[ToolKind, ...] = ("read", "search")
"""Kinds of calls that look: what they found is for the model."""

Fold = Callable[[int, Theme], list[Line]]
"""Draws in full, in a width, what was shown folded."""


@dataclass
class Call:
    """A call that is shown. `started` is the clock's time; `tail` the end of its live output; `over` how it ended."""

    id: str
    name: str
    kind: ToolKind
    title: str
    started: float = 0.0
    tail: str = ""
    asks: bool = False
    denied: str | None = None
    over: ToolCallUpdate | None = None

    def heard(self, output: str) -> None:
        """A running call said something."""
        self.tail = (self.tail + output)[-TAIL_CHARACTERS:]


def spinner(now: float) -> str:
    """What turns while something runs."""
    return SPINNER[int(now * 10) % len(SPINNER)]


def elapsed_words(seconds: float) -> str:
    """`4 s`, `2 min 5 s`, `1 h 3 min`."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def running_lines(call: Call, now: float, width: int, theme: Theme, tail_rows: int = TAIL_ROWS) -> list[Line]:
    """A call that is not over: what turns, how long it has been, and the last rows of what it printed."""
    if call.over is not None:
        return ended_lines(call, width, theme)[0][: 1 + tail_rows]
    elapsed = now - call.started
    facts = ["waits for your answer"] if call.asks else [elapsed_words(elapsed)] if elapsed >= 1 else []
    mark = Segment("? " if call.asks else f"{spinner(now)} ", theme.style("warning" if call.asks else "running"))
    rows = _headed(mark, on_one_line(call.title).expandtabs(4), facts, width, theme)
    lines = [overwritten(line) for line in call.tail.split("\n")]
    while lines and not lines[-1].strip():
        lines.pop()
    return rows + _quoted(lines[-tail_rows:] if tail_rows else [], width, theme)


def ended_lines(call: Call, width: int, theme: Theme) -> tuple[list[Line], Fold | None]:
    """The card of a call that is over, and what it left out. A call without an end was cut off."""
    title = on_one_line(call.title).expandtabs(4)
    over = call.over
    if over is None:
        return _headed(Segment(BULLET, theme.style("warning")), title, ["not finished"], width, theme), None
    failed = over.status == "failed" or over.exit_code not in (None, 0)
    mark = Segment(BULLET, theme.style("error" if failed else "ok"))
    style = "error" if failed else "dim"
    if call.denied is not None:
        rows = _headed(mark, title, [f"denied: {one_line(call.denied) or 'refused'}"], width, theme, style)
        return rows, None if _is_in(title, rows) else _unfolded_output(title, [])
    body = _body(over)
    facts = _facts(call, over, body)
    if over.diffs and not failed and call.kind in ("edit", "delete", "move") and len(over.diffs) == 1:
        return _edit(mark, title, over.diffs[0], body, facts, width, theme)
    rows = _headed(mark, title, facts, width, theme, style)
    shown, left = _picked(call, body, failed)
    folds = [_unfolded_output(title, body)] if left or not _is_in(title, rows) else []
    quoted = _quoted(shown, width, theme, "text" if failed else "dim")
    if left:
        what = f"  \u2026 {left:,} {'more ' if shown else ''}line{'s' * (left != 1)} ({HINT})"
        more = clipped([Segment(what, theme.style("dim"))], width)
        quoted.insert(0 if _shows_end(call) else len(quoted), more)
    rows += quoted
    for diff in over.diffs:
        rows += diff_lines(diff, width, theme)
        if sum(hunk.size for hunk in hunks(diff)) > DIFF_ROWS:
            folds.append(_unfolded_diff(diff))
    return rows, _together(folds)


def _edit(
    mark: Segment, title: str, diff: FileDiff, body: Sequence[str], facts: Sequence[str], width: int, theme: Theme
) -> tuple[list[Line], Fold | None]:
    """A call that changed one file, which its title names: the change stands right below."""
    changed = hunks(diff)
    new = ["new file"] if diff.old_text is None else []
    numbers = counts_words(sum(hunk.added for hunk in changed), sum(hunk.removed for hunk in changed))
    rows = _headed(mark, title, [numbers, *new, *facts], width, theme)
    shown, left = body_lines(changed, diff.path, width, theme, DIFF_ROWS)
    rows += shown
    if left:
        rows.append((Segment(f"  \u2026 {left:,} more lines ({HINT})", theme.style("dim")),))
    # The first line says what the diff shows; what follows, such as an error in the syntax, nothing else says.
    rows += _quoted(body[1:][:TAIL_ROWS], width, theme)
    return rows, _unfolded_diff(diff) if left else None


def _facts(call: Call, over: ToolCallUpdate, body: Sequence[str]) -> list[str]:
    facts = ["failed"] if over.status == "failed" else []
    if over.exit_code is not None:
        facts.append(f"exit {over.exit_code}")
    if over.seconds is not None and (call.kind == "execute" or over.seconds >= 1):
        facts.append(f"{over.seconds:.1f} s")
    if over.sandbox:
        facts.append(f"sandbox: {one_line(over.sandbox)}")
    if call.kind in QUIET and over.status == "completed":
        facts.append(f"{len(body):,} line{'s' * (len(body) != 1)}")
    return facts


def _picked(call: Call, body: list[str], failed: bool) -> tuple[list[str], int]:
    """The lines of output that are shown, and how many are not."""
    if not failed and (call.kind in QUIET or len(body) > SHORT):
        return [], 0 if call.kind in QUIET else len(body)
    shown = body[-TAIL_ROWS:] if _shows_end(call) else body[:TAIL_ROWS]
    return shown, len(body) - len(shown)


def _shows_end(call: Call) -> bool:
    """What a program says last tells why it failed; a tool of ours says it first."""
    return call.kind == "execute"


def _is_in(title: str, rows: Sequence[Line]) -> bool:
    """Whether the first row has the whole title."""
    return title in "".join(segment.text for segment in rows[0])


def _body(over: ToolCallUpdate) -> list[str]:
    """The lines of what the call gave back, without those that its card says."""
    parts = [printable(block.text) if isinstance(block, TextBlock) else "[image]\n" for block in over.content]
    lines = "".join(parts).strip("\n").split("\n")
    if over.exit_code is not None and lines[-1] == f"[exit code {over.exit_code}]":
        lines.pop()
    return [] if lines in ([""], ["(no output)"]) else lines


def _headed(
    mark: Segment, title: str, facts: Sequence[str], width: int, theme: Theme, first: str = "dim"
) -> list[Line]:
    """The row of a call; where the screen is narrow the facts go below, for the command is what counts. `first` is the
    style of the first fact, which tells a failure."""
    words = Segment(title, theme.style("tool"))
    told = [Segment(" \u00b7 ".join(["", *facts[1:]]), theme.style("dim"))] if len(facts) > 1 else []
    told = [Segment(facts[0], theme.style(first)), *told] if facts else []
    size = cells(told) + 3 if told else 0
    if told:
        told.insert(0, Segment(" \u00b7 ", theme.style("dim")))
    if cells([mark, words]) + size <= width:
        return [tuple(joined([mark, words, *told]))]
    if size <= width // 2:
        return [tuple(joined([*clipped([mark, words], width - size), *told]))]
    wrapper = Wrapper(width, (Segment("  "),), (Segment("  "),))
    for segment in told[1:]:
        wrapper.feed(segment.text, segment.style)
    return [clipped([mark, words], width), *wrapper.end()]


def _quoted(lines: Sequence[str], width: int, theme: Theme, style: str = "dim") -> list[Line]:
    bar = Segment("  \u2502 ", theme.style("dim"))
    return [clipped([bar, Segment(line.expandtabs(4), theme.style(style))], width) for line in lines]


def overwritten(line: str) -> str:
    """A line as it stands once the carriage returns in it were obeyed: the last that was written over it."""
    return printable(next((part for part in reversed(line.split("\r")) if part), ""))


def _unfolded_output(title: str, body: Sequence[str]) -> Fold:
    text = "\n".join(body)
    cut = text[:FOLDED_CHARACTERS]
    more = f"\n\u2026 {len(text) - len(cut):,} more characters" if len(text) > len(cut) else ""

    def draw(width: int, theme: Theme) -> list[Line]:
        indent = (Segment("  "),)
        head = wrapped(title, width, theme.style("strong"), (), indent)
        return head + wrapped((cut + more).expandtabs(4), width, None, indent, indent)

    return draw


def _unfolded_diff(diff: FileDiff) -> Fold:
    return lambda width, theme: diff_lines(diff, width, theme, UNFOLDED_DIFF_ROWS)


def _together(folds: Sequence[Fold]) -> Fold | None:
    if not folds:
        return None
    return lambda width, theme: [line for fold in folds for line in fold(width, theme)]
