"""The wheels of a release: both are built, the one for x86 installs and loads, the other's library runs in qemu.

The second needs two packages of the system: qemu-user and libc6-arm64-cross.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from scripts.build_wheels import build_wheel, run, tools
from tests.laguna.kernel_variants import opened
from tests.laguna.processor import variants_here
from tests.native.arena import Elsewhere
from tests.native.cases import Cases

LIBRARY = "laguna_agent/backend/kernels/cpu/_library.so"
# A processor of each kind, as qemu names them, and the variant that belongs to it.
ARM_PROCESSORS = {"max": "i8mm", "cortex-a76": "dotprod", "cortex-a53": "portable"}
GLIBC_OF_ARM = Path("/usr/aarch64-linux-gnu")
ASKING = "from laguna_agent.backend.kernels.cpu.library import status; print(status())"

# One step of the formats that keys and values are kept in, as a part of the number; of int8, of the largest code.
KEPT_IN = {torch.float16: 2**-10, torch.bfloat16: 2**-7, torch.int8: 1 / 127}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


def library_of(wheel: Path, folder: Path) -> Path:
    """The library in the wheel; it asks for nothing that glibc 2.17 has not."""
    with zipfile.ZipFile(wheel) as archive:
        place = Path(archive.extract(LIBRARY, folder))
    needed = {tuple(map(int, found.split(b"."))) for found in re.findall(rb"GLIBC_([\d.]+)\0", place.read_bytes())}
    assert needed and max(needed) <= (2, 17)
    return place


def test_the_wheel_for_x86_installs_and_loads_and_is_the_same_twice(tmp_path):
    target = "x86_64-linux-gnu.2.17"
    with tools() as python:
        wheel, again = (build_wheel(python, target, tmp_path / name) for name in ("one", "two"))
    assert wheel.name.endswith("-py3-none-manylinux_2_17_x86_64.whl")
    assert wheel.read_bytes() == again.read_bytes()
    library = library_of(wheel, tmp_path / "files")
    if platform.machine() != "x86_64":
        pytest.fail(f"the wheel for x86-64 cannot be installed on {platform.machine()}")
    fresh = tmp_path / "fresh"
    run([sys.executable, "-m", "venv", str(fresh)])
    run([str(fresh / "bin" / "pip"), "install", "--quiet", "--no-deps", str(wheel)])
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LAGUNA_"))}
    command = [str(fresh / "bin" / "python"), "-c", ASKING]
    said = subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout == f"compiled kernels ({variants_here()[0]}), installed with the program\n"
    assert b"libstdc++" not in library.read_bytes()


def test_the_library_for_arm_computes_in_qemu_what_this_one_computes(tmp_path):
    qemu = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if qemu is None or not GLIBC_OF_ARM.exists():
        pytest.fail("aarch64 cannot be run here: install qemu-user and libc6-arm64-cross (names of Debian's packages)")
    with tools() as python:
        wheel = build_wheel(python, "aarch64-linux-gnu.2.17", tmp_path)
        driver, source = tmp_path / "driver", Path(__file__).with_name("driver.c")
        compile_c = [
            str(python),
            "-m",
            "ziglang",
            "cc",
            "-target",
            "aarch64-linux-gnu.2.17",
            "-O1",
            str(source),
            "-ldl",
        ]
        caches = {name: str(tmp_path / "zig") for name in ("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR")}
        run([*compile_c, "-o", str(driver)], **caches)
    assert wheel.name.endswith("-py3-none-manylinux_2_17_aarch64.whl")
    library, cases = library_of(wheel, tmp_path / "files"), Cases()
    here = cases.arena.run(opened())

    def elsewhere(processor: str, *variant: str) -> Elsewhere:
        command = [qemu, "-cpu", processor, "-L", str(GLIBC_OF_ARM), str(driver)]
        return cases.arena.run_elsewhere(command, library, tmp_path, *variant)

    for processor, variant in ARM_PROCESSORS.items():
        found = elsewhere(processor)
        assert found.variant == variant, processor
        agree(found, here, cases)
    for variant in ARM_PROCESSORS.values():
        found = elsewhere("max", variant)
        assert found.variant == variant
        agree(found, here, cases)


def agree(found: Elsewhere, here: dict[str, torch.Tensor], cases: Cases) -> None:
    """What came back is what this machine's library computes and, where that is known, what torch says."""
    assert not found.refused
    for name, result in found.results.items():
        if name.startswith("forward"):
            mostly_same(result, here[name], name)
        else:
            same(result, here[name], name, 2e-6)
    for name, expected in cases.expected.items():
        same(found.results[name], expected, name, 1e-5)


def same(found: torch.Tensor, expected: torch.Tensor, name: str, share: float) -> None:
    """Equal but for rounding: a share of each number or, where a sum may cancel, of the largest in the result.

    Numbers that are kept in fewer bits may be the next one, where a sum came to lie on the other side of a half.
    """
    wide = expected.double()
    share = max(share, KEPT_IN.get(expected.dtype, 0.0))
    room = 1e-36 if name.startswith("function") else share * wide.abs().max().item()
    torch.testing.assert_close(
        found.double(), wide, rtol=share, atol=room, equal_nan=True, msg=lambda m: f"{name}: {m}"
    )


def mostly_same(found: torch.Tensor, expected: torch.Tensor, name: str) -> None:
    """As what whole layers make may be: where one sum is rounded otherwise, an activation gets the next code of 8 bits,
    and what comes of it is another number for the rest of the token. Nearly all are the same but for rounding."""
    wide = expected.double()
    errors = (found.double() - wide).abs() / wide.abs().max()
    assert torch.equal(errors.isnan(), wide.isnan()), name
    assert (errors.nan_to_num() < 1e-5).double().mean() > 0.9, name
    assert errors.nan_to_num().max() < 0.01, name
