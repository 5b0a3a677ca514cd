"""What a model is told of a failing check."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laguna_agent.agent.failures import distill

WRONG = "def add(a, b):\n    return a - b\n\n\ndef names():\n    return [1, 2]\n\n\ndef boom():\n    return {}['x']\n"
UNITTEST = """\
import unittest
import add
class T(unittest.TestCase):
    def test_add(self): self.assertEqual(add.add(2, 3), 5)
    def test_names(self): self.assertListEqual(add.names(), [1])
    def test_boom(self): add.boom()
"""
PYTEST = "import add\n\ndef test_add():\n    assert add.add(2, 3) == 5\n"


@pytest.mark.parametrize(
    ("name", "tests", "command", "told"),
    [
        ("test_add.py", UNITTEST, ["unittest", "-q"], "add.add(2, 3) gives -1 but must give 5"),
        ("test_add.py", UNITTEST, ["unittest", "-q"], "add.names() gives [1, 2] but must give [1]"),
        ("test_add.py", UNITTEST, ["unittest", "-q"], "return {}['x']\n    KeyError: 'x'"),
        ("test_add.py", PYTEST, ["pytest", "-q"], "add.add(2, 3) gives -1 but must give 5"),
    ],
)
def test_real_output(tmp_path: Path, name: str, tests: str, command: list[str], told: str) -> None:
    (tmp_path / "add.py").write_text(WRONG)
    (tmp_path / name).write_text(tests)
    ran = subprocess.run([sys.executable, "-m", *command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode != 0
    assert told in distill(ran.stdout + ran.stderr, 900)


def test_other_output_keeps_its_tail() -> None:
    assert distill("first\n" * 500 + "the end", 50).endswith("the end")


@given(st.text(max_size=2_000), st.integers(1, 500))
def test_any_output_fits(output: str, limit: int) -> None:
    assert len(distill(output, limit)) <= limit + 1
