"""Prompts, cancels, closes, answers and ends of the connection, back to back and across each other."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.acp.client import face, fuzz, script
from tests.acp.races import Race, batches, endings, folder
from tests.model_server import ModelServer


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("cases", [6, pytest.param(600, marks=pytest.mark.slow)])
def test_races(cases: int, workspace: Path, model_server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    model_server.always(script)
    numbers = itertools.count()

    @fuzz(cases)
    @given(capable=st.booleans(), batches=batches, ending=endings)
    def check(capable: bool, batches: list[tuple[list[Any], int]], ending: str) -> None:
        number = next(numbers)
        monkeypatch.setenv("XDG_STATE_HOME", str(workspace.parent / f"state{number}"))
        with face(folder(workspace, number), model_server) as client:
            Race(client, capable).run(batches, ending)

    check()
