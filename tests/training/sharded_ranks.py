"""What the ranks of a sharded training run do for `test_sharded.py`.

usage: python -m tests.training.sharded_ranks FOLDER SIZE...

For each SIZE in turn so many processes, with the environment that torchrun gives them. They are forked, so that torch
is imported once, before it has any thread. What each found goes to FOLDER/found-SIZE-RANK.json, and `test_sharded.py`
judges it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing import connection
from pathlib import Path
from typing import Any

import msgspec
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from benchmarks.redundant_muon import RedundantMuon
from laguna_agent.backend.laguna.model import CausalLM, Piece
from laguna_agent.errors import TrainingDiverged
from laguna_agent.training.batch import Pack
from laguna_agent.training.loss import token_loss
from laguna_agent.training.optim.distributed import DistributedMuon
from laguna_agent.training.optim.muon import Muon
from laguna_agent.training.optim.parameters import MatrixParameter, split_parameters
from laguna_agent.training.optim.replicas import check_orthogonalisation, check_replicas, replica_hash
from laguna_agent.training.sharding import Ranks, joined_group, rest, shard
from tests.laguna.small_models import small_config, small_model

STEPS = 3
ODD = {
    "one_row": (1, 7, 1),
    "two_rows": (2, 5, 1),
    "square": (3, 3, 1),
    "wide": (7, 19, 1),
    "tall": (19, 7, 1),
    "again_wide": (7, 19, 1),
    "fused": (10, 6, 2),
}
STACKS = {"one_expert": (1, 4, 3, 1), "experts": (5, 6, 4, 1), "fused_experts": (4, 6, 5, 2)}


def learning_model(tied: bool = False, compute: torch.dtype = torch.float32) -> CausalLM:
    """The small model as it is when training begins: the same on every rank."""
    weights = small_model().state_dict()
    model = CausalLM(msgspec.structs.replace(small_config(), tied=tied), torch.float32, compute)
    model.load_state_dict(weights, strict=not tied)
    return model


def pieces_of(rank: int, step: int) -> list[Piece]:
    """What a rank learns from in a step."""
    source = torch.Generator().manual_seed(100 * step + rank)
    return [Piece(torch.randint(0, 41, (length,), generator=source)) for length in (6, 3 + rank)]


def loss_of(model: CausalLM, pieces: Sequence[Piece], chunked: bool) -> Tensor:
    """The sum over all tokens, which predict themselves: from all logits, or as training computes it."""
    targets = torch.cat([piece.ids for piece in pieces])
    if not chunked:
        return nn.functional.cross_entropy(model(pieces).float(), targets, reduction="sum")
    lengths = tuple(len(piece.ids) for piece in pieces)
    return token_loss(model, Pack(targets, targets, torch.ones(len(targets)), lengths), total_weight=1.0)


def whole(tensor: Tensor) -> Tensor:
    """A copy of all of it, on every rank."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def gradients(ranks: Ranks, tied: bool, chunked: bool) -> float:
    """The largest difference between the sharded model's gradients and those of the sum of all ranks' losses."""
    alone, model = learning_model(tied), learning_model(tied)
    shard(model)
    worst = 0.0
    for step in range(2):
        # Validation between two steps leaves the root whole, and must not disturb.
        with torch.no_grad():
            model(pieces_of(0, step))
        # Two backward passes before a step, as with gradient accumulation.
        for part in (2 * step, 2 * step + 1):
            loss_of(model, pieces_of(ranks.rank, part), chunked).backward()
            for rank in range(ranks.size):
                loss_of(alone, pieces_of(rank, part), False).backward()
        for (name, sharded), (other, plain) in zip(model.named_parameters(), alone.named_parameters(), strict=True):
            assert name == other and sharded.grad is not None and plain.grad is not None, name
            scale = plain.grad.abs().max().item() or 1.0
            worst = max(worst, (whole(sharded.grad) - plain.grad).abs().max().item() / scale)
        for parameter in (*model.parameters(), *alone.parameters()):
            parameter.grad = None
    return worst


def mixed_logits(ranks: Ranks) -> bool:
    """Whether a model whose layers travel in bf16 gives the logits of the whole model that computes in bf16, and its
    head, whose gradient is summed over chunks, is fp32 still."""
    alone, model = learning_model(compute=torch.bfloat16), learning_model(compute=torch.bfloat16)
    shard(model, mixed=torch.bfloat16)
    pieces = pieces_of(ranks.rank, 0)
    kept = []
    with torch.no_grad():
        model(pieces, reader=lambda h, head: kept.append(head.dtype) or h)
    logits = model(pieces)
    same = torch.equal(logits, alone(pieces)) and logits.dtype == torch.bfloat16 and kept == [torch.float32]
    logits.float().logsumexp(-1).sum().backward()
    return same and all(
        parameter.grad is not None and parameter.grad.dtype == torch.float32 for parameter in model.parameters()
    )


def same_training(ranks: Ranks, coefficients: Any, mesh: DeviceMesh | None = None) -> dict[str, bool]:
    """Whether weights and momentum of a sharded run are, bit for bit, those of one process with the same gradients."""
    alone, model = learning_model(), learning_model()
    shard(model, mesh)
    options = {"lr": 0.02, "coefficients": coefficients}
    single = Muon(split_parameters(alone)[0], **options)
    sharded = DistributedMuon(split_parameters(model)[0], least=1000, **options)
    for step in range(STEPS):
        loss_of(model, pieces_of(ranks.rank, step), True).backward()
        for plain, parameter in zip(alone.parameters(), model.parameters(), strict=True):
            assert parameter.grad is not None
            plain.grad = whole(parameter.grad)
        single.step()
        sharded.step()
        sharded.zero_grad()
    return equal_bits(single, sharded, alone, model) | {"several buckets": sharded.stats.buckets > 2}


def equal_bits(one: Muon, other: Muon, first: nn.Module, second: nn.Module) -> dict[str, bool]:
    pairs = list(zip(first.parameters(), second.parameters(), strict=True))
    states = [(one.state[plain], other.state[sharded]) for plain, sharded in pairs if plain in one.state]
    return {
        "weights": all(torch.equal(plain, whole(sharded)) for plain, sharded in pairs),
        "momentum": len(states) > 5
        and all(torch.equal(a["momentum_buffer"], whole(b["momentum_buffer"])) for a, b in states),
    }


class Odd(nn.Module):
    """Matrices and stacks of odd shapes, cut up along the first axis where a mesh is given."""

    def __init__(self, mesh: Any = None) -> None:
        super().__init__()
        source = torch.Generator().manual_seed(3)
        self.parts = {name: shape[-1] for name, shape in (ODD | STACKS).items()}
        for name, (*shape, _) in (ODD | STACKS).items():
            value = torch.randn(shape, generator=source)
            setattr(self, name, nn.Parameter(distribute_tensor(value, mesh, [Shard(0)]) if mesh else value))

    def matrices(self) -> list[MatrixParameter]:
        return [MatrixParameter(name, parameter, self.parts[name]) for name, parameter in self.named_parameters()]

    def give_gradients(self, step: int) -> None:
        source = torch.Generator().manual_seed(50 + step)
        for name, parameter in self.named_parameters():
            value = torch.randn(parameter.shape, generator=source)
            if name == "square" and step == 1:
                parameter.grad = None  # A matrix that nothing went through in this step.
            elif isinstance(parameter, DTensor):
                parameter.grad = distribute_tensor(value, parameter.device_mesh, parameter.placements)
            else:
                parameter.grad = value


def odd_shapes(ranks: Ranks) -> dict[str, Any]:
    """As `same_training`, for odd shapes, small and large buckets, and the naive arm; with what each sent."""
    mesh = init_device_mesh("cpu", (ranks.size,))
    found: dict[str, Any] = {}
    for name, dtype in (("small buckets", None), ("one bucket", None), ("bf16", torch.bfloat16), ("naive", None)):
        alone, cut = Odd(), Odd(mesh)
        single = Muon(alone.matrices(), lr=0.1, dtype=dtype)
        sharded: Muon
        if name == "naive":
            sharded = RedundantMuon(cut.matrices(), lr=0.1)
        else:
            least = 1 if name == "small buckets" else 1 << 20
            sharded = DistributedMuon(cut.matrices(), lr=0.1, dtype=dtype, least=least)
        for step in range(STEPS):
            alone.give_gradients(step)
            cut.give_gradients(step)
            single.step()
            sharded.step()
        found[name] = equal_bits(single, sharded, alone, cut)
        found[name]["stats"] = sharded.stats._asdict() if isinstance(sharded, DistributedMuon) else sharded.bytes_sent
    return found


def checkpointed(ranks: Ranks, folder: Path) -> dict[str, Any]:
    """Train a little and save; or, with three ranks, load what two saved. A checkpoint of one process is read first."""
    model = learning_model()
    shard(model)
    optimizer = DistributedMuon(split_parameters(model)[0], lr=0.02)
    keys = sorted(get_state_dict(model, optimizer)[1]["state"])
    load(folder / ("one" if ranks.size == 2 else "two"), model, optimizer)
    found = {"keys": keys, "loaded": replica_hash(model, [optimizer]), "placed": placed(optimizer)}
    if ranks.size == 2:
        loss_of(model, pieces_of(ranks.rank, 9), False).backward()
        optimizer.step()
        save(folder / "two", model, optimizer)
    return found | {"left": replica_hash(model, [optimizer])}


def placed(optimizer: Muon) -> bool:
    """Whether the momentum of every parameter is cut up as the parameter is, and has numbers of its own."""
    return all(
        isinstance(state["momentum_buffer"], DTensor)
        and state["momentum_buffer"].placements == parameter.placements
        and state["momentum_buffer"].to_local().shape == parameter.to_local().shape
        for parameter, state in optimizer.state.items()
    )


def save(folder: Path, model: CausalLM, optimizer: Muon) -> None:
    """The training's state, with any number of ranks."""
    weights, state = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optimizer": state}, checkpoint_id=folder, no_dist=not dist.is_initialized())


def load(folder: Path, model: CausalLM, optimizer: Muon) -> None:
    """What `save` wrote, with any number of ranks."""
    weights, state = get_state_dict(model, optimizer)
    read = {"model": weights, "optimizer": state}
    dcp.load(read, checkpoint_id=folder, no_dist=not dist.is_initialized())
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=state)


def refused(model: nn.Module, optimizers: Sequence[Muon] = ()) -> str:
    """What the check of replicas says; nothing where it finds none."""
    try:
        check_replicas(model, optimizers, when="step 12")
    except TrainingDiverged as error:
        return str(error)
    return ""


@contextmanager
def flipped(tensor: Tensor, here: bool) -> Iterator[None]:
    """One bit of the first number is another for a while, on one rank."""
    bits = (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach().view(torch.int32).view(-1)
    if here:
        bits[0] ^= 1
    yield
    if here:
        bits[0] ^= 1


def replicas(ranks: Ranks) -> dict[str, Any]:
    """What the checks say of healthy replicas and of ones that differ in a bit, whole ones and (HSDP) cut up ones."""
    last = ranks.rank == ranks.size - 1
    found: dict[str, Any] = {}
    for kind in ("plain", "hsdp"):
        model = learning_model()
        if kind == "hsdp":
            shard(model, init_device_mesh("cpu", (ranks.size, 1), mesh_dim_names=("replicas", "shards")))
        optimizer = DistributedMuon(split_parameters(model)[0], lr=0.02)
        loss_of(model, pieces_of(0, 0), False).backward()
        optimizer.step()
        rest(model)
        embedding = model.model.embed_tokens.weight
        # A pass without gradients leaves the embedding whole in the model, and the check must see what is kept.
        with torch.no_grad():
            model(pieces_of(0, 0))
        with flipped(embedding, last):
            embedding_said = refused(model, [optimizer])
        weight = model.model.layers[1].mlp.experts.down_proj
        bias = model.model.layers[2].mlp.experts.e_score_correction_bias
        momentum = optimizer.state[weight]["momentum_buffer"]
        found[kind] = {"healthy": refused(model, [optimizer]), "hash": replica_hash(model, [optimizer])}
        found[kind]["embedding"] = embedding_said
        for name, tensor in (("weight", weight), ("buffer", bias), ("momentum", momentum)):
            with flipped(tensor, last):
                found[kind][name] = refused(model, [optimizer])
                found[kind][f"{name} hash"] = replica_hash(model) if kind == "plain" else ""
        optimizer.param_groups[0]["lr"] = 0.02 + (1e-12 if last else 0)
        found[kind]["setting"] = refused(model, [optimizer])
    shard(cut := learning_model())
    with flipped(cut.model.layers[1].mlp.experts.down_proj, last):
        found["cut"] = refused(cut)
    return found | {"newton_schulz": newton_schulz(last)}


def newton_schulz(odd: bool) -> list[str]:
    """What is said where all compute the same; where one rank has another matrix; where it computes otherwise."""
    matrix = torch.randn(6, 9, generator=torch.Generator().manual_seed(1))
    said = []
    for given, coefficients in (
        (matrix, "polar5"),
        (matrix + (1e-3 if odd else 0), "polar5"),
        (matrix, "kj5" if odd else "polar5"),
    ):
        try:
            check_orthogonalisation(given, coefficients)
        except TrainingDiverged as error:
            said.append(str(error))
        else:
            said.append("")
    return said


def findings(ranks: Ranks, folder: Path) -> dict[str, Any]:
    """All that this module finds out. Four ranks only train, two replicas of two shards."""
    if ranks.size == 4:
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicas", "shards"))
        return {"training": {"polar5": same_training(ranks, "polar5", mesh)}}
    # One way of computing the loss, and one kind of Newton-Schulz, suffice in the larger group.
    ways = [(False, False), (True, True)] if ranks.size == 2 else [(True, True)]
    kinds = ("kj5", "polar5") if ranks.size == 2 else ("polar5",)
    return {
        "gradients": {f"{tied=} {chunked=}": gradients(ranks, tied, chunked) for tied, chunked in ways},
        "mixed": mixed_logits(ranks) if ranks.size == 2 else None,
        "training": {name: same_training(ranks, name) for name in kinds},
        "odd": odd_shapes(ranks),
        "checkpoint": checkpointed(ranks, folder),
        "replicas": replicas(ranks),
    }


def be_rank(folder: Path, rank: int, size: int) -> None:
    """All of one process's life, which ends in an error on purpose."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size)}
    torch.set_num_threads(1)
    try:
        with joined_group(meeting_file=folder / f"meeting-{size}", patience=timedelta(seconds=60)) as ranks:
            found = findings(ranks, folder) | {"world": [ranks.rank, ranks.size, dist.get_backend()]}
            raise InterruptedError
    except InterruptedError:
        found["parted"] = not dist.is_initialized()
    (folder / f"found-{size}-{rank}.json").write_text(json.dumps(found))


def run(folder: Path, size: int) -> bool:
    """`size` processes: whether all came through. Where one does not, the others are not waited for."""
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=be_rank, args=(folder, rank, size)) for rank in range(size)]
    for process in processes:
        process.start()
    while all(process.exitcode in (None, 0) for process in processes):
        running = [process.sentinel for process in processes if process.exitcode is None]
        if not running:
            return True
        connection.wait(running)
    for process in processes:
        process.kill()
    return False


if __name__ == "__main__":
    sys.exit(not all(run(Path(sys.argv[1]), int(size)) for size in sys.argv[2:]))
