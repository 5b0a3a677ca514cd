from __future__ import annotations

import msgspec

from laguna_agent.sandbox.confinement import Boundary, Confinement, Tier
from laguna_agent.sandbox.policy import Policy


class Proof(msgspec.Struct, frozen=True):
    tier: Tier = "none"
    boundary: Boundary = "none"
    summary: str = ""
    reasons: tuple[str, ...] = ()


def prove(wish: str) -> Proof:
    return Proof(reasons=("stub",))


def confine(proof: Proof, policy: Policy) -> Confinement:
    raise NotImplementedError
