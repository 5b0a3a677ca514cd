"""What a confined command costs more than a bare one, measured here and now.

Knows clocks and confinements; must not know how they work. Used by `doctor --sandbox` and the benchmark.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import msgspec

from laguna_agent.sandbox.confined import Confined
from laguna_agent.sandbox.confinement import Confinement, Tier
from laguna_agent.sandbox.plans import recipe
from laguna_agent.sandbox.policy import policy_for

RUNS = 15
_PATIENCE = 60.0
_PROGRAM = ("/bin/sh", "-c", ":")
_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin"}


class Cost(msgspec.Struct, frozen=True):
    """Medians in milliseconds: a bare command, the same one confined, and the first one, which puts the walls up."""

    bare_ms: float
    confined_ms: float
    first_ms: float

    @property
    def over_ms(self) -> float:
        """What the walls cost per command."""
        return self.confined_ms - self.bare_ms


def measure(tier: Tier, runs: int = RUNS, *, apart: bool = False) -> Cost:
    """Run the same small command bare and confined in turns, so that a busy moment hits both. `apart` as it was proved.
    Raises SandboxError."""
    with _confinement(tier, apart=apart) as (confinement, folder):
        first = _timed(lambda: _confined(confinement, folder))
        bare, confined = [], []
        for _ in range(runs):
            bare.append(_timed(lambda: _bare(folder)))
            confined.append(_timed(lambda: _confined(confinement, folder)))
    return Cost(*(round(each * 1000, 1) for each in (median(bare), median(confined), first)))


@contextlib.contextmanager
def _confinement(tier: Tier, *, apart: bool) -> Iterator[tuple[Confinement, Path]]:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made).resolve()
        (folder / "temporary").mkdir()
        (folder / "workspace").mkdir()
        policy = policy_for(folder / "workspace", temporary=folder / "temporary")
        confinement = Confined(tier, tier, recipe(tier, policy, apart=apart))
        try:
            yield confinement, folder / "workspace"
        finally:
            confinement.close()


def _timed(action: Callable[[], None]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def _bare(folder: Path) -> None:
    subprocess.run(_PROGRAM, cwd=folder, env=_ENVIRONMENT, stdin=subprocess.DEVNULL, check=True, start_new_session=True)


def _confined(confinement: Confinement, folder: Path) -> None:
    with Path(os.devnull).open("r+b") as nothing:
        handle = nothing.fileno()
        child = confinement.start(
            _PROGRAM, cwd=folder, environment=_ENVIRONMENT, stdin=handle, stdout=handle, stderr=handle
        )
    while child.poll() is None:
        select.select([child.watch] if child.watch is not None else [], [], [], _PATIENCE)
    child.close()
