"""Faults planted into the kernels, each of which the small cases must notice: the lists, one file per family.

Knows texts to replace; who runs them is `killing`.
"""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """One fault: `old`, which stands once in the file `source` of the kernels' folder, becomes `new`; `fault` says in
    words what is wrong then."""

    source: str
    old: str
    new: str
    fault: str
