"""The modules that hold large weights: a linear map, a table of rows, the stacked experts of one layer.

Each weight is a `Weight`, plain or packed, and is multiplied by `kernels.dispatch`, which knows the fastest code for
it; the modules never ask which kind they hold. Knows the names and shapes of weights; must not know formats or files.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from laguna_agent.backend.kernels import dispatch
from laguna_agent.backend.kernels.formats import Weight
from laguna_agent.backend.laguna.config import ModelConfig


class WeightHolder(nn.Module):
    """A module whose named weights may be plain parameters or packed tensors."""

    def put(self, name: str, weight: Weight) -> None:
        """Replace the weight `name` by one of the same shape. Raises ValueError where the shape differs."""
        old = getattr(self, name)
        if tuple(weight.shape) != tuple(old.shape):
            raise ValueError(f"{name} has shape {tuple(weight.shape)}, expected {tuple(old.shape)}")
        # A packed weight is no Parameter; torch refuses it under a name that is registered as one.
        delattr(self, name)
        if isinstance(weight, Tensor) and not isinstance(weight, nn.Parameter):
            weight = nn.Parameter(weight, requires_grad=False)
        setattr(self, name, weight)


class Linear(WeightHolder):
    """y = x W^T + b. `weight` is [out, in], plain or packed; `bias` [out] or None."""

    weight: Weight
    bias: nn.Parameter | None

    def __init__(self, inputs: int, outputs: int, *, bias: bool = False, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(outputs, dtype=dtype)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out], same dtype."""
        return dispatch.linear(x, self.weight, self.bias)


class Embedding(WeightHolder):
    """A table of rows. `weight` is [rows, width], plain or packed."""

    weight: Weight

    def __init__(self, rows: int, width: int, *, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, width, dtype=dtype))

    def forward(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """ids int64 [...] -> [..., width] in `dtype`."""
        return dispatch.embedding(ids, self.weight, dtype)


class Experts(WeightHolder):
    """The routed experts' weights, stacked (section 2i).

    gate_up_proj [experts, 2 * inner, hidden], the gate's rows first; down_proj [experts, hidden, inner].
    `e_score_correction_bias` is the router's; it lives here because the checkpoints name it so, and stays fp32.
    """

    gate_up_proj: Weight
    down_proj: Weight
    e_score_correction_bias: Tensor

    def __init__(self, config: ModelConfig, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        count, hidden, inner = config.experts, config.hidden_size, config.expert_size
        self.gate_up_proj = nn.Parameter(torch.empty(count, 2 * inner, hidden, dtype=dtype))
        self.down_proj = nn.Parameter(torch.empty(count, hidden, inner, dtype=dtype))
        self.register_buffer("e_score_correction_bias", torch.zeros(count, dtype=torch.float32))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Experts:
        exact = self.e_score_correction_bias
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.e_score_correction_bias.dtype != exact.dtype:
            # A whole model was cast; the bias picks experts and would pick others when rounded.
            self.e_score_correction_bias = exact.to(self.e_score_correction_bias.device)
        return self

    def forward(self, x: Tensor, picked: Tensor, share: Tensor) -> Tensor:
        """Sum over each token's picked experts e of share_e * down_e(silu(gate_e x) * (up_e x)).

        x [tokens, hidden]; picked int64 [tokens, k]; share [tokens, k] in x's dtype. Returns [tokens, hidden].
        """
        return dispatch.experts(x, self.gate_up_proj, self.down_proj, picked, share)
