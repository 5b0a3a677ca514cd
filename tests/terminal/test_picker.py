"""Lists to choose from."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from laguna_agent.terminal.picker import Picker
from laguna_agent.terminal.theme import theme_named
from tests.terminal.faces import plain, press, widest

THEME = theme_named("light")
FRUIT = [(1, "apple", "red or green"), (2, "banana", "yellow"), (3, "cherry", "red"), (4, "date", "brown")]


def picker(**how: object) -> tuple[Picker[int], list[int | None]]:
    made: Picker[int] = Picker("Which fruit", FRUIT, THEME, **how)  # type: ignore[arg-type]
    results: list[int | None] = []
    made.done = results.append
    return made, results


def test_arrows_and_enter() -> None:
    made, results = picker()
    assert "> apple" in plain(made.lines(60, 10))
    press(made, "down", "down")
    assert "> cherry" in plain(made.lines(60, 10))
    press(made, "c-m")
    assert results == [3]


def test_around_and_to_the_ends() -> None:
    made, _ = picker()
    press(made, "up")
    assert "> date" in plain(made.lines(60, 10))
    press(made, "home")
    assert "> apple" in plain(made.lines(60, 10))
    press(made, "end")
    assert "> date" in plain(made.lines(60, 10))


def test_words_narrow_it() -> None:
    made, results = picker()
    press(made, "RED")
    words = plain(made.lines(60, 10))
    assert "apple" in words
    assert "cherry" in words
    assert "banana" not in words
    press(made, " ", "ch")
    assert "apple" not in plain(made.lines(60, 10))
    press(made, "c-h", "c-h", "c-h", "c-h")
    assert "apple" in plain(made.lines(60, 10))
    press(made, "c-u", "nothing")
    assert "nothing like that" in plain(made.lines(60, 10))
    press(made, "c-m")
    assert not results, "there is nothing to choose"


def test_what_is_in_focus_stays_so_while_it_is_narrowed() -> None:
    made, results = picker()
    press(made, "down", "down", "e", "c-m")
    assert results == [3]


def test_escape_chooses_nothing() -> None:
    made, results = picker()
    made.interrupted()
    made.interrupted()
    assert results == [None]


def test_what_comes_into_focus_is_told() -> None:
    seen: list[int] = []
    made, _ = picker(moved=seen.append, chosen=2, filterable=False)
    assert "> banana" in plain(made.lines(60, 10))
    press(made, "down", "x", "up")
    assert seen == [3, 2]


def test_a_long_list_scrolls() -> None:
    made: Picker[int] = Picker("Many", [(at, f"item {at}", "") for at in range(100)], THEME)
    press(made, *["down"] * 50)
    words = plain(made.lines(40, 10))
    assert "> item 50" in words
    assert "51 of 100" in words


@given(
    st.lists(st.tuples(st.integers(), st.text(max_size=60), st.text(max_size=90)), max_size=30),
    st.integers(10, 200),
    st.integers(3, 40),
    st.text(max_size=4),
)
def test_it_fits(items: list[tuple[int, str, str]], width: int, height: int, typed: str) -> None:
    made: Picker[int] = Picker("A title of some length", items, THEME)
    made._narrow(typed)
    lines = made.lines(width, height)
    assert len(lines) <= height
    assert widest(lines) <= width
    assert "\x1b" not in plain(lines)
