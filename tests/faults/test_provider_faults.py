"""Every known way in which a model server fails, against the real program; the scenarios are in the tables beside."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.provider_refusals import FILTERS, LIMITS, STATUSES
from tests.faults.provider_runs import Fault, Forker, every, hold_against
from tests.faults.provider_streams import BAD_CALLS, CONNECTIONS, CONTEXTS, CUTS, ODD, STALLS
from tests.model_server import ModelServer

FAULTS = tuple(every(LIMITS, STATUSES, FILTERS, CONNECTIONS, STALLS, CUTS, ODD, BAD_CALLS, CONTEXTS))


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_provider(fault: Fault, model_server: ModelServer, workspace: Path, forker: Forker) -> None:
    hold_against(fault, model_server, workspace.parent, forker)
