"""Packing: nothing lost, nothing over, nearly nothing left; and the naive way, to compare."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laguna_agent.errors import ConfigError
from laguna_agent.training.data.packing import (
    best_fit,
    cut_documents,
    fill,
    next_fit,
    pack_documents,
    pack_projects,
)

LENGTHS = st.lists(st.integers(0, 70), max_size=60)


@given(LENGTHS, st.integers(1, 40))
@settings(max_examples=200)
def test_every_token_lands_exactly_once(lengths: list[int], capacity: int) -> None:
    packs = pack_documents(lengths, capacity)
    assert all(1 <= sum(part.length for part in pack) <= capacity for pack in packs)
    tokens = [(p.document, at) for pack in packs for p in pack for at in range(p.offset, p.offset + p.length)]
    assert sorted(tokens) == [(each, at) for each, length in enumerate(lengths) for at in range(length)]
    assert packs == pack_documents(lengths, capacity)
    # Long documents are cut at multiples of the capacity and nowhere else.
    assert all(part.offset % capacity == 0 for pack in packs for part in pack)


@given(LENGTHS, st.integers(1, 40), st.integers(1, 4))
@settings(max_examples=100)
def test_a_projects_files_stay_in_their_order(lengths: list[int], capacity: int, count: int) -> None:
    projects = [at % count for at in range(len(lengths))]
    packs = pack_projects(lengths, projects, capacity)
    assert all(sum(part.length for parts in pack for part in parts) <= capacity for pack in packs)
    tokens = [
        (part.document, at)
        for pack in packs
        for parts in pack
        for part in parts
        for at in range(part.offset, part.offset + part.length)
    ]
    assert sorted(tokens) == [(each, at) for each, length in enumerate(lengths) for at in range(length)]
    for pack in packs:
        for parts in pack:
            assert len({projects[part.document] for part in parts}) == 1
            assert [part.document for part in parts] == sorted(part.document for part in parts)
    # One sequence of each project may be short, no more.
    short = [parts for pack in packs for parts in pack if sum(part.length for part in parts) < capacity]
    assert len(short) <= count


def _fewest(sizes: list[int], capacity: int) -> int:
    """The fewest packs there can be, by trying."""
    best = len(sizes)

    def place(at: int, rooms: list[int]) -> None:
        nonlocal best
        if len(rooms) >= best:
            return
        if at == len(sizes):
            best = len(rooms)
            return
        for room in sorted(set(rooms)):
            if room >= sizes[at]:
                rest = list(rooms)
                rest.remove(room)
                place(at + 1, [*rest, room - sizes[at]])
        place(at + 1, [*rooms, capacity - sizes[at]])

    place(0, [])
    return best


@given(st.lists(st.integers(1, 20), min_size=1, max_size=8))
@settings(max_examples=80)
def test_hardly_more_packs_than_the_fewest(sizes: list[int]) -> None:
    fewest = _fewest(sorted(sizes, reverse=True), 20)
    assert fewest <= len(best_fit(sizes, 20)) <= 11 / 9 * fewest + 6 / 9


@given(st.lists(st.integers(1, 5000), max_size=300))
@settings(max_examples=30)
def test_takes_the_fullest_pack_that_has_room(sizes: list[int]) -> None:
    """Against the rule written as it is said, with a look at every pack."""
    packs: list[tuple[int, int]] = []
    for size in sorted(sizes, reverse=True):
        fitting = [(5000 - used - size, at) for at, (used, _) in enumerate(packs) if used + size <= 5000]
        if fitting:
            at = min(fitting)[1]
            packs[at] = (packs[at][0] + size, packs[at][1] + 1)
        else:
            packs.append((size, 1))
    found = [sum(sizes[index] for index in pack) for pack in best_fit(sizes, 5000)]
    assert sorted(found) == sorted(used for used, _ in packs)


def test_the_standard_library_fills_its_packs() -> None:
    """Bytes for tokens: the same skew of lengths, and no tokenizer to train."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [path for path in sorted(root.rglob("*.py")) if "site-packages" not in path.parts]
    lengths = [path.stat().st_size // 3 for path in files]
    sizes = [sequence[0].length for sequence in cut_documents(lengths, 2048)]
    ours = fill([[sizes[index] for index in pack] for pack in best_fit(sizes, 2048)], 2048)
    naive = fill([[sizes[index] for index in pack] for pack in next_fit(sizes, 2048)], 2048)
    assert ours >= 0.995
    assert naive < 0.95


def test_bad_sizes_are_told() -> None:
    with pytest.raises(ConfigError, match="a pack of 0 tokens holds nothing"):
        pack_documents([1], 0)
    with pytest.raises(ConfigError, match="a piece of 9 tokens does not fit into a pack of 8"):
        best_fit([9], 8)
    assert best_fit([0, 3, 0], 8) == [[1]]
    assert fill([], 8) == 1.0
