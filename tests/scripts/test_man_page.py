"""The manual page: it is what the commands say now, and a program that knows the format reads it."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT

PAGE = ROOT / "man" / "laguna-agent.1"


def test_it_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/make_man_page.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("groff") is None, reason="no groff on this machine")
def test_groff_reads_it_without_a_complaint() -> None:
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", "-P-cbou", str(PAGE)], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    for words in ("--approve", "sessions show", "EXIT STATUS", "LAGUNA_"):
        assert words in done.stdout


def test_the_wheel_puts_it_where_man_looks() -> None:
    import tomllib

    built = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert built["shared-data"] == {"man/laguna-agent.1": "share/man/man1/laguna-agent.1"}
