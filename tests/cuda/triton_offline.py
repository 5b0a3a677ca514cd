"""Compile the Triton kernels for GPUs that are not here, and say what each takes: one JSON line for a kernel.

usage: python -m tests.cuda.triton_offline SM[,SM...] [FORMAT,...]

A process of its own: Triton must not be under its interpreter. What each kernel needs is what `TritonProducts` gives
it at the shapes of XS.2; formats by their spelling.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

HIDDEN, INNER, EXPERTS, PER_TOKEN = 2048, 512, 256, 8
FORMATS = (
    "f32",
    "f16",
    "bf16",
    "int4:32:bf16",
    "int4:32:bf16:min",
    "int4:128:bf16",
    "int4:16:f32:min",
    "int8:32:f16",
    "int8:128:bf16",
    "int8:128:bf16:min",
    "fp8:128:f32",
    f"fp8:{HIDDEN}:f32",
    "nvfp4",
)
ARCHITECTURES = (80, 86, 89, 90, 100, 120)
SORTED = {"order": "*i32", "experts": "*i32", "firsts": "*i32", "ends": "*i32"}
ROOM = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}
"""KiB of shared memory that one block may have."""


class Wanted(NamedTuple):
    """One compilation: a kernel, the types of its pointers and numbers, its constants, the compiler's options."""

    name: str
    types: dict[str, str]
    constants: dict[str, Any]
    options: dict[str, Any]


def wanted(spelling: str) -> Iterator[Wanted]:
    """All that prompts of a model with weights of that format launch."""
    import triton.language as tl

    from laguna_agent.backend.kernels.cuda.triton_products import blocks_for, reading_of
    from laguna_agent.backend.kernels.formats import parse_format

    inside, outside = (reading_of(parse_format(spelling), columns) for columns in (HIDDEN, INNER))
    assert inside is not None and outside is not None
    for rows in (16, 64):
        for name, reading in (("gate_up", inside), ("down", outside), ("linear", inside)):
            if name == "linear" and reading.scale_type is None:
                # Plain matrices are multiplied by torch.
                continue
            blocks = blocks_for(reading, rows, gated=name == "gate_up")
            types = {"planes": "*bf16", "codes": "*i32", "scales": "*i32", "extra": "*i32", "out": "*bf16"}
            if reading.scale_type is not None:
                types["scales"] = _pointer(reading.scale_type)
            if reading.minimums or reading.codes == "nvfp4":
                types["extra"] = types["scales"] if reading.minimums else "*fp32"
            types |= {"bias": "*bf16", "tokens": "i32", "height": "i32"} if name == "linear" else SORTED
            own: dict[str, dict[str, Any]] = {
                "gate_up": {
                    "PER_TOKEN": PER_TOKEN,
                    "INNER": INNER,
                    "COUNT": EXPERTS,
                    "OUT_PER": outside.per,
                    "OUT_WORDS": outside.words,
                },
                "down": {"ROWS": HIDDEN, "COUNT": EXPERTS},
                "linear": {"BIAS": True},
            }
            constants = {**own[name], **reading.constants, **blocks.constants, "DOT": tl.bfloat16}
            yield Wanted(name, types, constants, blocks.options)


def _pointer(dtype: object) -> str:
    names = {"float32": "*fp32", "float16": "*fp16", "bfloat16": "*bf16", "uint8": "*u8"}
    return names[str(dtype).removeprefix("torch.")]


def compiled(each: Wanted, architecture: int) -> Mapping[str, object]:
    """Registers, bytes of stack and of shared memory, and how many 16-byte loads and tensor-core steps there are."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from laguna_agent.backend.kernels.cuda import triton_kernels

    function = getattr(triton_kernels, each.name)
    signature = {name: each.types.get(name, "constexpr") for name in function.arg_names}
    aligned = {(at,): [["tt.divisibility", 16]] for at, name in enumerate(signature) if signature[name].startswith("*")}
    source = ASTSource(fn=function, signature=signature, constexprs=each.constants, attrs=aligned)
    built = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=each.options)
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(built.asm["cubin"])
        file.flush()
        usage = _said(str(tools / "cuobjdump"), "--dump-resource-usage", file.name)
        machine = _said(str(tools / "nvdisasm"), file.name)
    numbers = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", usage))
    return {
        "registers": int(numbers["REG"]),
        "stack": int(numbers["STACK"]) + int(numbers["LOCAL"]),
        "spills": len(re.findall(r"\b(?:STL|LDL)\b", machine)),
        "shared": built.metadata.shared,
        "wide_loads": len(re.findall(r"\bLDG\.E[.A-Z]*\.128|\bLDGSTS\.E[.A-Z]*\.128", machine)),
        "tensor_steps": len(re.findall(r"HMMA|HGMMA|UTCHMMA|OMMA", machine)),
        "flushes": len(re.findall(r"mul(?:\.rn)?\.ftz\.f32", built.asm["ptx"])),
    }


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout


def main() -> None:
    """See the module."""
    assert os.environ.get("TRITON_INTERPRET") != "1"
    formats = sys.argv[2].split(",") if len(sys.argv) > 2 else FORMATS
    for spelling in formats:
        for architecture in map(int, sys.argv[1].split(",")):
            for each in wanted(spelling):
                about = {"sm": architecture, "format": spelling, "kernel": each.name, "rows": each.constants["BM"]}
                print(json.dumps({**about, **compiled(each, architecture)}), flush=True)


if __name__ == "__main__":
    main()
