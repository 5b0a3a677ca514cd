"""A model's parameters cut up over several processes (FSDP2), and the processes' coming together and parting.

Every parameter is cut along its first axis: of a matrix each rank holds some rows, of a stack of experts some whole
experts; where there are fewer than ranks, some ranks hold none. Knows torch.distributed and the model's modules; must
not know what is learned from nor how.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from laguna_agent.backend.laguna.layers import DecoderLayer, Router
from laguna_agent.backend.laguna.model import CausalLM
from laguna_agent.errors import UsageError

PATIENCE = timedelta(minutes=10)
"""How long a rank waits for the others before it gives up: longer than any checkpoint takes to be written."""


class Ranks(NamedTuple):
    """This process among those that train together; `device` is where its share of the model lies."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether it is the one that writes logs and files which exist once."""
        return self.rank == 0


def has_group() -> bool:
    """Whether this process has come together with others."""
    return dist.is_available() and dist.is_initialized()


@contextmanager
def joined_group(*, meeting_file: Path | None = None, patience: timedelta = PATIENCE) -> Iterator[Ranks]:
    """Come together with the other processes that torchrun started, as its environment says; part in any case.

    NCCL where every process of this machine has a GPU of its own, gloo otherwise. A process that nobody else was
    started with needs no group and gets none. The processes meet at MASTER_ADDR and MASTER_PORT, or in `meeting_file`,
    which all of them must see and which must be new. Raises UsageError where the environment is incomplete, or the
    others do not come within `patience`.
    """
    size, rank, local, here = (
        _number("WORLD_SIZE", 1),
        _number("RANK", 0),
        _number("LOCAL_RANK", 0),
        _number("LOCAL_WORLD_SIZE", 1),
    )
    if not 0 <= rank < size:
        raise UsageError(f"RANK is {rank} of WORLD_SIZE {size}; start the processes with torchrun")
    on_gpu = torch.cuda.is_available() and max(local + 1, here) <= torch.cuda.device_count()
    device = torch.device("cuda", local) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    if size == 1:
        yield Ranks(0, 1, device)
        return
    meeting = "env://" if meeting_file is None else meeting_file.absolute().as_uri()
    try:
        dist.init_process_group(
            "nccl" if on_gpu else "gloo", init_method=meeting, rank=rank, world_size=size, timeout=patience
        )
    except (ValueError, RuntimeError) as error:
        said = str(error).splitlines()[0]
        raise UsageError(f"rank {rank} of {size} could not join the others at {meeting}: {said}") from error
    try:
        yield Ranks(rank, size, device)
    finally:
        dist.destroy_process_group()


def _number(name: str, otherwise: int) -> int:
    found = os.environ.get(name, str(otherwise))
    if not found.isdecimal():
        raise UsageError(f"{name} is {found!r} in the environment, not a number; start the processes with torchrun")
    return int(found)


def shard(model: CausalLM, mesh: DeviceMesh | None = None, mixed: torch.dtype | None = None) -> None:
    """Cut up the parameters of `model` over `mesh`, in place; without one over all ranks, and not at all where there is
    no process group. Every rank must come with equal parameters.

    mesh: of one axis, or of two (replicas, shards), and then every replica holds the whole model. mixed: the type in
    which the layers' weights travel and are multiplied (the model's `compute_dtype`; UsageError otherwise), while each
    rank's share and the sums of gradients stay as they are, and the routers, which choose in fp32, too.

    Gradients are the SUM over ranks, for the loss is already divided by the weight of all ranks' tokens. `forward`
    works as before, and it alone: what needs hidden states and the head is given to it as `reader`. A pass forward that
    none backward follows leaves embedding and head whole: call `rest` before parameters are listed or loaded.
    """
    if mixed is not None and mixed != model.compute_dtype:
        raise UsageError(f"weights were asked for in {mixed}, but the model computes in {model.compute_dtype}")
    if mesh is None:
        if not has_group():
            return
        mesh = init_device_mesh(model.device.type, (dist.get_world_size(),))
    exact = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
    # Blocks hand on what they computed as it is: their inputs are of the compute dtype already, or fp32 on purpose.
    policy = exact if mixed is None else MixedPrecisionPolicy(mixed, torch.float32, cast_forward_inputs=False)
    for layer in model.model.layers:
        assert isinstance(layer, DecoderLayer)
        if mixed is not None:
            for router in [module for module in layer.modules() if isinstance(module, Router)]:
                fully_shard(router, mesh=mesh, mp_policy=exact)
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    # Embedding and head stay whole between forward and backward: tied, they are one tensor that both ends read. They
    # travel as they are, for a head's gradient is summed over chunks of tokens in the type that its weight has.
    fully_shard(model, mesh=mesh, mp_policy=exact, reshard_after_forward=False)
    for part in _units(model):
        # Sums alone: gloo knows no average and no scaled sum.
        part.set_force_sum_reduction_for_comms(True)
        part.set_gradient_divide_factor(1.0)


def rest(model: nn.Module) -> None:
    """Let every rank hold its shares alone again, where a forward pass that no backward pass followed left more."""
    for part in _units(model):
        part.reshard()


def _units(model: nn.Module) -> list[FSDPModule]:
    """The modules whose parameters travel together; none where the model is whole."""
    return [module for module in model.modules() if isinstance(module, FSDPModule)]
