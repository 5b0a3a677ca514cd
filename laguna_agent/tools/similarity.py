"""The region of a text that comes closest to a piece that is not in it.

A window of as many lines slides over the text and is scored by the words it shares, rare ones counting more; only the
best few are compared in full, so ten thousand lines take a fraction of a second.
"""

from __future__ import annotations

import difflib
import heapq
import math
import re
from collections import Counter

_WORD = re.compile(r"\w+|[^\w\s]")
_PIECE_LINES = 200
"""Lines of the piece that are compared."""
_CANDIDATES = 6
_SHOWN_LINES = 40
_LINE_CAP = 200
_ENOUGH = 0.35
"""Similarity, from 0 to 1, under which nothing is called close."""


def closest_region(text: str, piece: str) -> str:
    """Words for the model: the closest lines with their numbers, and the first line that differs."""
    lines = text.split("\n")
    wanted = piece.strip("\n").split("\n")[:_PIECE_LINES]
    best = _best_window(lines, wanted)
    if best is None:
        return f"Nothing in its {len(lines)} lines is like it; read the file again."
    start, end = best
    low, high = max(0, start - 1), min(len(lines), end + 1)
    shown = [f"{number + 1}\t{lines[number][:_LINE_CAP]}" for number in range(low, high)]
    if len(shown) > _SHOWN_LINES:
        half = _SHOWN_LINES // 2
        shown = [*shown[:half], f"[... {len(shown) - _SHOWN_LINES} lines]", *shown[-half:]]
    difference = _first_difference(lines[start:end], wanted, start)
    return f"Closest are lines {start + 1}-{end}:\n" + "\n".join(shown) + difference


def _best_window(lines: list[str], wanted: list[str]) -> tuple[int, int] | None:
    size = min(len(wanted), len(lines))
    words = [_WORD.findall(line[:2000]) for line in lines]
    frequency = Counter(word for line in words for word in line)
    target = Counter(word for line in wanted for word in _WORD.findall(line[:2000]))
    weight = {word: 1 / math.log2(2 + frequency[word]) for word in target}
    count: Counter[str] = Counter()
    score = 0.0
    scores: list[tuple[float, int]] = []
    for index, line in enumerate(words):
        for word in line:
            if word in weight:
                count[word] += 1
                score += weight[word] if count[word] <= target[word] else 0
        if index >= size:
            for word in words[index - size]:
                if word in weight:
                    score -= weight[word] if count[word] <= target[word] else 0
                    count[word] -= 1
        if index >= size - 1:
            scores.append((score, size - 1 - index))
    piece = [line.strip() for line in wanted]
    best, found = _ENOUGH, None
    for _, negative in heapq.nlargest(_CANDIDATES, scores):
        start = -negative
        ratio = _likeness([line.strip() for line in lines[start : start + size]], piece)
        if ratio > best:
            best, found = ratio, (start, start + size)
    return found


def _likeness(window: list[str], piece: list[str]) -> float:
    a, b = "\n".join(window)[:4000], "\n".join(piece)[:4000]
    return difflib.SequenceMatcher(None, a, b, autojunk=len(a) > 1000).ratio()


def _first_difference(there: list[str], wanted: list[str], start: int) -> str:
    for offset, (real, given) in enumerate(zip(there, wanted, strict=False)):
        if real != given:
            return (
                f"\nThe first difference is in line {start + offset + 1}: the file has {real[:_LINE_CAP]!r}, "
                f"`old` has {given[:_LINE_CAP]!r}."
            )
    return ""
