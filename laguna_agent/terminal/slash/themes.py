"""`/theme`: the colours, tried on while choosing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from laguna_agent.terminal.face import SlashCommand
from laguna_agent.terminal.picker import Picker

if TYPE_CHECKING:
    from laguna_agent.terminal.face import Face
    from laguna_agent.terminal.theme import Theme

ABOUT = {
    "auto": "the terminal's own colours, or dark or light where it says which it is",
    "dark": "for a dark ground",
    "light": "for a light ground",
    "mono": "no colours",
}


async def _theme(face: Face, argument: str) -> None:
    from laguna_agent.terminal.theme import THEMES

    name = argument.strip()
    if not name:
        before = face.theme
        items = [(each, each, ABOUT.get(each, "")) for each in THEMES]
        chosen = await face.show(_Previewed(face, items, before))
        if chosen is None:
            face.theme = before
            return
        name = chosen
    face.use_theme(name)
    face.say(f"theme {name}", "dim")


class _Previewed(Picker[str]):
    """A picker that is drawn in the theme that is in focus."""

    def __init__(self, face: Face, items: list[tuple[str, str, str]], before: Theme) -> None:
        super().__init__("Which colours", items, before, filterable=False, chosen=before.name, moved=self._try_on)
        self._face = face

    def _try_on(self, name: str) -> None:
        from laguna_agent.terminal.theme import theme_named

        # Only worn, not remembered: `use_theme` does that when it is chosen.
        self._face.theme = self.theme = theme_named(name)


def _names(_: Face) -> list[str]:
    from laguna_agent.terminal.theme import THEMES

    return list(THEMES)


THEME = SlashCommand("theme", "Choose the colours", _theme, "NAME", _names, at_work=True)
