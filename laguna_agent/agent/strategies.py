"""What to ask a small model next while the check fails.

    fix       the files and the failure: the opening (`ask` where no check is given)
    focus     one function is named as the mistaken one; with several in view a model tends to change the one that the
              prompt names, whichever is wrong
    anew      bodies are hidden: signatures, docstrings and the failure alone. A model repeats a wrong body that it sees
    again     `anew` at a higher temperature, with what was wrong with the last attempt's results (not the attempt: a
              model that sees its own code, or the wrong one, copies it, whatever is said about it)
    why       the wrong line in words first, then the code
    feedback  the code as it is now, and what fails now: where there is no body to hide

Each is a conversation of its own. The order was chosen on the tuning half of the corpus in `benchmarks/bugs`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from laguna_agent.agent.hiding import functions, hide_bodies
from laguna_agent.agent.mentions import Mentioned, quoted_names

FEW = 4
"""Up to this many functions in view, all are suspects; of more only those that the prompt or the failure names."""
MOST = 8
"""Corrections at most."""
_FRAME = re.compile(r'File "[^"]+", line \d+, in (\w+)')


class Strategy(msgspec.Struct, frozen=True):
    """One try. `functions` are the ones in question (all where empty), `hide` hides their bodies, `keep` builds on what
    earlier tries changed instead of on the files as they were."""

    name: str
    functions: tuple[str, ...] = ()
    hide: bool = False
    keep: bool = False


def plan(texts: Sequence[str], prompt: str, output: str, *, whole: bool) -> list[Strategy]:
    """The tries after the opening, in order; `output` is the check's before any work."""
    every = [name for text in texts for name in functions(text)]
    suspects = suspicious(every, prompt, output)
    if whole or not every:
        return [Strategy("feedback", keep=True), Strategy("why"), Strategy("feedback", keep=True)]
    if len(every) == 1:
        again = Strategy("again", tuple(every), hide=True)
        return [Strategy("anew", tuple(every), hide=True), again, again, Strategy("why"), again, again]
    tries = [Strategy("focus", (suspects[0],), keep=True)] if suspects else []
    if len(every) <= FEW:
        tries += [Strategy("anew", tuple(every), hide=True), Strategy("again", tuple(every), hide=True)]
    tries += [Strategy("focus", (name,)) for name in suspects[1:2]]
    tries += [Strategy("anew", (name,), hide=True) for name in suspects[:2]]
    return [*tries, Strategy("why")]


def suspicious(names: Sequence[str], prompt: str, output: str) -> list[str]:
    """The functions to suspect, the most suspicious first: those where an exception was raised, then those that the
    prompt does not name but the code it names may call, then the named ones."""
    frames = [name for name in _FRAME.findall(output) if not name.startswith("test")]
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
