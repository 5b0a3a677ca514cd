"""The small cases of every family under AddressSanitizer and UndefinedBehaviorSanitizer, and that these see faults."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cuda.battery import FAMILIES
from tests.cuda.samples import sources

ROOT = Path(__file__).parents[2]
SAMPLE = """
import sys
from pathlib import Path
from tests.cuda.emulator import Emulator
from tests.cuda.samples import run, sample
emulator = Emulator(Path(sys.argv[1]), sanitize=True)
kernel = sample(sys.argv[2])
emulator.prepare([kernel])
assert not run(emulator, kernel, 1).isnan().any()
print("ran")
"""
RIGHT = ("reversed<true>", "warp_sums", "local_overrun<8>", "moved<31>")
WRONG = {"local_overrun<9>": ("index 8 out of bounds", "stack-buffer-overflow"), "moved<32>": ("shift exponent 32",)}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    """In which Python loads what was compiled with the sanitizers: it is not instrumented itself, so their runtimes
    come first, and what it leaks is nobody's business."""
    compiler = shutil.which("g++") or pytest.fail("the sanitizers' run needs g++ and its libasan")
    runtimes = [
        subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout
        for name in ("libasan.so", "libubsan.so")
    ]
    options = {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"}
    return os.environ | options | {"LD_PRELOAD": ":".join(each.strip() for each in runtimes), "PYTHONPATH": str(ROOT)}


def ran(environment: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    """A Python of its own under the sanitizers."""
    started = [sys.executable, *command]
    return subprocess.run(started, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=2500)


@pytest.mark.parametrize("name", (*RIGHT, *WRONG))
def test_the_sanitizers_see_a_fault_and_let_fibres_change(environment, tmp_path, name):
    done = ran(environment, "-c", SAMPLE, str(sources(tmp_path)), name)
    if name in RIGHT:
        assert done.returncode == 0 and done.stdout == "ran\n", done.stderr
    else:
        assert done.returncode and not done.stdout and any(word in done.stderr for word in WRONG[name]), done.stderr


@pytest.mark.parametrize("family", FAMILIES)
def test_no_kernel_leaves_its_memory_or_does_what_is_undefined(environment, family):
    done = ran(environment, "-m", "tests.cuda.battery", family, "--sanitize", "--seed", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "runtime error" not in done.stderr and done.stdout.endswith("all are right\n")
