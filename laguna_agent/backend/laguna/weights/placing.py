"""Weights brought to where a `Placement` wants them, tensor by tensor, out of the mapped file.

Beside what has arrived only a slice of one tensor is held: the file's own pages can be taken back by the system at any
time, and tiles are taken apart where they arrive. Knows names and places; must not know modules.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

from laguna_agent.backend.kernels.cuda.moving import Empty, moved
from laguna_agent.backend.kernels.formats import Weight
from laguna_agent.backend.laguna.config import ModelConfig
from laguna_agent.backend.laguna.weights.canonical import expected_tensors
from laguna_agent.backend.laguna.weights.placement import Placement, Where, layer_of
from laguna_agent.backend.laguna.weights.progress import Progress, silent
from laguna_agent.errors import KernelError

log = logging.getLogger(__name__)


def place_weights(
    config: ModelConfig,
    tensors: Mapping[str, Weight],
    placement: Placement,
    gpu: Empty,
    pinned: Empty | None,
    progress: Progress = silent,
) -> tuple[dict[str, Weight], Placement]:
    """Every canonical tensor in its place: made by `gpu` or `pinned`, or as it is where the CPU computes with it; and
    the placement as it came out. Layers that nothing can be pinned for, because `pinned` is None or raises KernelError
    (systems have limits of their own), are left to the CPU.

    `progress` counts bytes; what it raises stops it. Raises what `gpu` raises where there is no room.
    """
    total = sum(weight.nbytes for weight in tensors.values())
    layers = [("cpu" if at == "pinned" and pinned is None else at) for at in placement.layers]
    places: dict[Where | None, Empty | None] = {None: gpu, "gpu": gpu, "pinned": pinned, "cpu": None}
    found: dict[str, Weight] = {}
    done = 0
    for name, _, role in expected_tensors(config):
        layer = layer_of(name) if role == "experts" else None
        where: Where | None = None if layer is None else layers[layer]
        empty = places[where]
        try:
            found[name] = tensors[name] if empty is None else moved(tensors[name], empty)
        except KernelError as error:
            if where != "pinned" or layer is None:
                raise
            log.warning("from layer %d on the CPU computes experts: %s", layer, error)
            layers[layer:] = [("cpu" if at == "pinned" else at) for at in layers[layer:]]
            own = name.rpartition(".")[0]
            found.update((other, tensors[other]) for other in (*found, name) if other.rpartition(".")[0] == own)
        done += tensors[name].nbytes
        progress("reading", done, total)
    return found, replace(placement, layers=tuple(layers))
