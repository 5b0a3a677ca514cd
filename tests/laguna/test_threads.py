"""How torch is loaded for the engine."""

from __future__ import annotations

import os
import subprocess
import sys

LOADING = """
import os, sys
from laguna_agent.backend.laguna.threads import load_torch
load_torch()
print("torch" in sys.modules, os.environ.get("OMP_WAIT_POLICY"))
"""


def test_threads_sleep_where_they_wait_and_commands_inherit_nothing():
    for asked, shown, left in ((None, "PASSIVE", "None"), ("active", "ACTIVE", "active")):
        told = {"OMP_DISPLAY_ENV": "true"} | ({"OMP_WAIT_POLICY": asked} if asked else {})
        command = [sys.executable, "-c", LOADING]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | told, timeout=100)
        assert done.stdout.split() == ["True", left], done.stderr
        assert f"OMP_WAIT_POLICY = '{shown}'" in done.stderr
