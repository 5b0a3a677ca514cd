"""How to start this program again, so that it works from an editor which was started without a shell's PATH."""

from __future__ import annotations

import os
import sys
from pathlib import Path

NAME = "laguna-agent"


def own_command() -> list[str]:
    """The program's absolute command line, without arguments: the console script, or this Python and its module.

    The script is the one that was started, else the one beside this Python. `-P` keeps Python from importing modules
    out of the directory in which an editor happens to start it.
    """
    started = Path(sys.argv[0]).absolute()
    for script in (started, Path(sys.executable).with_name(NAME)):
        if script.name == NAME and script.is_file() and os.access(script, os.X_OK):
            return [str(script)]
    return [sys.executable, "-P", "-m", "laguna_agent"]
