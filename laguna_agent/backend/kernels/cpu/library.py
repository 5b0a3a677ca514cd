"""The C library of the CPU kernels: compiled at its first use, kept in the cache directory, opened with ctypes.

It is compiled where it runs, for exactly the processor that is there: one binary for all would need every loop several
times over, and a compiler is what a machine for developing software has. The file's name holds a digest of everything
that it depends on (sources, flags, compiler, processor), so a shared home or a new processor never meets a library made
for another. Whatever goes wrong is said in words and never raised. Knows no torch: `doctor` asks here.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

from laguna_agent.atomic import replace_file
from laguna_agent.backend.kernels.cpu.abi import declare
from laguna_agent.backend.kernels.cpu.variants import FLAGS, LINK, variants_of
from laguna_agent.directories import cache_directory
from laguna_agent.program import find_program

SOURCES = Path(__file__).parent / "native"
COMPILERS = ("c++", "g++", "clang++")
PATIENCE = 120.0


@dataclass(frozen=True)
class Library:
    """What there is: the opened library, or None; and in one line which code runs and why."""

    opened: ctypes.CDLL | None
    says: str


@cache
def library() -> Library:
    """The library of this process, built where it is not there yet (some seconds, once on a machine)."""
    try:
        return _opened(_built())
    except _Unusable as problem:
        return Library(None, f"plain torch, slow: {problem}")


def status() -> str:
    """One line for people: which code multiplies with packed weights on this machine, and why."""
    return library().says


def outlook() -> tuple[bool, str]:
    """Whether the library is there or can be made, and what to say of it; nothing is built or written."""
    try:
        compiler = _compiler()
        place = _place(compiler)
        if place.exists():
            return True, _opened(place).says
        return True, f"{compiler[0]} compiles the kernels when a local model is first opened"
    except _Unusable as problem:
        return False, f"plain torch, slow: {problem}"


class _Unusable(Exception):
    """Why there is no library, in words."""


def _built() -> Path:
    """The library's file, compiled now where nobody did before."""
    compiler = _compiler()
    place = _place(compiler)
    try:
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.with_suffix(".lock").open("wb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                # Whoever held the lock may have made it.
                if not place.exists():
                    replace_file(place, _compiled(compiler))
    except OSError as error:
        raise _Unusable(f"{place.parent}: the compiled kernels cannot be kept: {error.strerror or error}") from error
    return place


def _place(compiler: list[str]) -> Path:
    """Where the library belongs that this compiler makes of these sources on this processor."""
    digest = sha256()
    variants = variants_of(platform.machine())
    for part in (*FLAGS, *LINK, repr(variants), *compiler, _version(compiler)):
        digest.update(part.encode() + b"\0")
    for source in _sources(".cpp", ".h"):
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    return cache_directory() / "kernels" / f"cpu-{digest.hexdigest()[:24]}.so"


def _sources(*suffixes: str) -> list[Path]:
    return sorted(path for path in SOURCES.iterdir() if path.suffix in suffixes)


def _compiler() -> list[str]:
    wanted = os.environ.get("CXX", "").split()
    for words in [wanted] if wanted else [[name] for name in COMPILERS]:
        found = find_program(words[0], last=())
        if found:
            return [found, *words[1:]]
    named = f"$CXX is {wanted[0]!r}, which is not there" if wanted else f"none of {', '.join(COMPILERS)} is installed"
    raise _Unusable(f"no C++ compiler: {named}")


def _version(compiler: list[str]) -> str:
    done = _run([*compiler, "--version"])
    return done.stdout or done.stderr


def _compiled(compiler: list[str]) -> bytes:
    """The bytes of a library with every variant of this kind of machine."""
    with tempfile.TemporaryDirectory(prefix="laguna-kernels-") as folder:
        objects = []
        for name, flags in (("", ()), *variants_of(platform.machine()).items()):
            sources = [SOURCES / "variant.cpp"] if name else [s for s in _sources(".cpp") if s.name != "variant.cpp"]
            for source in sources:
                objects.append(str(Path(folder) / f"{source.stem}-{name}.o"))
                named = (f"-DLAGUNA_VARIANT={name}",) if name else ()
                _succeed([*compiler, *FLAGS, *flags, *named, "-c", str(source), "-o", objects[-1]])
        made = Path(folder) / "kernels.so"
        _succeed([*compiler, *LINK, *objects, "-o", str(made)])
        return made.read_bytes()


def _succeed(command: list[str]) -> None:
    done = _run(command)
    if done.returncode:
        complaint = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr)
        raise _Unusable(f"{command[0]} cannot compile the kernels: {complaint.strip()[:300] or 'it says nothing'}")


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=PATIENCE
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _Unusable(f"{command[0]} does not run: {error}") from error


def _opened(place: Path) -> Library:
    try:
        opened = declare(ctypes.CDLL(str(place)))
    except (OSError, AttributeError) as error:
        raise _Unusable(f"{place} cannot be opened ({error}); delete it") from error
    return Library(opened, f"compiled kernels ({opened.laguna_variant().decode()}): {place}")
