"""What NVIDIA's data sheets say of its cards: how fast their memory is read, and how much of it there is.

Knows published numbers, and what a driver says of clock and bus; nothing here was measured by this program.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from laguna_agent.backend.kernels.cuda.driver_api import MEMORY_BUS_BITS, MEMORY_CLOCK_KHZ


@dataclass(frozen=True)
class DataSheet:
    """One card. `short` for the head of a column; `marks` are words of the driver's name for it, all of which must be
    there; `bandwidth` bytes per second; `memory` bytes."""

    name: str
    short: str
    marks: tuple[str, ...]
    bandwidth: float
    memory: int


def _sheet(name: str, short: str, marks: str, gigabytes_per_second: float, gibibytes: int) -> DataSheet:
    return DataSheet(name, short, tuple(marks.split()), gigabytes_per_second * 1e9, gibibytes << 30)


CARDS = (
    _sheet("RTX 3060 12 GB", "3060", "RTX 3060", 360.0, 12),
    _sheet("RTX 3090", "3090", "RTX 3090", 936.2, 24),
    _sheet("RTX 4070", "4070", "RTX 4070", 504.2, 12),
    _sheet("RTX 4090", "4090", "RTX 4090", 1008.0, 24),
    _sheet("RTX 5090", "5090", "RTX 5090", 1792.0, 32),
    _sheet("A100 80 GB SXM", "A100", "A100 SXM4 80GB", 2039.0, 80),
    _sheet("H100 80 GB SXM", "H100", "H100 80GB HBM3", 3350.0, 80),
    _sheet("H200 141 GB SXM", "H200", "H200", 4800.0, 141),
    _sheet("B200 180 GB", "B200", "B200", 8000.0, 180),
    _sheet("RTX PRO 6000 Blackwell", "PRO 6000", "RTX PRO 6000 Blackwell", 1792.0, 96),
)


def sheet_of(name: str) -> DataSheet | None:
    """The sheet of the card that the driver calls so; None for one that is not in the table, or may be a variant with
    other memory (Ti, SUPER, Laptop, Max-Q, NVL, PCIe)."""
    words = name.replace("-", " ").split()
    if {"Ti", "SUPER", "Laptop", "NVL", "PCIe", "D", "Max"} & set(words):
        return None
    return next((card for card in CARDS if set(card.marks) <= set(words)), None)


class Asked(Protocol):
    """A device that tells its name and numbers, as `driver.CudaDevice` does."""

    @property
    def name(self) -> str: ...

    def attribute(self, attribute: int) -> int:
        """One of the driver's numbers."""
        ...


class Peak(NamedTuple):
    """Bytes per second that a card's memory could give, and whose word that is."""

    bandwidth: float
    source: str


def peak_of(device: Asked) -> Peak | None:
    """From the data sheet where the card is in the table, else from clock and bus width, where the driver knows them:
    memory moves two numbers a clock."""
    sheet = sheet_of(device.name)
    if sheet is not None:
        return Peak(sheet.bandwidth, "data sheet")
    clock, bus = device.attribute(MEMORY_CLOCK_KHZ), device.attribute(MEMORY_BUS_BITS)
    return Peak(2e3 * clock * bus / 8, "memory clock and bus width") if clock > 0 and bus > 0 else None
