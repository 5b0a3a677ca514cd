"""The conformance suite: the real program, three clients that are not ours, every message judged in both directions."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acp.conformance import acpx, python_sdk, typescript
from tests.acp.conformance.judge import judge
from tests.acp.conformance.stage import Scenario, play

SCENARIOS: tuple[Scenario, ...] = typescript.SCENARIOS + python_sdk.SCENARIOS + acpx.SCENARIOS


@pytest.fixture
def shared(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A folder that all workers of this run share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if hasattr(request.config, "workerinput") else base


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: f"{s.__module__.rsplit('.', 1)[-1]}-{s.__name__}")
def test_every_message_keeps_every_rule(scenario: Scenario, shared: Path) -> None:
    faults, messages = judge(play(scenario, shared))
    assert len(messages) > 4
    assert not faults, "\n".join(map(str, faults))
