"""The benchmarks are scripts, not a package: their folder goes on the path as it does when one is run."""

import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
# At the end: `acp.py` there must not hide the package of that name from other tests.
sys.path.append(str(BENCHMARKS))
