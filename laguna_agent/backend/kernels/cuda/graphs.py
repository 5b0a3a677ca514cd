"""The decode steps of one model on a device: one for 1, 2, 4 and 8 rows each, made when first needed.

All share their buffers; each has a graph and inputs of its own. Knows plans and tensors; must not know models or
caches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from laguna_agent.backend.kernels.cuda.attention import KVName
from laguna_agent.backend.kernels.cuda.geometry import Geometry
from laguna_agent.backend.kernels.cuda.launch import Argument, Device
from laguna_agent.backend.kernels.cuda.matrices import DeviceMatrix
from laguna_agent.backend.kernels.cuda.step import ATTENTION, DecodeStep, buffer_sizes, named_parts, plan_of
from laguna_agent.backend.kernels.cuda.step_inputs import StepInputs

SIZES = (1, 2, 4, 8)
"""Rows of the steps there are; a step of another number is the next larger one with dead rows."""
MOST_ROWS = SIZES[-1]

HostExperts = Callable[[Tensor, Tensor, Tensor, Tensor], None]
"""Adds the routed experts of a layer, scaled: given normed fp32 [tokens, hidden], picked int32 and share fp32 [tokens,
per_token], and h fp32 [tokens, hidden], which it adds to. All lie on the device."""


@dataclass(frozen=True, eq=False)
class StepWeights:
    """What a model computes with: `matrices` by the names of `step.Kinds`; `vectors` in fp32: norm, and of each layer
    LAYER.input_norm, .post_norm, .q_norm, .k_norm, .q_bias, .k_bias, .v_bias, .o_bias, .selection (of its router);
    `eps` of the norms, `scale` of routed experts, `softcap` of router logits (0: none). `hosts`: by layer, who computes
    its experts where no matrices of theirs are here."""

    matrices: Mapping[str, DeviceMatrix]
    vectors: Mapping[str, Tensor]
    eps: float
    scale: float = 1.0
    softcap: float = 0.0
    hosts: Mapping[int, HostExperts] = field(default_factory=dict)


class StepGraphs:
    """See the module. `kv`: how keys are kept.

    `faulty`: families of kernels that are not to be trusted. Attention has nothing that stands in for it, so then there
    is no step: ask `possible` first.
    """

    def __init__(
        self,
        device: Device,
        geometry: Geometry,
        weights: StepWeights,
        kv: KVName,
        *,
        faulty: frozenset[str] = frozenset(),
    ) -> None:
        self.device, self.geometry, self.weights, self.kv, self.faulty = device, geometry, weights, kv, faulty
        self.sizes = buffer_sizes(geometry, 1)
        self.buffers = {
            name: torch.empty(MOST_ROWS * each, dtype=dtype, device=device.place)
            for name, (each, dtype) in self.sizes.items()
        }
        self._made: dict[int, tuple[DecodeStep, StepInputs]] = {}
        self._live = MOST_ROWS
        numbers = {"eps": weights.eps, "scale": weights.scale, "softcap": weights.softcap}
        self._named: dict[str, Argument] = {**named_parts(weights.matrices), **weights.vectors, **numbers}

    @staticmethod
    def possible(faulty: frozenset[str]) -> bool:
        """Whether there is a step without those families."""
        return not faulty & ATTENTION

    def at(self, rows: int) -> tuple[DecodeStep, StepInputs]:
        """The smallest step for so many rows, and its inputs; rows beyond must be given as dead ones (no runs). To be
        run before another is asked for."""
        self._live = rows
        tokens = next(size for size in SIZES if size >= rows)
        if tokens not in self._made:
            self._made[tokens] = self._make(tokens)
        return self._made[tokens]

    def rows(self, name: str, tokens: int) -> Tensor:
        """The first rows of a buffer: [tokens, what a row has]."""
        width = self.sizes[name][0]
        return self.buffers[name][: tokens * width].view(tokens, width)

    def _make(self, tokens: int) -> tuple[DecodeStep, StepInputs]:
        weights = self.weights
        kinds = {name: matrix.kind for name, matrix in weights.matrices.items()}
        plan = plan_of(self.geometry, tokens, kinds, self.kv, frozenset(weights.hosts))
        inputs = StepInputs(self.geometry, tokens, self.device.place)
        named = {**self._named, **self.buffers, **inputs.device}
        hosts = {layer: self._host(work, tokens) for layer, work in weights.hosts.items()}
        return DecodeStep(self.device, plan, named, faulty=self.faulty, hosts=hosts), inputs

    def _host(self, work: HostExperts, tokens: int) -> Callable[[], None]:
        # The CPU would read experts for dead rows too.
        return lambda: work(*(self.rows(name, min(tokens, self._live)) for name in ("normed", "picked", "share", "h")))
