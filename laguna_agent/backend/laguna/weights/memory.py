"""Whether a model fits, decided before anything is read, and what to do where it does not.

Counts bytes from headers: weights in the chosen formats, the KV cache at the wanted context, and what the engine
needs beside them. All sizes are bytes; a GB in a text is 10^9.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from laguna_agent.backend.kernels.formats import bytes_needed
from laguna_agent.backend.laguna.cache import SLACK
from laguna_agent.backend.laguna.cache_format import DEFAULT, FORMATS, KVFormatName
from laguna_agent.backend.laguna.cache_storage import AT_ONCE, sliding_slots
from laguna_agent.backend.laguna.config import ModelConfig
from laguna_agent.backend.laguna.weights.canonical import expected_tensors
from laguna_agent.backend.laguna.weights.policy import Quant, target_format
from laguna_agent.backend.laguna.weights.stored import Checkpoint
from laguna_agent.errors import DoesNotFit

OPTIONS: tuple[Quant, ...] = ("bf16", "int8", "int4")
"""What a person may choose, the most faithful first."""
AUTO: tuple[Quant, ...] = ("int8", "int4")
"""What `auto` tries, in this order. A token costs the time in which its weights are read, so bf16 makes half the tokens
of int8 and none that could be told apart; int8 also takes a file's own codes of 4 bits as they are, so a file that is
small stays so. int4 rounds a second time what the file has in 5 or 6 bits: only where int8 does not fit."""
WORKING = 768 << 20
"""torch itself, activations of one prefill chunk, and one dequantised chunk of a matrix."""


@dataclass(frozen=True)
class Need:
    """Memory that a model takes with an option: bytes of weights, of KV cache at `context` tokens, and of work."""

    quant: Quant
    weights: int
    context: int
    cache: int
    working: int = WORKING
    kv: KVFormatName = DEFAULT

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.cache + self.working

    def __str__(self) -> str:
        return (
            f"{self.quant} needs {gigabytes(self.total)} (weights {gigabytes(self.weights)}, KV cache of "
            f"{self.context} tokens {gigabytes(self.cache)}, work {gigabytes(self.working)})"
        )


def gigabytes(count: int) -> str:
    """A size for people."""
    return f"{count / 1e9:.1f} GB"


def cache_bytes(config: ModelConfig, context: int, kv: KVFormatName = DEFAULT) -> int:
    """Bytes that one cache of `context` tokens in the format `kv` takes, without its snapshots (section 4)."""
    each = 2 * config.kv_heads * FORMATS[kv].token_bytes(config.head_dim)
    kept = (
        sliding_slots(config.sliding_window, SLACK, AT_ONCE) if layer.attention == "sliding_attention" else context
        for layer in config.layers
    )
    return each * sum(kept)


def weight_bytes(checkpoint: Checkpoint, quant: Quant) -> int:
    """Bytes of all weights in the formats of `quant`."""
    return sum(
        bytes_needed(target_format(checkpoint.tensors[name].format, role, quant, shape), shape)
        for name, shape, role in expected_tensors(checkpoint.config)
    )


def need(checkpoint: Checkpoint, quant: Quant, context: int, kv: KVFormatName = DEFAULT) -> Need:
    """What the model takes with that option and that format of keys and values."""
    return Need(quant, weight_bytes(checkpoint, quant), context, cache_bytes(checkpoint.config, context, kv), kv=kv)


def choose(
    checkpoint: Checkpoint,
    quant: Quant | Literal["auto"],
    context: int,
    available: int,
    kv: KVFormatName = DEFAULT,
) -> Need:
    """The option to use: `quant` itself, or for "auto" the first of `AUTO` that fits. `kv` is how keys are kept.

    Raises DoesNotFit with the numbers and what would fit: another option, else a shorter context.
    """
    needs = {option: need(checkpoint, option, context, kv) for option in OPTIONS}
    wanted = AUTO if quant == "auto" else (quant,)
    needs.update({option: need(checkpoint, option, context, kv) for option in wanted if option not in needs})
    for option in wanted:
        if needs[option].total <= available:
            return needs[option]
    refused = needs[wanted[-1]]
    raise DoesNotFit(
        f"{checkpoint.where}: {refused}, but {gigabytes(available)} of memory are available; "
        + _advice(checkpoint, needs, available)
    )


def _advice(checkpoint: Checkpoint, needs: dict[Quant, Need], available: int) -> str:
    for option in OPTIONS:
        if needs[option].total <= available:
            return f"{option} would fit ({gigabytes(needs[option].total)})"
    smallest = min(needs.values(), key=lambda one: one.total)
    left = available - smallest.weights - smallest.working
    context = _longest_context(checkpoint.config, left, smallest)
    if context >= 256:
        return f"{smallest.quant} with a context of {context} tokens would fit"
    return f"no option fits; the smallest, {smallest.quant}, needs {gigabytes(smallest.total)}"


def _longest_context(config: ModelConfig, left: int, wanted: Need) -> int:
    """The most tokens, at most those wanted, in steps of 256, whose keys and values take no more than `left` bytes."""
    low, high = 0, wanted.context // 256
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if cache_bytes(config, middle * 256, wanted.kv) <= left else (low, middle - 1)
    return low * 256


def available_memory() -> int:
    """Bytes that a process may still take: the system's word, and a container's limit where there is one."""
    return min(_system_available(), _container_available(Path("/sys/fs/cgroup")))


def _system_available() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name == "MemAvailable":
                return int(rest.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    # Systems that do not say what is free: a quarter is left for everybody else.
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * 3 // 4


def _container_available(root: Path) -> int:
    """What a version-2 control group leaves; cached file pages can be taken back, so they count as free."""
    try:
        limit = (root / "memory.max").read_text().strip()
        if limit == "max":
            return 1 << 62
        used = int((root / "memory.current").read_text())
        statistics = dict(line.split() for line in (root / "memory.stat").read_text().splitlines())
        return max(0, int(limit) - used + int(statistics.get("file", 0)))
    except (OSError, ValueError):
        return 1 << 62


def check_disk(folder: Path, size: int, what: str) -> None:
    """Raise DoesNotFit where `folder`'s disk has no room for `size` bytes of `what`."""
    statistics = os.statvfs(folder)
    free = statistics.f_bavail * statistics.f_frsize
    # A file system that is filled to the last byte breaks other programs.
    spare = math.ceil(size * 1.01) + (64 << 20)
    if spare > free:
        raise DoesNotFit(
            f"{folder}: {what} needs {gigabytes(spare)} of disk, {gigabytes(free)} are free; free some, or set "
            "XDG_CACHE_HOME to a folder on a larger disk"
        )
