"""The pair's other half: AdamW for what is no matrix (embeddings, head, norms, routers, biases, gates).

Its decay is the same as Muon's, p <- p (1 - lr * decay): decoupled, and by the learning rate as the schedule has it.
Knows parameters; must not know which of a model's they are.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.optim import AdamW

from laguna_agent.errors import UsageError


def adamw(
    rest: Sequence[tuple[str, nn.Parameter]],
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.95),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> AdamW:
    """Fused AdamW for the second part of `split_parameters`; norms and biases (one axis) do not decay.

    Raises UsageError where there are no parameters or a value is out of its range.
    """
    tables = [parameter for _, parameter in rest if parameter.dim() >= 2]
    vectors = [parameter for _, parameter in rest if parameter.dim() < 2]
    groups = [
        {"params": parameters, "weight_decay": decay}
        for parameters, decay in ((tables, weight_decay), (vectors, 0.0))
        if parameters
    ]
    try:
        # A graph of a step holds its counter too, which must then lie on the device.
        capturable = any(parameter.is_cuda for _, parameter in rest)
        return AdamW(groups, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=True, capturable=capturable)
    except ValueError as wrong:
        raise UsageError(f"AdamW: {wrong}") from None
