"""Faults of the few functions that every kernel uses, and of the kernels that look at them."""

from __future__ import annotations

from tests.cuda.mutants import Mutant

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "platform.cuh",
        "for (int step = LANES / 2; step; step /= 2) x += __shfl_xor_sync",
        "for (int step = LANES / 2; step > 1; step /= 2) x += __shfl_xor_sync",
        "the sum over lanes stops before the last step",
    ),
    Mutant(
        "platform.cuh",
        "for (int step = LANES / 2; step; step /= 2) x = fmaxf(x, __shfl_xor_sync",
        "for (int step = LANES / 4; step; step /= 2) x = fmaxf(x, __shfl_xor_sync",
        "the largest of half the lanes",
    ),
    Mutant("platform.cuh", "x / (1.0f + expf(-x))", "x / (1.0f + expf(x))", "silu of the other sign"),
    Mutant("platform.cuh", "log1pf(expf(x))", "logf(1.0f + expf(x))", "softplus of negative numbers is rounded away"),
    Mutant("platform.cuh", "x > 20.0f ? x :", "x > 2.0f ? x :", "softplus is a line too early"),
    Mutant("formats.cuh", "* __uint_as_float(247u << 23)", "* __uint_as_float(246u << 23)", "exponent of e4m3"),
    Mutant("formats.cuh", "((x & 0x80) << 24)", "((x & 0x80) << 23)", "sign of e4m3"),
    Mutant("formats.cuh", "* __uint_as_float(253u << 23)", "* __uint_as_float(254u << 23)", "exponent of e2m1"),
    Mutant("probe.cuh", "    __syncthreads();\n", "", "no barrier between writing and reading shared memory"),
)
