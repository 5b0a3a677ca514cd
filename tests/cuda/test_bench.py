"""`bench engine` on a GPU: which share of a card's memory is used, and how that is known."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from laguna_agent.backend.kernels.cuda.cards import peak_of
from laguna_agent.backend.kernels.cuda.driver_api import MEMORY_BUS_BITS, MEMORY_CLOCK_KHZ
from laguna_agent.backend.laguna.measure import EngineFigures
from laguna_agent.cli.bench import _memory


@dataclass(frozen=True)
class Told:
    """A device by what its driver says."""

    name: str
    numbers: dict[int, int]

    def attribute(self, attribute: int) -> int:
        return self.numbers.get(attribute, 0)


def figures(device: str, bandwidth: float, source: str) -> EngineFigures:
    return EngineFigures("int4", 2, 512, 64, 20, 1.0, 0.5, 0.1, 1000.0, 100.0, 2 * 10**9, device, bandwidth, source)


def test_a_card_s_peak_is_its_sheet_s_or_follows_from_clock_and_bus():
    clock = {MEMORY_CLOCK_KHZ: 10_501_000, MEMORY_BUS_BITS: 384}
    assert peak_of(Told("NVIDIA GeForce RTX 4090", {})) == (1008e9, "data sheet")
    found = peak_of(Told("NVIDIA GeForce RTX 4080 SUPER", clock))
    assert found is not None and found.source == "memory clock and bus width"
    assert found.bandwidth == pytest.approx(1008e9, rel=1e-3)
    # Some drivers no longer say.
    assert peak_of(Told("NVIDIA B300", {MEMORY_CLOCK_KHZ: 0, MEMORY_BUS_BITS: 8192})) is None


def test_the_share_is_of_what_is_known():
    card = figures("NVIDIA H100", 3350e9, "data sheet")
    assert card.share == pytest.approx(200 / 3350)
    assert _memory(card) == "200.0 GB/s of weights, 6% of the 3350.0 GB/s that this card's memory can give (data sheet)"
    assert _memory(figures("cpu", 400e9, "measured")).endswith(
        "50% of the 400.0 GB/s that this machine was seen to read"
    )
    unknown = figures("NVIDIA B300", 0.0, "unknown")
    assert unknown.share == 0.0 and _memory(unknown).endswith("what this card's memory can give is not known")
