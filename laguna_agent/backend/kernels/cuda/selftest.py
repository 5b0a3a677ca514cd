"""Each kernel against its torch reference on the GPU that is here, once for a card, a driver and a set of sources.

A faulty kernel may take the process with it, or never end; so the cases run in a process of their own, which says what
it begins, and is begun anew behind whatever ended it. Knows cases and families; must not know who computes instead of a
faulty one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from laguna_agent.atomic import replace_file
from laguna_agent.backend.kernels.cuda.geometry import Geometry
from laguna_agent.backend.kernels.cuda.launch import NATIVE, Device
from laguna_agent.backend.kernels.cuda.trial import MODULES, NO_ROOM, Tried, try_all
from laguna_agent.directories import cache_directory

if TYPE_CHECKING:
    from laguna_agent.backend.kernels.cuda.driver import CudaDevice

log = logging.getLogger(__name__)
VERSION = 1
"""Of the file; another one's is passed over."""


class Card(msgspec.Struct, frozen=True):
    """What decides how a kernel behaves, beside its source: the card, its driver, and what is compiled for."""

    name: str
    driver: str
    architecture: str


class Report(msgspec.Struct, frozen=True):
    """What a self-test found. `sources`: the hash of all kernels' sources; `model`: the geometries' names."""

    version: int
    card: Card
    sources: str
    model: str
    tried: tuple[Tried, ...]

    @property
    def faulty(self) -> frozenset[str]:
        """Families of which a case was wrong: they are not to be used."""
        return frozenset(each.family for each in self.tried if not each.right)


def card_of(device: CudaDevice) -> Card:
    """Which card a device is."""
    return Card(device.name, ".".join(map(str, device.driver_version)), device.architecture)


def sources_hash(native: Path = NATIVE) -> str:
    """Of all that makes the kernels: the C++ sources in `native` and the builders that choose their constants."""
    kept = sha256()
    for path in sorted((*native.glob("*.cuh"), *NATIVE.parent.glob("*.py"))):
        kept.update(f"{path.name}\0".encode() + path.read_bytes() + b"\0")
    return kept.hexdigest()[:24]


def examine(
    card: Card,
    geometries: Sequence[Geometry],
    make_device: Callable[[], Device],
    *,
    native: Path = NATIVE,
    modules: Sequence[str] = MODULES,
    told: Callable[[Tried], None] = lambda each: None,
) -> Report:
    """Try all cases of these geometries out, and keep what was found. `make_device` makes the device in the process
    that tries (it is pickled); `native` are the sources it reads; `told` hears of each case when it is over."""
    found = try_all(make_device, tuple(geometries), modules, told)
    report = Report(VERSION, card, sources_hash(native), _named(geometries), found)
    if any(each.problem == NO_ROOM for each in found):
        # Another time there may be: what is known now is for now.
        return report
    path = _path(card, report.sources, report.model)
    try:
        replace_file(path, msgspec.json.encode(report))
    except OSError as error:
        log.warning("the self-test's result cannot be kept in %s: %s", path, error)
    return report


def kept(card: Card, geometries: Sequence[Geometry], native: Path = NATIVE) -> Report | None:
    """What an earlier self-test found for the same card, driver, sources and geometries; None where there was none."""
    sources, model = sources_hash(native), _named(geometries)
    try:
        report = msgspec.json.decode(_path(card, sources, model).read_bytes(), type=Report)
    except (OSError, msgspec.MsgspecError):
        return None
    same = (report.version, report.card, report.sources, report.model) == (VERSION, card, sources, model)
    return report if same and report.tried else None


def faulty_families(
    device: CudaDevice, geometry: Geometry, say: Callable[[str], None] = lambda line: None
) -> frozenset[str]:
    """Families of kernels that must not be used for this geometry on this GPU: from an earlier self-test, else from one
    that is made now, which takes minutes; `say` gets lines for the person. Raises KernelError where none can begin."""
    card = card_of(device)
    report = kept(card, (geometry,))
    if report is None:
        say(f"trying the kernels out on this {card.name}: once for this driver and this version")
        report = examine(card, (geometry,), partial(_cuda_device, device.place.index or 0))
    if report.faulty:
        line = f"{fallen(report.faulty)} on this {card.name} (`laguna-agent selftest` has more)"
        log.warning("%s", line)
        say(line)
    return report.faulty


def fallen(families: Iterable[str]) -> str:
    """What a person is told of faulty families."""
    return f"kernels that gave wrong numbers, and are done without: {', '.join(sorted(families))}"


def present() -> tuple[Card, Callable[[], Device]]:
    """The GPU that is here, and what makes it a device in another process. Raises KernelError where there is none."""
    from laguna_agent.backend.kernels.cuda.driver import CudaDevice

    return card_of(CudaDevice()), partial(_cuda_device, 0)


def _cuda_device(index: int) -> Device:
    from laguna_agent.backend.kernels.cuda.driver import CudaDevice

    return CudaDevice(index)


def _named(geometries: Sequence[Geometry]) -> str:
    """Names for people, and the hash of all sizes: two models of one name may differ."""
    names = ", ".join(geometry.name for geometry in geometries)
    return f"{names} {sha256(repr(tuple(geometries)).encode()).hexdigest()[:12]}"


def _path(card: Card, sources: str, model: str) -> Path:
    key = sha256("\0".join((card.name, card.driver, card.architecture, sources, model)).encode()).hexdigest()[:24]
    return cache_directory() / "selftest" / f"{key}.json"
