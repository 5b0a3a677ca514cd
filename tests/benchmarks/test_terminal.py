"""The benchmark of the interactive face, in small: its figures come from a real run, and judge the promises."""

from __future__ import annotations

import pytest
import stream_model
import terminal


def test_the_model_streams_as_many_tokens_as_it_is_told() -> None:
    *tokens, last = stream_model.pieces(50)
    assert len(tokens) == 50
    assert {len(token) for token in tokens} == {4}
    assert stream_model.LAST in last


@pytest.mark.slow
def test_a_small_run_gives_every_figure() -> None:
    found = terminal.figures(terminal.measure(rounds=1, seconds=3.0, messages=6))
    assert 0.1 < found["prompt_s"] < 30
    assert found["prompt_ratio"] > 2
    assert found["keys"] >= 3
    assert 0 < found["key_p50_ms"] <= found["key_p95_ms"] < 5_000
    assert 0 < found["face_percent_200"] < found["cpu_percent_200"] < 200
    assert 1 < found["frames_200"] < 40
    assert 20 < found["fresh_mb"] < 400
    assert found["long_mb"] > 20
    assert "| key to screen at 200 tokens/s, p95 |" in terminal.table(found)


def test_promises_are_judged() -> None:
    found = {"prompt_s": 0.5, "key_p95_ms": 12.0, "face_percent_100": 3.0, "face_percent_200": 5.5}
    assert terminal.broken_promises(found) == ["prompt_s: 0.5, promised 0.45", "face_percent_200: 5.5, promised 5.0"]
