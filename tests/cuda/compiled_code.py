"""What NVIDIA's compilers make of the kernels, without a GPU: registers, spills, and the loads in the machine code.

The tools come from PyPI (the extra `cuda-check`). Knows what good code looks like, kernel family by kernel family;
what the kernels compute is not its subject.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from laguna_agent.backend.kernels.cuda.cubins import Cubins
from laguna_agent.backend.kernels.cuda.launch import NATIVE, Kernel, program
from laguna_agent.backend.kernels.cuda.nvrtc import nvrtc

ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90a", "sm_100", "sm_120")
KEPT = Path(tempfile.gettempdir()) / f"laguna-cubins-{os.getuid()}"
"""What was compiled once for the tests of this machine; `Cubins` names files by all that they are made of."""


class Ceiling(NamedTuple):
    """What a family's kernels may take: registers of a thread, and bytes of shared memory of a block. `few`: registers
    where less than four blocks are meant to fit on a multiprocessor, as with the sums of eight tokens in registers."""

    registers: int
    shared: int
    few: int = 0


CEILINGS: Mapping[str, Ceiling] = {
    "joined": Ceiling(128, 38 << 10, few=168),
    "gated": Ceiling(128, 38 << 10, few=168),
    "expert_gate_up": Ceiling(128, 38 << 10),
    "expert_down": Ceiling(128, 38 << 10),
    "embed": Ceiling(32, 0),
    "pick": Ceiling(64, 2 << 10),
    "place": Ceiling(64, 4 << 10),
    # One block holds several queries of one KV head in registers; its loads overlap within a warp.
    "attend": Ceiling(128, 20 << 10),
    "merge": Ceiling(64, 2 << 10),
    # 1024 threads share 65536 registers.
    "sample": Ceiling(64, 20 << 10),
    "probe": Ceiling(64, 4 << 10),
}
# Of a multiprocessor of any of the six: registers, and the least shared memory that one has (8.6, 8.9, 12.0).
REGISTERS, SHARED = 65536, 100 << 10
RESERVED = 1024
"""Bytes of each block's shared memory that the system keeps from 9.0 on; they are counted as the kernel's."""
LEAST_THREADS = 256
"""Threads of a kernel that reads weights that should fit on one multiprocessor, to have enough loads on the way."""


class Code(NamedTuple):
    """One kernel's machine code: its numbers, and its instructions by name, each as often as it stands there."""

    registers: int
    stack: int
    local: int
    shared: int
    instructions: tuple[str, ...]


def tool(name: str) -> str:
    """A program of the PyPI wheels; the tests fail where it is missing."""
    spec = importlib.util.find_spec("nvidia")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(place).glob(f"*/bin/{name}")):
            return str(path)
    raise AssertionError(f"{name} is not installed: pip install '.[cuda-check]'")


@cache
def cubins() -> Cubins:
    """NVRTC, and what it made before."""
    return Cubins(nvrtc(), KEPT)


def compiled(kernels: Iterable[Kernel], architecture: str, native: Path = NATIVE) -> dict[str, Code]:
    """By name, what NVRTC makes of kernels."""
    return read(cubins().of(program(kernels, native), architecture), architecture)


def assembled(kernels: Iterable[Kernel], architecture: str) -> dict[str, Code]:
    """The same by the other way: PTX from NVRTC, and machine code of it from the wheel's ptxas."""
    number = re.sub(r"\D", "", architecture)
    suffix = architecture.removeprefix(f"sm_{number}")
    ptx = cubins().of(program(kernels), f"compute_{number}{suffix}").rstrip(b"\0")
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder) / "program.ptx", Path(folder) / "program.cubin"
        source.write_bytes(ptx)
        _run(tool("ptxas"), f"--gpu-name={architecture}", str(source), "--output-file", str(made))
        return read(made.read_bytes(), architecture)


def read(image: bytes, architecture: str) -> dict[str, Code]:
    """The kernels of a cubin by name."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(image)
        file.flush()
        numbers = _run(tool("cuobjdump"), "--dump-resource-usage", file.name)
        text = _run(tool("cuobjdump"), "--dump-sass", file.name)
    instructions = {
        name: tuple(re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ +)?([A-Z][A-Z0-9_.a-z]*)", body, re.MULTILINE))
        for name, body in re.findall(r"Function : (\w+)\n(.*?)(?=Function : |\Z)", text, re.DOTALL)
    }
    found = {}
    for name, *sizes in re.findall(r"Function (\w+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", numbers):
        registers, stack, shared, local = map(int, sizes)
        reserved = RESERVED if int(re.sub(r"\D", "", architecture)) >= 90 else 0
        found[name] = Code(registers, stack, local, max(0, shared - reserved), instructions[name])
    return found


def complaints(kernel: Kernel, code: Code) -> list[str]:
    """What is wrong with a kernel's machine code; empty where it is as it should be."""
    ceiling, shared = CEILINGS[kernel.family], kernel.shared + code.shared
    most = ceiling.few if ceiling.few and kernel.blocks < 4 else ceiling.registers
    reads_weights = any(parameter.name.endswith("_codes") for parameter in kernel.parameters)
    wide, once = _loads(code.instructions)
    found = {
        f"{code.stack} bytes of stack": code.stack > 0,
        f"{code.local} bytes of local memory": code.local > 0,
        "registers are spilled": any(name.startswith(("STL", "LDL")) for name in code.instructions),
        f"{code.registers} registers, {most} are allowed": code.registers > most,
        f"{shared} bytes of shared memory, {ceiling.shared} are allowed": shared > ceiling.shared,
        "floats are added by atomics, in any order": any(
            re.match(r"(RED|ATOM)\w*\..*F(16|32|64)", name) for name in code.instructions
        ),
        "weights are read in pieces of less than 16 bytes": reads_weights and (not once or once != wide),
        "keys are read in pieces of less than 16 bytes": kernel.family == "attend"
        and not any(re.match(r"LDG\..*128", name) for name in code.instructions),
    }
    if reads_weights or kernel.family == "attend":
        blocks = min(REGISTERS // (-(-code.registers // 8) * 8 * kernel.threads), SHARED // max(1, shared + RESERVED))
        found[f"{blocks} blocks of {kernel.threads} threads fit on a multiprocessor"] = (
            blocks * kernel.threads < LEAST_THREADS
        )
    return [f"{kernel.name} ({kernel.call[:120]}): {said}" for said, wrong in found.items() if wrong]


def _loads(instructions: Sequence[str]) -> tuple[int, int]:
    """Of loads that pass by the first-level cache, as only weights' do: those of 16 bytes, and all."""
    once = [name for name in instructions if name.startswith("LDG.") and "NA" in name.split(".")]
    return sum("128" in name.split(".") for name in once), len(once)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{command[0]}: {(done.stderr or done.stdout)[:2000]}"
    return done.stdout
