"""Each claim of the training stack, measured beside its naive arm: one Markdown table.

    python benchmarks/training.py [--claims steps,balance] [--quick] [--json FILE]

Needs the extra `train`, two quiet cores and about 18 minutes. Figures are ratios within this run; where there are
several seeds or rounds, the median with the least and the greatest. `--quick` only shows that everything runs: its
figures mean nothing. What is kept between runs (tokens of the corpus) is in the cache directory.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import NamedTuple

from training_claims import Row, Settings, markdown

from laguna_agent.directories import cache_directory


class Claim(NamedTuple):
    """Who measures it, and how many seconds that may take on two quiet cores."""

    module: str
    function: str
    budget: int


CLAIMS = {
    "steps": Claim("training_steps", "rows", 600),
    "overhead": Claim("training_costs", "overhead_rows", 100),
    "state": Claim("training_costs", "state_rows", 5),
    "orthogonalisation": Claim("training_costs", "orthogonalisation_rows", 45),
    "distributed": Claim("training_distributed", "rows", 45),
    "balance": Claim("training_balance", "rows", 190),
    "incremental": Claim("training_data", "incremental_rows", 100),
    "packing": Claim("training_data", "packing_rows", 60),
}


def measured(name: str, settings: Settings) -> tuple[list[Row], float]:
    """A claim's rows, and the seconds that they took."""
    claim = CLAIMS[name]
    begin = time.perf_counter()
    rows: list[Row] = getattr(importlib.import_module(claim.module), claim.function)(settings)
    return rows, time.perf_counter() - begin


def chosen(text: str) -> list[str]:
    """The claims of a list. Raises ArgumentTypeError for one that there is not."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in CLAIMS]
    if unknown or not names:
        raise argparse.ArgumentTypeError(f"no claim {', '.join(unknown) or 'given'}; there are {', '.join(CLAIMS)}")
    return names


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; 1 where an aim was not held, so that a script can tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--claims", type=chosen, default=list(CLAIMS), help="of " + ",".join(CLAIMS))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    # Before torch is loaded: workers inherit it, and each computes on one thread.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    settings = Settings(options.quick, cache_directory() / "training-benchmark")
    rows: list[Row] = []
    seconds: dict[str, float] = {}
    for name in options.claims:
        found, seconds[name] = measured(name, settings)
        rows += found
        # As soon as it is known: what comes after may fail, or be stopped.
        told = f"{name}: {seconds[name]:.0f} s of {CLAIMS[name].budget} s\n{markdown(found)}"
        print(told, file=sys.stderr, flush=True)
    told = (
        f"{len(os.sched_getaffinity(0))} cores, {platform.machine()}, {sum(seconds.values()) / 60:.1f} minutes in all: "
    )
    told += ", ".join(f"{name} {taken:.0f} s" for name, taken in seconds.items())
    print(f"{markdown(rows)}\n\n{told}{' (--quick: the figures mean nothing)' * options.quick}")
    if options.json:
        options.json.write_text(json.dumps({"rows": [vars(row) for row in rows], "seconds": seconds}, indent=1))
    return 0 if options.quick or all(row.held is not False for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
