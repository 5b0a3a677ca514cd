"""Small known calls of every kernel: what the self-test runs on a GPU, and the tests under their shim.

A case is a kernel, what it is given, and what it must write, worked out in plain torch in fp64. Knows tensors; who
makes cases knows what his kernels mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from laguna_agent.backend.kernels.cuda.launch import Argument, Device, Kernel, Launch

TOLERANCE = 1e-6
"""Largest relative error of sums in fp32: the root of the squared differences over that of the squared numbers."""

Put = Callable[[Tensor], Tensor]
"""Places a tensor where kernels can read it, as a copy, and returns it."""


@dataclass(frozen=True, eq=False)
class Case:
    """`bind(put)` gives the arguments by parameter name, made anew at each call, each tensor through `put`; what is
    only written should hold NaN or -1 before. `expected`: what parameters hold afterwards (fp64, or integers, which
    must be equal); names of tensors that a kernel reaches through addresses are given by `reached(arguments)`."""

    label: str
    kernel: Kernel
    bind: Callable[[Put], Mapping[str, Argument]]
    expected: Mapping[str, Tensor]
    tolerance: float = TOLERANCE
    reached: Callable[[Mapping[str, Argument]], Mapping[str, Tensor]] | None = None


def error_of(case: Case, device: Device, put: Put) -> float:
    """The largest relative error of what the kernel wrote; infinite where it is no number, or integers differ."""
    device.prepare([case.kernel])
    given = case.bind(put)
    names = {parameter.name for parameter in case.kernel.parameters}
    device.run([Launch.of(case.kernel, **{name: value for name, value in given.items() if name in names})])
    found: dict[str, Tensor] = {name: value for name, value in given.items() if isinstance(value, Tensor)}
    if case.reached is not None:
        found.update(case.reached(given))
    return max(relative_error(found[name].cpu(), wanted) for name, wanted in case.expected.items())


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """|found - wanted| / |wanted|; of integers 0 or infinity. NaN where NaN is wanted counts as equal."""
    found = found.reshape(wanted.shape)
    if not wanted.is_floating_point():
        return 0.0 if torch.equal(found.long(), wanted.long()) else math.inf
    wide, wanted = found.double(), wanted.double()
    same = (wide == wanted) | (wide.isnan() & wanted.isnan())
    difference = torch.where(same, 0.0, wide - wanted)
    if not bool(difference.isfinite().all()):
        return math.inf
    scale = torch.where(wanted.isfinite(), wanted, 0.0).norm().item()
    missed = difference.norm().item()
    return missed / scale if scale else (math.inf if missed else 0.0)
