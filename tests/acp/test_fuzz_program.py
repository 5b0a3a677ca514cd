"""The real program under the same fire: garbage, races, and ends of every kind, each in a process of its own."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.acp.client import fuzz, program, script
from tests.acp.races import Race, batches, endings, folder
from tests.acp.test_fuzz_framing import framed, note
from tests.model_server import ModelServer


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("cases", [3, pytest.param(100, marks=pytest.mark.slow)])
def test_program(cases: int, workspace: Path, model_server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    model_server.always(script)
    numbers = itertools.count()

    @fuzz(cases)
    @given(framed=framed, capable=st.booleans(), batches=batches, ending=endings)
    def check(
        framed: list[tuple[bytes, bytes]], capable: bool, batches: list[tuple[list[Any], int]], ending: str
    ) -> None:
        number = next(numbers)
        monkeypatch.setenv("XDG_STATE_HOME", str(workspace.parent / f"state{number}"))
        with program(folder(workspace, number), model_server) as client:
            for line, end in framed:
                note(client, line)
                client.raw(line + end)
            Race(client, capable).run(batches, ending)

    check()
