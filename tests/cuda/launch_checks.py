"""What a launch must be, judged by what the driver sees of it: addresses, sizes, a grid.

Knows which memory lives and what kernels may touch; must not know who launches.
"""

from __future__ import annotations

import ctypes
import gc
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from laguna_agent.backend.kernels.cuda.launch import Kernel, Pointer

BAD_HANDLE, ILLEGAL_ADDRESS, INVALID_VALUE = 400, 700, 1
ALIGNED = 16


class Violation(Exception):
    """What no launch may do; `code` is what a driver answers."""

    def __init__(self, words: str, code: int = ILLEGAL_ADDRESS) -> None:
        super().__init__(words)
        self.code = code


@dataclass
class Card:
    """What the GPU is."""

    name: str = "a GPU of the tests"
    capability: tuple[int, int] = (9, 0)
    multiprocessors: int = 4
    threads: int = 1024
    shared: int = 100 << 10
    memory: tuple[int, int] = (8 << 30, 16 << 30)
    devices: int = 1
    unified: bool = True


@dataclass(eq=False)
class Function:
    """A kernel that was loaded: the threads that it was compiled for, the types of its parameters ("pointer" or what C
    calls it), whether its module is still there, the bytes of shared memory it may have."""

    name: str
    threads: int
    types: tuple[str, ...]
    alive: bool = True
    shared: int = 48 << 10


@dataclass(frozen=True)
class Node:
    """A launch with copies of its arguments' bytes, as the driver keeps one."""

    function: Function
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared: int
    values: tuple[bytes, ...]


@dataclass(eq=False)
class _Allocation:
    begin: int
    size: int
    holder: Callable[[], object]
    freed: bool = False

    @property
    def alive(self) -> bool:
        return not self.freed and self.holder() is not None


class Memory:
    """The GPU's memory: tensors that are allocated here, or told by `own`. `adopting`: every tensor that lives in this
    process is memory of the GPU."""

    def __init__(self, *, adopting: bool = False) -> None:
        self.adopting = adopting
        self._allocations: list[_Allocation] = []

    def allocate(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """A tensor that holds no numbers yet; it is freed when nothing refers to its memory any more."""
        count = torch.Size(shape).numel() * dtype.itemsize
        buffer = (ctypes.c_ubyte * (count + ALIGNED))()
        ctypes.memset(buffer, 0xFF, len(buffer))
        offset = -ctypes.addressof(buffer) % ALIGNED
        self._allocations.append(_Allocation(ctypes.addressof(buffer) + offset, count, weakref.ref(buffer)))
        flat = torch.frombuffer(buffer, dtype=torch.uint8, offset=offset, count=count)
        return flat.view(dtype).view(shape)

    def put(self, tensor: Tensor) -> Tensor:
        """A copy of a tensor here."""
        return self.allocate(*tensor.shape, dtype=tensor.dtype).copy_(tensor)

    def own(self, tensor: Tensor) -> Tensor:
        """The same tensor, which from now on lies here for as long as the object lives."""
        storage = tensor.untyped_storage()
        self._allocations.append(_Allocation(storage.data_ptr(), storage.nbytes(), weakref.ref(tensor)))
        return tensor

    def free(self, tensor: Tensor) -> None:
        """As if somebody else had given the memory back."""
        for each in self._allocations:
            if each.begin <= tensor.data_ptr() < each.begin + each.size:
                each.freed = True

    def problem(self, begin: int, size: int) -> str | None:
        """Why these bytes must not be touched; None where all of them lie within one allocation that lives."""
        held = self._holding(begin)
        # Memory that was freed may have been given to somebody else since.
        living = [each for each in held if each.alive]
        if not living and self.adopting:
            self._adopt(begin)
            living = [each for each in self._holding(begin) if each.alive]
        if not living:
            return "is memory that was freed" if held else "is no memory of the GPU"
        over = min(begin + size - each.begin - each.size for each in living)
        return f"ends {over} bytes before what is touched" if over > 0 else None

    def _holding(self, begin: int) -> list[_Allocation]:
        return [each for each in self._allocations if each.begin <= begin < each.begin + each.size]

    def _adopt(self, begin: int) -> None:
        """Own the tensors that live around an address."""
        self._allocations = [each for each in self._allocations if each.alive]
        for thing in gc.get_objects():
            if issubclass(type(thing), Tensor) and thing.layout == torch.strided and thing.device.type == "cpu":
                storage = thing.untyped_storage()
                if storage.data_ptr() <= begin < storage.data_ptr() + storage.nbytes():
                    self.own(thing)


def check(node: Node, kernels: Mapping[str, Kernel], memory: Memory, card: Card) -> None:
    """Raises Violation for what is wrong with a launch."""
    name = node.function.name
    if not node.function.alive:
        raise Violation(f"{name} is launched after it was unloaded", BAD_HANDLE)
    kernel = kernels.get(name)
    if kernel is None:
        raise Violation(f"{name} is no kernel that is known", BAD_HANDLE)
    _check_sizes(node, kernel, card)
    touched = []
    for parameter, value in zip(kernel.parameters, node.values, strict=True):
        if not isinstance(parameter, Pointer):
            continue
        address = int.from_bytes(value, "little")
        if not parameter.nbytes or (parameter.optional and not address):
            continue
        if address % ALIGNED:
            raise Violation(f"{name}: {parameter.name} is not aligned")
        if problem := memory.problem(address, parameter.nbytes):
            raise Violation(f"{name}: {parameter.name} {problem}")
        touched.append((parameter, address))
    for (one, first), (other, second) in combinations(touched, 2):
        apart = first + one.nbytes <= second or second + other.nbytes <= first
        if not apart and not one.access == other.access == "read":
            raise Violation(f"{name}: {one.name} and {other.name} overlap, and one of them is written")


def _check_sizes(node: Node, kernel: Kernel, card: Card) -> None:
    function = node.function
    if node.grid != kernel.grid or node.block != (kernel.threads, 1, 1) or node.shared != kernel.shared:
        raise Violation(f"{function.name} is launched with another grid or size than it has", INVALID_VALUE)
    if not all(1 <= size <= most for size, most in zip(node.grid, (2**31 - 1, 65535, 65535), strict=True)):
        raise Violation(f"{function.name}: no GPU has a grid of {node.grid}", INVALID_VALUE)
    if not 1 <= node.block[0] <= min(card.threads, function.threads):
        raise Violation(f"{function.name}: too many threads", INVALID_VALUE)
    if node.shared > min(card.shared, function.shared):
        raise Violation(f"{function.name}: more shared memory than it asked for", INVALID_VALUE)
