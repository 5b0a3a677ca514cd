"""The naive arm of distributed Muon: every rank gathers every matrix and all of them make all orthogonal.

What one gets by calling `full_tensor()` on the parameters of a sharded model and going on as with one process.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from laguna_agent.training.optim.muon import Muon, Update


class RedundantMuon(Muon):
    """Muon for shards, as simply as it goes. `bytes_sent`: by this rank to others in the last step, each sending its
    rows to all others, experts included."""

    bytes_sent = 0

    def _orthogonalised(self, updates: Sequence[Update]) -> list[Tensor]:
        self.bytes_sent = 0
        whole = [update._replace(direction=self._gathered(update)) for update in updates]
        # One call for each parameter: nothing is batched over parameters.
        made = [super(RedundantMuon, self)._orthogonalised([update])[0] for update in whole]
        return [_own_rows(update, result) for update, result in zip(updates, made, strict=True)]

    def _gathered(self, update: Update) -> Tensor:
        parameter, direction = update.parameter, update.direction
        if not isinstance(parameter, DTensor):
            return direction
        mesh = parameter.device_mesh
        self.bytes_sent += direction.numel() * direction.element_size() * (dist.get_world_size(mesh.get_group(0)) - 1)
        shape, stride = parameter.shape, parameter.stride()
        return DTensor.from_local(direction, mesh, parameter.placements, shape=shape, stride=stride).full_tensor()


def _own_rows(update: Update, result: Tensor) -> Tensor:
    parameter = update.parameter
    if not isinstance(parameter, DTensor):
        return result
    # Every rank has the whole, so cutting it up moves nothing; no rank is asked for it.
    return distribute_tensor(result, parameter.device_mesh, parameter.placements, src_data_rank=None).to_local()
