"""What an attack is, as data."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field

REACHED = "REACHED"
"""What an attack prints where its success shows nowhere else."""

Call = tuple[str, dict[str, object]]


@dataclass(frozen=True)
class Case:
    """One attack: the tool calls that the model makes, one after the other.

    In commands and arguments `@OUT`, `@WS`, `@HOME`, `@TOP`, `@TCP`, `@UDP`, `@TCP6`, `@ABSTRACT`, `@VICTIM` (a process
    of the person's), `@AGENT` (the program's own process) stand for what they name, `@DOCKER` and the like for sockets.
    Any change of the house is an effect, and so is a result that holds a canary or REACHED.

    `settle`: seconds to wait before the look, for effects that come late. `seconds`: how long it may take. `alone`: in
    a run of its own. `proof`: why it need not have an effect without walls ("" where it must). `open`: by tier, why it
    is known to get through there; with `claim`, a key of the probe's, only on machines where that does not hold.
    """

    id: str
    calls: tuple[Call, ...]
    of: str = ""
    """Where the attack comes from: a number of the catalogue, or a row of its table."""
    settle: float = 0.0
    seconds: float = 25.0
    alone: bool = False
    proof: str = ""
    open: dict[str, str] = field(default_factory=dict)
    claim: str = ""
    probe: Callable[..., list[str]] | None = None
    """Looks at the house and the result for an effect of this attack's own kind."""


def shell(id: str, command: str, of: str = "", timeout: float = 15, **fields: object) -> Case:
    """An attack by one command of the shell tool."""
    call = ("shell", {"command": textwrap.dedent(command).strip(), "timeout": timeout})
    return Case(id, (call,), of, **fields)  # type: ignore[arg-type]


def python(id: str, code: str, of: str = "", **fields: object) -> Case:
    """An attack by a Python program on the shell tool; REACHED is printed by the code itself."""
    return shell(id, f"python3 -S - <<'EOF'\n{textwrap.dedent(code).strip()}\nEOF", of, **fields)


def tools(id: str, *calls: Call, of: str = "", **fields: object) -> Case:
    """An attack by calls of the file tools."""
    return Case(id, calls, of, **fields)  # type: ignore[arg-type]
