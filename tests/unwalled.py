"""A policy without a kernel behind it: for tests of what the program itself keeps to."""

from __future__ import annotations

from laguna_agent.sandbox.policy import Policy
from laguna_agent.sandbox.unconfined import Unconfined
from laguna_agent.sandbox.walls import Walls


def unwalled(policy: Policy) -> Walls:
    """Walls that hold for file tools alone; commands run with all rights."""
    return Walls(policy=policy, confinement=Unconfined(), boundary="none", summary="none")
