"""A GPU as a `Device`: kernels compiled for it, kept as cubins, launched on torch's stream, recorded into graphs.

It works in the context that torch made, so tensors of torch are given to kernels as they are. Every error says which
kernel it was and what the driver said of it. Knows the driver and the compiler; must not know what kernels mean.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import RLock

import torch
from torch import Tensor

from laguna_agent.backend.kernels.cuda import driver_api
from laguna_agent.backend.kernels.cuda.cubins import Cubins
from laguna_agent.backend.kernels.cuda.driver_api import DriverApi, Refusal
from laguna_agent.backend.kernels.cuda.launch import Argument, Kernel, Launch, Pointer, Value, program
from laguna_agent.backend.kernels.cuda.nvrtc import architecture_for, nvrtc
from laguna_agent.backend.kernels.cuda.page_locked import PageLocked
from laguna_agent.errors import KernelError

MOST_BLOCKS = (2**31 - 1, 65535, 65535)


@dataclass(frozen=True)
class _Call:
    """A launch as the driver takes it; `values` are what `given` points at."""

    name: str
    kernel: Kernel
    function: int
    values: tuple[object, ...]
    given: ctypes.Array[ctypes.c_void_p]


class CudaDevice:
    """The GPU that torch calls `cuda:index`. Raises KernelError where there is no driver, no GPU or no compiler.

    `place`, `stream` (the handle of the stream to launch on; torch's current one), `api` and `cubins` are another
    driver's in the tests. `graph_problem` says why the last recording became plain launches; None where it did not.
    """

    def __init__(
        self,
        index: int = 0,
        *,
        api: DriverApi | None = None,
        cubins: Cubins | None = None,
        place: torch.device | None = None,
        stream: Callable[[], int] | None = None,
    ) -> None:
        self._api = api or DriverApi()
        self._cubins = cubins or Cubins(nvrtc())
        self._place = place or torch.device("cuda", index)
        self._stream = stream or (lambda: int(torch.cuda.current_stream(self._place).cuda_stream))
        self.graph_problem: str | None = None
        self._broken: str | None = None
        self._lock = RLock()
        self._modules: list[int] = []
        self._functions: dict[str, int] = {}
        self._calls: weakref.WeakKeyDictionary[Launch, _Call] = weakref.WeakKeyDictionary()
        self._recording_stream = 0
        self._context = 0
        self.name = f"GPU {index}"
        with self._asking("opening it"):
            self._device = self._api.device(index)
            self.name = self._api.name(self._device)
            self._context = self._api.retain(self._device)
        try:
            self.capability = (self.attribute(driver_api.MAJOR), self.attribute(driver_api.MINOR))
            self.multiprocessors = self.attribute(driver_api.MULTIPROCESSORS)
            self.architecture = architecture_for(self.capability, self._cubins.compiler.architectures)
        except KernelError:
            self.close()
            raise

    @property
    def place(self) -> torch.device:
        """Where the tensors of launches lie."""
        return self._place

    @property
    def driver_version(self) -> tuple[int, int]:
        """The newest CUDA that the driver knows."""
        with self._asking(self.name):
            return self._api.version()

    def attribute(self, attribute: int) -> int:
        """One of the GPU's numbers, by its number in CUdevice_attribute."""
        with self._asking(self.name):
            return self._api.attribute(self._device, attribute)

    def memory(self) -> tuple[int, int]:
        """Bytes of the GPU's memory that are free, and all of them."""
        with self._current(self.name):
            return self._api.memory()

    def page_locked(self) -> PageLocked:
        """Host memory that kernels read. Raises KernelError where the GPU has other addresses for it than the CPU."""
        if not self.attribute(driver_api.UNIFIED_ADDRESSES):
            raise KernelError(f"{self.name} has no unified addresses: kernels cannot read host memory")
        return PageLocked(self._allocate_host, self._free_host)

    def _allocate_host(self, size: int) -> int:
        with self._current(f"{size >> 20} MiB of page-locked host memory"):
            return self._api.allocate_host(size)

    def _free_host(self, address: int) -> None:
        # Whoever drops the last tensor cannot do anything about what the driver says.
        with suppress(KernelError), self._current("page-locked host memory"):
            self._api.free_host(address)

    def prepare(self, kernels: Iterable[Kernel]) -> None:
        """Compile and load what was not yet, as one program. Raises KernelError, which names the kernel."""
        with self._lock:
            new = {kernel.name: kernel for kernel in kernels if kernel.name not in self._functions}
            if not new:
                return
            for kernel in new.values():
                self._check_limits(kernel)
            image = self._image(list(new.values()))
            names = next(iter(new)) if len(new) == 1 else f"{next(iter(new))} and {len(new) - 1} other kernels"
            with self._current(names):
                module = self._api.load(image)
                self._modules.append(module)
            for name, kernel in new.items():
                with self._current(name):
                    self._functions[name] = self._function(module, kernel)

    def run(self, launches: Sequence[Launch]) -> None:
        """One after the other on torch's current stream; returns before they are done."""
        calls = [self._call(launch) for launch in launches]
        if not calls:
            return
        with self._current(calls[0].name):
            stream = self._stream()
            for call in calls:
                with self._asking(call.name):
                    self._put(call, stream)

    def record(self, launches: Sequence[Launch]) -> Callable[[], None]:
        """A graph of them all; where the driver makes none, what launches them one by one (see `graph_problem`)."""
        kept = tuple(launches)
        calls = [self._call(launch) for launch in kept]
        if not calls:
            return lambda: None
        names = f"the graph from {calls[0].name} to {calls[-1].name}"
        with self._lock, self._current(names):
            try:
                ready = self._recorded(calls)
            except Refusal as refusal:
                if refusal.code in driver_api.BROKEN:
                    raise
                self.graph_problem = f"{names}: {refusal}"
                return lambda: self.run(kept)
        self.graph_problem = None
        return _Graph(self, names, kept, ready)

    def replay(self, names: str, ready: int) -> None:
        """Put what was recorded on torch's current stream; for the graph itself."""
        with self._current(names):
            self._api.run_graph(ready, self._stream())

    def discard(self, ready: int) -> None:
        """Give back what was recorded; for the graph itself."""
        with suppress(KernelError), self._current(self.name):
            self._api.destroy_ready(ready)

    def close(self) -> None:
        """Give back what was loaded. Launches and graphs of it must not be used any more, and raise KernelError."""
        with self._lock:
            if not self._context:
                return
            with suppress(KernelError), self._current(self.name):
                if self._recording_stream:
                    self._api.close_stream(self._recording_stream)
                for module in self._modules:
                    self._api.unload(module)
            with suppress(KernelError), self._asking(self.name):
                self._api.release(self._device)
            self._modules.clear()
            self._functions.clear()
            self._calls.clear()
            self._recording_stream = self._context = 0

    def _image(self, kernels: Sequence[Kernel]) -> bytes:
        try:
            return self._cubins.of(program(kernels), self.architecture)
        except KernelError as error:
            # One program for all: which of them it is shows when each is compiled alone.
            for kernel in kernels:
                try:
                    self._cubins.of(program([kernel]), self.architecture)
                except KernelError as alone:
                    raise KernelError(f"{kernel.name} ({kernel.call}): {alone}") from alone
            raise KernelError(f"{kernels[0].name} and {len(kernels) - 1} other kernels: {error}") from error

    def _check_limits(self, kernel: Kernel) -> None:
        problem = None
        if any(not 1 <= size <= most for size, most in zip(kernel.grid, MOST_BLOCKS, strict=True)):
            problem = f"a grid of {kernel.grid} blocks"
        if not 1 <= kernel.threads <= (most := self.attribute(driver_api.THREADS_OF_BLOCK)):
            problem = f"{kernel.threads} threads of a block, the GPU has {most}"
        if kernel.shared > (most := self.attribute(driver_api.SHARED_AT_MOST)):
            problem = f"{kernel.shared} bytes of shared memory, the GPU has {most}"
        if problem:
            raise KernelError(f"{kernel.name} cannot run on {self.name}: {problem}")

    def _function(self, module: int, kernel: Kernel) -> int:
        function = self._api.function(module, kernel.name)
        # Asking also loads it: a driver that loads lazily would do so at the first launch, perhaps within a recording.
        most = self._api.function_attribute(function, driver_api.FUNCTION_THREADS)
        if kernel.threads > most:
            raise KernelError(f"{kernel.name} was compiled for {most} threads of a block, not for {kernel.threads}")
        if kernel.shared > driver_api.SHARED_UNASKED:
            self._api.set_function_attribute(function, driver_api.FUNCTION_SHARED, kernel.shared)
        return function

    def _call(self, launch: Launch) -> _Call:
        """The launch as the driver takes it, made once."""
        if found := self._calls.get(launch):
            return found
        name = launch.kernel.name
        if name not in self._functions:
            raise KernelError(f"{name} was not prepared, or its device was closed")
        values = []
        for parameter, argument in zip(launch.kernel.parameters, launch.arguments, strict=True):
            if isinstance(argument, Tensor) and not self._reaches(argument):
                raise ValueError(
                    f"{name}: {parameter.name} lies on {argument.device}, the kernel runs on {self._place}"
                )
            values.append(_c_value(parameter, argument))
        given = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        self._calls[launch] = call = _Call(name, launch.kernel, self._functions[name], tuple(values), given)
        return call

    def _put(self, call: _Call, stream: int) -> None:
        kernel = call.kernel
        self._api.launch(call.function, kernel.grid, kernel.threads, kernel.shared, stream, call.given)

    def _reaches(self, tensor: Tensor) -> bool:
        """On the GPU itself, or in page-locked memory of the host, which has the same address there."""
        return tensor.device == self._place or (tensor.device.type == "cpu" and tensor.is_pinned())

    def _recorded(self, calls: Sequence[_Call]) -> int:
        """A graph that is ready to run; raises Refusal, and leaves nothing behind then."""
        # The default stream, which torch uses unless told otherwise, cannot be captured.
        self._recording_stream = self._recording_stream or self._api.stream()
        self._api.begin_capture(self._recording_stream)
        try:
            for call in calls:
                self._put(call, self._recording_stream)
        except Refusal:
            # A stream that is left recording can do nothing else.
            with suppress(Refusal):
                if graph := self._api.end_capture(self._recording_stream):
                    self._api.destroy_graph(graph)
            raise
        graph = self._api.end_capture(self._recording_stream)
        try:
            return self._api.instantiate(graph)
        finally:
            self._api.destroy_graph(graph)

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        """Turn what the driver refuses into a KernelError about `what`."""
        if self._broken:
            raise KernelError(self._broken)
        try:
            yield
        except Refusal as refusal:
            raise self._error(what, refusal) from refusal

    @contextmanager
    def _current(self, what: str) -> Iterator[None]:
        """The same in the GPU's context: another thread, or another GPU's work, may have another one."""
        if not self._context:
            raise KernelError(f"{what}: the device was closed")
        with self._asking(what):
            self._api.push(self._context)
        try:
            # What it refuses becomes words while its memory can still be asked for.
            with self._asking(what):
                yield
        finally:
            # Of a context that broke, the driver may not even give back the one before.
            with suppress(Refusal):
                self._api.pop()

    def _error(self, what: str, refusal: Refusal) -> KernelError:
        if refusal.code in driver_api.BROKEN:
            said = f"{what}, or what was launched before it, broke on {self.name}: {refusal}"
            self._broken = f"the GPU does nothing more for this process: {said}"
            return KernelError(said)
        if refusal.code == driver_api.NO_ROOM:
            with suppress(Refusal):
                free, total = self._api.memory()
                return KernelError(f"{what}: {refusal}; {free >> 20} MiB of {total >> 20} MiB are free on {self.name}")
        return KernelError(f"{what} on {self.name} (driver of CUDA {_dotted(self._api)}): {refusal}")


class _Graph:
    """A recording that is ready to run; it keeps the launches, and so their tensors, for as long as it lives."""

    def __init__(self, device: CudaDevice, names: str, launches: Sequence[Launch], ready: int) -> None:
        self._device, self._names, self._launches, self._ready = device, names, launches, ready
        # Not at the end of the process: the context may be gone by then.
        weakref.finalize(self, device.discard, ready).atexit = False

    def __call__(self) -> None:
        self._device.replay(self._names, self._ready)


def _c_value(parameter: Pointer | Value, argument: Argument) -> ctypes.c_void_p | ctypes.c_float | ctypes.c_int:
    if isinstance(argument, Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    if argument is None:
        return ctypes.c_void_p(None)
    return ctypes.c_float(argument) if parameter.type == "float" else ctypes.c_int(int(argument))


def _dotted(api: DriverApi) -> str:
    try:
        return "{}.{}".format(*api.version())
    except Refusal:
        return "unknown version"
