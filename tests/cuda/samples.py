"""The kernels of shim/samples.cuh, and a folder from which they can be compiled."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from torch import Tensor

from laguna_agent.backend.kernels.cuda.launch import NATIVE, Kernel, Launch, Pointer
from tests.cuda.emulator import SHIM, Emulator, fence

THREADS = 64
SOURCE = "samples.cuh"


def sample(name: str, *, grid: tuple[int, int, int] = (1, 1, 1), kind: str = "float") -> Kernel:
    """A kernel of samples.cuh with shared memory for one float a thread."""
    given = Pointer("counter", "int", 1, "update") if kind == "int" else Pointer("x", "float", THREADS)
    out = Pointer("out", "float", THREADS, "write")
    return Kernel("sample", SOURCE, f"samples::{name}", (given, out), grid, THREADS, 4 * THREADS)


def sources(folder: Path) -> Path:
    """`folder` with what samples.cuh needs."""
    for source in (NATIVE / "platform.cuh", SHIM.parent / SOURCE):
        shutil.copy(source, folder)
    return folder


def run(emulator: Emulator, kernel: Kernel, seed: int) -> Tensor:
    """What the kernel writes, given 0, 1, 2 ... for each thread, or a counter."""
    emulator.seed = seed
    name = kernel.parameters[0].name
    given = fence(torch.arange(THREADS).float() if name == "x" else torch.zeros(1, dtype=torch.int32))
    out = fence(torch.full((THREADS,), float("nan")))
    emulator.run([Launch.of(kernel, **{name: given, "out": out})])
    return out.clone()
