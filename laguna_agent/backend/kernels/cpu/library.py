"""The compiled library of the CPU kernels: which one this process uses, and how it comes to it.

The one that was installed with the package, where it was made of the sources that are there (a tree in development has
newer ones); else one that is compiled at the first use and kept in the cache directory, under a name that depends on
sources, flags and compiler; else none, and plain torch computes. What goes wrong on this way is said in words and never
raised; only a variant that a person asks for and that cannot be had is an error. Knows no torch: `doctor` asks here.

    LAGUNA_KERNEL_VARIANT=avx2   this variant and not the best that the processor has
    LAGUNA_COMPILE_KERNELS=1     not the installed library, but one compiled here (by $CXX where that is set)
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

from laguna_agent.atomic import replace_file
from laguna_agent.backend.kernels.cpu.abi import declare
from laguna_agent.backend.kernels.cpu.building import (
    CannotBuild,
    Compiler,
    build,
    digest_of_sources,
    find_compiler,
    version,
)
from laguna_agent.directories import cache_directory
from laguna_agent.errors import ConfigError

INSTALLED = Path(__file__).with_name("_library.so")
"""Where the installer puts it (`hatch_build.py`)."""
VARIANT = "LAGUNA_KERNEL_VARIANT"
COMPILE = "LAGUNA_COMPILE_KERNELS"


@dataclass(frozen=True)
class Library:
    """What there is: the opened library, or None; and in one line which code runs and why."""

    opened: ctypes.CDLL | None
    says: str


@cache
def library() -> Library:
    """The library of this process, built where it is not there yet (some seconds, once on a machine).

    Raises ConfigError where the variant that the environment asks for cannot be had.
    """
    try:
        return _installed() or _compiled(_built())
    except CannotBuild as problem:
        return _none(problem)


def status() -> str:
    """One line for people: which code multiplies with packed weights on this machine, and why."""
    return library().says


def outlook() -> tuple[bool, str]:
    """Whether the library is there or can be made, and what to say of it; nothing is built or written.

    Raises as `library` does.
    """
    try:
        if installed := _installed():
            return True, installed.says
        compiler = find_compiler()
        place = _place(compiler)
        if place.exists():
            return True, _compiled(place).says
        return True, f"{_name(compiler)} compiles the kernels when a local model is first opened"
    except CannotBuild as problem:
        return False, _none(problem).says


def _none(problem: CannotBuild) -> Library:
    if wanted := os.environ.get(VARIANT):
        raise ConfigError(f"{VARIANT}={wanted}: there are no compiled kernels: {problem}")
    return Library(None, f"plain torch, slow: {problem}")


def _name(compiler: Compiler) -> str:
    return "ziglang" if "ziglang" in compiler.compile else compiler.compile[0]


def _installed() -> Library | None:
    """The library that came with the package; None where there is none, or not for these sources and this machine."""
    if os.environ.get(COMPILE) == "1" or not INSTALLED.exists():
        return None
    try:
        opened = declare(ctypes.CDLL(str(INSTALLED)))
    except (OSError, AttributeError):
        return None
    if opened.laguna_sources() != digest_of_sources().encode():
        return None
    return _ready(opened, "installed with the program")


def _compiled(place: Path) -> Library:
    try:
        opened = declare(ctypes.CDLL(str(place)))
    except (OSError, AttributeError) as error:
        raise CannotBuild(f"{place} cannot be opened ({error}); delete it") from error
    return _ready(opened, f"compiled here: {place}")


def _ready(opened: ctypes.CDLL, origin: str) -> Library:
    """The library with the variant chosen that the environment asks for, or its own choice."""
    wanted, forced = os.environ.get(VARIANT), ""
    if wanted:
        forced = f", as {VARIANT} says"
        if opened.laguna_choose_variant(wanted.encode()):
            raise ConfigError(f"{VARIANT}={wanted}: {_refusal(opened, wanted)}")
    return Library(opened, f"compiled kernels ({opened.laguna_variant().decode()}{forced}), {origin}")


def _refusal(opened: ctypes.CDLL, wanted: str) -> str:
    names: list[str] = []
    while found := opened.laguna_variant_name(len(names)):
        names.append(found.decode())
    if wanted in names:
        return f"this processor cannot run it; the best that it can is {opened.laguna_variant().decode()}"
    return f"there is no such variant; there are {', '.join(names)}"


def _built() -> Path:
    """The library's file in the cache directory, compiled now where nobody did before."""
    compiler = find_compiler()
    place = _place(compiler)
    try:
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.with_suffix(".lock").open("wb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                # Whoever held the lock may have made it.
                if not place.exists():
                    replace_file(place, build(compiler))
    except OSError as error:
        raise CannotBuild(f"{place.parent}: the compiled kernels cannot be kept: {error.strerror or error}") from error
    return place


def _place(compiler: Compiler) -> Path:
    """Where the library belongs that this compiler makes of these sources on this kind of machine."""
    parts = (digest_of_sources(), platform.machine(), version(compiler), *compiler.compile, *compiler.link)
    digest = sha256("\0".join(parts).encode())
    return cache_directory() / "kernels" / f"cpu-{digest.hexdigest()[:24]}.so"
