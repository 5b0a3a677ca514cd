"""Whether ranks that must hold the same do: hashes over every tensor's bytes.

A bit that flipped in one replica, a kernel that gives other bits on one machine, a setting that a checkpoint changed on
one rank: the loss shows none of them for a long time, and an average over replicas spreads them. (The Laguna report,
arXiv:2605.27605, pages 8 and 9, names one of each that such hashes caught.) Knows parameters, optimizer states and
processes; must not know what trains them.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from laguna_agent.errors import TrainingDiverged
from laguna_agent.training.optim.coefficients import Coefficients
from laguna_agent.training.optim.newton_schulz import orthogonalise
from laguna_agent.training.sharding import has_group, rest

DIGEST = hashlib.sha256().digest_size


class _Held(NamedTuple):
    """One tensor as a rank holds it, or one line of settings; `piece` tells shards of one tensor apart."""

    name: str
    piece: int
    digest: bytes


def replica_hash(model: nn.Module, optimizers: Sequence[Optimizer] = ()) -> str:
    """SHA-256 over the names, types, shapes and bytes of the model's parameters and buffers and of the optimizers'
    state and settings. Shards are gathered one parameter at a time, so it is the same for any number of ranks; all of
    them must call it."""
    whole = hashlib.sha256()
    for name, tensor in _tensors(model, optimizers):
        found = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        whole.update(name.encode() + b"\0" + _digest(found))
    for name, settings in _settings(optimizers):
        whole.update(name.encode() + b"\0" + settings.encode() + b"\0")
    return whole.hexdigest()


def check_replicas(
    model: nn.Module,
    optimizers: Sequence[Optimizer] = (),
    *,
    group: dist.ProcessGroup | None = None,
    when: str = "",
) -> None:
    """Compare what several ranks of `group` (all, by default) hold: plain tensors everywhere; of tensors cut up over
    one axis of a mesh and repeated over another, the repeated pieces; the optimizers' settings. What lives once has
    nothing to be compared with. All ranks must call it; without a process group there is nothing to compare.

    Raises TrainingDiverged on every rank, naming ranks and tensors; `when` ("step 12") goes into the text.
    """
    if not has_group() or dist.get_world_size(group) == 1:
        return
    held = [_Held(name, _piece(tensor), _digest(_local(tensor))) for name, tensor in _tensors(model, optimizers)]
    held += [_Held(name, 0, hashlib.sha256(text.encode()).digest()) for name, text in _settings(optimizers)]
    device = next(model.parameters()).device
    names = hashlib.sha256("\0".join(entry.name for entry in held).encode()).digest()
    # First what makes the tables comparable at all: of other lengths they could not even be exchanged.
    if odd := _odd([table[0] for table in _exchanged([_Held("", 0, names)], device, group)], group):
        raise TrainingDiverged(_text(odd, "holds other tensors than the others", 1, when))
    tables = _exchanged(held, device, group)
    wrong = [
        (entry.name, odd) for at, entry in enumerate(held) if (odd := _odd([table[at] for table in tables], group))
    ]
    if wrong:
        name, odd = wrong[0]
        raise TrainingDiverged(_text(odd, f"holds other bytes of {name} than its replicas", len(wrong), when))


def check_orthogonalisation(
    matrix: Tensor, coefficients: Coefficients, *, group: dist.ProcessGroup | None = None, when: str = ""
) -> None:
    """Let every rank make the same matrix orthogonal and compare the bits: owners' results are computed once, and
    nobody else would notice a machine that computes differently.

    matrix [rows, columns], plain and equal on all ranks, or a DTensor, which is gathered (a momentum buffer now and
    then). Raises TrainingDiverged on every rank, naming the odd one.
    """
    if not has_group() or dist.get_world_size(group) == 1:
        return
    whole = matrix.full_tensor() if isinstance(matrix, DTensor) else matrix
    entries = [_Held("given", 0, _digest(whole)), _Held("made", 0, _digest(orthogonalise(whole[None], coefficients)))]
    given, made = zip(*_exchanged(entries, whole.device, group), strict=True)
    if odd := _odd(given, group):
        raise TrainingDiverged(_text(odd, "was given another matrix to make orthogonal", 1, when))
    if odd := _odd(made, group):
        raise TrainingDiverged(_text(odd, "made other bits of the same matrix in Newton-Schulz", 1, when))


def _tensors(model: nn.Module, optimizers: Sequence[Optimizer]) -> Iterator[tuple[str, Tensor]]:
    """Every tensor that belongs to the training's state, by name, in the model's order."""
    rest(model)
    yield from model.named_parameters()
    yield from model.named_buffers()
    for at, optimizer in enumerate(optimizers):
        for name, parameter in model.named_parameters():
            # `get`, for the state makes an entry of whatever else it is asked for.
            state = optimizer.state.get(parameter, {})
            for key in sorted(state):
                if isinstance(state[key], Tensor):
                    yield f"{name} ({key} of optimizer {at})", state[key]


def _settings(optimizers: Sequence[Optimizer]) -> Iterator[tuple[str, str]]:
    """Each optimizer's settings, by name: the type counts, for a 0-dimensional tensor or an fp32 number is another."""
    for at, optimizer in enumerate(optimizers):
        for number, settings in enumerate(optimizer.param_groups):
            for key in sorted(settings):
                if key != "params":
                    yield f"{key} (group {number} of optimizer {at})", repr(settings[key])


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _piece(tensor: Tensor) -> int:
    """Which piece of the tensor this rank holds: the same number where the same piece is held."""
    if not isinstance(tensor, DTensor):
        return 0
    coordinate = tensor.device_mesh.get_coordinate()
    assert coordinate is not None
    number = 0
    for axis, placement in enumerate(tensor.placements):
        if not placement.is_replicate():
            number = number * tensor.device_mesh.size(axis) + coordinate[axis]
    return number


def _digest(tensor: Tensor) -> bytes:
    """Of type, shape and bytes."""
    plain = tensor.detach().cpu().contiguous()
    found = hashlib.sha256(f"{plain.dtype} {tuple(plain.shape)} ".encode())
    found.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return found.digest()


def _exchanged(
    held: Sequence[_Held], device: torch.device, group: dist.ProcessGroup | None
) -> list[list[tuple[int, bytes]]]:
    """For every rank of the group what it holds: piece and digest of each entry."""
    lines = b"".join(entry.piece.to_bytes(8, "big") + entry.digest for entry in held)
    mine = torch.frombuffer(bytearray(lines), dtype=torch.uint8).to(device)
    tables = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
    dist.all_gather(tables, mine, group=group)
    width = 8 + DIGEST
    found = [bytes(table.cpu().numpy()) for table in tables]
    return [
        [(int.from_bytes(table[at : at + 8], "big"), table[at + 8 : at + width]) for at in range(0, len(table), width)]
        for table in found
    ]


def _odd(entries: Sequence[tuple[int, bytes]], group: dist.ProcessGroup | None) -> list[int]:
    """The ranks whose entry differs from what most holders of the same piece have; of two that differ, both."""
    holders: defaultdict[int, list[int]] = defaultdict(list)
    for rank, (piece, _) in enumerate(entries):
        holders[piece].append(rank)
    odd = []
    for ranks in holders.values():
        (most, count), *others = Counter(entries[rank][1] for rank in ranks).most_common()
        tied = bool(others) and others[0][1] == count
        odd += [rank for rank in ranks if others and (tied or entries[rank][1] != most)]
    return sorted(dist.get_process_group_ranks(group)[rank] for rank in odd)


def _text(odd: Sequence[int], what: str, tensors: int, when: str) -> str:
    named = f"rank {odd[0]}" if len(odd) == 1 else f"one of ranks {', '.join(map(str, odd))}"
    more = f" ({tensors} tensors in all)" if tensors > 1 else ""
    at = f"{when}: " if when else ""
    return f"{at}{named} {what}{more}; go on from the last checkpoint, and test that machine's memory"
