"""What was measured in `cpu_peers.py`, and its tables: medians over rounds, shares of the limit, ratios and floors.

Knows figures; must not know how they were taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from cpu_peers_asked import Contender
from cpu_peers_course import READ_SHARE, Column, Course, Floor
from cpu_peers_guard import TOLERANCE, Judgement

MEMORY = ("rss", "anonymous", "file", "peak")


@dataclass
class Figures:
    """Of one contender. `seconds`: of each round, by column: a prefill's, or a decoded token's; `joules` likewise;
    `opened`: what it said when it was opened, `memory`: the most it had at the end of a question, in bytes;
    `variants`: the one that was best in the round that does not count, by column."""

    contender: Contender
    opened: dict[str, Any] = field(default_factory=dict)
    variants: dict[Column, str] = field(default_factory=dict)
    seconds: dict[Column, list[float]] = field(default_factory=dict)
    joules: dict[Column, list[float]] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    guard: Judgement | None = None

    def add(self, column: Column, told: Mapping[str, Any]) -> None:
        """An answer that counts."""
        self.seconds.setdefault(column, []).append(told["seconds"])
        if told.get("joules") is not None:
            self.joules.setdefault(column, []).append(told["joules"])

    def remember(self, told: Mapping[str, Any]) -> None:
        """The memory in any answer."""
        for name in MEMORY:
            self.memory[name] = max(self.memory.get(name, 0), told.get(name, 0))

    def rate(self, column: Column) -> float | None:
        """Tokens a second; the median of the rounds."""
        if column not in self.seconds:
            return None
        return (column.tokens if column.kind == "prefill" else 1) / median(self.seconds[column])

    def share(self, column: Column, read: float) -> float | None:
        """Of `read` bytes a second, what decoding moves."""
        rate = self.rate(column)
        if rate is None or column.kind != "decode":
            return None
        return rate * self.contender.traffic.at(column.tokens) / read

    def as_json(self, read: float) -> dict[str, Any]:
        """Everything, by the column's name."""
        columns = {
            column.name: {
                "tokens_per_s": self.rate(column),
                "seconds": seconds,
                "variant": self.variants.get(column) or None,
                "bytes_per_token": self.contender.traffic.at(column.tokens) if column.kind == "decode" else None,
                "share_of_read_limit": self.share(column, read),
                "joules_per_token": median(self.joules[column]) if column in self.joules else None,
            }
            for column, seconds in self.seconds.items()
        }
        said = {name: value for name, value in self.opened.items() if name not in MEMORY}
        guard = None if self.guard is None else {**vars(self.guard), "holds": self.guard.holds}
        return {**said, "columns": columns, "memory": self.memory, "guard": guard}


@dataclass
class Ratio:
    """Our speed against a peer's. `counts`: our logits were judged, and hold."""

    ours: str
    peer: str
    column: Column
    value: float
    floor: Floor | None
    counts: bool

    @property
    def verdict(self) -> str:
        """For people."""
        if self.floor is None:
            return ""
        text = _verdict(self.value, self.floor)
        return text if self.counts else f"does not count ({text})"


def ratios(course: Course, figures: Mapping[str, Figures]) -> Iterator[Ratio]:
    """Each of ours against each peer, in every column that both have."""
    for mine in figures.values():
        for peer in figures.values():
            if not mine.contender.ours or peer.contender.ours:
                continue
            for column in course.columns:
                ours, theirs = mine.rate(column), peer.rate(column)
                if ours is not None and theirs is not None:
                    floor = course.floors.get((peer.contender.name.split()[0], column.name))
                    counts = mine.guard is not None and mine.guard.holds
                    yield Ratio(mine.contender.name, peer.contender.name, column, ours / theirs, floor, counts)


def table(course: Course, figures: Mapping[str, Figures], read: float) -> list[str]:
    """Lines: a contender each, its speeds in tokens a second and what they cost."""
    decoded = [column for column in course.columns if column.kind == "decode"]
    head = ["", *(column.name for column in course.columns)]
    head += [f"GB/tok @{column.tokens}" for column in decoded] + [f"limit @{column.tokens}" for column in decoded]
    rows = [[*head, "RSS GB", "anon", "file", "open s", "1st tok s", "J/tok"]]
    for one in figures.values():
        rates = [_told(one.rate(column), "{:.2f}") for column in course.columns]
        moved = [f"{one.contender.traffic.at(column.tokens) / 1e9:.3f}" for column in decoded]
        shares = [_told(one.share(column, read), "{:.0%}") for column in decoded]
        memory = [f"{one.memory.get(name, 0) / 1e9:.2f}" for name in ("rss", "anonymous", "file")]
        joules = next((median(one.joules[column]) for column in decoded if column in one.joules), None)
        # A model that was made in memory was not opened.
        opened = one.opened if one.contender.file else {}
        times = [_told(opened.get(name), "{:.2f}") for name in ("open_s", "first_token_s")]
        rows.append([one.contender.name, *rates, *moved, *shares, *memory, *times, _told(joules, "{:.2f}")])
    return [course.title, *_aligned(rows)]


def guard_table(figures: Mapping[str, Figures]) -> list[str]:
    """Lines: how far each contender's logits are from exact arithmetic on its own weights."""
    rows = [["against exact logits", "rms error", "mean KL", "top-1", "positions", ""]]
    for one in figures.values():
        if one.guard is not None:
            said = "within the tolerance" if one.guard.holds else "NOT within the tolerance"
            values = [f"{one.guard.rms:.4f}", f"{one.guard.kl:.5f}", f"{one.guard.top:.1%}", str(one.guard.rows)]
            rows.append([one.contender.name, *values, said])
    rows.append(["tolerance", f"{TOLERANCE.rms:.4f}", f"{TOLERANCE.kl:.5f}", f"{TOLERANCE.top:.1%}", "", ""])
    return _aligned(rows)


def ratio_table(course: Course, figures: Mapping[str, Figures], read: float) -> list[str]:
    """Lines: the ratios, our share of the read limit after 128 tokens, and what has a ceiling."""
    rows = [["ratio", "", "ours / peer", ""]]
    for one in ratios(course, figures):
        rows.append([f"{one.ours} / {one.peer}", one.column.name, f"{one.value:.2f}", one.verdict])
    for mine in figures.values():
        share = mine.share(Column("decode", 128), read)
        if mine.contender.ours and share is not None:
            said = _verdict(share, READ_SHARE, form="{:.0%}")
            rows.append([f"{mine.contender.name} / read limit", "decode 128", f"{share:.0%}", said])
        for name, ceiling in course.ceilings.items() if mine.contender.ours else ():
            value = mine.opened["open_s"] if name == "open_s" else mine.memory["rss"]
            said = _verdict(value, ceiling, "at most", "{:.4g}", most=True)
            rows.append([mine.contender.name, name, f"{value:.4g}", said])
    return _aligned(rows)


def _verdict(value: float, floor: Floor, words: str = "floor", form: str = "{:g}", most: bool = False) -> str:
    """What is said of a value beside its floor, or its ceiling where it is to be `most`."""
    met, aimed = ((value <= wanted if most else value >= wanted) for wanted in floor)
    least, aim = (form.format(wanted) for wanted in floor)
    return f"{words} {least} {'met' if met else 'NOT met'}, aim {aim} {'met' if aimed else 'not met'}"


def _told(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return lines
