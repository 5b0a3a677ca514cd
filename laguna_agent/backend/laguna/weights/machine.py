"""What this machine has for a model on its GPU: free memory, how fast the bus is, how fast the CPU reads.

Everything is asked of the system and of torch, or timed for some milliseconds; nothing is decided here
(`placement.py`).
"""

from __future__ import annotations

import re
from pathlib import Path
from time import perf_counter

import torch

from laguna_agent.backend.kernels.cpu.library import outlook
from laguna_agent.backend.kernels.cuda.driver_api import PCI_BUS, PCI_DEVICE, PCI_DOMAIN, DriverApi, Refusal
from laguna_agent.backend.laguna.weights.memory import available_memory
from laguna_agent.backend.laguna.weights.placement import BUS, Gpu, Host
from laguna_agent.errors import ConfigError, KernelError

SLOTS = Path("/sys/bus/pci/devices")
LANE_SHARE = 0.8
"""What copies reach of a lane's transfers: 128 of 130 bits are data, and packets have headers."""
COPIED_BYTES = 64 << 20
READ_BYTES = 128 << 20
KERNEL_SHARE = 0.5
"""What exact products of packed weights reach of what a plain sum reads; a careful guess, they have codes to take
apart."""


def gpu_memory(given: str | int | float | None, total: int) -> int | None:
    """Bytes that the setting `gpu_memory` lets the engine use of a GPU with `total`: a fraction up to 1, or bytes
    (also "8GB"); None where it says nothing. Raises ConfigError for what is neither."""
    if given is None or given == "":
        return None
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(%|[kmg]i?b?|b)?\s*", str(given), re.IGNORECASE)
    if found is None or float(found[1]) <= 0:
        raise ConfigError(f"gpu_memory is {given!r}, expected a fraction like 0.8 or a size like 8GB")
    number, unit = float(found[1]), (found[2] or "").lower()
    if unit == "%" or (not unit and number <= 1):
        share = number / 100 if unit else number
        if share > 1:
            raise ConfigError(f"gpu_memory is {given!r}, a GPU has no more than all of its memory")
        return int(total * share)
    step = 1024 if "i" in unit else 1000
    power = "bkmg".index(unit[0]) if unit else 0
    return int(number * step**power)


def gpu_now(given: str | int | float | None = None) -> Gpu:
    """torch's current GPU as it is now; `given` as for `gpu_memory`, and no more than is free."""
    index = torch.cuda.current_device()
    free, total = torch.cuda.mem_get_info(index)
    most = gpu_memory(given, total)
    return Gpu(free if most is None else min(free, most), _bus_of(index))


def _bus_of(index: int) -> float:
    """By a copy; where there is no room for one, by what the system says of the slot."""
    try:
        return copy_speed(torch.device("cuda", index))
    except RuntimeError:
        pass
    try:
        return bus_speed(slot_of(DriverApi(), index))
    except (KernelError, Refusal):
        return BUS


def copy_speed(place: torch.device) -> float:
    """Bytes a second that are copied from page-locked memory to `place`: the best of a few copies of 64 MiB."""
    on_gpu = place.type == "cuda"
    block = torch.zeros(COPIED_BYTES, dtype=torch.uint8, pin_memory=on_gpu)
    there = torch.empty_like(block, device=place)
    best = float("inf")
    for _ in range(3):
        begun = perf_counter()
        there.copy_(block, non_blocking=True)
        if on_gpu:
            torch.cuda.synchronize(place)
        best = min(best, perf_counter() - begun)
    return COPIED_BYTES / best


def slot_of(driver: DriverApi, index: int) -> str:
    """Where a GPU sits, as the system calls it: "0000:01:00.0"."""
    device = driver.device(index)
    domain, bus, number = (driver.attribute(device, which) for which in (PCI_DOMAIN, PCI_BUS, PCI_DEVICE))
    return f"{domain:04x}:{bus:02x}:{number:02x}.0"


def host_now() -> Host:
    """The computer around the GPU as it is now. Reads a little memory to see how fast that is."""
    compiled, _ = outlook()
    return Host(available_memory(), read_speed() * KERNEL_SHARE if compiled else 0.0)


def bus_speed(address: str, slots: Path = SLOTS) -> float:
    """Bytes a second that come over the bus to the device at a PCI address ("0000:01:00.0"); `BUS` where the system
    does not say. The slower of the device and the port that it sits in; at rest both slow down, so what they can do
    counts, and of lanes those that are connected."""
    device = slots / address
    ends = (device, device.resolve().parent)
    speeds = [speed for end in ends if (speed := _number(end / "max_link_speed"))]
    widths = [width for end in ends if (width := _number(end / "current_link_width"))]
    if not speeds or not widths:
        return BUS
    return min(speeds) * 1e9 / 8 * min(widths) * LANE_SHARE


def _number(path: Path) -> float | None:
    """The number that a file starts with: "16.0 GT/s PCIe", "16"; None where there is none, or nothing sane."""
    try:
        found = re.match(r"\d+(\.\d+)?", path.read_text())
    except OSError:
        return None
    value = float(found[0]) if found else 0.0
    # A port that is switched off says 255 lanes, or none.
    return value if 0 < value < 255 else None


def read_speed(size: int = READ_BYTES, tries: int = 2) -> float:
    """Bytes that the CPU reads from memory in a second: the best of some sums over `size` bytes, more than its caches
    hold."""
    block = torch.ones(size // 4)
    best = float("inf")
    for _ in range(tries):
        begun = perf_counter()
        block.sum()
        best = min(best, perf_counter() - begun)
    return size / best
