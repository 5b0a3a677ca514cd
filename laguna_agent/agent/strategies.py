"""What to ask a small model next while the check fails.

    fix       the files and the failure: the opening (`ask` where no check is given)
    focus     one function is named as the mistaken one; with several in view a model tends to change the one that the
              prompt names, whichever is wrong
    anew      bodies are hidden: signatures, docstrings and the failure alone. A model repeats a wrong body that it sees
    again     `anew` at a higher temperature, with what was wrong with the last attempt's results (not the attempt: a
              model that sees its own code, or the wrong one, copies it, whatever is said about it)
    gap       the function with a gap in one line (`cloze`), a line after the other
    why       the wrong line in words first, then the code
    feedback  the code as it is now, and what fails now: where there is no body to hide

Each is a conversation of its own. The order was chosen on the tuning half of the corpus in `benchmarks/bugs`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from laguna_agent.agent.cloze import clozes
from laguna_agent.agent.hiding import functions, hide_bodies
from laguna_agent.agent.mentions import Mentioned, quoted_names

FEW = 4
"""Up to this many functions in view, all are suspects; of more only those that the prompt or the failure names."""
MOST = 16
"""Corrections at most."""
FIRST, LAST = 4, 8
"""Lines of a function that are tried before other strategies have their turn, and lines that are tried at all."""
GAPS = "gap"
_FRAME = re.compile(r'File "[^"]+", line (?P<line>\d+), in (?P<name>\w+)')


class Strategy(msgspec.Struct, frozen=True):
    """One try. `functions` are the ones in question (all where empty), `hide` hides their bodies, `keep` builds on what
    earlier tries changed instead of on the files as they were; `code` is the function with a gap."""

    name: str
    functions: tuple[str, ...] = ()
    hide: bool = False
    keep: bool = False
    code: str = ""


def plan(texts: Sequence[str], prompt: str, output: str, *, whole: bool) -> list[Strategy]:
    """The tries after the opening, in order; `output` is the check's before any work."""
    every = [name for text in texts for name in functions(text)]
    suspects = suspicious(every, prompt, output)
    if whole or not every:
        return [Strategy("feedback", keep=True), Strategy("why"), Strategy("feedback", keep=True)]
    anew, again = (Strategy(name, tuple(every), hide=True) for name in ("anew", "again"))
    gaps = [_gaps(texts, name, output) for name in suspects[:2]]
    if len(every) == 1:
        return [anew, *gaps[0][:FIRST], again, Strategy("why"), *gaps[0][FIRST:LAST], again, again, again]
    tries = [Strategy("focus", (suspects[0],), keep=True)] if suspects else []
    if len(every) <= FEW:
        tries += [anew, *gaps[0][:FIRST], again]
    tries += [Strategy("focus", (name,)) for name in suspects[1:2]]
    tries += [each for more in gaps[1:] for each in more[:FIRST]]
    tries += [Strategy("anew", (name,), hide=True) for name in suspects[:2]]
    return [*tries, Strategy("why"), *(each for more in gaps for each in more[FIRST:LAST])]


def _gaps(texts: Sequence[str], name: str, output: str) -> list[Strategy]:
    """The tries with a gap in the function; a line where an exception passed through tells where."""
    raised = [int(frame["line"]) for frame in _FRAME.finditer(output) if frame["name"] == name.rpartition(".")[2]]
    text = next(text for text in texts if name in functions(text))
    codes = clozes(text, name, raised[-1] if raised else 0)
    return [Strategy(GAPS, (name,), hide=True, code=code) for code in codes]


def suspicious(names: Sequence[str], prompt: str, output: str) -> list[str]:
    """The functions to suspect, the most suspicious first: those where an exception was raised, then those that the
    prompt does not name but the code it names may call, then the named ones."""
    frames = [frame["name"] for frame in _FRAME.finditer(output) if not frame["name"].startswith("test")]
    asked = quoted_names(prompt)

    def rank(name: str) -> tuple[int, int]:
        last = name.rpartition(".")[2]
        raised = max((index for index, frame in enumerate(frames, 1) if frame == last), default=0)
        return (-raised, 1 if last in asked else 0)

    if len(names) > FEW:
        names = [name for name in names if name.rpartition(".")[2] in asked | set(frames)]
    return sorted(names, key=rank)


def hidden(file: Mentioned, names: Sequence[str]) -> Mentioned:
    """The file with the bodies of these functions hidden."""
    text = hide_bodies(file.text, names)
    return file if text is None else msgspec.structs.replace(file, text=text)
