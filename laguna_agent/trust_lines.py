"""Trust in words: what a person is shown before they trust something, and told of what is not used.

Knows the wording; must not know where the lines go. Nothing of a text is cut or folded, and what a terminal would obey
or an eye not see is spelled out: what is not shown is not trusted knowingly.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from laguna_agent.trust import TOOLS, Asking
from laguna_agent.visible import visible_each, visible_line

HOW = "`laguna-agent trust`"


def state_of(asking: Asking) -> str:
    """How trust in it stands, behind its name."""
    if asking.problem:
        return f"never trusted: {visible_line(asking.problem)}"
    if asking.trusted:
        return "trusted"
    return "not trusted" if asking.before is None else "changed since it was trusted"


def shown(asking: Asking) -> list[str]:
    """A text in full, or as a unified diff against what was trusted of it."""
    name = visible_line(asking.name)
    lines = [f"--- {name}: {state_of(asking)}"]
    if asking.problem or asking.trusted:
        return lines
    new = _lines(asking.text)
    if asking.before is None:
        return [*lines, *(f"  {line}" for line in new)]
    old = _lines(asking.before)
    changes = list(difflib.unified_diff(old, new, "trusted", "now", lineterm=""))
    # The texts are different, so a diff without a line can only mean that they end differently.
    return [*lines, *(changes or ["  only the ends of its lines have changed"])]


def _lines(text: str) -> list[str]:
    return visible_each(text.replace("\r\n", "\n")).removesuffix("\n").split("\n")


def why_inert(asking: Asking) -> str:
    """Why it is not used and what to do, as a sentence's end."""
    if asking.problem:
        return f"{visible_line(asking.problem)}, and such a file is never trusted"
    if asking.before is not None:
        return f"it has changed since it was trusted; see what with {HOW}"
    return f"this workspace is not trusted; look at it with {HOW}"


def notices(inert: Iterable[Asking], *, here: bool = False) -> list[str]:
    """What is not used, in a line for each reason. `here`: there is a person who can type /trust."""
    by_reason: dict[str, list[str]] = {}
    for each in inert:
        by_reason.setdefault(_reason(each), []).append(visible_line(each.name))
    said = []
    for reason, names in by_reason.items():
        text = f"{listed(names)} {'is' if len(names) == 1 else 'are'} not used: {reason}"
        said.append(text.replace(HOW, f"/trust or {HOW}") if here else text)
    return said


def _reason(asking: Asking) -> str:
    if asking.kind == TOOLS and not asking.problem:
        return f"they are not what the server offered when it was trusted; see what has changed with {HOW}"
    return why_inert(asking)


def listed(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
