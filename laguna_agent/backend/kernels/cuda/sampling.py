"""Drawing tokens on the device: the kernel, what it means in plain torch, and known calls of it.

The source is `sampling.cuh`; the semantics are those of `laguna/sampling.py`, `Sampler.choose`, with one difference:
where equal logits lie on the boundary of top-k or top-p, the lower ids stay. Penalties are not done here. Knows logits
and numbers; must not know requests or grammars.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from laguna_agent.backend.kernels.cuda.cases import Case, Put
from laguna_agent.backend.kernels.cuda.geometry import Geometry
from laguna_agent.backend.kernels.cuda.launch import Argument, Kernel, Pointer

THREADS = 1024
_DESK = ((1 << 11) + 32 + 3) * 8
"""Bytes of `Desk` in `sampling.cuh`."""
_MARGIN = 2e-6
_TRIES = 50


def sample(tokens: int, vocabulary: int) -> Kernel:
    """out int [tokens]: the token drawn from each row of logits fp32 [tokens, vocabulary], or -1 where its largest is
    NaN or infinite.

    settings fp32 [tokens, 4]: temperature (0: the first of the largest, and nothing else counts), top_p, min_p, and a
    number from [0, 1) that decides the draw, by inverse distribution in the order of ids. top_k int [tokens]; 0, or
    more than there are: all. Raises ValueError for a vocabulary of more than 2^24.
    """
    if not 0 < vocabulary <= 1 << 24:
        raise ValueError(f"a vocabulary of {vocabulary} cannot be drawn from: expected 1 to {1 << 24}")
    parameters = (
        Pointer("logits", "float", tokens * vocabulary),
        Pointer("settings", "float", tokens * 4),
        Pointer("top_k", "int", tokens),
        Pointer("out", "int", tokens, "write"),
    )
    call = f"laguna::sample<{vocabulary}>"
    return Kernel("sample", "sampling.cuh", call, parameters, (tokens, 1, 1), THREADS, shared=_DESK)


def drawn(logits: Tensor, settings: Tensor, top_k: Tensor) -> Tensor:
    """What `sample` makes of logits [tokens, vocabulary], settings [tokens, 4] and top_k [tokens]: int32 [tokens].
    Sums are in fp64; nothing waits for the device."""
    temperature, top_p, min_p, uniform = settings.double()[:, :, None].unbind(1)
    largest = logits.amax(-1, keepdim=True)
    divisor = torch.where(settings[:, :1] == 0, 1.0, settings[:, :1])
    scaled, ids = ((logits - largest) / divisor).sort(dim=-1, descending=True, stable=True)
    count = torch.where((top_k <= 0) | (top_k > logits.shape[1]), logits.shape[1], top_k)
    rank = torch.arange(logits.shape[1], device=logits.device)
    mass = torch.where(rank < count[:, None], scaled.double().exp(), 0.0)
    before = mass.cumsum(-1) - mass
    mass = torch.where((before < top_p * mass.sum(-1, keepdim=True)) | (top_p >= 1), mass, 0.0)
    mass = torch.where(mass < min_p, 0.0, mass)
    sums = torch.zeros_like(mass).scatter(-1, ids, mass).cumsum(-1)
    found = torch.minimum((sums <= uniform * sums[:, -1:]).sum(-1), (sums < sums[:, -1:]).sum(-1))
    found = torch.where(temperature[:, 0] == 0, logits.argmax(-1), found)
    return torch.where(largest[:, 0].isfinite(), found, -1).int()


def sample_case(
    label: str, logits: Tensor, settings: Sequence[tuple[float, float, float]], top_k: Sequence[int], seed: int = 0
) -> Case:
    """Rows with settings (temperature, top_p, min_p) and uniform numbers at which small errors change no draw."""
    chance = torch.Generator().manual_seed(seed)
    counts = torch.tensor(top_k, dtype=torch.int32)
    given = torch.tensor([(*row, 0.0) for row in settings])
    unsteady = torch.ones(len(top_k), dtype=torch.bool)
    for _ in range(_TRIES):
        given[:, 3] = torch.where(unsteady, torch.rand(len(top_k), generator=chance), given[:, 3])
        wanted = drawn(logits, given, counts)
        unsteady = torch.zeros_like(unsteady)
        for change in ((0, 0, 0, 1), (0, 0, 0, -1), (0, 1, 0, 0), (0, -1, 0, 0), (0, 0, 1, 0), (0, 0, -1, 0)):
            moved = given.double() + _MARGIN * torch.tensor(change)
            # All tokens stay all, and where none is too small for min_p none becomes so.
            moved[:, 1:3] = torch.where(torch.tensor((1.0, 0.0)) == given[:, 1:3], given[:, 1:3], moved[:, 1:3])
            moved[:, 0] = given[:, 0]
            unsteady |= drawn(logits, moved, counts) != wanted
        if not unsteady.any():
            break
    assert not unsteady.any(), f"{label}: every number drawn is too near to a boundary"

    def bind(put: Put) -> Mapping[str, Argument]:
        out = torch.full((len(top_k),), -7, dtype=torch.int32)
        return {"logits": put(logits), "settings": put(given), "top_k": put(counts), "out": put(out)}

    return Case(f"sample {label}", sample(len(top_k), logits.shape[1]), bind, {"out": wanted})


def cases(geometry: Geometry | None, seed: int = 0) -> Iterator[Case]:
    """Known calls; see `cases.py`."""
    chance = torch.Generator().manual_seed(seed)

    def random(tokens: int, vocabulary: int, spread: float = 3.0) -> Tensor:
        return spread * torch.randn(tokens, vocabulary, generator=chance)

    usual = [(0.0, 1.0, 0.0), (1.0, 1.0, 0.0), (0.7, 0.9, 0.0), (0.7, 1.0, 0.05), (0.6, 0.95, 0.02), (2.0, 0.5, 0.001)]
    counts = [0, 0, 0, 50, 20, 40]
    if geometry is not None:
        yield sample_case("usual settings", random(6, geometry.vocabulary), usual, counts, seed)
        return
    yield sample_case("usual settings", random(6, 5000), usual, counts, seed)
    yield sample_case("one token", random(2, 1), usual[1:3], [0, 1], seed)
    yield sample_case("two tokens", random(4, 2, 1.0), usual[:4], [0, 1, 2, 3], seed)
    # Halves: dozens of equal logits on every boundary; and zeros of both signs.
    ties = (2 * random(6, 700, 1.5)).round() / 2
    ties[0] = torch.where(torch.arange(700) % 2 == 0, -0.0, 0.0)
    yield sample_case("ties", ties, [(0.0, 1.0, 0.0), *[(1.0, 0.8071, 0.0)] * 3, *usual[3:5]], [0, 0, 11, 60, 3, 17])
    flat = torch.zeros(4, 3000)
    yield sample_case("all equal", flat, [(1.0, 0.50013, 0.0), (1.0, 1.0, 0.0)] * 2, [0, 0, 2000, 1001], seed + 1)
    forbidden = random(5, 2049)
    forbidden[:, torch.rand(2049, generator=chance) < 0.99] = -torch.inf
    yield sample_case("most forbidden", forbidden, usual[:5], [0, 0, 100, 50, 5], seed + 2)
    broken = random(5, 97)
    broken[0, 50], broken[1, 96], broken[2, 0], broken[3] = torch.nan, -torch.nan, torch.inf, -torch.inf
    yield sample_case("no numbers", broken, [usual[1], *usual[:4]], [0, 0, 5, 0, 4], seed + 3)
    # What is drawn most often is the last id, the first, or between; many draws of one distribution.
    yield sample_case("many draws", random(1, 33, 1.0).expand(40, 33).contiguous(), [usual[1]] * 40, [0] * 40, seed + 4)
    yield sample_case(
        "min-p", random(1, 33, 1.0).expand(24, 33).contiguous(), [(0.9, 1.0, 0.3)] * 24, [0] * 24, seed + 6
    )
    # Half of it all is the first three tokens, and of what min-p would leave the first alone: the order counts.
    shares = torch.tensor([1.0, 0.5, 0.5] + [0.004] * 500).log().expand(16, 503).contiguous()
    yield sample_case("top-p, then min-p", shares, [(1.0, 0.49, 0.1)] * 16, [0] * 16, seed + 7)
    wide = random(8, 4097, 8.0)
    yield sample_case("large logits", wide + 1e4, [(1.5, 0.99, 0.0), (30.0, 0.9, 0.2)] * 4, [0, 1, 2, 7] * 2, seed + 5)
