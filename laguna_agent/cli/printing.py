"""Printing for the commands that answer with text or JSON on stdout, and whether somebody reads it as it comes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

EXIT_SIGPIPE = 141


def show(text: str) -> None:
    """Print lines; a reader that went away (`| head`) ends the program quietly."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter would flush into the pipe again at exit and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_SIGPIPE)


def is_terminal() -> bool:
    """Whether a person is there to be asked."""
    return bool(sys.stdin and sys.stdin.isatty() and sys.stdout and sys.stdout.isatty())


def show_json(value: Any) -> None:
    """Print structs or plain data as indented JSON."""
    import msgspec

    show(msgspec.json.format(msgspec.json.encode(value)).decode())


def show_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows as columns; the last column is as long as it likes."""
    from laguna_agent.visible import visible_line

    rows = [[visible_line(cell) for cell in row] for row in rows]
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        show("  ".join([*cells, row[-1]]).rstrip())
