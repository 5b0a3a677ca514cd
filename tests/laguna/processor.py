"""Which variants of the compiled kernels this machine's processor has, by what the system says of it.

Not by asking the library: its own choice is held against this, and nothing has to be compiled to collect the tests.
"""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

AVX2 = {"avx2", "fma", "f16c"}
NEEDS = {
    "avx512vnni": AVX2 | {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni"},
    "avxvnni": AVX2 | {"avx_vnni"},
    "avx2": AVX2,
    "i8mm": {"asimddp", "i8mm"},
    "dotprod": {"asimddp"},
    "portable": set(),
}
OF_MACHINE = {"x86_64": ("avx512vnni", "avxvnni", "avx2"), "aarch64": ("i8mm", "dotprod")}


@cache
def variants_here() -> list[str]:
    """Their names, the best first; only the portable one where the system does not say what it has (Linux does)."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ["portable"]
    has = {word for line in lines if line.startswith(("flags", "Features")) for word in line.split(":")[1].split()}
    return [name for name in (*OF_MACHINE.get(platform.machine(), ()), "portable") if NEEDS[name] <= has]
