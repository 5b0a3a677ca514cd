"""The routed experts of one layer, computed expert by expert; the reference for grouped kernels (section 2i)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from laguna_agent.backend.kernels.linear import Weight, expert_weight, linear


def routed_experts(x: Tensor, picked: Tensor, share: Tensor, gate_up: Weight, down: Weight) -> Tensor:
    """Sum over each token's picked experts e of share_e * down_e(silu(gate_e x) * (up_e x)).

    x [tokens, hidden]; picked int64 [tokens, k]; share [tokens, k] in x's dtype; gate_up [experts, 2 * inner, hidden],
    gate rows first; down [experts, hidden, inner]. Returns [tokens, hidden] in x's dtype. Experts run in ascending
    order.
    """
    out = torch.zeros_like(x)
    per_token = picked.shape[1]
    order = torch.argsort(picked.flatten(), stable=True)
    shares = share.flatten()
    begin = 0
    for expert, count in enumerate(torch.bincount(picked.flatten()).tolist()):
        if not count:
            continue
        slots = order[begin : begin + count]
        begin += count
        tokens = torch.div(slots, per_token, rounding_mode="floor")
        gate, up = linear(x[tokens], expert_weight(gate_up, expert)).chunk(2, dim=-1)
        y = linear(F.silu(gate) * up, expert_weight(down, expert))
        out = out.index_add(0, tokens, y * shares[slots, None])
    return out
