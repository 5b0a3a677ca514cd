"""All small cases of one family on the CPU, in a process of its own: `python -m tests.cuda.battery FAMILY`.

Ends with 0 where every case is right, with WRONG at the first that is not, with NO_COMPILE where the sources do not
compile. A fault may also end the process by a signal, or never end it. Knows cases; must not know what was planted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path

import torch

from laguna_agent.backend.kernels.cuda.cases import Case, error_of
from laguna_agent.backend.kernels.cuda.launch import NATIVE, program
from tests.cuda.emulator import CompileError, Emulator, fence

FAMILIES = ("linear", "experts", "attention", "sampling", "probe")
"""Modules of `laguna_agent.backend.kernels.cuda` that have cases and `.cuh` sources."""
WRONG, NO_COMPILE = 3, 4
TOGETHER = 6
"""Cases compiled at a time: most faults show early, and then the rest need not be compiled."""


def small_cases(family: str) -> list[Case]:
    """The family's cases of small and odd sizes."""
    module = import_module(f"laguna_agent.backend.kernels.cuda.{family}")
    return list(module.cases(None))


def first_wrong(cases: Sequence[Case], native: Path, seeds: Sequence[int], *, sanitize: bool = False) -> str | None:
    """What is wrong with the first case that is not right under one of the seeds; None where all are right."""
    for begin in range(0, len(cases), TOGETHER):
        some = cases[begin : begin + TOGETHER]
        emulator = Emulator(native, sanitize=sanitize)
        emulator.prepare([case.kernel for case in some])
        for seed in seeds:
            emulator.seed = seed
            for case in some:
                error = error_of(case, emulator, fence)
                if not error <= case.tolerance:
                    return f"{case.label}: off by {error:.2g} (seed {seed})"
    return None


def touched(cases: Sequence[Case], native: Path) -> Iterator[Case]:
    """The cases whose kernels read otherwise in that folder than in the package's own; all where it is that."""
    for case in cases:
        kernels = [case.kernel]
        if native == NATIVE or program(kernels, native) != program(kernels):
            yield case


def main() -> int:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("--native", type=Path, default=NATIVE, help="the folder with the kernels' sources")
    parser.add_argument("--seed", type=int, nargs="+", default=[1, 2, 3], help="orders of threads and blocks to try")
    parser.add_argument("--sanitize", action="store_true", help="with ASan and UBSan, which must have been preloaded")
    given = parser.parse_args()
    torch.set_num_threads(1)
    cases = list(touched(small_cases(given.family), given.native))
    if not cases:
        sys.exit(f"no case of {given.family} reads what differs in {given.native}")
    print(f"{len(cases)} cases", flush=True)
    try:
        wrong = first_wrong(cases, given.native, given.seed, sanitize=given.sanitize)
    except CompileError as error:
        print(error, file=sys.stderr)
        return NO_COMPILE
    print(wrong or "all are right")
    return WRONG if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
