"""Calls of the kernel library with all that they point to in one piece of memory, so that another machine can do them.

`driver.c` does them there; `Arena.run` does them here, in this process. Both begin with the same bytes.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

FUNCTIONS = ("forward", "product", "exact_product", "rows", "attention", "routing", "function")
"""By their number in the file; the first six take a struct, `driver.c` has the same list."""
SIZE = 1 << 24


class FunctionCall(ctypes.Structure):
    """The arguments of laguna_function."""

    _fields_ = [
        ("which", ctypes.c_int64),
        ("n", ctypes.c_int64),
        ("x", ctypes.c_void_p),
        ("y", ctypes.c_void_p),
    ]


class Arena:
    """Memory for tensors and structs, the calls that work on them, and the tensors that hold the results."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, SIZE)
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._used = 0
        self._structs: list[tuple[int, int]] = []
        self._calls: list[tuple[str, int]] = []
        self.outputs: dict[str, Tensor] = {}

    def put(self, values: Tensor) -> int:
        """The address of a copy of the values."""
        return self._view(values).data_ptr()

    def result(self, name: str, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> int:
        """The address of a tensor that a call fills; what it is filled with is looked at afterwards."""
        self.outputs[name] = self._view(torch.full(tuple(shape), 7, dtype=dtype))
        return self.outputs[name].data_ptr()

    def changed(self, name: str, values: Tensor) -> int:
        """The address of a copy of the values that a call changes."""
        self.outputs[name] = self._view(values)
        return self.outputs[name].data_ptr()

    def structs(self, *given: ctypes.Structure) -> int:
        """The address of copies of the structs, one behind the other; what they point to must be in the arena."""
        content = b"".join(bytes(each) for each in given)
        at = self._room(len(content))
        self._memory[at : at + len(content)] = content
        self._structs.append((at, len(content)))
        return self._base + at

    def call(self, function: str, argument: ctypes.Structure) -> None:
        """Have the function called with that argument, after those before it."""
        self._calls.append((function, self.structs(argument) - self._base))

    def run(self, library: ctypes.CDLL) -> dict[str, Tensor]:
        """What the calls give here; the arena is as before afterwards. Asserts that every call says DONE."""
        before = self._memory[: self._used]
        for function, at in self._calls:
            address = self._base + at
            if function == "function":
                given = FunctionCall.from_address(address)
                done = library.laguna_function(given.which, given.x, given.y, given.n)
            else:
                entry = getattr(library, f"laguna_{function}")
                done = entry(entry.argtypes[0]._type_.from_address(address))
            assert done == 0, f"{function} refuses: {done}"
        found = {name: output.clone() for name, output in self.outputs.items()}
        self._memory[: self._used] = before
        return found

    def run_elsewhere(self, command: Sequence[str], library: Path, folder: Path, *variant: str) -> Elsewhere:
        """What the calls give under the command that starts the driver, in that variant or the driver's own choice."""
        calls, results = folder / "calls", folder / "results"
        calls.write_bytes(self._image())
        done = subprocess.run(
            [*command, str(library), str(calls), str(results), *variant], capture_output=True, text=True, timeout=500
        )
        assert done.returncode == 0, done.stderr
        content = results.read_bytes()
        head = 8 * len(self._calls)
        said = struct.unpack(f"<{len(self._calls)}q", content[:head])
        refused = [name for (name, _), result in zip(self._calls, said, strict=True) if result]
        found = {}
        for name, output in self.outputs.items():
            at = head + output.data_ptr() - self._base
            raw = bytearray(content[at : at + output.nbytes])
            found[name] = torch.frombuffer(raw, dtype=output.dtype).view(output.shape)
        return Elsewhere(done.stdout.strip(), refused, found)

    def _image(self) -> bytes:
        """The file that the driver reads."""
        pointers = []
        for at, size in self._structs:
            for place in range(at, at + size - 7, 8):
                (word,) = struct.unpack_from("<Q", self._memory, place)
                # Nothing else in a struct is a number of that size.
                if self._base <= word < self._base + SIZE:
                    pointers.append(place)
        calls = [number for name, at in self._calls for number in (FUNCTIONS.index(name), at)]
        size = -(-self._used // 4096) * 4096
        numbers = (self._base, size, len(pointers), len(self._calls), *pointers, *calls)
        return struct.pack(f"<{len(numbers)}q", *numbers) + self._memory[:size]

    def _view(self, values: Tensor) -> Tensor:
        at = self._room(values.nbytes)
        view = torch.frombuffer(self._memory, dtype=values.dtype, count=values.numel(), offset=at).view(values.shape)
        return view.copy_(values)

    def _room(self, size: int) -> int:
        at = -(-self._used // 64) * 64
        self._used = at + size
        assert self._used <= SIZE, "the arena is too small"
        return at


class Elsewhere:
    """What came back: the variant that ran, the functions that refused, the results by their names."""

    def __init__(self, variant: str, refused: list[str], results: dict[str, Tensor]) -> None:
        self.variant, self.refused, self.results = variant, refused, results
