"""Claim "distributed": each matrix made orthogonal once by its owner, against every rank gathering and making all.

Two processes of one thread each over gloo, the 8 M model sharded with FSDP2. Knows sharded models and their optimizers;
must not know what is learned.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from redundant_muon import RedundantMuon
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from training_claims import Row, Settings, interleaved, milliseconds, ratios, spread
from training_runs import SMALL, TINY, model_of

from laguna_agent.backend.laguna.model import CausalLM
from laguna_agent.training.optim.distributed import DistributedMuon
from laguna_agent.training.optim.muon import Muon
from laguna_agent.training.optim.parameters import MatrixParameter, split_parameters
from laguna_agent.training.sharding import joined_group, shard

RANKS = 2
PATIENCE = 300
AIM = 2.0
STEPS_COMPARED = 2


def rows(settings: Settings) -> list[Row]:
    """Time of a step, bytes that a rank sends, and whether the weights are the single process's, bit for bit."""
    with tempfile.TemporaryDirectory() as name:
        context = multiprocessing.get_context("spawn")
        os.environ["OMP_NUM_THREADS"] = "1"
        ranks = [context.Process(target=_rank, args=(rank, name, settings.quick)) for rank in range(RANKS)]
        for each in ranks:
            each.start()
        for each in ranks:
            each.join(PATIENCE)
        late = [each for each in ranks if each.is_alive()]
        for each in late:
            each.kill()
        if late or any(each.exitcode for each in ranks):
            raise RuntimeError(f"the ranks ended with {[each.exitcode for each in ranks]}, {len(late)} were too late")
        found = json.loads((Path(name) / "found.json").read_text())
    return [_row(found)]


def _row(found: dict[str, Any]) -> Row:
    faster = ratios(found["seconds"], "redundant", "ours")
    sent = {name: size / 1e6 for name, size in found["bytes"].items()}
    return Row(
        f"distributed Muon, {RANKS} gloo ranks",
        f"redundant {milliseconds(found['seconds']['redundant'])}, {sent['redundant']:.1f} MB sent by a rank",
        f"{spread(faster)}x faster ({milliseconds(found['seconds']['ours'])}), {sent['ours']:.1f} MB; weights "
        f"{'bit-equal' if found['equal'] else 'NOT equal'} to one process's",
        f">= {AIM:g}x, bit-equal",
        sorted(faster)[len(faster) // 2] >= AIM and found["equal"],
    )


def _rank(rank: int, folder: str, quick: bool) -> None:
    """One process; rank 0 writes what was found."""
    torch.set_num_threads(1)
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": RANKS, "LOCAL_WORLD_SIZE": RANKS}
    os.environ |= {name: str(value) for name, value in numbers.items()}
    sizes = TINY if quick else SMALL
    with joined_group(meeting_file=Path(folder) / "meeting"):
        whole = model_of(sizes, 0)
        models = {"ours": model_of(sizes, 0), "redundant": model_of(sizes, 0)}
        for model in models.values():
            shard(model)
        optimizers = {
            "ours": DistributedMuon(_given(models["ours"]), lr=1e-2),
            "redundant": RedundantMuon(_given(models["redundant"]), lr=1e-2),
        }
        single = Muon(_given(whole), lr=1e-2)
        for _ in range(STEPS_COMPARED):
            single.step()
            optimizers["ours"].step()
        equal = _same(whole, models["ours"])
        taken = interleaved({name: partial(_together, each) for name, each in optimizers.items()}, 1 if quick else 7)
        sent = {"ours": optimizers["ours"].stats.bytes_sent, "redundant": optimizers["redundant"].bytes_sent}
        if rank == 0:
            found = {"seconds": taken, "bytes": sent, "equal": equal}
            (Path(folder) / "found.json").write_text(json.dumps(found))


def _together(optimizer: Muon) -> None:
    """A step that begins when all ranks are there and ends when the last is done."""
    dist.barrier()
    optimizer.step()
    dist.barrier()


def _given(model: CausalLM) -> list[MatrixParameter]:
    """The model's matrices with gradients, which are equal whole whatever is cut."""
    found, _ = split_parameters(model)
    source = torch.Generator().manual_seed(7)
    for at in found:
        whole = torch.randn(at.parameter.shape, generator=source)
        at.parameter.grad = _cut(whole, at.parameter) if isinstance(at.parameter, DTensor) else whole
    return found


def _cut(whole: Tensor, like: DTensor) -> DTensor:
    """This rank's part of what every rank has whole."""
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)


def _same(whole: CausalLM, sharded: CausalLM) -> bool:
    """Whether all parameters are equal to the last bit."""
    pairs = zip(whole.parameters(), sharded.parameters(), strict=True)
    # Every rank gathers every parameter, whatever it finds: the others wait for it.
    equal = [torch.equal(a, b.full_tensor() if isinstance(b, DTensor) else b) for a, b in pairs]
    return all(equal)
