"""The few functions of NVIDIA's driver that loading and launching kernels takes, with their C signatures.

Handles are integers. Every call raises Refusal with what the driver says. Knows the C interface alone: what a handle
is good for, `driver` knows.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint, c_ulonglong, c_void_p
from typing import Any

from laguna_agent.errors import KernelError

LIBRARY = "libcuda.so.1"
_HANDLE, _NUMBER = POINTER(c_void_p), POINTER(c_int)
# CUdevice is an int; contexts, modules, functions, streams and graphs are pointers.
SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuDriverGetVersion": (_NUMBER,),
    "cuGetErrorName": (c_int, POINTER(c_char_p)),
    "cuGetErrorString": (c_int, POINTER(c_char_p)),
    "cuDeviceGet": (_NUMBER, c_int),
    "cuDeviceGetName": (c_char_p, c_int, c_int),
    "cuDeviceGetAttribute": (_NUMBER, c_int, c_int),
    "cuDevicePrimaryCtxRetain": (_HANDLE, c_int),
    "cuDevicePrimaryCtxRelease_v2": (c_int,),
    "cuCtxPushCurrent_v2": (c_void_p,),
    "cuCtxPopCurrent_v2": (_HANDLE,),
    "cuMemGetInfo_v2": (POINTER(c_size_t), POINTER(c_size_t)),
    "cuMemHostAlloc": (_HANDLE, c_size_t, c_uint),
    "cuMemFreeHost": (c_void_p,),
    "cuModuleLoadData": (_HANDLE, c_char_p),
    "cuModuleUnload": (c_void_p,),
    "cuModuleGetFunction": (_HANDLE, c_void_p, c_char_p),
    "cuFuncGetAttribute": (_NUMBER, c_int, c_void_p),
    "cuFuncSetAttribute": (c_void_p, c_int, c_int),
    "cuLaunchKernel": (c_void_p, *(c_uint,) * 7, c_void_p, POINTER(c_void_p), POINTER(c_void_p)),
    "cuStreamCreate": (_HANDLE, c_uint),
    "cuStreamDestroy_v2": (c_void_p,),
    "cuStreamBeginCapture_v2": (c_void_p, c_int),
    "cuStreamEndCapture": (c_void_p, _HANDLE),
    "cuGraphInstantiateWithFlags": (_HANDLE, c_void_p, c_ulonglong),
    "cuGraphLaunch": (c_void_p, c_void_p),
    "cuGraphDestroy": (c_void_p,),
    "cuGraphExecDestroy": (c_void_p,),
}

# CUdevice_attribute and CUfunction_attribute
THREADS_OF_BLOCK, MULTIPROCESSORS, MAJOR, MINOR, SHARED_AT_MOST = 1, 16, 75, 76, 97
MEMORY_CLOCK_KHZ, MEMORY_BUS_BITS, UNIFIED_ADDRESSES = 36, 37, 41
PCI_BUS, PCI_DEVICE, PCI_DOMAIN = 33, 34, 50
FUNCTION_THREADS, FUNCTION_SHARED = 0, 8
SHARED_UNASKED = 48 << 10
"""Bytes of dynamic shared memory that a kernel has without asking."""
# CUresult
NO_ROOM = 2
BROKEN = frozenset({214, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719})
"""After one of these nothing works in this process any more: a kernel touched what it must not, or the card failed."""
_NON_BLOCKING = 1
_PORTABLE_MAPPED = 1 | 2
_RELAXED = 2


class Refusal(Exception):
    """The driver's answer: its `code`, and in words which function said what."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__(words)
        self.code = code


class DriverApi:
    """The driver's library, or None for the system's. Raises KernelError where there is none or no GPU that it sees."""

    def __init__(self, library: Any = None) -> None:
        try:
            self._library = library or ctypes.CDLL(LIBRARY)
            for name, types in SIGNATURES.items():
                function = getattr(self._library, name)
                function.argtypes, function.restype = types, c_int
        except (OSError, AttributeError) as error:
            raise KernelError(f"NVIDIA's driver is not there, or too old: {error}") from error
        try:
            self._call("cuInit", 0)
        except Refusal as refusal:
            raise KernelError(f"NVIDIA's driver finds no GPU that can be used: {refusal}") from refusal

    def version(self) -> tuple[int, int]:
        """The newest CUDA that the driver knows."""
        number = self._number("cuDriverGetVersion")
        return number // 1000, number % 1000 // 10

    def device(self, index: int) -> int:
        """The GPU that torch calls by this index."""
        return self._number("cuDeviceGet", index)

    def name(self, device: int) -> str:
        """What it is called."""
        found = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", found, len(found), device)
        return found.value.decode(errors="replace")

    def attribute(self, device: int, attribute: int) -> int:
        """One of its numbers."""
        return self._number("cuDeviceGetAttribute", attribute, device)

    def retain(self, device: int) -> int:
        """The context that torch uses too."""
        return self._handle("cuDevicePrimaryCtxRetain", device)

    def release(self, device: int) -> None:
        """The opposite of `retain`."""
        self._call("cuDevicePrimaryCtxRelease_v2", device)

    def push(self, context: int) -> None:
        """Make it this thread's current one."""
        self._call("cuCtxPushCurrent_v2", context)

    def pop(self) -> int:
        """Make that the current one which was before."""
        return self._handle("cuCtxPopCurrent_v2")

    def memory(self) -> tuple[int, int]:
        """Bytes that are free, and all."""
        free, total = c_size_t(), c_size_t()
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def allocate_host(self, size: int) -> int:
        """The address of so many bytes of page-locked host memory, for the CPU and for kernels of every GPU."""
        return self._handle("cuMemHostAlloc", size, _PORTABLE_MAPPED)

    def free_host(self, address: int) -> None:
        """The opposite of `allocate_host`."""
        self._call("cuMemFreeHost", address)

    def load(self, image: bytes) -> int:
        """A module from a cubin or PTX."""
        return self._handle("cuModuleLoadData", image)

    def unload(self, module: int) -> None:
        """Its functions must not be used any more."""
        self._call("cuModuleUnload", module)

    def function(self, module: int, name: str) -> int:
        """One kernel of a module."""
        return self._handle("cuModuleGetFunction", module, name.encode())

    def function_attribute(self, function: int, attribute: int) -> int:
        """One number of a kernel."""
        return self._number("cuFuncGetAttribute", attribute, function)

    def set_function_attribute(self, function: int, attribute: int, value: int) -> None:
        """Ask for what a kernel does not have by itself."""
        self._call("cuFuncSetAttribute", function, attribute, value)

    def launch(
        self, function: int, grid: Sequence[int], threads: int, shared: int, stream: int, given: ctypes.Array[c_void_p]
    ) -> None:
        """Put a kernel behind what the stream has to do; `given` holds the addresses of its arguments."""
        self._call("cuLaunchKernel", function, *grid, threads, 1, 1, shared, stream, given, None)

    def stream(self) -> int:
        """A new stream, which does not wait for the default one."""
        return self._handle("cuStreamCreate", _NON_BLOCKING)

    def close_stream(self, stream: int) -> None:
        """The opposite of `stream`."""
        self._call("cuStreamDestroy_v2", stream)

    def begin_capture(self, stream: int) -> None:
        """Launches into the stream are written down from now on. What torch does elsewhere does not matter."""
        self._call("cuStreamBeginCapture_v2", stream, _RELAXED)

    def end_capture(self, stream: int) -> int:
        """The graph of what was written down."""
        return self._handle("cuStreamEndCapture", stream)

    def instantiate(self, graph: int) -> int:
        """Make a graph ready to run."""
        return self._handle("cuGraphInstantiateWithFlags", graph, 0)

    def run_graph(self, ready: int, stream: int) -> None:
        """Put all of a graph behind what the stream has to do."""
        self._call("cuGraphLaunch", ready, stream)

    def destroy_graph(self, graph: int) -> None:
        """The opposite of `end_capture`; what was made of it stays."""
        self._call("cuGraphDestroy", graph)

    def destroy_ready(self, ready: int) -> None:
        """The opposite of `instantiate`."""
        self._call("cuGraphExecDestroy", ready)

    def _number(self, name: str, *given: object) -> int:
        found = c_int()
        self._call(name, ctypes.byref(found), *given)
        return found.value

    def _handle(self, name: str, *given: object) -> int:
        found = c_void_p()
        where = ctypes.byref(found)
        # The one function that answers behind what it was given.
        self._call(name, *((*given, where) if name == "cuStreamEndCapture" else (where, *given)))
        return found.value or 0

    def _call(self, name: str, *given: object) -> None:
        code: int = getattr(self._library, name)(*given)
        if code:
            raise Refusal(
                code, f"{name}: {self._text('cuGetErrorString', code)} ({self._text('cuGetErrorName', code)})"
            )

    def _text(self, name: str, code: int) -> str:
        found = c_char_p()
        if getattr(self._library, name)(code, ctypes.byref(found)) or not found.value:
            return f"error {code}"
        return found.value.decode(errors="replace")
