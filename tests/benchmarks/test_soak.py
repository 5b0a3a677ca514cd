"""A small soak: what must hold however long a session gets, apart from times, which only a quiet machine tells."""

from __future__ import annotations

from collections.abc import Iterator

import anyio
import pytest
import soak
import soak_model

TURNS, CONTEXT = 60, 16_000


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[soak.Measured]:
    """One session for all of the tests, with a window that it outgrows several times."""
    folder = tmp_path_factory.mktemp("soak")
    (folder / "workspace").mkdir()
    with pytest.MonkeyPatch.context() as patch, soak_model.soak_model(CONTEXT) as url:
        for name in ("STATE", "CONFIG", "CACHE", "DATA"):
            patch.setenv(f"XDG_{name}_HOME", str(folder / name.lower()))
        found, session_id = anyio.run(soak.soak, TURNS, 40, url, folder / "workspace", "none")
        found.opening = anyio.run(soak.open_again, session_id, folder / "workspace")
        yield found


@pytest.mark.slow
def test_no_turn_fails(measured: soak.Measured) -> None:
    assert measured.failed == 0
    assert len(measured.overhead) == TURNS
    assert len(measured.early) == len(measured.late) == soak.AROUND


@pytest.mark.slow
def test_the_prefix_stays(measured: soak.Measured) -> None:
    assert measured.compactions["pruned"] > 1
    assert measured.compactions["summarised"] > 1
    assert "failed" not in measured.compactions
    # Every request but those behind a compaction begins with all of the one before, or is the beginning of it.
    assert measured.prefix(compacted=False) >= soak.PREFIX_LIMIT
    for at, (size, shared) in enumerate(measured.requests):
        if at and at not in measured.moved:
            before, _ = measured.requests[at - 1]
            assert shared in (size, before), f"request {at} of {size} bytes shares {shared} with that of {before}"
    # The large steps are rare.
    assert len(measured.moved) < TURNS / 4
    assert measured.prefix(compacted=True) > 0.85


@pytest.mark.slow
def test_the_conversation_stays_within_the_window(measured: soak.Measured) -> None:
    most = max(size for size, _ in measured.requests)
    assert most // soak_model.BYTES_PER_TOKEN < CONTEXT
    half = TURNS // 2
    assert max(measured.messages[half:]) <= 1.5 * max(measured.messages[:half])


@pytest.mark.slow
def test_the_log_grows_with_what_happens(measured: soak.Measured) -> None:
    steps = [after - before for before, after in zip(measured.log, measured.log[1:], strict=False)]
    quarter = TURNS // 4
    early, late = sum(steps[:quarter]) / quarter, sum(steps[-quarter:]) / quarter
    assert late < 1.3 * early


@pytest.mark.slow
def test_it_opens(measured: soak.Measured) -> None:
    assert {"resume", "look back", "sessions list", "sessions show"} <= measured.opening.keys()
    # A prompt and an answer, and three calls of which each begins and ends, with what is thought of it.
    assert measured.opening["events"] >= (TURNS + soak.WARM_UP + soak.AROUND) * 8


@pytest.mark.slow
def test_the_table_says_it_all(measured: soak.Measured) -> None:
    text, figures = soak.table(measured), soak.figures(measured)
    assert "| 60 |" in text
    assert "Checkpoint: " in text
    assert figures["prefix_share"] >= soak.PREFIX_LIMIT
    assert figures["log_bytes_per_turn"] > 1_000


def test_broken_promises_are_named() -> None:
    bad = soak.Measured(20, overhead=[0.01] * 20, early=[0.01], late=[0.02], failed=1, requests=[(100, 0), (100, 50)])
    bad.opening = {"resume": 3.0, "events": 90.0}
    assert soak.broken_promises(bad) == [
        "1 turns failed",
        "a late turn takes 2.00 times an early one, promised 1.2",
        "the prefix is 0.500 of the prompt, promised 0.95",
        "resume takes 3.00 s, promised 1",
    ]


def test_what_two_requests_share() -> None:
    assert soak_model.shared_bytes([b"[]", b"abc", b"d"], [b"[]", b"abd", b"d"]) == 4
    assert soak_model.shared_bytes([b"[]", b"abc"], [b"[]", b"abc", b"d"]) == 5
    assert soak_model.shared_bytes([], [b"[]"]) == 0
