"""Experts whose weights lie in host memory: computed there by the CPU's kernels, or copied to the GPU for a prompt.

In a decode step the CPU has a turn between two graphs: what the router gave comes over the bus, which takes
microseconds, the CPU reads the picked experts from its own memory, and one vector a token goes back. A prompt picks
nearly all experts of a layer, so there their weights pass through the GPU's memory, layer after layer. Knows tensors
and products; must not know models, nor who decides where experts lie.

    GPU   joined(norm) > router, normed; pick > picked, share        h += sum > next layer
                              |  copies, one wait                     ^  one copy
    host                      v                                       |
          x, picked, share > gate and up of picked experts > silu, product > down, shares > sum
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from laguna_agent.backend.kernels import dispatch
from laguna_agent.backend.kernels.cuda.moving import Empty, moved, on_device
from laguna_agent.backend.kernels.formats import Fp8, Ggml, GroupInt, Nvfp4, Plain, Tiled, Weight

MOST_ROWS = 8
"""Of a decode step."""


class Desk:
    """Page-locked buffers through which a layer's tensors go to the host and back; all layers of a model use one, for
    they follow one another. `empty` makes them; `place` is where the step computes."""

    def __init__(self, hidden: int, per_token: int, place: torch.device, empty: Empty) -> None:
        self._place = place
        self._x = empty((MOST_ROWS, hidden), torch.float32)
        self._picked = empty((MOST_ROWS, per_token), torch.int32)
        self._share = empty((MOST_ROWS, per_token), torch.float32)
        self._result = empty((MOST_ROWS, hidden), torch.float32)
        self._arrived = torch.empty((MOST_ROWS, hidden), device=place)
        self._copied = torch.cuda.Event() if place.type == "cuda" else None  # type: ignore[no-untyped-call]

    def fetch(self, x: Tensor, picked: Tensor, share: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same on the host, when everything launched before is done: the only wait of a layer. Also what the last
        `give` sent is there then, so its buffer is free."""
        there = tuple(
            buffer[: len(given)].copy_(given, non_blocking=True)
            for buffer, given in ((self._x, x), (self._picked, picked), (self._share, share))
        )
        if self._copied is not None:
            stream = torch.cuda.current_stream(self._place)
            self._copied.record(stream)
            self._copied.synchronize()
        return there[0], there[1], there[2]

    def give(self, y: Tensor, h: Tensor) -> None:
        """h += y, in the order of the launches; returns before it is done."""
        rows = len(y)
        self._result[:rows].copy_(y)
        h.add_(self._arrived[:rows].copy_(self._result[:rows], non_blocking=True))


class HostExperts:
    """The routed experts of one layer, computed by the CPU.

    gate_up [experts, 2 * inner, hidden] (the gate's rows first) and down [experts, hidden, inner] lie in host memory,
    best as tiles; `scale` is that of their sum.
    """

    def __init__(self, gate_up: Weight, down: Weight, scale: float, desk: Desk) -> None:
        self.gate_up, self.down, self.scale, self.desk = gate_up, down, scale, desk

    def __call__(self, x: Tensor, picked: Tensor, share: Tensor, h: Tensor) -> None:
        """h += scale * sum over picked experts e of share_e * down_e(silu(gate_e x) * up_e x).

        x (normed), h fp32 [tokens, hidden]; picked int32, share fp32 [tokens, per_token]; at most `MOST_ROWS` tokens,
        all on the device. The products are exact, with sums in fp32.
        """
        self.desk.give(self.computed(*self.desk.fetch(x, picked, share)), h)

    def computed(self, x: Tensor, picked: Tensor, share: Tensor) -> Tensor:
        """What is added to h; everything on the host."""
        return dispatch.experts(x, self.gate_up, self.down, picked.long(), share).mul_(self.scale)


class Staged:
    """`dispatch.Kernels` and `dispatch.Experts` for weights in host memory and x on a GPU: what is needed of them is
    copied there first, and given back at once. `staging` says where to; the default is where x lies."""

    def __init__(self, staging: Callable[[torch.device], Empty] = on_device) -> None:
        self._staging = staging

    def linear(self, x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
        """y = x W^T + b; shapes as in `reference.linear`."""
        return dispatch.linear(x, moved(weight, self._staging(x.device)), bias)

    def expert_linear(self, x: Tensor, weight: Weight, experts: Tensor) -> Tensor:
        """y[n] = x[n] W[experts[n]]^T; shapes as in `reference.expert_linear`. Where few are asked for, only those are
        copied, which waits for the device."""
        empty = self._staging(x.device)
        if len(experts) >= weight.shape[0]:
            return dispatch.expert_linear(x, moved(weight, empty), experts)
        only, experts = torch.unique(experts, return_inverse=True)
        return dispatch.expert_linear(x, moved(weight, empty, only), experts)

    def experts(self, x: Tensor, gate_up: Weight, down: Weight, picked: Tensor, share: Tensor) -> Tensor:
        """All of the picked experts' work; shapes as in `reference.experts`. Copies as `expert_linear` does."""
        empty = self._staging(x.device)
        only = None
        if picked.numel() < gate_up.shape[0]:
            only, picked = torch.unique(picked, return_inverse=True)
        return dispatch.experts(x, moved(gate_up, empty, only), moved(down, empty, only), picked, share)

    def embedding(self, ids: Tensor, weight: Weight, dtype: torch.dtype) -> Tensor:
        """Rows of the weight; shapes as in `reference.embedding`."""
        return dispatch.embedding(ids.to(weight.device), weight, dtype).to(ids.device)


def use() -> None:
    """Let products of a GPU's activations with weights in host memory be `Staged`."""
    staged = Staged()
    for format in (Plain, GroupInt, Tiled, Fp8, Nvfp4, Ggml):
        dispatch.register(format, dispatch.APART, staged)
        dispatch.register_experts(format, dispatch.APART, staged.experts)
