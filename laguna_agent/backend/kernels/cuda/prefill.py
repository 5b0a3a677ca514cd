"""Products of long prompts on a GPU: Triton's kernels where Triton runs, else torch over dequantised weights.

Triton compiles its launcher with the machine's C compiler at the first use, so whether it runs is known only by running
it: `usable` does so once for a device and says what came of it, and what fails later is computed by torch from then on.
Knows tensors and `dispatch`; the kernels are imported by whoever runs them first.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sysconfig
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from laguna_agent.backend.kernels import dispatch, reference
from laguna_agent.backend.kernels.cuda import grouped
from laguna_agent.backend.kernels.cuda.cases import relative_error
from laguna_agent.backend.kernels.cuda.triton_products import SERVED, TritonProducts, interpreted, readable
from laguna_agent.backend.kernels.formats import Fp8, GroupInt, Nvfp4, Plain, Weight
from laguna_agent.backend.kernels.quantise import quantise

log = logging.getLogger(__name__)

OFF = "LAGUNA_NO_TRITON"
"""Set to 1: prompts are computed without Triton."""
PACKED = (GroupInt, Fp8, Nvfp4)
ROUNDED = 2e-2
"""How far the trial may be off: its operands are rounded to 8 bits. Anything that is computed wrong is off by 1."""


class Usable(NamedTuple):
    """Whether Triton computes prompts, and why in one line for people."""

    triton: bool
    says: str


def outlook() -> Usable:
    """Whether Triton could run here, by what is installed; nothing is imported, compiled or run."""
    if os.environ.get(OFF) == "1":
        return Usable(False, f"prompts are computed by torch: {OFF} is set")
    if find_spec("triton") is None:
        return Usable(False, "prompts are computed by torch: Triton is not installed")
    if not interpreted():
        compilers = [os.environ["CC"]] if "CC" in os.environ else ["gcc", "clang"]
        if not any(map(shutil.which, compilers)):
            return Usable(False, "prompts are computed by torch: Triton needs a C compiler, and there is none")
        if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
            return Usable(False, "prompts are computed by torch: Triton needs Python's headers (python3-dev)")
    return Usable(True, "prompts are computed by Triton's kernels")


def usable(device: torch.device) -> Usable:
    """`outlook`, and a small product and two experts that came out right on that device; tried once in a process.

    The device is a GPU, or the CPU under Triton's interpreter.
    """
    return _tried(device.type, device.index or 0)


@cache
def _tried(kind: str, index: int) -> Usable:
    device = torch.device(kind, index) if kind == "cuda" else torch.device(kind)
    found = outlook()
    if not found.triton:
        return found
    if not interpreted() and kind != "cuda":
        return Usable(False, "prompts are computed by torch: Triton's kernels run on GPUs")
    try:
        missed = _trial(_products(), device)
    except Exception as problem:  # noqa: BLE001 - whatever a compiler or a driver throws, torch computes instead
        first = (str(problem).strip().splitlines() or [""])[0]
        return Usable(False, f"prompts are computed by torch: Triton failed ({type(problem).__name__}: {first[:200]})")
    if not missed < ROUNDED:
        return Usable(False, f"prompts are computed by torch: Triton's kernels are off by {missed:.1g} on this device")
    return found


def _products() -> TritonProducts:
    from laguna_agent.backend.kernels.cuda import triton_kernels

    return TritonProducts(triton_kernels)


def _trial(products: TritonProducts, device: torch.device) -> float:
    """The larger relative error of a product with int4 weights and of two experts."""
    made = torch.Generator().manual_seed(1)
    dtype = torch.float32 if interpreted() else SERVED

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=made).to(device)

    x = drawn(3, 64).to(dtype)
    gate_up, down = (quantise(drawn(2, 64, columns), GroupInt(4, 32)).to(device) for columns in (64, 32))
    picked, share = torch.tensor([[0, 1], [1, 0], [1, 0]], device=device), drawn(3, 2).to(dtype)
    matrices = [readable(weight) for weight in (gate_up[0], gate_up, down)]
    dense, *stacks = (matrix for matrix in matrices if matrix is not None)
    first = relative_error(products.linear(x, dense).cpu(), reference.linear(x.float(), gate_up[0]).cpu())
    second = products.experts(x, stacks[0], stacks[1], picked, share)
    wanted = reference.experts(x.float(), gate_up, down, picked, share.float())
    return max(first, relative_error(second.cpu(), wanted.cpu()))


class PrefillKernels:
    """What `dispatch` calls for weights on a GPU. May be used from any thread."""

    def __init__(self, products: TritonProducts | None) -> None:
        """`products`: None where Triton cannot run."""
        self._products = products

    def linear(self, x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
        """y = x W^T + b; shapes as in `reference.linear`."""
        if self._products is not None and _served(x):
            matrix = readable(weight)
            if matrix is not None:
                try:
                    y = self._products.linear(x.reshape(-1, x.shape[-1]), matrix, bias)
                    return y.view(*x.shape[:-1], y.shape[-1])
                except _failures() as problem:
                    self._give_up(problem)
        return reference.linear(x, weight, bias)

    def expert_linear(self, x: Tensor, weight: Weight, experts: Tensor) -> Tensor:
        """As in `reference`: the experts' products come through `experts`."""
        return reference.expert_linear(x, weight, experts)

    def embedding(self, ids: Tensor, weight: Weight, dtype: torch.dtype) -> Tensor:
        """As in `reference`: rows are few."""
        return reference.embedding(ids, weight, dtype)

    def experts(self, x: Tensor, gate_up: Weight, down: Weight, picked: Tensor, share: Tensor) -> Tensor:
        """The picked experts' work; shapes as in `reference.experts`."""
        if self._products is not None and _served(x) and picked.numel():
            inside, outside = readable(gate_up), readable(down)
            if inside is not None and outside is not None:
                try:
                    return self._products.experts(x.contiguous(), inside, outside, picked, share)
                except _failures() as problem:
                    self._give_up(problem)
        return grouped.experts(x, gate_up, down, picked, share)

    def _give_up(self, problem: Exception) -> None:
        if self._products is not None:
            self._products = None
            log.warning("prompts are computed by torch from now on: Triton failed (%s)", type(problem).__name__)


def _served(x: Tensor) -> bool:
    return x.dtype == (torch.float32 if interpreted() else SERVED)


def _failures() -> tuple[type[Exception], ...]:
    """What Triton throws where it cannot compile or launch a kernel; errors of the device and of memory are others'."""
    from triton.compiler.errors import CompilationError
    from triton.runtime.errors import OutOfResources, PTXASError

    return CompilationError, OutOfResources, PTXASError, subprocess.SubprocessError, OSError


def use(device: torch.device, *, faulty: bool = False) -> Usable:
    """Let prompts on that GPU be computed by the fastest that works there; which one that is, is logged once.

    `faulty`: the self-test found Triton's kernels wrong there.
    """
    found = Usable(False, "prompts are computed by torch: the self-test found Triton's kernels wrong")
    if not faulty:
        found = usable(device)
    kernels = PrefillKernels(_products() if found.triton else None)
    for format in PACKED:
        dispatch.register(format, device.type, kernels)
        dispatch.register_experts(format, device.type, kernels.experts)
    # Plain matrices are torch's own; a stack of them is not.
    dispatch.register_experts(Plain, device.type, kernels.experts)
    _say(found)
    return found


@cache
def _say(found: Usable) -> None:
    log.log(logging.INFO if found.triton else logging.WARNING, "%s", found.says)
