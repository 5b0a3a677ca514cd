"""Muon: momentum, made orthogonal matrix by matrix (Jordan et al. 2024), scaled as Moonlight does (arXiv 2502.16982).

A step is three: the directions (momentum and its look ahead), the same made orthogonal, and the update. The middle one
is what several ranks share (`distributed.py` overrides it). One buffer for each parameter, which is there before the
first step: the state dict has the same keys at all times and on every rank. Knows parameters that hold matrices; must
not know the model they are of.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from laguna_agent.errors import UsageError
from laguna_agent.training.optim.coefficients import Coefficients, checked
from laguna_agent.training.optim.newton_schulz import orthogonalise_all
from laguna_agent.training.optim.parameters import MatrixParameter, matrices

Scale = Literal["match_rms_adamw", "none"]
BUFFER = "momentum_buffer"
RMS = 0.2
"""Of an update of AdamW, about. An orthogonal matrix [r, c] has the root mean square 1/sqrt(max(r, c)); scaled to this
one, learning rate and decay mean the same for both optimizers (Moonlight, section 2.2)."""


class Update(NamedTuple):
    """A parameter's direction, of its shape: what is to be made orthogonal, in the `parts` of `MatrixParameter`."""

    parameter: Tensor
    parts: int
    direction: Tensor


class Muon(torch.optim.Optimizer):
    """p <- p (1 - lr * weight_decay) - lr * scale * orthogonal(direction), for every matrix of every parameter.

    Momentum is torch.optim.Muon's: a moving mean, buffer <- momentum * buffer + (1 - momentum) * gradient; with
    `nesterov` the direction is momentum * buffer + (1 - momentum) * gradient, else the buffer. `scale` is
    0.2 * sqrt(max(rows, columns)) of the matrix, or 1 with "none". Buffers are fp32 at least, whatever the parameter.
    `dtype` is what Newton-Schulz computes in (None: fp32 on the CPU, bf16 on CUDA). A parameter without a gradient is
    left alone. The groups hold parameters of as many `parts`; a schedule writes their "lr", a number or a tensor.

    Raises UsageError where a parameter holds no matrix or a value is out of its range; names the parameter.
    """

    def __init__(
        self,
        parameters: Sequence[MatrixParameter],
        *,
        lr: float,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.1,
        coefficients: Coefficients = "polar5",
        scale: Scale = "match_rms_adamw",
        dtype: torch.dtype | None = None,
    ) -> None:
        _check(parameters, lr, momentum, weight_decay, scale)
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "coefficients": checked(coefficients),
            "scale": scale,
        }
        by_parts: dict[int, list[Tensor]] = {}
        for given in parameters:
            by_parts.setdefault(given.parts, []).append(given.parameter)
        groups = [{"params": members, "parts": parts} for parts, members in sorted(by_parts.items())]
        super().__init__(groups, defaults)
        self.dtype = dtype
        for _, parameter, _ in parameters:
            buffer = torch.zeros_like(
                parameter, dtype=_exact(parameter.dtype), memory_format=torch.contiguous_format, requires_grad=False
            )
            self.state[parameter][BUFFER] = buffer

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient. Returns the closure's loss, or None."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        updates = self._directions()
        self._apply(updates, self._orthogonalised(updates))
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the state of an optimizer over the same parameters in the same order, into the buffers that are
        there: their addresses and dtypes stay (torch's own loading would round a buffer to its parameter's dtype).

        Raises UsageError where groups, buffers or shapes are others.
        """
        own = {parameter: self.state[parameter][BUFFER] for parameter in self._parameters()}
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        saved = [state_dict["state"].get(number, {}).get(BUFFER) for number in numbers]
        if len(saved) == len(own):
            for loaded, buffer in zip(saved, own.values(), strict=True):
                if loaded is None or loaded.shape != buffer.shape:
                    found = "none" if loaded is None else list(loaded.shape)
                    raise UsageError(f"the optimizer's state has momentum {found} where {list(buffer.shape)} is needed")
        try:
            super().load_state_dict(state_dict)
        except ValueError as wrong:
            raise UsageError(f"the optimizer's state does not fit its parameters: {wrong}") from None
        for loaded, (parameter, buffer) in zip(saved, own.items(), strict=True):
            buffer.copy_(loaded)
            self.state[parameter] = {BUFFER: buffer}

    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def _directions(self) -> list[Update]:
        """Momentum, for every parameter that has a gradient, in the order of the groups. A direction may be the buffer
        itself: it must not be written to."""
        updates = []
        for group in self.param_groups:
            momentum = group["momentum"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                buffer = self.state[parameter][BUFFER]
                gradient = parameter.grad.to(buffer.dtype)
                buffer.lerp_(gradient, 1 - momentum)
                direction = gradient.lerp(buffer, momentum) if group["nesterov"] else buffer
                updates.append(Update(parameter, group["parts"], direction))
        return updates

    def _orthogonalised(self, updates: Sequence[Update]) -> list[Tensor]:
        """Each direction with its matrices made orthogonal, of the direction's shape and dtype. Those of one shape are
        computed together, of whichever parameters they are. Directions that are no buffers are written over."""
        stacks = [matrices(update.direction.contiguous(), update.parts) for update in updates]
        alike: dict[tuple[object, ...], list[int]] = {}
        for index, stack in enumerate(stacks):
            alike.setdefault((*stack.shape[1:], stack.dtype, stack.device), []).append(index)
        results: list[Tensor] = list(stacks)
        ours = all(update.direction is not self.state[update.parameter][BUFFER] for update in updates)
        for indices in alike.values():
            given = [stacks[index] for index in indices]
            found = orthogonalise_all(given, self.coefficients, self.dtype, in_place=ours)
            for index, result in zip(indices, found, strict=True):
                results[index] = result.view(updates[index].direction.shape)
        return results

    @property
    def coefficients(self) -> Coefficients:
        """The sequence of Newton-Schulz, as it is in the groups."""
        return checked(self.param_groups[0]["coefficients"])

    def _apply(self, updates: Iterable[Update], orthogonal: Iterable[Tensor]) -> None:
        """Decay, then the scaled directions; both in the buffer's precision and rounded to the parameter's once."""
        groups = {parameter: group for group in self.param_groups for parameter in group["params"]}
        for (parameter, parts, _), direction in zip(updates, orthogonal, strict=True):
            group = groups[parameter]
            lr, rows = group["lr"], parameter.shape[-2] // parts
            factor = RMS * math.sqrt(max(rows, parameter.shape[-1])) if group["scale"] == "match_rms_adamw" else 1.0
            exact = parameter if parameter.dtype == direction.dtype else parameter.to(direction.dtype)
            exact.mul_(1 - lr * group["weight_decay"])
            if isinstance(lr, Tensor):
                exact.sub_(direction * (lr * factor).to(direction.device))
            else:
                exact.add_(direction, alpha=-lr * factor)
            if exact is not parameter:
                parameter.copy_(exact)


def _exact(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _check(parameters: Sequence[MatrixParameter], lr: float, momentum: float, weight_decay: float, scale: str) -> None:
    if not parameters:
        raise UsageError("Muon: there are no matrices to learn; give it those of `split_parameters`")
    if not lr >= 0:
        raise UsageError(f"Muon: lr is {lr}; it must be 0 or more")
    if not 0 <= momentum < 1:
        raise UsageError(f"Muon: momentum is {momentum}; it must be at least 0 and below 1")
    if not weight_decay >= 0:
        raise UsageError(f"Muon: weight_decay is {weight_decay}; it must be 0 or more")
    if scale not in get_args(Scale):
        raise UsageError(f"Muon: scale {scale!r} is unknown; use one of {', '.join(get_args(Scale))}")
    for name, parameter, parts in parameters:
        if parameter.dim() not in (2, 3) or not parameter.is_floating_point():
            raise UsageError(
                f"Muon: {name} is {parameter.dtype} {list(parameter.shape)}, not matrices; use AdamW for it"
            )
        if parts < 1 or parameter.shape[-2] % parts:
            raise UsageError(f"Muon: {name} has {parameter.shape[-2]} rows, which are no {parts} matrices")
    if len({id(parameter) for _, parameter, _ in parameters}) < len(parameters):
        raise UsageError("Muon: a parameter was given twice")
