"""Every kernel of a decode step through NVIDIA's compilers, for six architectures: no spills, registers and shared
memory below their ceilings, weights read 16 bytes at a time; and code that is not like that is noticed."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from laguna_agent.backend.kernels.cuda import probe
from laguna_agent.backend.kernels.cuda.geometry import M_1, PUBLISHED, XS_2, Geometry
from laguna_agent.backend.kernels.cuda.launch import NATIVE, Kernel, program
from laguna_agent.backend.kernels.cuda.linear import Segment, joined
from laguna_agent.backend.kernels.cuda.matrices import kind_of
from laguna_agent.backend.kernels.cuda.nvrtc import nvrtc
from laguna_agent.backend.kernels.cuda.step import decode_kernels, kinds_of
from laguna_agent.backend.kernels.formats import Format, Fp8, GroupInt, Nvfp4, Plain
from laguna_agent.errors import KernelError
from tests.cuda.compiled_code import ARCHITECTURES, assembled, compiled, complaints, cubins, tool

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

OURS = "int4 in groups of 32"
FORMATS: dict[str, Format] = {
    OURS: GroupInt(4, 32, torch.float16, minimums=True),
    "int4 in groups of 128": GroupInt(4, 128, torch.bfloat16),
    "int8 in groups of 128": GroupInt(8, 128, torch.bfloat16),
    "bf16": Plain(torch.bfloat16),
    "fp8 in blocks of 128": Fp8(128, torch.float32),
    "nvfp4": Nvfp4(),
}
OTHERS = [name for name in FORMATS if name != OURS]
KEYS = ("f16", "bf16", "f32", "fp8", "int8")


def step(geometry: Geometry, tokens: int, name: str = OURS, kv: str = "f16") -> list[Kernel]:
    """The kernels of a whole step."""
    return decode_kernels(geometry, tokens, kinds_of(geometry, FORMATS[name]), kv)


def reading(geometry: Geometry, tokens: int, name: str) -> list[Kernel]:
    """Those that read weights: the others are the same in every format."""
    kernels = step(geometry, tokens, name)
    return [each for each in kernels if any(part.name.endswith("_codes") for part in each.parameters)]


def check(kernels: Sequence[Kernel], architectures: Sequence[str] = ARCHITECTURES) -> None:
    """All of them are as they should be, everywhere."""
    found = []
    for architecture in architectures:
        codes = compiled(kernels, architecture)
        assert set(codes) == {kernel.name for kernel in kernels}
        for kernel in kernels:
            found += [f"{architecture}: {each}" for each in complaints(kernel, codes[kernel.name])]
    assert found == []


@pytest.mark.parametrize("tokens", [1, 8])
@pytest.mark.parametrize("geometry", PUBLISHED, ids=lambda each: each.name)
def test_a_whole_step_of_every_model(geometry: Geometry, tokens: int) -> None:
    check(step(geometry, tokens))


@pytest.mark.parametrize("tokens", [1, 8])
@pytest.mark.parametrize("name", OTHERS)
def test_other_formats_on_every_architecture(name: str, tokens: int) -> None:
    check(reading(XS_2, tokens, name))


@pytest.mark.parametrize("tokens", [1, 8])
@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("geometry", PUBLISHED[1:], ids=lambda each: each.name)
def test_other_formats_of_the_larger_models(geometry: Geometry, name: str, tokens: int) -> None:
    check(reading(geometry, tokens, name), ["sm_89"])


@pytest.mark.parametrize("tokens", [2, 4])
@pytest.mark.parametrize("name", FORMATS)
def test_two_and_four_tokens(name: str, tokens: int) -> None:
    check(step(XS_2, tokens, name), ["sm_86"])
    check(step(M_1, tokens, name), ["sm_90a"]) if name == OURS else None


@pytest.mark.parametrize("kv", KEYS)
def test_keys_of_every_kind(kv: str) -> None:
    kernels = {each.name: each for geometry in PUBLISHED for each in step(geometry, 1, kv=kv)}
    check([each for each in kernels.values() if each.family in ("place", "attend")])


def test_the_probe() -> None:
    check(list({case.kernel.name: case.kernel for case in probe.cases(None)}.values()))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_other_way_through_ptx_and_ptxas(architecture: str) -> None:
    kernels = step(XS_2, 1)
    codes = assembled(kernels, architecture)
    assert [said for kernel in kernels for said in complaints(kernel, codes[kernel.name])] == []


def test_denormals_and_divisions_are_those_of_the_reference() -> None:
    ptx = cubins().of(program(step(XS_2, 1, "nvfp4")), "compute_80").decode()
    assert "mul.f32" in ptx and "fma.rn.f32" in ptx
    assert not re.findall(r"(?:mul|add|fma\.rn|sub)\.ftz\S*|div\.(?:approx|full)\S*", ptx)


def a_product() -> Kernel:
    """A kernel in which a load's numbers and several sums stay in registers."""
    kind = kind_of(FORMATS["int4 in groups of 128"], (2048, 2048))
    assert kind is not None
    return joined(8, 2048, (Segment("w", kind),))


def said_of(kernel: Kernel, native: Path = NATIVE) -> str:
    (code,) = compiled([kernel], "sm_80", native).values()
    return "; ".join(complaints(kernel, code))


def changed(folder: Path, source: str, old: str, new: str) -> Path:
    """A copy of the sources with one difference."""
    native = folder / "native"
    shutil.copytree(NATIVE, native)
    text = (native / source).read_text()
    assert text.count(old) == 1
    (native / source).write_text(text.replace(old, new))
    return native


def test_spills_are_noticed() -> None:
    kernel = a_product()
    assert said_of(kernel) == ""
    crowded = said_of(replace(kernel, blocks=16))
    assert "registers are spilled" in crowded and "bytes of stack" in crowded


def test_a_register_too_many_is_noticed() -> None:
    kernel = replace(a_product(), family="embed")
    assert "registers, 32 are allowed" in said_of(kernel)


def test_shared_memory_beyond_its_ceiling_is_noticed() -> None:
    assert "bytes of shared memory, " in said_of(replace(a_product(), shared=45 << 10))


def test_narrow_loads_are_noticed(tmp_path: Path) -> None:
    narrow = "v.x = 0; for (int i = 0; i < 4; i++) (&v.x)[i] = static_cast<const unsigned *>(from)[i];\n"
    text = (NATIVE / "platform.cuh").read_text()
    begin = text.index('    asm volatile("ld.global.nc.L1::no_allocate.v4')
    end = text.index(";\n", text.index('"l"(from)', begin)) + 2
    native = changed(tmp_path, "platform.cuh", text[begin:end], f"    {narrow}")
    assert "weights are read in pieces of less than 16 bytes" in said_of(a_product(), native)


def test_pieces_of_a_wide_load_are_noticed(tmp_path: Path) -> None:
    text = (NATIVE / "platform.cuh").read_text()
    wide = text[text.index('    asm volatile("ld.global.nc.L1::no_allocate.v4') :]
    wide = wide[: wide.index(";\n", wide.index('"l"(from)')) + 2]
    halves = "".join(
        wide.replace(".v4", ".v2").replace("{%0,%1,%2,%3}, [%4]", f"{{%0,%1}}, [%2+{at}]").replace(rest, "")
        for at, rest in ((0, ', "=r"(v.z), "=r"(v.w)'), (8, '"=r"(v.x), "=r"(v.y), '))
    )
    native = changed(tmp_path, "platform.cuh", wide, halves)
    assert "weights are read in pieces of less than 16 bytes" in said_of(a_product(), native)


def test_atomics_on_floats_are_noticed(tmp_path: Path) -> None:
    native = changed(tmp_path, "probe.cuh", "out[first] = both.x,", "atomicAdd(out + first, both.x),")
    assert "floats are added by atomics" in said_of(probe.halves(), native)


def test_the_compiler_says_where_it_fails(tmp_path: Path) -> None:
    library = nvrtc()
    assert re.fullmatch(r"NVRTC \d+\.\d+", library.version)
    assert {80, 86, 89, 90, 100, 120} <= library.architectures
    with pytest.raises(KernelError, match=r"cannot compile for sm_80: probe\.cuh\(2\): error: .*nonsense"):
        library.compile('#line 1 "probe.cuh"\n\n__device__ int x = nonsense;\n', "sm_80")
    with pytest.raises(KernelError, match="cannot compile for sm_1"):
        library.compile("", "sm_1")
    native = changed(tmp_path, "probe.cuh", "out[first] = both.x,", "out[first] = both.z,")
    with pytest.raises(KernelError, match=r"probe\.cuh\(\d+\): error: .*\"z\""):
        library.compile(program([probe.halves()], native), "sm_90a")
    assert library.compile(program([probe.halves()]), "sm_90a").startswith(b"\x7fELF")
    assert b".target sm_90" in library.compile(program([probe.halves()]), "compute_90")


def test_the_tools_are_those_of_the_wheels() -> None:
    for name in ("ptxas", "cuobjdump", "nvdisasm"):
        assert "site-packages" in tool(name)
    with pytest.raises(AssertionError, match="cuda-check"):
        tool("no-such-tool")
