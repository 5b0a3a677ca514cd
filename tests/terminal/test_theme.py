"""Themes: every name is there in each, and the ground is told by the terminal."""

from __future__ import annotations

import pytest

from laguna_agent.errors import UsageError
from laguna_agent.terminal.theme import STYLE_NAMES, THEMES, theme_named


@pytest.mark.parametrize("name", THEMES)
def test_every_style_is_there(name: str) -> None:
    theme = theme_named(name, {})
    for style in STYLE_NAMES:
        theme.style(style)
    assert theme.prompt_toolkit.get_attrs_for_style_str("class:completion-menu.completion.current")
    assert set(theme.words) <= set(STYLE_NAMES)


def test_mono_has_no_colour() -> None:
    assert all(THEMES["mono"].style(name).color is None for name in STYLE_NAMES)


def test_auto_keeps_to_the_colours_of_the_terminal() -> None:
    colours = [THEMES["auto"].style(name).color for name in STYLE_NAMES]
    assert all(colour is None or (colour.number or 0) < 16 for colour in colours)
    assert not any(THEMES["auto"].style(name).bgcolor for name in STYLE_NAMES)


@pytest.mark.parametrize(
    ("colours", "name"),
    [
        ("15;0", "dark"),
        ("0;15", "light"),
        ("0;default;15", "light"),
        ("15;default", "auto"),
        ("", "auto"),
        ("7", "auto"),
    ],
)
def test_the_ground_is_what_the_terminal_says(colours: str, name: str) -> None:
    assert theme_named("auto", {"COLORFGBG": colours}).name == name


def test_an_unknown_theme_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="auto, dark, light, mono"):
        theme_named("pink")
