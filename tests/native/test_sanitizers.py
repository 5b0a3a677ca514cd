"""The kernels under AddressSanitizer and UndefinedBehaviorSanitizer: their own tests, and every call of `cases.py`.

The library is compiled for it without optimising, for the sanitizers make minutes out of seconds; Python itself is not
instrumented, so their runtime is preloaded and what it leaks is nobody's business.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from laguna_agent.backend.kernels.cpu.building import LINK, Compiler, build
from tests.laguna.processor import variants_here

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests" / "laguna"
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
OVERFLOW = """
import ctypes, sys
library, libc = ctypes.CDLL(sys.argv[1]), ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
x = ctypes.c_void_p(libc.malloc(ctypes.c_size_t(64)))
print(library.laguna_function(1, x, x, ctypes.c_int64(16)), flush=True)
library.laguna_function(1, x, x, ctypes.c_int64(17))
"""
CALLS = """
from tests.laguna.kernel_variants import opened, using
from tests.laguna.processor import variants_here
from tests.native.cases import Cases
cases = Cases()
for name in variants_here():
    with using(name) as library:
        cases.arena.run(library)
print("done", *variants_here())
"""
PRELUDE = """
import sys
from pathlib import Path
from laguna_agent.backend.kernels.cpu import library
library.INSTALLED = Path(sys.argv[1])
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]


@pytest.fixture
def sanitized(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A library with the sanitizers, and the environment in which it can be loaded."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.fail("the sanitizers' run needs g++ and its libasan, which belong to what `make test-all` needs")
    library = tmp_path / "sanitized.so"
    flags = (*SANITIZE, "-O0", "-g1")
    library.write_bytes(build(Compiler((compiler,), (compiler, *SANITIZE, *LINK), flags=flags)))
    runtimes = [
        subprocess.run(
            [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    options = {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"}
    return library, os.environ | options | {"LD_PRELOAD": ":".join(runtimes), "PYTHONPATH": str(ROOT)}


def test_the_kernels_neither_leave_their_memory_nor_do_what_is_undefined(tmp_path, sanitized):
    library, environment = sanitized

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        started = [sys.executable, *command]
        return subprocess.run(started, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=2500)

    # That it would be seen: one number behind the end.
    proof = run("-c", OVERFLOW, str(library))
    assert proof.stdout == "0\n" and "heap-buffer-overflow" in proof.stderr and proof.returncode
    calls = run("-c", PRELUDE + CALLS, str(library))
    assert calls.stdout == f"done {' '.join(variants_here())}\n", calls.stderr
    environment["KERNELS_UNDER_TEST"] = str(library)
    files = sorted(str(path) for path in TESTS.glob("test_cpu_*.py"))
    options = ("-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", f"--basetemp={tmp_path / 'run'}")
    tests = run("-m", "pytest", *options, "-o", "timeout=1200", *files)
    assert tests.returncode == 0, tests.stdout + tests.stderr
    assert "runtime error" not in tests.stderr and " skipped" not in tests.stdout.splitlines()[-1]
