"""NVIDIA's run-time compiler: CUDA C++ in, code for one architecture out; no compiler of the system is needed.

torch's CUDA wheels bring the library, and that one is preferred: what it makes is made for the driver that torch asks
for. Knows the library's C interface; must not know what is compiled, nor who loads it.
"""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from collections.abc import Iterable, Iterator, Sequence
from ctypes.util import find_library
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, Protocol

from laguna_agent.errors import KernelError

Form = Literal["cubin", "ptx"]
OPTIONS = ("--std=c++17",)
"""Nothing of "fast math": denormals and divisions are those of the reference."""
_SYSTEM = ("/usr/local/cuda/lib64", "/opt/cuda/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu")
# Systems on one chip: what is made for them runs on nothing else.
_BOARDS = frozenset({53, 62, 72, 87, 101, 110})
_OUTPUT: dict[Form, str] = {"cubin": "CUBIN", "ptx": "PTX"}


class Compiler(Protocol):
    """What makes code of a program's text."""

    @property
    def version(self) -> str:
        """Which compiler it is: what it makes of the same text may differ with that."""
        ...

    @property
    def architectures(self) -> frozenset[int]:
        """What it knows, as numbers: 90 is sm_90."""
        ...

    def compile(self, text: str, architecture: str) -> bytes:
        """Code for `architecture`: of "sm_90a" a cubin, of "compute_90" PTX. Raises KernelError with the log."""
        ...


@dataclass(frozen=True)
class Built:
    """What came out, and what the compiler said of it."""

    image: bytes
    log: str


class Nvrtc:
    """The library, opened from a file. Raises KernelError where it cannot be, or says that it is broken."""

    def __init__(self, path: Path | str) -> None:
        try:
            _open_builtins(Path(path))
            self._library = ctypes.CDLL(str(path))
            self._declare()
        except (OSError, AttributeError) as error:
            raise KernelError(f"{path} is no NVRTC that can be used: {error}") from error
        self.path = str(path)
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._checked(self._library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
        self.number = (major.value, minor.value)

    @property
    def version(self) -> str:
        """As NVIDIA writes it."""
        return f"NVRTC {self.number[0]}.{self.number[1]}"

    @property
    def architectures(self) -> frozenset[int]:
        """What it can compile for, as numbers."""
        count = ctypes.c_int()
        self._checked(self._library.nvrtcGetNumSupportedArchs(ctypes.byref(count)))
        found = (ctypes.c_int * max(1, count.value))()
        self._checked(self._library.nvrtcGetSupportedArchs(found))
        return frozenset(found[: count.value])

    def compile(self, text: str, architecture: str) -> bytes:
        """A cubin for "sm_90a", PTX for "compute_90"."""
        return self.build(text, architecture).image

    def build(self, text: str, architecture: str, options: Sequence[str] = ()) -> Built:
        """The same with more options, and the log. Raises KernelError, with what of the log names the error."""
        program = ctypes.c_void_p()
        self._checked(
            self._library.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"laguna.cu", 0, None, None)
        )
        try:
            given = [f"--gpu-architecture={architecture}", *OPTIONS, *options]
            words = (ctypes.c_char_p * len(given))(*(word.encode() for word in given))
            failed = self._library.nvrtcCompileProgram(program, len(given), words)
            log = self._output(program, "ProgramLog").rstrip(b"\0").decode(errors="replace").strip()
            if failed:
                raise KernelError(
                    f"{self.version} cannot compile for {architecture}: {_complaint(log, self._say(failed))}"
                )
            form: Form = "ptx" if architecture.startswith("compute_") else "cubin"
            return Built(self._output(program, _OUTPUT[form]), log)
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))

    def _output(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        self._checked(getattr(self._library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
        found = ctypes.create_string_buffer(max(1, size.value))
        self._checked(getattr(self._library, f"nvrtcGet{what}")(program, found))
        return found.raw[: size.value]

    def _checked(self, code: int) -> None:
        if code:
            raise KernelError(f"{self.version if hasattr(self, 'number') else 'NVRTC'}: {self._say(code)}")

    def _say(self, code: int) -> str:
        said: bytes | None = self._library.nvrtcGetErrorString(code)
        return said.decode(errors="replace") if said else f"error {code}"

    def _declare(self) -> None:
        handle, number, size = ctypes.c_void_p, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_size_t)
        words = ctypes.POINTER(ctypes.c_char_p)
        taken: dict[str, list[object]] = {
            "nvrtcVersion": [number, number],
            "nvrtcGetNumSupportedArchs": [number],
            "nvrtcGetSupportedArchs": [number],
            "nvrtcCreateProgram": [
                ctypes.POINTER(handle), ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int, words, words,
            ],
            "nvrtcCompileProgram": [handle, ctypes.c_int, words],
            "nvrtcDestroyProgram": [ctypes.POINTER(handle)],
            "nvrtcGetErrorString": [ctypes.c_int],
        }  # fmt: skip
        for what in ("ProgramLog", *_OUTPUT.values()):
            taken[f"nvrtcGet{what}Size"] = [handle, size]
            taken[f"nvrtcGet{what}"] = [handle, ctypes.c_char_p]
        for name, types in taken.items():
            function = getattr(self._library, name)
            function.argtypes, function.restype = types, ctypes.c_int
        self._library.nvrtcGetErrorString.restype = ctypes.c_char_p


@cache
def nvrtc() -> Nvrtc:
    """The library that belongs to torch, or else the newest that is installed; opened once. Raises KernelError."""
    problems = []
    for path in candidates():
        try:
            return Nvrtc(path)
        except KernelError as problem:
            problems.append(str(problem))
    if problems:
        raise KernelError(problems[0])
    raise KernelError(
        "no NVRTC is installed, which compiles the GPU's kernels: torch's CUDA wheels bring it, "
        "as does the package nvidia-cuda-nvrtc"
    )


def candidates() -> list[Path | str]:
    """Where the library may be, best first: that of torch's own version of CUDA before others, newer before older."""
    wanted = _torch_major()
    found = sorted(dict.fromkeys(_files()), key=lambda path: (_major(path) == wanted, _major(path)), reverse=True)
    system = find_library("nvrtc")
    return [*found, *([system] if system else [])]


def _files() -> Iterator[Path]:
    for folder in _folders():
        yield from folder.glob("libnvrtc.so.[0-9]*")
        # What torch's older wheels call theirs: libnvrtc-4dd39364.so.11.2
        yield from (path for path in folder.glob("libnvrtc-*.so.[0-9]*") if "builtins" not in path.name)


def _folders() -> Iterator[Path]:
    for package in ("nvidia", "torch"):
        spec = importlib.util.find_spec(package)
        for place in (spec.submodule_search_locations or ()) if spec else ():
            if package == "torch":
                yield Path(place) / "lib"
            else:
                yield from (folder / "lib" for folder in sorted(Path(place).iterdir()) if folder.is_dir())
    yield from map(Path, _SYSTEM)


def _major(path: Path) -> int:
    number = path.name.split(".so.")[-1].split(".")[0]
    return int(number) if number.isdigit() else 0


def _torch_major() -> int:
    """The major version of CUDA that torch was built for; 0 where it was built without."""
    import torch

    number = (torch.version.cuda or "0").split(".")[0]
    return int(number)


def _open_builtins(path: Path) -> None:
    """NVRTC opens its second library by its bare name, which the loader finds where it is open already."""
    for builtins in sorted(path.parent.glob("libnvrtc-builtins*.so*")) if path.is_absolute() else ():
        if _major(builtins) in (0, _major(path)):
            ctypes.CDLL(str(builtins), ctypes.RTLD_GLOBAL if sys.platform != "win32" else 0)


def _complaint(log: str, otherwise: str) -> str:
    """The first error of a log in one line."""
    lines = [line.strip() for line in log.splitlines()]
    return next((line for line in lines if "error" in line), " ".join(lines) or otherwise)[:400]


def architecture_for(capability: tuple[int, int], known: Iterable[int]) -> str:
    """What to compile for so that a GPU of this capability runs it.

    Its own architecture; else the newest of its generation that it still runs; else PTX of the newest there is, which
    its driver compiles. Raises KernelError for a GPU older than all of them.
    """
    number = capability[0] * 10 + capability[1]
    fitting = sorted(each for each in known if each == number or (each < number and each not in _BOARDS))
    if not fitting:
        raise KernelError(f"no kernels can be compiled for a GPU of compute capability {capability[0]}.{capability[1]}")
    if fitting[-1] // 10 != capability[0]:
        return f"compute_{fitting[-1]}"
    return "sm_90a" if fitting[-1] == 90 else f"sm_{fitting[-1]}"
