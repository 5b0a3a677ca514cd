"""Compiling the library: with which compiler, and how.

It happens in three places: when the package is installed (`hatch_build.py`), when a wheel is made for other machines
(`scripts/build_wheels.py`), and at the first use where neither was done (`library.py`). Knows the sources, the flags
and compilers; must not know where the result belongs. Imports the standard library only: an installer has no more.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

from laguna_agent.backend.kernels.cpu.variants import FLAGS, NEWER, variants_of
from laguna_agent.program import find_program

SOURCES = Path(__file__).parent / "native"
COMPILERS = ("c++", "g++", "clang++")
PATIENCE = 300.0
# Nothing of libstdc++ is used, so nothing of it should be asked for when the library is loaded.
LINK = ("-shared", "-pthread") if sys.platform == "darwin" else ("-shared", "-pthread", "-Wl,--as-needed")


class CannotBuild(Exception):
    """Why there is no library, in words."""


@dataclass(frozen=True)
class Compiler:
    """The words before the flags when a file is compiled and when the library is linked, and those behind them."""

    compile: tuple[str, ...]
    link: tuple[str, ...]
    libraries: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()


def find_compiler() -> Compiler:
    """$CXX, else one of the system's, else the one in the package `ziglang`. Raises CannotBuild where there is none."""
    wanted = os.environ.get("CXX", "").split()
    for words in [wanted] if wanted else [[name] for name in COMPILERS]:
        if found := find_program(words[0], last=()):
            return Compiler((found, *words[1:]), (found, *words[1:], *LINK))
    if wanted:
        raise CannotBuild(f"no C++ compiler: $CXX is {wanted[0]!r}, which is not there")
    if find_spec("ziglang") is None:
        raise CannotBuild(f"no C++ compiler: none of {', '.join(COMPILERS)} is installed, nor the package ziglang")
    return zig()


def zig(target: str | None = None) -> Compiler:
    """The compiler in the package `ziglang`: for this kind of machine, or for `target` as zig writes it."""
    # -P: `ziglang` is not what happens to have that name in the current directory.
    start = (sys.executable, "-P", "-m", "ziglang")
    # Left alone it compiles for the very processor that is here.
    what_for = ("-mcpu=baseline",) if target is None else ("-target", target)
    # Without its own libraries, which it would first compile for a minute and which nothing here needs.
    alone, system = ("-shared", "-nostdlib", "-s"), ("-lm", "-lpthread", "-lc")
    return Compiler((*start, "c++", *what_for), (*start, "cc", *what_for, *alone), system)


@cache
def digest_of_sources() -> str:
    """What the library is made of, in 16 hexadecimal digits; the library says of which sources it was made."""
    digest = sha256(repr((FLAGS, variants_of("x86_64"), variants_of("aarch64"))).encode())
    for source in _sources(".cpp", ".h"):
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def version(compiler: Compiler) -> str:
    """What the compiler says that it is; raises CannotBuild where it does not run."""
    done = _run((*compiler.compile, "--version"))
    return done.stdout or done.stderr


def build(compiler: Compiler, machine: str | None = None) -> bytes:
    """The library with every variant of `machine` (as `platform.machine()` says it; None: this one).

    Raises CannotBuild, with what the compiler complained of.
    """
    variants = variants_of(machine or platform.machine())
    with tempfile.TemporaryDirectory(prefix="laguna-kernels-") as name:
        folder = Path(name)

        def variant(named: str) -> Path | None:
            flags = (*variants[named], f"-DLAGUNA_VARIANT={named}")
            try:
                return _object(compiler, folder, SOURCES / "variant.cpp", named, flags)
            except CannotBuild:
                if named in NEWER:
                    return None
                raise

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            made = dict(zip(variants, pool.map(variant, variants), strict=True))
        objects = [each for each in made.values() if each]
        told = (
            f"-DLAGUNA_VARIANTS={' '.join(f'V({name})' for name, each in made.items() if each)}",
            f'-DLAGUNA_SOURCES="{digest_of_sources()}"',
        )
        objects += [
            _object(compiler, folder, source, "", told) for source in _sources(".cpp") if source.name != "variant.cpp"
        ]
        linked = folder / "library.so"
        _succeed((*compiler.link, *map(str, objects), *compiler.libraries, "-o", str(linked)), folder)
        return linked.read_bytes()


def _object(compiler: Compiler, folder: Path, source: Path, name: str, flags: Iterable[str]) -> Path:
    """One source compiled with the flags of all and its own."""
    made = folder / f"{source.stem}-{name}.o"
    _succeed((*compiler.compile, *FLAGS, *flags, *compiler.flags, "-c", str(source), "-o", str(made)), folder)
    return made


def _sources(*suffixes: str) -> list[Path]:
    return sorted(path for path in SOURCES.iterdir() if path.suffix in suffixes)


def _succeed(command: tuple[str, ...], folder: Path) -> None:
    done = _run(command, folder)
    if done.returncode:
        complaint = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr)
        raise CannotBuild(f"{command[0]} cannot compile the kernels: {complaint.strip()[:300] or 'it says nothing'}")


def _run(command: tuple[str, ...], folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    # zig keeps what it compiled; where we are done, so is it.
    caches = {name: str(folder) for name in ("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR")} if folder else {}
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE,
            env=os.environ | caches,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotBuild(f"{command[0]} does not run: {error}") from error
