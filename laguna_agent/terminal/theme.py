"""Themes: what each kind of text looks like, by name.

Knows colours; it must not know events or widths. Meaning never hangs on a colour alone: where there are no colours all
reads the same. "auto" keeps to the sixteen colours that people chose for their terminal.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from rich.segment import Segment
from rich.style import Style

from laguna_agent.errors import UsageError
from laguna_agent.terminal.lines import fragments

if TYPE_CHECKING:
    from prompt_toolkit.styles import Style as PromptStyle

STYLE_NAMES = (
    *("text", "dim", "thought", "strong", "emphasis", "accent", "ok", "warning", "error", "user", "tool", "running"),
    *("heading", "link", "quote", "code", "rule", "added", "removed", "added.word", "removed.word", "hunk", "path"),
    *("panel", "panel.title", "panel.key", "panel.selected", "status", "status.strong", "status.warning", "bar"),
    *("prompt", "placeholder", "menu", "menu.selected", "menu.dim"),
    *("syntax.comment", "syntax.keyword", "syntax.string", "syntax.number", "syntax.name", "syntax.type"),
    *("syntax.operator", "syntax.error"),
)

_PLAIN: dict[str, str] = {
    "dim": "dim",
    "thought": "dim italic",
    "strong": "bold",
    "emphasis": "italic",
    "accent": "bold",
    "running": "bold",
    "error": "bold",
    "warning": "bold",
    "user": "bold",
    "tool": "",
    "heading": "bold",
    "link": "underline",
    "quote": "italic",
    "added": "bold",
    "added.word": "bold underline",
    "removed": "dim",
    "removed.word": "underline",
    "hunk": "dim",
    "path": "bold",
    "rule": "dim",
    "panel.title": "bold",
    "panel.key": "bold",
    "panel.selected": "reverse",
    "status": "dim",
    "status.strong": "bold",
    "status.warning": "bold",
    "prompt": "bold",
    "placeholder": "dim",
    "menu": "",
    "menu.selected": "reverse",
    "menu.dim": "dim",
    "syntax.comment": "dim",
    "bar": "bold",
}
_ANSI = _PLAIN | {
    "accent": "bold cyan",
    "running": "cyan",
    "ok": "green",
    "warning": "yellow",
    "error": "bold red",
    "user": "bold cyan",
    "heading": "bold",
    "link": "cyan underline",
    "code": "cyan",
    "added": "green",
    "added.word": "bold green underline",
    "removed": "red",
    "removed.word": "bold red underline",
    "panel.key": "bold cyan",
    "status.warning": "yellow",
    "prompt": "bold cyan",
    "bar": "cyan",
    "syntax.keyword": "magenta",
    "syntax.string": "green",
    "syntax.number": "cyan",
    "syntax.name": "blue",
    "syntax.type": "cyan",
    "syntax.error": "red",
}
_DARK = _PLAIN | {
    "dim": "#8b929c",
    "thought": "italic #8b929c",
    "accent": "bold #7fb4ca",
    "running": "#7fb4ca",
    "ok": "#87b379",
    "warning": "#d7ba7d",
    "error": "bold #e5786d",
    "user": "bold #7fb4ca",
    "heading": "bold #d9c48f",
    "link": "#7fb4ca underline",
    "quote": "italic #a9b1bb",
    "code": "#d0a98f",
    "rule": "#5c636d",
    "added": "on #16301f",
    "added.word": "bold on #24552f",
    "removed": "on #3a1d1f",
    "removed.word": "bold on #6b2a2c",
    "hunk": "#8b929c",
    "panel.key": "bold #7fb4ca",
    "panel.selected": "bold on #2c3440",
    "status": "#8b929c",
    "status.strong": "#c5cbd3",
    "status.warning": "#d7ba7d",
    "prompt": "bold #7fb4ca",
    "placeholder": "#6b727c",
    "menu": "on #20252c",
    "menu.selected": "bold on #364150",
    "menu.dim": "#8b929c on #20252c",
    "bar": "#7fb4ca",
    "syntax.comment": "italic #8b929c",
    "syntax.keyword": "#c39ac9",
    "syntax.string": "#a3be8c",
    "syntax.number": "#d0a98f",
    "syntax.name": "#88b4e0",
    "syntax.type": "#7fc0b5",
    "syntax.error": "#e5786d",
}
_LIGHT = _PLAIN | {
    "dim": "#626a73",
    "thought": "italic #626a73",
    "accent": "bold #0b6584",
    "running": "#0b6584",
    "ok": "#2f7031",
    "warning": "#8a5a00",
    "error": "bold #b3261e",
    "user": "bold #0b6584",
    "heading": "bold #5b4a00",
    "link": "#0b6584 underline",
    "quote": "italic #4d545c",
    "code": "#8c3b12",
    "rule": "#a5abb3",
    "added": "on #dff5e1",
    "added.word": "bold on #a9e2b0",
    "removed": "on #fde7e6",
    "removed.word": "bold on #f8b9b4",
    "hunk": "#626a73",
    "panel.key": "bold #0b6584",
    "panel.selected": "bold on #e2e8ef",
    "status": "#626a73",
    "status.strong": "#30363d",
    "status.warning": "#8a5a00",
    "prompt": "bold #0b6584",
    "placeholder": "#868e97",
    "menu": "on #eef1f4",
    "menu.selected": "bold on #d3dbe4",
    "menu.dim": "#626a73 on #eef1f4",
    "bar": "#0b6584",
    "syntax.comment": "italic #626a73",
    "syntax.keyword": "#7a3e9d",
    "syntax.string": "#2f6f2f",
    "syntax.number": "#8c3b12",
    "syntax.name": "#1f57a4",
    "syntax.type": "#0f6f66",
    "syntax.error": "#b3261e",
}


@dataclass(frozen=True, eq=False)
class Theme:
    """How named styles look; `dark` is what the terminal's ground is taken for."""

    name: str
    dark: bool
    words: Mapping[str, str]

    @cached_property
    def _styles(self) -> dict[str, Style]:
        return {name: Style.parse(self.words.get(name, "")) for name in STYLE_NAMES}

    def style(self, name: str) -> Style:
        """A style of `STYLE_NAMES`; KeyError for another name, which is a mistake in the program."""
        return self._styles[name]

    @cached_property
    def prompt_toolkit(self) -> PromptStyle:
        """The same styles as classes of prompt_toolkit, `class:panel.key` for instance, and those of its menus."""
        from prompt_toolkit.styles import Style as PromptStyle

        classes = {name: _prompt_words(self.style(name)) for name in STYLE_NAMES if name != "text"}
        menu, chosen, dim = (f"noinherit {classes[name]}" for name in ("menu", "menu.selected", "menu.dim"))
        return PromptStyle.from_dict(
            classes
            | {
                "completion-menu": menu,
                "completion-menu.completion": menu,
                "completion-menu.completion.current": chosen,
                "completion-menu.meta.completion": dim,
                "completion-menu.meta.completion.current": chosen,
                "auto-suggestion": classes["placeholder"],
                "bottom-toolbar": f"noreverse {classes['status']}",
            }
        )


def _prompt_words(style: Style) -> str:
    return fragments([(Segment("x", style),)])[0][0]


THEMES: dict[str, Theme] = {
    "auto": Theme("auto", True, _ANSI),
    "dark": Theme("dark", True, _DARK),
    "light": Theme("light", False, _LIGHT),
    "mono": Theme("mono", True, _PLAIN),
}


def theme_named(name: str, environ: Mapping[str, str] = os.environ) -> Theme:
    """The theme of that name; "auto" becomes "dark" or "light" where the terminal says in COLORFGBG what its ground is.
    Raises UsageError for an unknown name."""
    if name not in THEMES:
        raise UsageError(f"there is no theme {name!r}; there are {', '.join(THEMES)}")
    if name == "auto":
        return THEMES[_ground(environ.get("COLORFGBG", "")) or name]
    return THEMES[name]


def _ground(colours: str) -> str:
    """ "dark" or "light" from `15;0` or `0;default;15`, whose last part is the ground; "" where it says nothing."""
    _, separator, ground = colours.rpartition(";")
    if not separator or not ground.isdecimal():
        return ""
    return "light" if int(ground) in (7, *range(9, 16)) else "dark"
