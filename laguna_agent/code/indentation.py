"""Bring lines that a model wrote at one indentation to the one a file really has.

Knows lines of text only.
"""

from __future__ import annotations

from collections import Counter

_OPENING = (":", "{", "(", "[", "=>", " do", " then")


def fit(lines: list[str], written: list[str], real: list[str]) -> list[str]:
    """`lines` indented as the file would have them, where `real` are the file's lines for the `written` ones (line by
    line). Steps the file takes with tabs, or with another number of spaces, become the file's own."""
    pairs = [(_indent(a), _indent(b)) for a, b in zip(written, real, strict=True) if a.strip() and b.strip()]
    if not pairs:
        return lines
    known = dict(reversed(pairs))
    step = step_of("\n".join(lines)) or step_of("\n".join(written))
    file_step = step_of("\n".join(real)) or _only_tabs(pairs) or step
    return [_placed(line, known, pairs[0], step, file_step) for line in lines]


def step_of(text: str) -> str:
    """One level of indentation as a text has it: a tab, or the run of spaces used most; "" when nothing is indented.

    What follows an opening line counts; other indentation may be alignment and is looked at only when there is no such.
    """
    opened: Counter[str] = Counter()
    others: Counter[str] = Counter()
    outer: list[str] = []
    last = ""
    for line in text.split("\n"):
        if not line.strip():
            continue
        indent = _indent(line)
        while outer and not (len(indent) > len(outer[-1]) and indent.startswith(outer[-1])):
            outer.pop()
        if outer:
            more = indent[len(outer[-1]) :]
            if last.endswith(_OPENING):
                opened[more] += 1
            elif len(indent) > len(_indent(last)):
                others[more] += 1
        outer.append(indent)
        last = line.rstrip()
    counts = opened or others
    return max(counts, key=lambda more: (counts[more], -len(more)), default="")


def _placed(line: str, known: dict[str, str], first: tuple[str, str], step: str, file_step: str) -> str:
    if not line.strip():
        return ""
    indent, rest = _indent(line), line.lstrip()
    if indent in known:
        return known[indent] + rest
    bases = [base for base in known if indent.startswith(base)]
    if bases:
        base = max(bases, key=len)
        return known[base] + _converted(indent[len(base) :], step, file_step) + rest
    # Less indented than all that is known: as many steps out from the first pair.
    written, real = first
    less = _converted(written[len(indent) :], step, file_step) if written.startswith(indent) else ""
    return (real.removesuffix(less) if less and real.endswith(less) else real) + rest


def _converted(more: str, step: str, file_step: str) -> str:
    if not step or not file_step or len(more) % len(step) or set(more) != set(step):
        return more
    return file_step * (len(more) // len(step))


def _only_tabs(pairs: list[tuple[str, str]]) -> str:
    return "\t" if any("\t" in real for _, real in pairs) else ""


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]
