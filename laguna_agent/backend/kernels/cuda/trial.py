"""Cases in a process of their own, so that a kernel may end it, or hang, without harm to who asks.

The child says which case it begins and how it ended; the parent begins another child behind what ended or outlasted the
last one, without the family that did it. Knows processes; must not know what is kept or shown.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import msgspec
import torch
from torch import Tensor

from laguna_agent.backend.kernels.cuda.cases import Put, error_of
from laguna_agent.backend.kernels.cuda.geometry import Geometry
from laguna_agent.backend.kernels.cuda.launch import Device
from laguna_agent.errors import KernelError, LagunaError

_ROOM = "laguna_agent.backend.kernels.cuda"
PROBE = f"{_ROOM}.probe"
PREFILL = f"{_ROOM}.prefill"
MODULES = (PROBE, *(f"{_ROOM}.{name}" for name in ("linear", "experts", "attention", "sampling")), PREFILL)
"""Modules with cases. Those of the probe have no sizes of a model."""
PATIENCE = 300.0
"""Seconds for one case, compiling and the reference on the CPU included."""
WRONG = "what it wrote is wrong, or no number"
NO_ROOM = "there was no room for it on the card"
HARMLESS = ("", WRONG, NO_ROOM)
"""After these the process is as sound as before."""
_START = 120.0
_LONGEST_PROBLEM = 300


class Tried(msgspec.Struct, frozen=True):
    """One case of a module. `error` is the relative error of what the kernel wrote, None where there are no numbers:
    `problem` says why then. `family` is the kernel's, what fallbacks go by."""

    module: str
    family: str
    label: str
    error: float | None = None
    tolerance: float = 0.0
    problem: str = ""

    @property
    def right(self) -> bool:
        """Whether the kernel may be used, as far as this case goes."""
        return not self.problem and self.error is not None and self.error <= self.tolerance


def try_all(
    make_device: Callable[[], Device],
    geometries: tuple[Geometry, ...],
    modules: Sequence[str],
    told: Callable[[Tried], None],
    patience: float = PATIENCE,
) -> tuple[Tried, ...]:
    """Every case of the modules, in order; of a family that ended or outlasted a process no more than that case.
    Raises KernelError where no case can even be begun."""
    found: list[Tried] = []
    for module in modules:
        avoided: set[str] = set()
        begin = 0
        while begin >= 0:
            some, begin = _some(make_device, geometries, module, begin, frozenset(avoided), patience)
            avoided.update(each.family for each in some if each.problem not in HARMLESS)
            found.extend(some)
            for each in some:
                told(each)
    return tuple(found)


def _some(
    make_device: Callable[[], Device],
    geometries: tuple[Geometry, ...],
    module: str,
    begin: int,
    avoided: frozenset[str],
    patience: float,
) -> tuple[list[Tried], int]:
    """What one process finds from case `begin` on, and where the next one has to begin; -1 where none is needed."""
    context = get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory(prefix="laguna-selftest-") as folder:
        said = Path(folder) / "said"
        given = (theirs, str(said), make_device, geometries, module, begin, avoided)
        child = context.Process(target=_child, args=given, daemon=True)
        child.start()
        theirs.close()
        try:
            return _heard(ours, module, begin, patience, said)
        finally:
            child.terminate()
            child.join(5)
            if child.is_alive():
                child.kill()
                child.join()
            ours.close()


def _heard(ours: Connection, module: str, begin: int, patience: float, said: Path) -> tuple[list[Tried], int]:
    found: list[Tried] = []
    # What is under way: its number, and the case as it was announced.
    at = begin
    case: Tried | None = None
    while True:
        limit = patience if case else _START
        try:
            message = ours.recv() if ours.poll(limit) else None
            problem = f"it did not end within {limit:.0f} seconds"
        except EOFError:
            message, problem = None, f"it ended the process: {_last_line(said)}"
        if message == "done":
            return found, -1
        if message is None:
            if case is None:
                raise KernelError(f"the kernels' self-test ({module}) cannot begin: {problem}")
            found.append(msgspec.structs.replace(case, problem=problem))
            return found, at + 1
        number, each = message
        if number >= 0:
            at, case = number, each
            continue
        found.append(each)
        if each.problem not in HARMLESS:
            # After a kernel that failed nothing else can be trusted in that process.
            return found, at + 1


def _last_line(said: Path) -> str:
    lines = said.read_text(errors="replace").strip().splitlines() if said.exists() else []
    shim = [line for line in lines if line.startswith("shim: ")]
    return (shim or lines or ["without a word"])[-1][:_LONGEST_PROBLEM]


def _child(
    theirs: Connection,
    said: str,
    make_device: Callable[[], Device],
    geometries: tuple[Geometry, ...],
    module: str,
    begin: int,
    avoided: frozenset[str],
) -> None:
    """Send (number, case) when one begins, (-1, case) when it is over, "done" at the end."""
    # An editor's protocol may be on standard input and output, which are inherited.
    nothing, errors = os.open(os.devnull, os.O_RDWR), os.open(said, os.O_CREAT | os.O_WRONLY, 0o600)
    for handle, into in ((nothing, 0), (nothing, 1), (errors, 2)):
        os.dup2(handle, into)
    for number, trial in enumerate(_trials(module, make_device(), geometries)):
        if number >= begin and trial.family not in avoided:
            announced = Tried(module.rpartition(".")[2], trial.family, trial.label, tolerance=trial.tolerance)
            theirs.send((number, announced))
            theirs.send((-1, _tried(trial, announced)))
    theirs.send("done")


class _Trial(NamedTuple):
    family: str
    label: str
    tolerance: float
    error: Callable[[], float]


def _trials(module: str, device: Device, geometries: tuple[Geometry, ...]) -> Iterator[_Trial]:
    def put(tensor: Tensor) -> Tensor:
        return tensor.to(device.place, copy=True)

    if module == PREFILL:
        yield from _prefill_trials(device, geometries, put)
        return
    cases = import_module(module).cases
    for geometry in (None,) if module == PROBE else geometries:
        for case in cases(geometry):
            yield _Trial(case.kernel.family, case.label, case.tolerance, partial(error_of, case, device, put))


def _prefill_trials(device: Device, geometries: tuple[Geometry, ...], put: Put) -> Iterator[_Trial]:
    """Those of Triton's kernels, where Triton can run at all: else torch computes prompts anyway."""
    from laguna_agent.backend.kernels.cuda.prefill import outlook

    if device.place.type != "cuda" or not outlook().triton:
        return
    from laguna_agent.backend.kernels.cuda import prefill_cases, triton_kernels
    from laguna_agent.backend.kernels.cuda.triton_products import TritonProducts

    products = TritonProducts(triton_kernels)
    for geometry in geometries:
        for case in prefill_cases.cases(geometry):
            compute = partial(prefill_cases.error_of, case, products, put)
            yield _Trial("prefill", case.label, case.tolerance, compute)


def _tried(trial: _Trial, announced: Tried) -> Tried:
    try:
        error = trial.error()
    except torch.OutOfMemoryError:
        return msgspec.structs.replace(announced, problem=NO_ROOM)
    except (LagunaError, RuntimeError, ValueError) as refused:
        problem = " ".join(f"{type(refused).__name__}: {refused}".split())[:_LONGEST_PROBLEM]
        return msgspec.structs.replace(announced, problem=problem)
    if not math.isfinite(error):
        return msgspec.structs.replace(announced, problem=WRONG)
    return msgspec.structs.replace(announced, error=error)
