"""Installing the package: the kernels are compiled where they can be, and where not it is installed all the same.

The compiler is a script that hands out the library of this test run, or complains.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.laguna.kernel_variants import opened
from tests.laguna.processor import variants_here

ROOT = Path(__file__).parents[2]
LIBRARY = "laguna_agent/backend/kernels/cpu/_library.so"
ASKING = "from laguna_agent.backend.kernels.cpu.library import status; print(status())"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class Installer:
    """A copy of the tree, a fresh environment, and pip in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.tree = folder, folder / "tree"
        unwanted = shutil.ignore_patterns("__pycache__", "_library.so")
        shutil.copytree(ROOT / "laguna_agent", self.tree / "laguna_agent", ignore=unwanted)
        shutil.copytree(ROOT / "man", self.tree / "man")
        for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, self.tree)
        self.run(sys.executable, "-m", "venv", str(folder / "fresh"))
        self.python = str(folder / "fresh" / "bin" / "python")

    def run(self, *command: str, compiler: str = "") -> str:
        """What it prints."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LAGUNA_"))}
        environment = clean | {"CXX": compiler}
        # pip tells of a build on stderr.
        both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        done = subprocess.run(command, cwd=self.folder, env=environment, text=True, timeout=600, **both)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def pip(self, *words: str, compiler: Path) -> str:
        return self.run(self.python, "-m", "pip", *words, "--verbose", "--no-deps", compiler=str(compiler))

    def compiler(self, name: str, text: str) -> Path:
        place = self.folder / name
        place.write_text(f"#!/bin/sh\n{text}\n")
        place.chmod(0o755)
        return place


def test_what_is_installed_has_the_kernels_where_they_compile(tmp_path):
    here = Installer(tmp_path)
    library = opened()._name
    delivering = here.compiler("delivering", f'for out; do :; done\ncp {library} "$out"')
    failing = here.compiler("failing", 'echo "k.cpp:1: error: it is Monday" >&2; exit 1')
    here.pip("wheel", str(here.tree), "-w", "with", compiler=delivering)
    (wheel,) = (tmp_path / "with").iterdir()
    assert wheel.name.startswith("laguna_agent-") and "-py3-none-" in wheel.name and "any" not in wheel.name
    assert zipfile.ZipFile(wheel).read(LIBRARY) == Path(library).read_bytes()
    log = here.pip("wheel", str(here.tree), "-w", "without", compiler=failing)
    assert (
        f"The CPU kernels are not compiled now: {failing} cannot compile the kernels: k.cpp:1: error: it is"
        in " ".join(log.split())
    )
    (wheel,) = (tmp_path / "without").iterdir()
    assert wheel.name.endswith("-py3-none-any.whl")
    assert LIBRARY not in zipfile.ZipFile(wheel).namelist()
    says = f"compiled kernels ({variants_here()[0]}), installed with the program\n"
    here.pip("install", str(tmp_path / "with" / next((tmp_path / "with").iterdir()).name), compiler=failing)
    assert here.run(here.python, "-c", ASKING) == says
    # In place, as developers do it: the library goes into the tree.
    here.pip("install", "--force-reinstall", "--editable", str(here.tree), compiler=delivering)
    assert (here.tree / LIBRARY).exists()
    assert here.run(here.python, "-c", ASKING) == says
