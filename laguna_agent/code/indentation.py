"""Bring lines that a model wrote at one indentation to the one a file really has.

Knows lines of text only.
"""

from __future__ import annotations

from itertools import pairwise


def fit(lines: list[str], written: list[str], real: list[str]) -> list[str]:
    """`lines` indented as the file would have them, where `real` are the file's lines for the `written` ones (line by
    line). Steps the file takes with tabs, or with another number of spaces, become the file's own."""
    pairs = [(_indent(a), _indent(b)) for a, b in zip(written, real, strict=True) if a.strip() and b.strip()]
    if not pairs:
        return lines
    known = dict(reversed(pairs))
    step = _step([_indent(line) for line in lines if line.strip()] + [pair[0] for pair in pairs])
    file_step = _step([pair[1] for pair in pairs]) or _only_tabs(pairs) or step
    return [_placed(line, known, pairs[0], step, file_step) for line in lines]


def shift(lines: list[str], indent: str) -> list[str]:
    """`lines` with the indentation of the first that is not blank replaced by `indent`, the others following it; a line
    that is indented less than the first keeps its text at `indent`."""
    first = next((_indent(line) for line in lines if line.strip()), "")
    return [
        (indent + (line[len(first) :] if line.startswith(first) else line.lstrip())) if line.strip() else ""
        for line in lines
    ]


def retab(lines: list[str], step: str) -> list[str]:
    """`lines` with each level of indentation written as `step`, where their own level can be told."""
    own = _step([_indent(line) for line in lines if line.strip()])
    if not own or own == step:
        return lines
    return [
        step * (len(_indent(line)) // len(own)) + " " * (len(_indent(line)) % len(own)) + line.lstrip()
        if line.strip() and set(_indent(line)) <= set(own)
        else line
        for line in lines
    ]


def step_of(text: str) -> str:
    """One level of indentation as a text has it: a tab, or the run of spaces used most; "" when nothing is indented."""
    counts: dict[str, int] = {}
    last = ""
    for line in text.split("\n"):
        if not line.strip():
            continue
        indent = _indent(line)
        if len(indent) > len(last) and indent.startswith(last):
            more = indent[len(last) :]
            counts[more] = counts.get(more, 0) + 1
        last = indent
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


def _step(indents: list[str]) -> str:
    """The smallest difference between the indentations; "" when they are all the same."""
    ordered = sorted(set(indents), key=len)
    steps = [b[len(a) :] for a, b in pairwise(ordered) if b.startswith(a) and b != a]
    return min(steps, key=len, default="")


def _only_tabs(pairs: list[tuple[str, str]]) -> str:
    return "\t" if any("\t" in real for _, real in pairs) else ""


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]
