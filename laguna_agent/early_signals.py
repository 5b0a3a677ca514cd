"""Signals between the program's first line and its face's first step.

Most commands unwind. But a handler that raises during an import turns up as whatever the import makes of it, so a face
that promises a final record has its signals noted from the start, and acts on them once it is there to act.
"""

from __future__ import annotations

import signal
from typing import NoReturn

from laguna_agent.errors import EXIT_SIGTERM

ENDING = (signal.SIGTERM, signal.SIGHUP)
STOPPING = (signal.SIGINT, *ENDING)

_arrived: list[int] = []


def note_signals() -> None:
    """Note SIGINT, SIGTERM and SIGHUP from now on. What we were started to ignore (nohup) stays ignored."""
    for number in STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda arrived, _: _arrived.append(arrived))


def unwind_on_signals() -> None:
    """Have SIGTERM and SIGHUP end the program as SIGINT does, through its `finally` clauses, with exit code 143."""
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _unwind)


def _unwind(number: int, _: object) -> NoReturn:
    raise SystemExit(EXIT_SIGTERM)


def take_noted() -> list[int]:
    """The signals that have been noted, in order; forgets them."""
    taken = _arrived.copy()
    _arrived.clear()
    return taken
