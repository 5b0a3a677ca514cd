"""Prompt lookup: the longest earlier run is found, and drafting stops where it costs more than it gives."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from laguna_agent.backend.laguna.lookup import SHORTEST, Drafter, Lookup


def slowly(ids: list[int], room: int) -> list[int]:
    """What `Lookup` finds, by trying every place."""
    best, longest = -1, SHORTEST - 1
    for place in range(len(ids) - 2, SHORTEST - 2, -1):
        run = 0
        while run <= place and ids[place - run] == ids[len(ids) - 1 - run]:
            run += 1
        if run > longest:
            best, longest = place, run
    if best < 0:
        return []
    out = list(ids)
    for _ in range(room):
        out.append(out[best + 1 + len(out) - len(ids)])
    return out[len(ids) :]


@settings(max_examples=300)
@given(ids=st.lists(st.integers(0, 2), max_size=24), room=st.integers(0, 9), first=st.integers(0, 24))
def test_it_finds_the_longest_earlier_run(ids: list[int], room: int, first: int) -> None:
    lookup = Lookup()
    lookup.continuation(ids[:first], 3)
    assert lookup.continuation(ids, room) == slowly(ids, room)


def test_nothing_to_go_by() -> None:
    assert Lookup().continuation([], 5) == []
    assert Lookup().continuation([1, 2], 5) == []
    assert Lookup().continuation([1, 2, 3, 4, 5], 5) == []
    assert Lookup().continuation([7, 7, 7, 7], 3) == [7, 7, 7]


def test_long_texts_are_indexed_once() -> None:
    lookup = Lookup()
    ids = list(range(50_000))
    for at in range(40):
        ids.append(ids[20_000 + at])
        found = lookup.continuation(ids, 4)
    assert found == [20_040, 20_041, 20_042, 20_043]


REPEATING = list(range(40)) * 3


def passes(drafter: Drafter, count: int, *, right: float, cost: float) -> int:
    """Run `count` passes where a share of each draft is right and a drafted token costs `cost` plain passes; how many
    had a draft."""
    drafted = 0
    for _ in range(count):
        guess = drafter.propose(REPEATING, 32)
        drafted += bool(guess)
        drafter.learn(len(guess), int(len(guess) * right), 1.0 + cost * len(guess))
    return drafted


def test_drafts_that_pay_go_on_and_grow() -> None:
    drafter = Drafter(16)
    drafter.learn(0, 0, 1.0)
    assert passes(drafter, 100, right=1.0, cost=0.2) == 100
    assert len(drafter.propose(REPEATING, 32)) == 16
    assert len(drafter.propose(REPEATING, 3)) == 3


def test_drafts_that_do_not_pay_become_rare_and_come_back() -> None:
    drafter = Drafter(16)
    drafter.learn(0, 0, 1.0)
    assert passes(drafter, 1000, right=0.0, cost=0.2) < 50
    passes(drafter, 300, right=1.0, cost=0.2)
    assert passes(drafter, 100, right=1.0, cost=0.2) == 100
    # Right or not: where a drafted token costs as much as a plain one, nothing is won.
    assert passes(drafter, 1000, right=1.0, cost=1.1) < 100


def test_the_cost_of_a_plain_pass_is_learned_even_if_a_draft_is_always_found() -> None:
    drafter = Drafter(8)
    assert passes(drafter, 50, right=0.0, cost=0.5) < 20
