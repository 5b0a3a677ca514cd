"""Which parameters are matrices, and how many each holds: what goes to Muon and what to AdamW.

By role, not by shape: an embedding is a matrix too, but its rows are looked up one at a time, and the rows of a router
or of a per-head gate are scores of their own. Knows the names of the model's parameters (specification section 5).
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

FUSED = "gate_up_proj"
"""Two matrices in one tensor, the gate's rows first."""
MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", FUSED)


class MatrixParameter(NamedTuple):
    """A parameter that holds matrices: [rows, columns], or a stack [experts, rows, columns]; `parts` matrices lie
    behind one another in its rows (2 where gate and up are fused)."""

    name: str
    parameter: nn.Parameter
    parts: int


def matrices(tensor: Tensor, parts: int) -> Tensor:
    """The matrices of a parameter, or of its gradient, as a view [count, rows, columns].

    tensor [..., parts * rows, columns], contiguous. With a shard of a stack these are the matrices of its experts.
    """
    columns = tensor.shape[-1]
    return tensor.view(-1, tensor.shape[-2] // parts, columns)


def split_parameters(model: nn.Module) -> tuple[list[MatrixParameter], list[tuple[str, nn.Parameter]]]:
    """The parameters that learn, by role: matrices for Muon, and the rest (embeddings, head, norms, routers, biases,
    gates) for AdamW; both in the model's order, each once."""
    found: list[MatrixParameter] = []
    rest: list[tuple[str, nn.Parameter]] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        parts = name.split(".")
        owner = parts[-2] if parts[-1] == "weight" and len(parts) > 1 else parts[-1]
        if owner in MATRICES and parameter.dim() >= 2:
            found.append(MatrixParameter(name, parameter, 2 if owner == FUSED else 1))
        else:
            rest.append((name, parameter))
    return found, rest
