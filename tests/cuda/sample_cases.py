"""Cases of samples.cuh, as a family of kernels has them: what the self-test is tried out with."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from laguna_agent.backend.kernels.cuda.cases import Case, Put
from laguna_agent.backend.kernels.cuda.geometry import Geometry
from laguna_agent.backend.kernels.cuda.launch import Argument, Kernel
from tests.cuda.samples import THREADS, sample

CALLS = {"reverse": "reversed<true>", "rounds": "thrice<true>", "sums": "warp_sums"}
"""Families and what they call."""


def cases(geometry: Geometry | None, seed: int = 0) -> Iterator[Case]:
    """Two of each family."""
    for family, call in CALLS.items():
        plain = sample(call)
        kernel = Kernel(family, plain.source, plain.call, plain.parameters, plain.grid, plain.threads, plain.shared)
        for times in (1.0, 3.0):
            x = times * torch.arange(THREADS).float()
            wide = x.double()
            wanted = {
                "reverse": wide.flip(0),
                "rounds": 6 * wide.flip(0),
                "sums": wide.view(-1, 32).sum(1, keepdim=True).expand(-1, 32).flatten(),
            }[family]
            name = f"{family} of {geometry.name if geometry else 'nothing'} times {times:.0f}"
            yield Case(name, kernel, partial(_bound, x), {"out": wanted})


def _bound(x: torch.Tensor, put: Put) -> dict[str, Argument]:
    return {"x": put(x), "out": put(torch.full((THREADS,), float("nan")))}
