"""The benchmark of file completion, on a small tree."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import ROOT


def test_it_prints_its_figures() -> None:
    command = [sys.executable, "benchmarks/file_completion.py", "--files", "200", "--pause", "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    head, _, first, typing = done.stdout.splitlines()
    assert head == "200 files; milliseconds"
    for row in (first, typing):
        assert all(float(figure) >= 0 for figure in row.split()[-6:])
