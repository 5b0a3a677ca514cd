"""Draw what a run of the demo printed as an SVG picture for the README.

usage: python scripts/demo.py | tee demo.txt && python scripts/draw_demo.py demo.txt docs/demo.svg

Colours only; not one character of the output is changed.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

WIDTH = 112
STYLES = (
    ("$ ", "bold"),
    ("+++ ", "bold"),
    ("--- a/", "bold"),
    ("--- ", "bold cyan"),
    ("+", "green"),
    ("-", "red"),
    ("@@", "cyan"),
    ("* ", "bold blue"),
    ("info: ", "dim"),
    ("(", "dim"),
    ("completed", "bold green"),
)


def main() -> None:
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    for line in source.read_text().splitlines():
        style = next((style for prefix, style in STYLES if line.startswith(prefix)), "")
        console.print(Text(line, style))
    console.save_svg(str(target), title="make demo")


if __name__ == "__main__":
    main()
