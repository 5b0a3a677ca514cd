"""`/help`: the commands, those of the agent too, and the keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from laguna_agent.event_lines import one_line
from laguna_agent.terminal.face import SlashCommand
from laguna_agent.terminal.slash.tables import show, table, text

if TYPE_CHECKING:
    from laguna_agent.terminal.face import Face

KEYS = (
    ("Enter", "send; while a turn runs, say it into the turn"),
    ("Ctrl-Q", "send it when the turn has ended"),
    ("Alt-Enter, Ctrl-J", "a new line"),
    ("Esc, Ctrl-C", "interrupt the turn"),
    ("Shift-Tab", "the next mode"),
    ("Ctrl-O", "show in full what was folded"),
    ("Ctrl-G", "edit the text in your editor"),
    ("@ and !", "name a file; run a shell command yourself"),
    ("Ctrl-D", "leave"),
)
NARROW = 60


async def _help(face: Face, argument: str) -> None:
    from laguna_agent.terminal.slash import offered

    ours = {each.name: (each.hint, each.description) for each in offered(face)}
    known = ours | {each.name: (each.hint, each.description) for each in face.link.commands if each.name not in ours}
    theme = face.theme
    rows = []
    for name, (hint, description) in sorted(known.items()):
        # On a narrow screen the name stands alone, so that words have room.
        arguments = f" [{one_line(hint)}]" if hint and face.width > NARROW and len(hint) < 20 else ""
        rows.append((("/" + one_line(name, 40) + arguments, "accent"), one_line(description)))
    keys = [((key, "accent"), words) for key, words in KEYS]
    show(face, table(theme, rows), text(theme, ""), table(theme, keys))


HELP = SlashCommand("help", "Show the commands and the keys", _help, at_work=True)
