"""Decode attention over the cache's runs, its source run on a CPU under the shim."""

from __future__ import annotations

import pytest
import torch
from msgspec.structs import replace
from torch import Tensor

from laguna_agent.backend.kernels.attention import attention
from laguna_agent.backend.kernels.cuda.attention import (
    KINDS,
    MOST_RUNS,
    RUN_FIELDS,
    KVName,
    attend,
    cases,
    encoded,
    merge,
    place,
    turned,
)
from laguna_agent.backend.kernels.cuda.attention_cases import Heads, Row, Stretch, attend_case
from laguna_agent.backend.kernels.cuda.cases import Case, error_of, relative_error
from laguna_agent.backend.kernels.cuda.geometry import PUBLISHED
from laguna_agent.backend.kernels.cuda.launch import Launch
from laguna_agent.backend.laguna.cache import KVCache
from laguna_agent.backend.laguna.cache_format import FORMATS
from tests.cuda.emulator import Emulator, fence, fenced
from tests.laguna.small_models import FULL, SLIDING, small_config

QUICK = (
    "attend runs: f16",
    "attend window: int8",
    "attend far: int8",
    "place half turns: fp8",
    "place far: f16",
    "merge few pieces",
)


def wrong(emulator: Emulator, some: list[Case]) -> dict[str, float]:
    """The errors of the cases that are not right."""
    emulator.prepare([case.kernel for case in some])
    errors = {case.label: error_of(case, emulator, fence) for case in some}
    return {case.label: errors[case.label] for case in some if not errors[case.label] <= case.tolerance}


def test_a_few_small_cases_are_right():
    some = [case for case in cases(None, seed=4) if case.label.startswith(QUICK)]
    assert len(some) >= len(QUICK) and {case.kernel.family for case in some} == {"attend", "merge", "place"}
    assert wrong(Emulator(seed=3), some) == {}


def test_codes_are_those_of_the_cache():
    x = torch.randn(5, 3, 32, generator=torch.Generator().manual_seed(1)) * torch.tensor([1e-3, 1.0, 1e6])[:, None]
    x[0, 0] = 0
    assert {name: kind[1:] for name, kind in KINDS.items()} == {
        name: (format.dtype, format.largest, format.scaled) for name, format in FORMATS.items()
    }
    for name in KINDS:
        codes, *scale = FORMATS[name].encode(x)
        found, found_scale = encoded(x, name)
        assert torch.equal(codes.view(torch.uint8), found.view(torch.uint8))
        assert (found_scale is None and not scale) or torch.equal(found_scale, scale[0])


def test_a_row_has_the_same_pieces_alone_and_among_others():
    sizes, stretches = Heads(4, 2, 16), (Stretch(0, 50), Stretch(50, 45))
    rows = [Row(position, (0, 1)) for position in (70, 93, 94)]
    emulator = Emulator(seed=6)
    together = attend_case("rows", sizes, "f16", stretches, rows)
    alone = attend(1, *sizes, 0, 3, "f16")
    emulator.prepare([together.kernel, alone])
    given = dict(together.bind(fence))
    emulator.run([Launch.of(together.kernel, **{p.name: given[p.name] for p in together.kernel.parameters})])
    for t in range(len(rows)):
        own = {name: fence(given[name][t : t + 1]) for name in ("q", "runs", "counts", "positions", "partial")}
        own["partial"].fill_(torch.nan)
        emulator.run([Launch.of(alone, **own)])
        assert torch.equal(own["partial"][0], given["partial"][t])


class Layers:
    """A full and a sliding layer, as the step runs them: `seen` gives what a step's tokens read of the cache."""

    def __init__(self, kv: KVName, tokens: int, window: int) -> None:
        self.tokens, self.sizes, self.emulator = tokens, Heads(4, 2, 16), Emulator(seed=8)
        shared = tokens, *self.sizes
        self.place = place(*shared, 8, kv, norms=False)
        self.attends = [attend(*shared, size, 3, kv) for size in (0, window)]
        self.merge = merge(tokens, self.sizes.heads, self.sizes.head_dim, 3, None)
        self.emulator.prepare([self.place, self.merge, *self.attends])

    def seen(self, sort: int, runs: list[Tensor], first: int, q: Tensor, **given: Tensor) -> Tensor:
        """[tokens, heads, head_dim] for the runs [1, 7] of one layer."""
        at = torch.zeros(self.tokens, MOST_RUNS, RUN_FIELDS, dtype=torch.int64)
        at[:, : len(runs)] = torch.cat(runs)
        where = {
            "runs": fence(at),
            "counts": fence(torch.full((self.tokens,), len(runs), dtype=torch.int32)),
            "positions": fence(torch.arange(first, first + self.tokens, dtype=torch.int32)),
        }
        q, partial = fence(q), fenced(self.tokens, self.sizes.heads, 3, self.sizes.head_dim + 2)
        out = fenced(*q.shape)
        placed = {name: fence(tensor) for name, tensor in given.items()}
        self.emulator.run(
            [
                Launch.of(self.place, q=q, **placed, **where),
                Launch.of(self.attends[sort], q=q, partial=partial, **where),
                Launch.of(self.merge, partial=partial, out=out),
            ]
        )
        return out


def follow(kv: KVName, tokens: int, steps: int, *, window: int = 11) -> None:
    """Two caches take the same tokens, one through the kernels; forks make a second and a third run. f32 codes may
    differ in their last bit, where torch and the kernels round what they turned."""
    config = replace(small_config((FULL, SLIDING), window=window), head_dim=16)
    layers, chance = Layers(kv, tokens, window), torch.Generator().manual_seed(5)
    ours, theirs = (KVCache(config, format=kv, slack=2, at_once=4) for _ in range(2))
    for number in range(steps):
        if number in (steps // 3, steps // 2):
            # The old ones are kept: so nobody may write behind what both see.
            kept = ours, theirs
            ours, theirs = ours.fork(), theirs.fork()
        ids = [number] * tokens
        step, other = ours.begin(ids), theirs.begin(ids)
        places = step.places()
        for sort, runs in enumerate(places):
            q, k, v = (torch.randn(tokens, heads, 16, generator=chance) for heads in (4, 2, 2))
            angle = torch.rand(tokens, 4, generator=chance) * 6
            cos, sin = angle.cos(), angle.sin()
            seen = layers.seen(sort, [run[:1] for run in runs], step.first, q, k=k, v=v, cos=cos, sin=sin)
            q, k = turned(q, cos, sin, None, 0.0), turned(k, cos, sin, None, 0.0)
            wanted = other.keys(sort, k.transpose(0, 1), v.transpose(0, 1))
            expected = attention(q.double(), other.first, [_wide(run) for run in wanted], window if sort else 0)
            assert relative_error(seen, expected) < (2e-3 if FORMATS[kv].scaled else 3e-5 if kv != "f32" else 1e-6)
        step.commit()
        other.commit()
    assert len(ours.begin([0]).places()[0]) == 3 and kept


def _wide(run):
    """A run of numbers in fp64."""
    k, v = run.k.double(), run.v.double()
    if run.k_scale is not None:
        k, v = k * run.k_scale.double()[..., None], v * run.v_scale.double()[..., None]
    return run._replace(k=k, v=v, k_scale=None, v_scale=None)


def test_the_caches_own_addresses_lead_to_its_keys():
    follow("f16", 2, 13)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kv", KINDS)
@pytest.mark.parametrize("tokens", (1, 4))
def test_the_caches_addresses_in_every_format(kv, tokens):
    follow(kv, tokens, 40, window=29)


def test_geometries_that_no_block_can_have_are_refused():
    with pytest.raises(ValueError, match="cannot share"):
        attend(1, 6, 4, 128, 0, 1, "f16")
    with pytest.raises(ValueError, match="whole loads"):
        attend(1, 4, 4, 50, 0, 1, "f16")
    with pytest.raises(ValueError, match="whole loads"):
        attend(1, 4, 4, 8, 0, 1, "int8")
    with pytest.raises(ValueError, match="fit into a block"):
        attend(1, 64, 1, 256, 0, 1, "f32")
    with pytest.raises(ValueError, match="turn"):
        place(1, 4, 4, 32, 34, "f16", norms=True)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", range(4))
def test_all_small_cases_are_right_whatever_the_order_of_threads(seed):
    assert wrong(Emulator(seed=20 + seed), list(cases(None, seed=seed))) == {}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("geometry", PUBLISHED, ids=lambda geometry: geometry.name)
def test_real_layers_are_right(geometry):
    some = list(cases(geometry))
    assert {case.kernel.family for case in some} == {"attend", "merge", "place"}
    assert wrong(Emulator(), some) == {}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_is_no_number_stays_none():
    """A NaN among the keys or values that a head sees is a NaN in what it makes of them, and in no other head."""
    for name in ("k", "v"):
        case = attend_case("broken", Heads(2, 2, 16), "bf16", (Stretch(0, 70),), [Row(60, (0,))], splits=2)
        emulator = Emulator()
        emulator.prepare([case.kernel])
        given = dict(case.bind(fence))
        given[f"run0_{name}"][0, 33, 5] = torch.nan
        emulator.run([Launch.of(case.kernel, **{p.name: given[p.name] for p in case.kernel.parameters})])
        partial = given["partial"][0]
        assert bool(partial[0, 1].isnan().any()) and not bool(partial[1].isnan().any())
