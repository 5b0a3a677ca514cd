"""Telling a person who looks elsewhere that the agent waits for them, or is done.

Pure: what there is to write to the terminal, as text; whoever owns the terminal writes it. The terminal's title is left
alone: it belongs to the person's shell, and not every terminal can give it back.
"""

from __future__ import annotations

from collections.abc import Mapping

from laguna_agent.config import Notify
from laguna_agent.visible import visible_line

AWAY_AFTER = 10.0
"""Seconds without a key after which a person is taken to look elsewhere."""
LONGEST = 120
"""Characters of a notification."""
_TAKES_OSC9 = frozenset({"iTerm.app", "WezTerm", "ghostty", "WarpTerminal"})


def notification(text: str, quiet: float, how: Notify, environment: Mapping[str, str]) -> str:
    """What to write so that the person hears of `text`, where no key was pressed for `quiet` seconds; "" where nothing
    is to be written: they are here, or want no notifications.

    Of `text` only one line goes out, and nothing in it that a terminal would obey.
    """
    if how == "off" or quiet < AWAY_AFTER:
        return ""
    if how == "bell" or (how == "auto" and not _shows_osc9(environment)):
        return "\a"
    # "9;4" would be a progress bar to some terminals: the name in front makes it a text to all of them.
    return f"\x1b]9;laguna-agent: {visible_line(text)[:LONGEST]}\x1b\\"


def _shows_osc9(environment: Mapping[str, str]) -> bool:
    """Whether the terminal is known to show such notifications. A multiplexer swallows them, but hands on a bell."""
    if environment.get("TMUX") or environment.get("STY"):
        return False
    return environment.get("TERM_PROGRAM") in _TAKES_OSC9 or "KITTY_WINDOW_ID" in environment
