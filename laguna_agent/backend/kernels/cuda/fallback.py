"""What stands in for a kernel that the self-test found wrong: its meaning in plain torch, written where it would write.

Every function takes what is constant about a kernel and returns what works on a launch's arguments by name. Nothing
here waits for the device. Keys lie at addresses, so attention has nothing that stands in. Knows what kernels mean; must
not know which are wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, cast

from torch import Tensor

from laguna_agent.backend.kernels.cuda import experts_torch, linear_torch
from laguna_agent.backend.kernels.cuda.attention import merged
from laguna_agent.backend.kernels.cuda.geometry import GateKind
from laguna_agent.backend.kernels.cuda.launch import Argument, Kernel, Pointer
from laguna_agent.backend.kernels.cuda.matrices import MatrixKind
from laguna_agent.backend.kernels.cuda.sampling import drawn

if TYPE_CHECKING:
    from laguna_agent.backend.kernels.cuda.linear import Segment

Given = Mapping[str, Argument]
Meaning = Callable[[Given], Mapping[str, Tensor]]
"""From a launch's arguments, each tensor no longer than the kernel says, to what it would write; by name."""


def work_of(kernel: Kernel, meaning: Meaning, given: Given) -> Callable[[], None]:
    """Something that writes what a launch of the kernel with these arguments would write, each time it is called."""
    exact = {**given}
    for parameter in kernel.parameters:
        tensor = given.get(parameter.name)
        if isinstance(parameter, Pointer) and parameter.type != "unsigned char" and isinstance(tensor, Tensor):
            exact[parameter.name] = tensor.flatten()[: parameter.elements]

    def work() -> None:
        for name, values in meaning(exact).items():
            cast(Tensor, exact[name]).copy_(values.flatten())

    return work


def joined(tokens: int, segments: Sequence[Segment], *, norm: bool, add: bool, normed: bool) -> Meaning:
    """See `linear.joined`."""
    plain = [(segment.name, segment.kind, segment.bias) for segment in segments]
    return lambda given: linear_torch.joined(given, tokens, plain, norm=norm, add=add, normed=normed)


def gated(tokens: int, gate: MatrixKind, up: MatrixKind, *, norm: bool) -> Meaning:
    """See `linear.gated`."""
    return lambda given: linear_torch.gated(given, tokens, gate, up, norm=norm)


def embed(table: MatrixKind) -> Meaning:
    """See `linear.embed`."""
    return partial(linear_torch.embed, table=table)


def pick(tokens: int, experts: int, per_token: int, *, normalize: bool) -> Meaning:
    """See `experts.pick`."""
    return lambda given: experts_torch.pick(given, tokens, experts, per_token, normalize=normalize)


def expert_gate_up(tokens: int, per_token: int, weights: MatrixKind) -> Meaning:
    """See `experts.expert_gate_up`."""
    return lambda given: experts_torch.expert_gate_up(given, tokens, per_token, weights)


def expert_down(tokens: int, per_token: int, weights: MatrixKind, shared: MatrixKind | None) -> Meaning:
    """See `experts.expert_down`."""
    return lambda given: experts_torch.expert_down(given, tokens, per_token, weights, shared)


def merge(tokens: int, heads: int, head_dim: int, splits: int, gate: GateKind | None) -> Meaning:
    """See `attention.merge`."""

    def meaning(given: Given) -> Mapping[str, Tensor]:
        partial_sums = cast(Tensor, given["partial"]).view(tokens, heads, splits, 2 + head_dim)
        opened = None if gate is None else cast(Tensor, given["gate"]).view(tokens, heads, -1)
        return {"out": merged(partial_sums, opened)}

    return meaning


def sample(tokens: int, vocabulary: int) -> Meaning:
    """See `sampling.sample`."""

    def meaning(given: Given) -> Mapping[str, Tensor]:
        logits, settings, top_k = (cast(Tensor, given[name]) for name in ("logits", "settings", "top_k"))
        return {"out": drawn(logits.view(tokens, vocabulary), settings.view(tokens, 4), top_k)}

    return meaning
