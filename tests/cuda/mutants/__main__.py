"""`python -m tests.cuda.mutants FAMILY`: plant each of a family's faults, one at a time, and see the small cases fail.

Prints killed or SURVIVED for each, and by what; ends with 1 where one survives.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor

from tests.cuda.battery import FAMILIES
from tests.cuda.mutants.killing import SEEDS, mutants_of, tried, unchanged


def main() -> int:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("--only", type=int, nargs="+", metavar="N", help="the numbers of the faults to plant, from 0")
    parser.add_argument("--seed", type=int, nargs="+", default=list(SEEDS), help="orders of threads and blocks to try")
    parser.add_argument("--at-once", type=int, default=1, metavar="N", help="faults tried at the same time")
    given = parser.parse_args()
    listed = mutants_of(given.family)
    numbers = given.only if given.only is not None else list(range(len(listed)))
    seconds = unchanged(given.family, given.seed)
    print(f"{given.family} without a fault: all cases right, {seconds:.0f} s", flush=True)
    survived = 0
    with ThreadPoolExecutor(given.at_once) as pool:
        verdicts = pool.map(lambda number: tried(given.family, listed[number], seconds, given.seed), numbers)
        for number, verdict in zip(numbers, verdicts, strict=True):
            survived += not verdict.killed
            word = "killed  " if verdict.killed else "SURVIVED"
            how = verdict.how or "all cases are right with it"
            print(f"{number:3} {word} {verdict.seconds:4.0f} s  {listed[number].fault}: {how}", flush=True)
    print(f"{len(numbers) - survived} of {len(numbers)} killed")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
