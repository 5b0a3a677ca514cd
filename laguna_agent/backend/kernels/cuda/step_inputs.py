"""What the CPU tells the device before each decode step: one page-locked block, copied at once.

Knows sizes and layout; must not know models, caches, or what the numbers mean.
"""

from __future__ import annotations

import torch
from torch import Tensor

from laguna_agent.backend.kernels.cuda.attention import MOST_RUNS, RUN_FIELDS
from laguna_agent.backend.kernels.cuda.geometry import Geometry
from laguna_agent.backend.kernels.cuda.launch import ALIGNED


class StepInputs:
    """What a step of `tokens` rows is told: `host` are views of one page-locked tensor, by name, and `device` the same
    views of the one that kernels read; `send` copies it all at once.

    ids, positions, full.counts, sliding.counts, top_k int32 [tokens]; settings fp32 [tokens, 4]; full.cos, full.sin,
    sliding.cos, sliding.sin fp32 [tokens, rotary / 2]; LAYER.runs int64 [tokens, MOST_RUNS, 7], on the host also all of
    them as "runs" [layers, tokens, MOST_RUNS, 7].
    """

    def __init__(self, geometry: Geometry, tokens: int, where: torch.device) -> None:
        shapes = _input_shapes(geometry, tokens)
        places, size = [], 0
        for name, shape, dtype in shapes:
            places.append((name, size, shape, dtype))
            size += -(-torch.Size(shape).numel() * dtype.itemsize // ALIGNED) * ALIGNED
        on_gpu = where.type == "cuda"
        self._from = torch.zeros(size, dtype=torch.uint8, pin_memory=on_gpu)
        self._to = torch.zeros(size, dtype=torch.uint8, device=where)
        self._sent = torch.cuda.Event() if on_gpu else None  # type: ignore[no-untyped-call]
        self.host, self.device = (
            {name: _viewed(whole, at, shape, dtype) for name, at, shape, dtype in places}
            for whole in (self._from, self._to)
        )
        runs = self.device.pop("runs")
        self.device |= {f"{index}.runs": layer for index, layer in enumerate(runs)}

    def wait(self) -> None:
        """Until `host` may be written again: a copy of it may still be under way."""
        if self._sent is not None:
            self._sent.synchronize()

    def send(self) -> None:
        """Let the device have what `host` holds, behind what was launched before."""
        self._to.copy_(self._from, non_blocking=True)
        if self._sent is not None:
            self._sent.record()


def _input_shapes(geometry: Geometry, tokens: int) -> list[tuple[str, tuple[int, ...], torch.dtype]]:
    rows = [(name, (tokens,), torch.int32) for name in ("ids", "positions", "full.counts", "sliding.counts", "top_k")]
    shapes: list[tuple[str, tuple[int, ...], torch.dtype]] = [*rows, ("settings", (tokens, 4), torch.float32)]
    for sort in ("full", "sliding"):
        turning = {layer.rotary for layer in geometry.layers if bool(layer.window) == (sort == "sliding")}
        if len(turning) > 1:
            raise ValueError(f"{geometry.name}: {sort} layers turn {sorted(turning)} dimensions, expected one number")
        for name in ("cos", "sin"):
            shapes += [(f"{sort}.{name}", (tokens, rotary // 2), torch.float32) for rotary in turning]
    return [*shapes, ("runs", (len(geometry.layers), tokens, MOST_RUNS, RUN_FIELDS), torch.int64)]


def _viewed(whole: Tensor, at: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    size = torch.Size(shape).numel() * dtype.itemsize
    return whole[at : at + size].view(dtype).view(shape)
