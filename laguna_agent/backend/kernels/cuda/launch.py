"""What a kernel is, what a launch of it is, and the source that a set of kernels is compiled from.

A kernel's geometry is constant, its grid and what each of its pointers must hold included. So a launch can be checked
whole when it is made: every tensor has the right type, is large enough, and nothing that is written overlaps with
anything else. Knows tensors and text; a `Device` knows compilers and drivers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor

NATIVE = Path(__file__).parent / "native"
ALIGNED = 16
"""Every pointer is a multiple of so many bytes: kernels read 16 bytes at a time."""

CType = Literal["float", "int", "long long", "unsigned char"]
TYPES: dict[str, torch.dtype] = {"float": torch.float32, "int": torch.int32, "long long": torch.int64}
"""Tensors of these types a pointer takes; one of bytes takes any."""
_WIDTHS: dict[str, int] = {"float": 4, "int": 4, "long long": 8, "unsigned char": 1}


@dataclass(frozen=True)
class Pointer:
    """A parameter that takes a tensor of at least `elements` elements of `type`; for "unsigned char" these are bytes.

    "read" and "write" say what the kernel does with it; an "update" reads it, and writes what no other thread reads.
    `optional`: may be None.
    """

    name: str
    type: CType
    elements: int
    access: Literal["read", "write", "update"] = "read"
    optional: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes that the kernel may touch."""
        return self.elements * _WIDTHS[self.type]

    @property
    def declared(self) -> str:
        """The parameter as C++ has it."""
        return f"{'const ' if self.access == 'read' else ''}{self.type} *{self.name}"


@dataclass(frozen=True)
class Value:
    """A parameter that takes a number."""

    name: str
    type: Literal["float", "int"]

    @property
    def declared(self) -> str:
        """The parameter as C++ has it."""
        return f"{self.type} {self.name}"


@dataclass(frozen=True)
class Kernel:
    """One kernel of constant geometry.

    `call` is the C++ expression that is called with the parameters, `laguna::pick<1, 256, 8>`; `source` the file of
    `native/` that has it. `family` is its name among people, and what the self-test and fallbacks go by. `threads` of a
    block, `shared` bytes of dynamic shared memory, `blocks` that should fit on one multiprocessor.
    """

    family: str
    source: str
    call: str
    parameters: tuple[Pointer | Value, ...]
    grid: tuple[int, int, int]
    threads: int
    shared: int = 0
    blocks: int = 1

    @property
    def name(self) -> str:
        """The same for the same code: what the compiled program calls it."""
        return f"laguna_{self.family}_{sha256(self.text('kernel').encode()).hexdigest()[:12]}"

    def text(self, name: str) -> str:
        """Its definition under a name; the grid and the sizes of what it is given are not part of it."""
        declared = ", ".join(parameter.declared for parameter in self.parameters)
        given = ", ".join(parameter.name for parameter in self.parameters)
        bounds = f"__launch_bounds__({self.threads}, {self.blocks})"
        return f'extern "C" __global__ void {bounds} {name}({declared}) {{\n    {self.call}({given});\n}}\n'


Argument = Tensor | float | int | None


@dataclass(frozen=True, eq=False)
class Launch:
    """A kernel and what it is given, in the order of its parameters. Raises ValueError for what it must not be given:
    whoever makes a launch has a bug then. The tensors must stay where they are for as long as this is used."""

    kernel: Kernel
    arguments: tuple[Argument, ...]

    @classmethod
    def of(cls, kernel: Kernel, **given: Argument) -> Launch:
        """A launch with arguments by the names of the parameters; optional ones may be left out."""
        names = [parameter.name for parameter in kernel.parameters]
        if unknown := set(given) - set(names):
            raise ValueError(f"{kernel.name} has no parameter {sorted(unknown)[0]}")
        return cls(kernel, tuple(given.get(name) for name in names))

    def __post_init__(self) -> None:
        parameters = self.kernel.parameters
        if len(parameters) != len(self.arguments):
            raise ValueError(f"{self.kernel.name} takes {len(parameters)} arguments, {len(self.arguments)} were given")
        for parameter, argument in zip(parameters, self.arguments, strict=True):
            problem = _value_problem(parameter, argument) if isinstance(parameter, Value) else None
            if isinstance(parameter, Pointer):
                problem = _pointer_problem(parameter, argument)
            if problem:
                raise ValueError(f"{self.kernel.name}: {parameter.name} {problem}")
        _check_aliases(self.kernel, self.arguments)


def _value_problem(parameter: Value, argument: Argument) -> str | None:
    if isinstance(argument, bool) or not isinstance(argument, int if parameter.type == "int" else (int, float)):
        return f"is {argument!r}, expected {parameter.type}"
    if parameter.type == "int" and not -(1 << 31) <= argument < 1 << 31:
        return f"is {argument}, which is no {parameter.type}"
    return None


def _pointer_problem(parameter: Pointer, argument: Argument) -> str | None:
    if argument is None:
        return None if parameter.optional else "is None"
    if not isinstance(argument, Tensor):
        return f"is {argument!r}, expected a tensor"
    if parameter.type in TYPES and argument.dtype != TYPES[parameter.type]:
        return f"is {argument.dtype}, expected {TYPES[parameter.type]}"
    if not argument.is_contiguous():
        return "is not contiguous"
    if argument.data_ptr() % ALIGNED:
        return f"does not begin at a multiple of {ALIGNED} bytes"
    if argument.nbytes < parameter.nbytes:
        return f"has {argument.nbytes} bytes, the kernel touches {parameter.nbytes}"
    return None


def _check_aliases(kernel: Kernel, arguments: Sequence[Argument]) -> None:
    held = [
        (parameter, argument)
        for parameter, argument in zip(kernel.parameters, arguments, strict=True)
        if isinstance(parameter, Pointer) and isinstance(argument, Tensor)
    ]
    for (one, first), (other, second) in combinations(held, 2):
        if one.access == other.access == "read":
            continue
        low, high = sorted(((first.data_ptr(), one.nbytes), (second.data_ptr(), other.nbytes)))
        if low[0] + low[1] > high[0]:
            raise ValueError(f"{kernel.name}: {one.name} and {other.name} overlap, and one of them is written")


@dataclass(frozen=True, eq=False)
class HostWork:
    """Something that the CPU does between two launches: `call` waits for what was launched before where it reads that,
    and what is launched afterwards sees what it wrote. A step is cut here into two graphs."""

    name: str
    call: Callable[[], None]


class Device(Protocol):
    """Where launches go: a GPU, or in the tests a CPU that behaves like one."""

    @property
    def place(self) -> torch.device:
        """Where the tensors of launches lie."""
        ...

    def prepare(self, kernels: Iterable[Kernel]) -> None:
        """Compile what was not compiled yet. Raises KernelError where that fails."""
        ...

    def run(self, launches: Sequence[Launch]) -> None:
        """One after the other, in order; returns before they are done. What they need was prepared."""
        ...

    def record(self, launches: Sequence[Launch]) -> Callable[[], None]:
        """Something that runs them all, as often as it is called, at the cost of one launch."""
        ...


_INCLUDE = re.compile(r'^#include "(\w+\.cuh)"\n', re.MULTILINE)


def program(kernels: Iterable[Kernel], native: Path = NATIVE) -> str:
    """One C++ text that defines all these kernels, each once; the same text for the same kernels in any order."""
    unique = {kernel.name: kernel for kernel in kernels}
    parts: list[str] = []
    seen: set[str] = set()
    for source in sorted({kernel.source for kernel in unique.values()}):
        _include(source, native, parts, seen)
    parts += [unique[name].text(name) for name in sorted(unique)]
    return "\n".join(parts)


def _include(source: str, native: Path, parts: list[str], seen: set[str]) -> None:
    """Append a file of `native/` behind the files that it includes, each once."""
    if source in seen:
        return
    seen.add(source)
    text = (native / source).read_text()
    for found in _INCLUDE.findall(text):
        _include(found, native, parts, seen)
    plain = _INCLUDE.sub("\n", text).replace("#pragma once\n", "\n")
    parts.append(f'#line 1 "{source}"\n{plain}')
