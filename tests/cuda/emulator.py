"""A `Device` on a CPU: the kernels' own source, compiled by the system's C++ compiler under the shim.

Tensors that it makes end where protected memory begins, so whatever reads or writes behind one ends the process. Blocks
and threads run in an order that the seed decides; the same seed gives the same run.
"""

from __future__ import annotations

import ctypes
import math
import os
import shutil
import subprocess
import tempfile
import weakref
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from torch import Tensor

from laguna_agent.backend.kernels.cuda.launch import NATIVE, Argument, Kernel, Launch, Value, program
from laguna_agent.errors import LagunaError


class CompileError(LagunaError):
    """The compiler refuses the program; the text has what it says."""


SHIM = Path(__file__).parent / "shim" / "shim.h"
FLAGS = ("-std=c++17", "-O1", "-march=native", "-ffp-contract=off", "-fPIC", "-shared", "-w")
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g1", "-DSHIM_SANITIZED")
PAGE = 4096
_NONE, _READ_WRITE, _PRIVATE_ANONYMOUS_UNRESERVED = 0, 3, 0x4022
_TABLE = """
static const shim::Entry TABLE[] = {{
{entries}
}};
extern "C" int shim_run(const char *name, const unsigned *grid, int block, size_t shared, void **given,
                        unsigned seed) {{
    for (const shim::Entry &entry : TABLE)
        if (!strcmp(entry.name, name)) {{
            shim::launch(entry.call, grid, block, shared, given, seed);
            return 0;
        }}
    return 1;
}}
"""
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def fenced(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """An uninitialised (zero) tensor that begins at a multiple of 16 bytes, between two protected pages: the one behind
    it follows at once, or after what rounds its size up to 16. Pages that nobody touches take no memory. What lies
    between the first protected page and the tensor are bytes of 0xff, which as floats are no numbers."""
    size = math.prod(shape) * dtype.itemsize
    if not size:
        return torch.empty(shape, dtype=dtype)
    room = -(-size // PAGE) * PAGE
    at = _libc.mmap(None, room + 2 * PAGE, _NONE, _PRIVATE_ANONYMOUS_UNRESERVED, -1, 0)
    if at in (None, ctypes.c_void_p(-1).value) or _libc.mprotect(at + PAGE, room, _READ_WRITE):
        raise MemoryError(f"no room for {size} bytes between protected pages")
    begin = at + PAGE + room - -(-size // 16) * 16
    # No number is what is read before the begin: the rest of its page is poisoned.
    ctypes.memset(begin - (begin - at - PAGE) % PAGE, 0xFF, (begin - at - PAGE) % PAGE)
    buffer = (ctypes.c_ubyte * size).from_address(begin)
    weakref.finalize(buffer, _libc.munmap, at, room + 2 * PAGE)
    return torch.frombuffer(buffer, dtype=dtype).view(shape)


def fence(tensor: Tensor) -> Tensor:
    """A copy of a tensor in such a place."""
    copy = fenced(*tensor.shape, dtype=tensor.dtype)
    if tensor.numel():
        copy.view(torch.uint8).copy_(tensor.contiguous().view(torch.uint8))
    return copy


class Emulator:
    """See the module. `native`: the folder with the kernels' sources. `sanitize`: compiled with ASan and UBSan, for a
    process in which their runtimes were preloaded."""

    place = torch.device("cpu")

    def __init__(self, native: Path = NATIVE, *, seed: int = 1, sanitize: bool = False) -> None:
        self.native, self.seed, self.sanitize = native, seed, sanitize
        self.launched: list[Launch] = []
        self._libraries: dict[str, ctypes.CDLL] = {}

    def prepare(self, kernels: Iterable[Kernel]) -> None:
        """Compile those that are new; the library is kept for the tests of this machine."""
        new = {kernel.name: kernel for kernel in kernels if kernel.name not in self._libraries}
        if new:
            library = self._compiled(list(new.values()))
            self._libraries.update(dict.fromkeys(new, library))

    def run(self, launches: Sequence[Launch]) -> None:
        """One after the other."""
        for launch in launches:
            kernel = launch.kernel
            self.launched.append(launch)
            pairs = zip(kernel.parameters, launch.arguments, strict=True)
            held = [_c_value(parameter, argument) for parameter, argument in pairs]
            given = (ctypes.c_void_p * len(held))(*(ctypes.addressof(value) for value in held))
            self.execute(kernel.name, kernel.grid, kernel.threads, kernel.shared, given)

    def execute(
        self, name: str, grid: Sequence[int], threads: int, shared: int, given: ctypes.Array[ctypes.c_void_p]
    ) -> None:
        """One kernel that was prepared, launched as a driver does: `given` has its arguments' addresses."""
        self.seed += 1
        run = self._libraries[name].shim_run
        size, seed = ctypes.c_size_t(shared), ctypes.c_uint(self.seed)
        assert run(name.encode(), (ctypes.c_uint * 3)(*grid), threads, size, given, seed) == 0

    def record(self, launches: Sequence[Launch]) -> Callable[[], None]:
        """A closure: a graph needs no more where a launch costs what it does."""
        kept = tuple(launches)
        return lambda: self.run(kept)

    def _compiled(self, kernels: Sequence[Kernel]) -> ctypes.CDLL:
        compiler = shutil.which("g++") or pytest.fail("the kernels' tests need g++")
        entries = "\n".join(
            f'    {{"{kernel.name}", [](void **given) {{ shim::call({kernel.name}, given); }}}},' for kernel in kernels
        )
        text = f'#include "{SHIM}"\n{program(kernels, self.native)}\n{_TABLE.format(entries=entries)}'
        flags = (*FLAGS, *(SANITIZE if self.sanitize else ()))
        key = sha256("\0".join((text, SHIM.read_text(), *flags)).encode()).hexdigest()[:24]
        folder = Path(tempfile.gettempdir()) / f"laguna-shim-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        library = folder / f"{key}.so"
        if not library.exists():
            with tempfile.TemporaryDirectory(dir=folder) as made:
                source, built = Path(made) / "program.cpp", Path(made) / "program.so"
                source.write_text(text)
                done = subprocess.run([compiler, *flags, str(source), "-o", str(built)], capture_output=True, text=True)
                if done.returncode:
                    raise CompileError(f"the kernels do not compile: {done.stderr[:4000]}")
                built.replace(library)
        return ctypes.CDLL(str(library))


def _c_value(parameter: object, argument: Argument) -> ctypes.c_void_p | ctypes.c_float | ctypes.c_int:
    if isinstance(parameter, Value):
        assert argument is not None and not isinstance(argument, Tensor)
        return ctypes.c_float(argument) if parameter.type == "float" else ctypes.c_int(int(argument))
    return ctypes.c_void_p(None if argument is None else argument.data_ptr())  # type: ignore[union-attr]
