"""Build the wheels of a release: for Linux on x86-64 and on aarch64, with the CPU kernels compiled.

    python scripts/build_wheels.py [--out dist] [TARGET ...]

Works on any machine that can run zig, without containers: the compiler in the pinned `ziglang` wheel brings the headers
and the symbols of every glibc, so the wheels run on Linux from 2014 on (glibc 2.17). The tools are installed into an
environment of their own, of exactly these versions, and nothing in a wheel depends on when and where it is built: the
printed digests are the same on every machine.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGETS = ("x86_64-linux-gnu.2.17", "aarch64-linux-gnu.2.17")
TOOLS = ("hatchling==1.33.0", "ziglang==0.17.1")


@contextmanager
def tools() -> Iterator[Path]:
    """The Python of an environment that has exactly the tools; it is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="laguna-wheels-") as folder:
        python = Path(folder) / "bin" / "python"
        run([sys.executable, "-m", "venv", folder])
        run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *TOOLS])
        yield python


def build_wheel(python: Path, target: str, out: Path) -> Path:
    """The wheel for this target, made in `out`. Raises CalledProcessError, whose stderr says what went wrong."""
    with tempfile.TemporaryDirectory(prefix="laguna-wheel-") as folder:
        run([str(python), "-m", "hatchling", "build", "-t", "wheel", "-d", folder], LAGUNA_WHEEL_TARGET=target)
        (wheel,) = Path(folder).iterdir()
        out.mkdir(parents=True, exist_ok=True)
        return Path(shutil.move(wheel, out / wheel.name))


def run(command: list[str], **more: str) -> None:
    """Do it in the root of the tree; raises CalledProcessError with what it printed."""
    # A fixed date, as hatchling's own: what the environment has would change the digest.
    fixed = {"SOURCE_DATE_EPOCH": "1580601600"}
    subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT, env=os.environ | fixed | more)


def main() -> None:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", default=list(TARGETS), metavar="TARGET", help="as zig names it")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="the folder for them; default: dist")
    asked = parser.parse_args()
    try:
        with tools() as python:
            made = [build_wheel(python, target, asked.out) for target in asked.targets]
    except subprocess.CalledProcessError as error:
        sys.exit(f"{' '.join(error.cmd)} failed:\n{error.stdout}{error.stderr}")
    for wheel in made:
        sys.stdout.write(f"{sha256(wheel.read_bytes()).hexdigest()}  {wheel}\n")


if __name__ == "__main__":
    main()
