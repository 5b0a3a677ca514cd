"""The example project, and the demo that repairs it with the real model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from laguna_agent.backend.weights.store import default_root

ROOT = Path(__file__).parents[2]
# Found before the tests get homes of their own.
REAL_DATA_HOME = default_root().parents[1]


def test_the_example_has_one_failing_test_for_the_demo_to_repair():
    command = [sys.executable, "-m", "unittest"]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": ""}
    example = ROOT / "examples" / "orderdesk"
    result = subprocess.run(command, cwd=example, env=environment, capture_output=True, text=True, timeout=60)
    assert result.stderr.splitlines()[-1] == "FAILED (failures=1)"
    assert "FAIL: test_median " in result.stderr


@pytest.mark.real_model
@pytest.mark.timeout(900)
def test_the_demo_repairs_it():
    command = [sys.executable, str(ROOT / "scripts" / "demo.py")]
    environment = {**os.environ, "XDG_DATA_HOME": str(REAL_DATA_HOME)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stdout + result.stderr
    tail = result.stdout[result.stdout.index("--- what changed") :]
    assert "+++ b/orderdesk/figures.py" in tail
    assert " after: `python -m unittest -q` exit 0" in tail
    assert "completed: " in tail
