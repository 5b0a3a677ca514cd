"""Experts one after the other in plain torch: what a GPU computes prompts with where Triton cannot run.

Pairs are sorted on the device; how many each expert has is all that the CPU is told, once for a layer. Never more than
`reference.CHUNK` weights are dequantised at a time. Knows tensors.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import silu

from laguna_agent.backend.kernels import reference
from laguna_agent.backend.kernels.formats import Weight


def experts(x: Tensor, gate_up: Weight, down: Weight, picked: Tensor, share: Tensor) -> Tensor:
    """As `reference.experts`; sums over a token's experts are fp32. No gradients."""
    tokens, per_token = picked.shape
    out = x.new_zeros(x.shape)
    if not picked.numel():
        return out
    found, order = torch.sort(picked.flatten(), stable=True)
    numbers = torch.arange(gate_up.shape[0] + 1, device=x.device, dtype=found.dtype)
    begins = torch.searchsorted(found, numbers).tolist()
    parts = x.new_empty(tokens * per_token, x.shape[1])
    for expert, (begin, end) in enumerate(pairwise(begins)):
        if begin < end:
            pairs = order[begin:end]
            gate, up = reference.linear(x[pairs // per_token], gate_up[expert]).chunk(2, dim=-1)
            parts[pairs] = reference.linear(silu(gate) * up, down[expert])
    summed = torch.einsum("tk,tkc->tc", share.float(), parts.view(tokens, per_token, -1).float())
    return summed.to(x.dtype)
