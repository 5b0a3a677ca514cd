"""A shuffle that is never written down: where in the corpus the n-th pack of an epoch lies, worked out when asked.

A Feistel network is a permutation whatever its round function is (Luby and Rackoff, 1988); where the number of rows is
no power of four, a result beyond them is sent through again until it is one of them (Black and Rogaway, 2002). So the
cursor of a run is two integers, and an epoch of any size needs no memory. Knows numbers alone.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

_ROUNDS = 6
_MULTIPLIER = 0x9E3779B97F4A7C15
_WORD = (1 << 64) - 1


def shuffled(position: int, count: int, *, seed: int, epoch: int) -> int:
    """The row in [0, count) that comes `position`-th in this epoch; each row comes once."""
    if not 0 <= position < count:
        raise IndexError(f"position {position} of {count} rows")
    half = max(1, ((count - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    keys = _keys(seed, epoch)
    # At most four times as many numbers as rows: four tries are the mean of the worst case.
    while True:
        left, right = position >> half, position & mask
        for key in keys:
            left, right = right, left ^ (_mixed(right ^ key) & mask)
        position = left << half | right
        if position < count:
            return position


@lru_cache(maxsize=256)
def _keys(seed: int, epoch: int) -> tuple[int, ...]:
    digest = hashlib.blake2b(f"{seed}/{epoch}".encode(), digest_size=8 * _ROUNDS).digest()
    return tuple(int.from_bytes(digest[at : at + 8], "little") for at in range(0, len(digest), 8))


def _mixed(value: int) -> int:
    """64 bits that depend on all of `value`'s (the finaliser of SplitMix64, Steele and others, 2014)."""
    value = (value + _MULTIPLIER) & _WORD
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _WORD
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _WORD
    return value ^ (value >> 31)
