"""The optimizers of a run as one: matrices learn by Muon (or AdamW, its rival), everything else by AdamW.

Knows which parameters there are and the run file's settings; must not know the loss, the schedule nor files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from laguna_agent.training.optim.adamw import adamw
from laguna_agent.training.optim.capture import Captured
from laguna_agent.training.optim.distributed import DistributedMuon
from laguna_agent.training.optim.muon import Muon
from laguna_agent.training.optim.parameters import MatrixParameter, split_parameters
from laguna_agent.training.run_file import OptimizerSection
from laguna_agent.training.sharding import has_group


class Updates:
    """Both optimizers over the parameters of `model`, which is sharded already where it is to be.

    The state is there from the start, so that what a checkpoint holds is the same before the first step and after, and
    on every rank.
    """

    def __init__(self, model: nn.Module, settings: OptimizerSection) -> None:
        matrices, rest = split_parameters(model)
        self.parameters = [*(each.parameter for each in matrices), *(parameter for _, parameter in rest)]
        self._names = {id(each.parameter): each.name for each in matrices}
        self._names |= {id(parameter): name for name, parameter in rest}
        self.matrices = _of_matrices(matrices, settings)
        alone = type(self.matrices) is Muon
        self._captured = Captured(self.matrices, settings.capture and alone)
        self.rest = adamw(rest, lr=settings.adamw_lr)
        self._peaks = [
            (group, float(group["lr"])) for each in (self.matrices, self.rest) for group in each.param_groups
        ]
        self._peak = settings.lr
        for optimizer in (self.matrices, self.rest):
            if isinstance(optimizer, torch.optim.AdamW):
                _allocate(optimizer)

    @property
    def optimizers(self) -> Sequence[torch.optim.Optimizer]:
        """Both, the matrices' first."""
        return self.matrices, self.rest

    def set_rate(self, factor: float) -> float:
        """Learn with that share of the peak rates from now on; returns the matrices' rate."""
        for group, peak in self._peaks:
            group["lr"] = peak * factor
        return self._peak * factor

    def step(self) -> None:
        """Apply the gradients and forget them."""
        self._captured.step()
        self.rest.step()
        self.forget()

    def forget(self) -> None:
        """Forget the gradients. Those of a captured step stay where they are, and become 0."""
        self.matrices.zero_grad(set_to_none=bool(self._captured.why_not))
        self.rest.zero_grad(set_to_none=True)

    def squares(self) -> Tensor:
        """The sum of all squared gradients that this rank holds, fp64: that of the whole model where they are summed
        over ranks."""
        norms = [local.norm(dtype=torch.float32) for local in self._gradients()]
        return torch.stack(norms).double().square().sum() if norms else torch.zeros((), dtype=torch.float64)

    def scale(self, factor: float) -> None:
        """Multiply all gradients."""
        torch._foreach_mul_(list(self._gradients()), factor)

    def tensors(self) -> dict[str, Tensor]:
        """The state of both, by the parameters' names: what a checkpoint holds, and is loaded into."""
        found = {}
        for optimizer in self.optimizers:
            for parameter, state in optimizer.state.items():
                for key, value in state.items():
                    assert isinstance(value, Tensor), f"the state {key} is no tensor and would be lost"
                    found[f"{self._names[id(parameter)]}.{key}"] = value
        return found

    def _gradients(self) -> Iterator[Tensor]:
        for parameter in self.parameters:
            if parameter.grad is not None:
                local = parameter.grad.to_local() if isinstance(parameter.grad, DTensor) else parameter.grad
                if local.numel():
                    yield local


def _of_matrices(matrices: list[MatrixParameter], settings: OptimizerSection) -> torch.optim.Optimizer:
    if settings.kind == "adamw":
        named = [(each.name, each.parameter) for each in matrices]
        return adamw(named, lr=settings.lr, weight_decay=settings.weight_decay)
    sharded = has_group() and dist.get_world_size() > 1
    return (DistributedMuon if sharded else Muon)(
        matrices,
        lr=settings.lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        coefficients=settings.coefficients,
    )


def _allocate(optimizer: torch.optim.AdamW) -> None:
    """The state that AdamW would make at its first step."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            }
