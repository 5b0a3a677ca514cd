"""A driver without a GPU: it takes the calls of `driver_api` as C functions and checks what a real one would not.

Every launch is checked by the raw addresses that it was given: each pointer aligned and whole within one allocation
that lives, nothing written that anything else of the launch touches, the grid and the sizes those that the kernel was
made for and the GPU allows. What is wrong becomes a `violation` and an answer as a driver gives it after a stray
write. `emulator`: launches also run, on the CPU. Tensors lie in the driver's `memory` (see `launch_checks`).

The code that it loads is the text of the program itself: see `FakeCompiler`.
"""

from __future__ import annotations

import ctypes
import re
import traceback
from collections.abc import Callable, Iterable
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint, c_ulonglong, c_void_p
from dataclasses import dataclass, field
from typing import Any

import torch

from laguna_agent.backend.kernels.cuda.launch import Kernel
from laguna_agent.errors import KernelError
from tests.cuda.emulator import Emulator
from tests.cuda.launch_checks import BAD_HANDLE, ILLEGAL_ADDRESS, Card, Function, Memory, Node, Violation, check

INVALID, NO_ROOM, NOT_READY, NO_DEVICE, BAD_CONTEXT, NO_BINARY, NOT_FOUND = 1, 2, 3, 100, 201, 209, 500
LAUNCH_FAILED, CAPTURE_UNSUPPORTED, CAPTURE_INVALIDATED, UNKNOWN = 719, 900, 901, 999
TEXTS = {
    INVALID: ("CUDA_ERROR_INVALID_VALUE", "invalid argument"),
    NO_ROOM: ("CUDA_ERROR_OUT_OF_MEMORY", "out of memory"),
    NOT_READY: ("CUDA_ERROR_NOT_INITIALIZED", "initialization error"),
    NO_DEVICE: ("CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"),
    BAD_CONTEXT: ("CUDA_ERROR_INVALID_CONTEXT", "invalid device context"),
    NO_BINARY: ("CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"),
    BAD_HANDLE: ("CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"),
    NOT_FOUND: ("CUDA_ERROR_NOT_FOUND", "named symbol not found"),
    ILLEGAL_ADDRESS: ("CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"),
    LAUNCH_FAILED: ("CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"),
    CAPTURE_UNSUPPORTED: ("CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"),
    CAPTURE_INVALIDATED: ("CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error"),
}
_SAID = {code: tuple(c_char_p(text.encode()) for text in texts) for code, texts in TEXTS.items()}
_ALWAYS = {"cuGetErrorName", "cuGetErrorString", "cuCtxPopCurrent_v2", "cuDriverGetVersion"}
_KERNEL = re.compile(r'extern "C" __global__ void __launch_bounds__\((\d+), \d+\) (\w+)\((.*?)\) \{', re.DOTALL)
_WIDTHS = {"float": 4, "int": 4}


class FakeCompiler:
    """Its "code" is the architecture and the text. `broken`: what the text of a program must not have."""

    version = "a compiler of the tests"

    def __init__(self, architectures: Iterable[int] = (80, 86, 89, 90, 100, 120), broken: str | None = None) -> None:
        self.architectures, self.broken = frozenset(architectures), broken
        self.compiled: list[tuple[str, str]] = []

    def compile(self, text: str, architecture: str) -> bytes:
        """See `laguna_agent.backend.kernels.cuda.nvrtc.Compiler`."""
        if self.broken and self.broken in text:
            raise KernelError(f"{self.version} cannot compile for {architecture}: laguna.cu(3): error: {self.broken}")
        self.compiled.append((text, architecture))
        return f"{architecture}\n{text}\0".encode()


@dataclass(eq=False)
class _Stream:
    recording: list[Node] | None = None
    invalid: bool = False


@dataclass(frozen=True, eq=False)
class _Recorded:
    nodes: tuple[Node, ...]


@dataclass(frozen=True, eq=False)
class _Ready:
    nodes: tuple[Node, ...]


def takes(*types: Any) -> Callable[[Callable[..., int | None]], Callable[..., int | None]]:
    """Says a function's C signature, as the driver's header has it."""

    def mark(function: Callable[..., int | None]) -> Callable[..., int | None]:
        function.signature = types  # type: ignore[attr-defined]
        return function

    return mark


def _types(declared: str) -> tuple[str, ...]:
    words = [each.rsplit(" ", 1) for each in declared.split(", ")]
    return tuple("pointer" if name.startswith("*") else kind for kind, name in words)


@dataclass(eq=False)
class FakeDriver:
    """See the module. `known`: the kernels that may be launched. `executed` and `recorded` have their names in order,
    `nodes` what was executed with its arguments, `calls` every function that was called."""

    known: Iterable[Kernel] = ()
    card: Card = field(default_factory=Card)
    emulator: Emulator | None = None

    def __post_init__(self) -> None:
        self.kernels = {kernel.name: kernel for kernel in self.known}
        self.violations: list[str] = []
        self.calls: list[str] = []
        self.executed: list[str] = []
        self.recorded: list[str] = []
        self.nodes: list[Node] = []
        self.contexts: list[int] = []
        self.broken = 0
        self._failures: dict[str, tuple[int, int]] = {}
        self.memory = Memory()
        self._objects: dict[int, object] = {}
        self._retained = 0
        self._kept: list[object] = []
        for name in dir(type(self)):
            method = getattr(self, name)
            if name.startswith("cu"):
                function = ctypes.CFUNCTYPE(c_int, *method.signature)(self._guarded(name, method))
                setattr(self, name, function)

    def fail(self, name: str, code: int, *, after: int = 0) -> None:
        """The function will answer `code`, always, once it was called so many times more."""
        self._failures[name] = (after, code)

    def forgive(self) -> None:
        """No function fails any more by `fail`."""
        self._failures.clear()

    def context_of_another(self) -> int:
        """A context that is not the primary one."""
        return self._new("context")

    @property
    def left(self) -> list[str]:
        """What was made and not given back, by the kind of thing."""
        kinds = (type(each) for each in self._objects.values() if not isinstance(each, Function))
        return sorted(kind.__name__.lstrip("_") for kind in kinds)

    def _guarded(self, name: str, method: Callable[..., int | None]) -> Callable[..., int]:
        def call(*given: Any) -> int:
            self.calls.append(name)
            if self.broken and name not in _ALWAYS:
                return self.broken
            if name in self._failures:
                left, code = self._failures[name]
                self._failures[name] = (left - 1, code)
                if left <= 0:
                    return self._failed(name, code)
            try:
                return method(*given) or 0
            except Violation as violation:
                self.violations.append(str(violation))
                self.broken = violation.code if violation.code == ILLEGAL_ADDRESS else 0
                return violation.code
            except Exception:  # noqa: BLE001 - what leaves a C function is lost
                self.violations.append(traceback.format_exc())
                return UNKNOWN

        return call

    def _failed(self, name: str, code: int) -> int:
        self.broken = code if code in (ILLEGAL_ADDRESS, LAUNCH_FAILED) else 0
        if name == "cuLaunchKernel":
            for stream in self._objects.values():
                if isinstance(stream, _Stream) and stream.recording is not None:
                    stream.invalid = True
        return code

    def _execute(self, node: Node) -> None:
        check(node, self.kernels, self.memory, self.card)
        self.executed.append(node.function.name)
        self.nodes.append(node)
        if self.emulator is not None:
            held = [ctypes.create_string_buffer(value, len(value)) for value in node.values]
            given = (c_void_p * len(held))(*map(ctypes.addressof, held))
            self.emulator.execute(node.function.name, node.grid, node.block[0], node.shared, given)

    def _new(self, thing: object) -> int:
        handle = 0x1000 + 0x10 * len(self._kept)
        self._kept.append(thing)
        self._objects[handle] = thing
        return handle

    def _old(self, handle: int | None, kind: type) -> Any:
        found = self._objects.get(handle or 0)
        if not isinstance(found, kind):
            raise Violation(f"{handle!r} is no {kind.__name__} that lives", BAD_HANDLE)
        return found

    def _in_context(self) -> None:
        if not self.contexts or self.contexts[-1] != self._retained:
            raise Violation("a call that needs the primary context is made in another", BAD_CONTEXT)

    @takes(c_uint)
    def cuInit(self, flags: int) -> int:
        return INVALID if flags else 0 if self.card.devices else NO_DEVICE

    @takes(POINTER(c_int))
    def cuDriverGetVersion(self, out: Any) -> None:
        out[0] = 13000

    @takes(c_int, POINTER(c_char_p))
    def cuGetErrorName(self, code: int, out: Any) -> int:
        out[0] = _SAID[code][0] if code in _SAID else None
        return 0 if code in _SAID else INVALID

    @takes(c_int, POINTER(c_char_p))
    def cuGetErrorString(self, code: int, out: Any) -> int:
        out[0] = _SAID[code][1] if code in _SAID else None
        return 0 if code in _SAID else INVALID

    @takes(POINTER(c_int), c_int)
    def cuDeviceGet(self, out: Any, index: int) -> int:
        out[0] = index
        return 0 if 0 <= index < self.card.devices else 101

    @takes(c_void_p, c_int, c_int)
    def cuDeviceGetName(self, out: int, size: int, device: int) -> None:
        ctypes.memmove(out, self.card.name.encode()[: size - 1] + b"\0", min(size, len(self.card.name) + 1))

    @takes(POINTER(c_int), c_int, c_int)
    def cuDeviceGetAttribute(self, out: Any, attribute: int, device: int) -> int:
        card = self.card
        known = {1: card.threads, 16: card.multiprocessors, 75: card.capability[0], 76: card.capability[1]}
        known |= {97: card.shared, 36: 1_000_000, 37: 256, 41: int(card.unified), 33: 1, 34: 0, 50: 0}
        out[0] = known.get(attribute, 0)
        return 0 if attribute in known else INVALID

    @takes(POINTER(c_void_p), c_int)
    def cuDevicePrimaryCtxRetain(self, out: Any, device: int) -> None:
        self._retained = self._retained or self._new("context")
        out[0] = self._retained

    @takes(c_int)
    def cuDevicePrimaryCtxRelease_v2(self, device: int) -> None:
        self._objects.pop(self._retained)

    @takes(c_void_p)
    def cuCtxPushCurrent_v2(self, context: int) -> None:
        self._old(context, str)
        self.contexts.append(context)

    @takes(POINTER(c_void_p))
    def cuCtxPopCurrent_v2(self, out: Any) -> None:
        out[0] = self.contexts.pop()

    @takes(POINTER(c_size_t), POINTER(c_size_t))
    def cuMemGetInfo_v2(self, free: Any, total: Any) -> None:
        self._in_context()
        free[0], total[0] = self.card.memory

    @takes(POINTER(c_void_p), c_size_t, c_uint)
    def cuMemHostAlloc(self, out: Any, size: int, flags: int) -> int:
        self._in_context()
        made = self.memory.allocate(size, dtype=torch.uint8)
        self._objects[made.data_ptr()] = made
        out[0] = made.data_ptr()
        return 0 if size and flags == 3 else INVALID

    @takes(c_void_p)
    def cuMemFreeHost(self, address: int) -> None:
        self._in_context()
        self.memory.free(self._old(address, torch.Tensor))
        del self._objects[address]

    @takes(POINTER(c_void_p), c_void_p)
    def cuModuleLoadData(self, out: Any, image: int) -> int:
        self._in_context()
        architecture, text = ctypes.string_at(image).decode().split("\n", 1)
        number = int("".join(filter(str.isdigit, architecture)))
        major, minor = self.card.capability
        exact = architecture.endswith("a") and number != 10 * major + minor
        if architecture.startswith("sm_") and (exact or number // 10 != major or number % 10 > minor):
            return NO_BINARY
        functions = {
            name: Function(name, int(threads), _types(words)) for threads, name, words in _KERNEL.findall(text)
        }
        if self.emulator is not None:
            self.emulator.prepare([self.kernels[name] for name in functions])
        out[0] = self._new(functions)
        return 0

    @takes(c_void_p)
    def cuModuleUnload(self, module: int) -> None:
        self._in_context()
        for function in self._old(module, dict).values():
            function.alive = False
        del self._objects[module]

    @takes(POINTER(c_void_p), c_void_p, c_char_p)
    def cuModuleGetFunction(self, out: Any, module: int, name: bytes) -> int:
        function = self._old(module, dict).get(name.decode())
        if function is None:
            return NOT_FOUND
        # It lives as long as its module does, and is nothing that must be given back.
        handle = self._new(function)
        out[0] = handle
        return 0

    @takes(POINTER(c_int), c_int, c_void_p)
    def cuFuncGetAttribute(self, out: Any, attribute: int, function: int) -> int:
        out[0] = self._old(function, Function).threads
        return INVALID if attribute else 0

    @takes(c_void_p, c_int, c_int)
    def cuFuncSetAttribute(self, function: int, attribute: int, value: int) -> int:
        if attribute != 8 or value > self.card.shared:
            return INVALID
        self._old(function, Function).shared = value
        return 0

    @takes(c_void_p, *(c_uint,) * 7, c_void_p, c_void_p, c_void_p)
    def cuLaunchKernel(self, function: int, *given: Any) -> int:
        self._in_context()
        found = self._old(function, Function)
        grid, block, shared, stream, values, extra = given[:3], given[3:6], *given[6:]
        if extra:
            return INVALID
        addresses = ctypes.cast(values, POINTER(c_void_p))
        copies = [ctypes.string_at(addresses[at], _WIDTHS.get(kind, 8)) for at, kind in enumerate(found.types)]
        node = Node(found, grid, block, shared, tuple(copies))
        recording = self._old(stream, _Stream) if stream else None
        if recording is not None and recording.recording is not None:
            recording.recording.append(node)
            self.recorded.append(found.name)
            return 0
        self._execute(node)
        return 0

    @takes(POINTER(c_void_p), c_uint)
    def cuStreamCreate(self, out: Any, flags: int) -> int:
        self._in_context()
        out[0] = self._new(_Stream())
        return 0 if flags == 1 else INVALID

    @takes(c_void_p)
    def cuStreamDestroy_v2(self, stream: int) -> None:
        self._in_context()
        self._old(stream, _Stream)
        del self._objects[stream]

    @takes(c_void_p, c_int)
    def cuStreamBeginCapture_v2(self, stream: int | None, mode: int) -> int:
        self._in_context()
        if not stream:
            return CAPTURE_UNSUPPORTED
        found = self._old(stream, _Stream)
        if found.recording is not None or mode not in (0, 1, 2):
            return INVALID
        found.recording = []
        return 0

    @takes(c_void_p, POINTER(c_void_p))
    def cuStreamEndCapture(self, stream: int, out: Any) -> int:
        self._in_context()
        found = self._old(stream, _Stream)
        if found.recording is None:
            return INVALID
        nodes, invalid, found.recording, found.invalid = found.recording, found.invalid, None, False
        if invalid:
            out[0] = None
            return CAPTURE_INVALIDATED
        out[0] = self._new(_Recorded(tuple(nodes)))
        return 0

    @takes(POINTER(c_void_p), c_void_p, c_ulonglong)
    def cuGraphInstantiateWithFlags(self, out: Any, graph: int, flags: int) -> int:
        self._in_context()
        out[0] = self._new(_Ready(self._old(graph, _Recorded).nodes))
        return 0

    @takes(c_void_p, c_void_p)
    def cuGraphLaunch(self, ready: int, stream: int | None) -> None:
        self._in_context()
        if stream:
            self._old(stream, _Stream)
        for node in self._old(ready, _Ready).nodes:
            self._execute(node)

    @takes(c_void_p)
    def cuGraphDestroy(self, graph: int) -> None:
        self._old(graph, _Recorded)
        del self._objects[graph]

    @takes(c_void_p)
    def cuGraphExecDestroy(self, ready: int) -> None:
        self._in_context()
        self._old(ready, _Ready)
        del self._objects[ready]
