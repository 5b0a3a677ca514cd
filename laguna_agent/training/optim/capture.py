"""An optimizer's step as a CUDA graph: recorded once, then one launch for its thousands of small kernels.

A graph reads and writes the addresses that it was recorded with, and its numbers are those of the recording. So the
learning rate, which a schedule changes with every step, lies in a tensor on the device; and whatever else is recorded
(`footprint`) is compared before each step, and recorded anew where it changed. When to do what is plain code and
tested; the recording itself nobody ran on a GPU yet. Knows optimizers; must not know which.
"""

from __future__ import annotations

import logging
from enum import Enum

import torch
from torch import Tensor
from torch.optim import Optimizer

from laguna_agent.errors import UsageError

log = logging.getLogger(__name__)
WARM_UPS = 2
"""Eager steps with the same footprint before a recording: the first makes state and workspaces, which then stay."""
LR = "lr"

Footprint = tuple[object, ...]


class Action(Enum):
    """What the next step is: run as it is, recorded and then replayed, or replayed."""

    EAGER = "eager"
    RECORD = "record"
    REPLAY = "replay"


def footprint(optimizer: Optimizer) -> Footprint:
    """All that a recorded step has in it besides the learning rate: the addresses and shapes of parameters, gradients
    and state, and the values of the groups. Two equal footprints can be served by one graph."""
    found: list[object] = []
    for group in optimizer.param_groups:
        values = {key: value for key, value in group.items() if key not in ("params", LR)}
        found.append(tuple((key, _seen(value)) for key, value in sorted(values.items())))
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            tensors = [parameter, parameter.grad, *(state[key] for key in sorted(state))]
            found.append(tuple(_seen(tensor) for tensor in tensors))
    return tuple(found)


class Plan:
    """When to record: the same footprint must have been seen `WARM_UPS` times in a row."""

    def __init__(self) -> None:
        self._last: Footprint | None = None
        self._alike = 0
        self._recorded = False

    def next(self, seen: Footprint) -> Action:
        """What the step with this footprint is to be; it is taken to have been that when asked again."""
        if seen != self._last:
            self._last, self._alike, self._recorded = seen, 0, False
        if self._recorded:
            return Action.REPLAY
        if self._alike < WARM_UPS:
            self._alike += 1
            return Action.EAGER
        self._recorded = True
        return Action.RECORD


class Captured:
    """An optimizer whose steps are replayed from a graph where there is CUDA, and run as they are elsewhere.

    `capture`: None takes a graph where all parameters are on CUDA devices; True asks for it, and is told in the log
    (and in `why_not`) where it cannot be had; False never. Gradients must stay where they are for a graph to serve:
    `zero_grad(set_to_none=False)`, or each step is eager. Raises UsageError for an optimizer that is not made for it.
    """

    def __init__(self, optimizer: Optimizer, capture: bool | None = None) -> None:
        self.optimizer = optimizer
        self.why_not = _why_not(optimizer) if capture is not False else "it was not asked for"
        if capture and self.why_not:
            log.warning("the optimizer's step is not captured: %s", self.why_not)
        self._plan = Plan()
        self._graph: torch.cuda.CUDAGraph | None = None
        self._rates: list[Tensor] = []
        for group in optimizer.param_groups:
            if not self.why_not and group.get("capturable") is False:
                raise UsageError(f"{type(optimizer).__name__}: a captured step needs capturable=True")

    def step(self) -> None:
        """One step of the optimizer, with the learning rates that its groups have now."""
        if self.why_not:
            self.optimizer.step()
            return
        match self._plan.next(footprint(self.optimizer)):
            case Action.EAGER:
                self._graph = None
                self._eager()
            case Action.RECORD:
                try:
                    self._record()
                except RuntimeError as refused:
                    # A step that waits for the device, say. Nothing was computed yet.
                    self.why_not = f"CUDA refused to record it: {refused}"
                    log.warning("the optimizer's step is not captured: %s", self.why_not)
                    self.optimizer.step()
                    return
                self._replay()
            case Action.REPLAY:
                self._replay()

    def _eager(self) -> None:
        # On a stream of its own, as the recording will be: what libraries allocate for a stream is then there.
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.optimizer.step()
        torch.cuda.current_stream().wait_stream(stream)

    def _record(self) -> None:
        """The step as a graph; recording computes nothing, so it is no step."""
        groups = self.optimizer.param_groups
        written = [group[LR] for group in groups]
        self._rates = [
            torch.tensor(float(rate), dtype=torch.float32, device=group["params"][0].device)
            for rate, group in zip(written, groups, strict=True)
        ]
        graph = torch.cuda.CUDAGraph()
        try:
            for group, rate in zip(groups, self._rates, strict=True):
                group[LR] = rate
            with torch.cuda.graph(graph):
                self.optimizer.step()
        finally:
            for group, rate in zip(groups, written, strict=True):
                group[LR] = rate
        self._graph = graph

    def _replay(self) -> None:
        if self._graph is None:
            raise RuntimeError("there is no recorded step")
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            rate.fill_(group[LR])
        self._graph.replay()


def _seen(value: object) -> object:
    """A tensor by where and what it is; anything else by its value."""
    if not isinstance(value, Tensor):
        return value
    local = value.to_local() if hasattr(value, "to_local") else value
    return local.data_ptr(), tuple(local.shape), tuple(local.stride()), local.dtype, local.device


def _why_not(optimizer: Optimizer) -> str:
    """Why the step cannot be captured; empty where it can."""
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    elsewhere = {
        parameter.device.type
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.device.type != "cuda"
    }
    return f"parameters are on {', '.join(sorted(elsewhere))}" if elsewhere else ""
