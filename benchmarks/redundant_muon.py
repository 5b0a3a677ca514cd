"""The naive arm of distributed Muon: every rank gathers every matrix and all of them make all orthogonal.

What one gets by calling `full_tensor()` on the shards and going on as with one process.
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
        # One call for each parameter: nothing is batched over parameters.
        return [self._alone(update) for update in updates]

    def _alone(self, update: Update) -> Tensor:
        direction = update.direction
        if not isinstance(direction, DTensor):
            return super()._orthogonalised([update])[0]
        mesh, local = direction.device_mesh, direction.to_local()
        self.bytes_sent += local.numel() * local.element_size() * (dist.get_world_size(mesh.get_group(0)) - 1)
        (result,) = super()._orthogonalised([update._replace(direction=direction.full_tensor())])
        # Every rank has the whole, so cutting it up moves nothing; no rank is asked for it.
        return distribute_tensor(result, mesh, direction.placements, src_data_rank=None)
