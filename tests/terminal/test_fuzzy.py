"""Which paths a few letters find, and in which order."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from laguna_agent.terminal.fuzzy import LOOKED_AT, SHOWN, Paths, matches, score

name = st.text("abcXYZ_-.é", min_size=1, max_size=8)
path = st.lists(name, min_size=1, max_size=4).map("/".join)


@given(path, st.data())
def test_letters_in_order_always_match(whole: str, data: st.DataObject) -> None:
    spots = sorted(data.draw(st.sets(st.integers(0, len(whole) - 1))))
    pattern = "".join(whole[at] for at in spots)
    pattern = pattern.swapcase() if data.draw(st.booleans()) else pattern
    assert matches(pattern, whole)
    assert Paths([whole]).search(pattern) == [whole]


@given(path, st.text("abcxyz/._", min_size=1, max_size=5))
def test_nothing_else_matches(whole: str, pattern: str) -> None:
    letters = iter(whole.lower())
    in_order = all(letter in letters for letter in pattern)
    assert matches(pattern, whole) == in_order
    assert (Paths([whole]).search(pattern) == [whole]) == in_order


@given(st.sets(path, max_size=40), st.text("abcxyz/._", max_size=5), st.randoms(use_true_random=False))
def test_the_order_depends_on_the_paths_alone(paths: set[str], pattern: str, chance: random.Random) -> None:
    shuffled = sorted(paths)
    chance.shuffle(shuffled)
    assert Paths(sorted(paths)).search(pattern) == Paths(shuffled).search(pattern)


@given(st.sets(path, max_size=60), st.text("abcxyz/._", min_size=1, max_size=6))
def test_typing_on_finds_what_asking_at_once_finds(paths: set[str], pattern: str) -> None:
    typed = Paths(paths)
    for end in range(1, len(pattern) + 1):
        found = typed.search(pattern[:end], limit=100)
    assert found == Paths(paths).search(pattern, limit=100)
    assert set(found) == {each for each in paths if matches(pattern, each)}


def test_what_comes_first() -> None:
    paths = Paths(
        [
            "tests/terminal/test_composer.py",
            "laguna/terminal/composer.py",
            "laguna/terminal/composer_keys.py",
            "docs/decomposed.md",
            "composer.lock",
            "com/p/o/s/e/r.c",
        ]
    )
    assert paths.search("composer") == [
        "composer.lock",
        "laguna/terminal/composer.py",
        "laguna/terminal/composer_keys.py",
        "tests/terminal/test_composer.py",
        "com/p/o/s/e/r.c",
    ]
    assert paths.search("ltc")[:2] == ["laguna/terminal/composer.py", "laguna/terminal/composer_keys.py"]
    assert paths.search("terminal/comp")[0] == "laguna/terminal/composer.py"
    assert paths.search("zq") == []
    assert score("tc", "term/composer.py") > score("tc", "other/attic.py")


def test_a_pattern_that_says_little_costs_little_and_still_finds() -> None:
    many = Paths(f"{'d/' * (number % 7)}file_{number}.txt" for number in range(3 * LOOKED_AT))
    assert len(many.search("fx")) == SHOWN
    assert many.search("fl8999t") == ["d/d/d/d/file_8999.txt"]
    assert many.search("") == many.paths[:SHOWN]
