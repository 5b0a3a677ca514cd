"""Whether the small cases notice a planted fault.

The kernels' folder is copied, the fault put into the copy, and the family's battery run on it in a process of its own.
Knows exit codes; must not know what the kernels compute.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

from laguna_agent.backend.kernels.cuda.launch import NATIVE
from tests.cuda.battery import FAMILIES, WRONG
from tests.cuda.mutants import Mutant

ROOT = Path(__file__).parents[3]
SEEDS = (1, 2, 3)
SHORTEST_LIMIT = 120.0
PATIENCE = 10
"""A fault may let threads wait for ever: so many times what the unchanged sources take is waited for it."""
_DEADLY = frozenset({signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL})


class Verdict(NamedTuple):
    """`killed`: the battery noticed; `how`: by what, or what was wrong with the mutant itself."""

    killed: bool
    how: str
    seconds: float


def mutants_of(family: str) -> tuple[Mutant, ...]:
    """The faults planted into a family's sources."""
    listed: tuple[Mutant, ...] = import_module(f"tests.cuda.mutants.{family}").MUTANTS
    return listed


def planted(mutant: Mutant, folder: Path) -> Path:
    """A copy of the kernels' sources with the fault, in `folder`. Raises ValueError where `old` is not there once."""
    native = folder / "native"
    shutil.copytree(NATIVE, native)
    source = native / mutant.source
    text = source.read_text()
    found = text.count(mutant.old)
    if found != 1:
        raise ValueError(f"{mutant.source} has {found} places like {mutant.old!r}, not one ({mutant.fault})")
    source.write_text(text.replace(mutant.old, mutant.new))
    return native


def unchanged(family: str, seeds: Sequence[int] = SEEDS) -> float:
    """Run the battery on the sources as they are; returns its seconds. Raises AssertionError where it is not right."""
    verdict = _judge(family, NATIVE, None, seeds, 3000.0)
    assert verdict.how == "", f"{family} without a fault: {verdict.how}"
    return verdict.seconds


def tried(family: str, mutant: Mutant, seconds: float, seeds: Sequence[int] = SEEDS) -> Verdict:
    """What the battery says about one fault; `seconds` is what it takes without one."""
    with tempfile.TemporaryDirectory(prefix="laguna-mutant-") as folder:
        try:
            native = planted(mutant, Path(folder))
        except ValueError as error:
            return Verdict(False, str(error), 0.0)
        return _judge(family, native, Path(folder), seeds, max(SHORTEST_LIMIT, PATIENCE * seconds))


def _judge(family: str, native: Path, scratch: Path | None, seeds: Sequence[int], limit: float) -> Verdict:
    """Run the battery. What it compiles goes to `scratch` where given: nobody needs a mutant's library again."""
    assert family in FAMILIES, family
    command = [sys.executable, "-m", "tests.cuda.battery", family, "--native", str(native), "--seed", *map(str, seeds)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | ({"TMPDIR": str(scratch)} if scratch else {})
    begun = perf_counter()
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return Verdict(True, f"does not end within {limit:.0f} s", perf_counter() - begun)
    seconds = perf_counter() - begun
    last = (done.stderr.strip() or done.stdout.strip() or "no word").splitlines()[-1]
    if done.returncode == 0:
        return Verdict(False, "", seconds)
    if done.returncode == WRONG:
        return Verdict(True, done.stdout.strip().splitlines()[-1], seconds)
    if -done.returncode in _DEADLY:
        shim = [line for line in done.stderr.splitlines() if line.startswith("shim: ")]
        return Verdict(True, shim[0] if shim else signal.Signals(-done.returncode).name, seconds)
    return Verdict(False, f"the battery itself failed ({done.returncode}): {last}", seconds)
