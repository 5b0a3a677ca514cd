"""Which variants of the library there are, and the flags that each is compiled with.

`variant.cpp` is compiled once for each of a machine's variants, the other files once for all; `native/library.cpp` is
told their names and knows what each of them needs. Which machine compiles does not matter: nothing here means "as this
processor", so one binary serves all of a kind.
"""

from __future__ import annotations

# Nothing is contracted or reordered behind the source's back: where two roundings become one, `fma` stands there.
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-exceptions", "-fno-rtti", "-ffp-contract=off")
AVX2 = ("-mavx2", "-mfma", "-mf16c")
AVX512 = (*AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni")

# Four registers for sixteen lanes make much code; at -O3 it takes half a minute to compile and is no faster.
PORTABLE = ("-O2",)

X86: dict[str, tuple[str, ...]] = {
    "avx512vnni": AVX512,
    "avxvnni": (*AVX2, "-mavxvnni"),
    "avx2": AVX2,
    "portable": PORTABLE,
}
# As -mcpu, for `zig c++` takes no other word for it.
ARM: dict[str, tuple[str, ...]] = {
    "i8mm": ("-mcpu=generic+dotprod+i8mm",),
    "dotprod": ("-mcpu=generic+dotprod",),
    "portable": PORTABLE,
}
OTHER: dict[str, tuple[str, ...]] = {"portable": PORTABLE}

NEWER = ("avxvnni", "i8mm")
"""Unknown to gcc before 11 and 10: where one of these does not compile, the library is made without it."""


def variants_of(machine: str) -> dict[str, tuple[str, ...]]:
    """The variants for `machine` (as `platform.machine()` says it), the best first."""
    if machine in ("x86_64", "AMD64"):
        return X86
    return ARM if machine in ("aarch64", "arm64") else OTHER
