"""What a confined command costs more than a bare spawn, by tier.

    python benchmarks/sandbox.py [--runs 60] [--strict]

Bare and confined runs of the same small command alternate, so that a busy moment hits both alike; the table shows
medians. With --strict it exits 1 where a tier that this machine has costs more than the project promises.
"""

from __future__ import annotations

import argparse
import sys

from laguna_agent.cli.sandbox_report import COST_LIMIT_MS
from laguna_agent.errors import SandboxError
from laguna_agent.sandbox.cost import measure
from laguna_agent.sandbox.tiers import TIERS, examine


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--strict", action="store_true")
    options = parser.parse_args()
    too_dear = False
    print(f"{'tier':12} {'bare ms':>8} {'confined ms':>12} {'over ms':>8} {'first ms':>9}")
    for tier in TIERS:
        try:
            cost = measure(tier, options.runs, apart=examine(tier).apart)
        except SandboxError as error:
            print(f"{tier:12} not here: {error}")
            continue
        too_dear |= cost.over_ms > COST_LIMIT_MS
        print(f"{tier:12} {cost.bare_ms:8.1f} {cost.confined_ms:12.1f} {cost.over_ms:8.1f} {cost.first_ms:9.1f}")
    return 1 if options.strict and too_dear else 0


if __name__ == "__main__":
    sys.exit(main())
