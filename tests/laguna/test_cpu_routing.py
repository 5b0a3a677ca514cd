"""Which experts a token gets, against the router's own steps in torch: ties above all."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from laguna_agent.backend.kernels.cpu.abi import DONE, NO_SUCH_INDEX, Routing
from laguna_agent.backend.kernels.cpu.library import library

INF, NAN = math.inf, math.nan


def answer(asked: Routing) -> int:
    opened = library().opened
    assert opened is not None
    return int(opened.laguna_routing(asked))


def routed(
    logits: Tensor, bias: Tensor | None, k: int, normalize: bool = False, softcap: float = 0.0
) -> tuple[Tensor, Tensor]:
    tokens, experts = logits.shape
    changed = logits.clone()
    picked, share = torch.full((tokens, k), -1, dtype=torch.int32), torch.full((tokens, k), -7.0)
    pointers = (changed.data_ptr(), None if bias is None else bias.data_ptr(), picked.data_ptr(), share.data_ptr())
    assert answer(Routing(*pointers, tokens, experts, k, normalize, softcap)) == DONE
    return picked, share


def by_torch(logits: Tensor, bias: Tensor, k: int, normalize: bool, softcap: float) -> tuple[Tensor, Tensor]:
    """Section 2i, then in ascending order of experts."""
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    scores = torch.sigmoid(logits)
    picked = torch.topk(scores + bias, k).indices.sort().values
    share = scores.gather(-1, picked)
    return picked.int(), share / share.sum(-1, keepdim=True) if normalize else share


@given(data=st.data())
@settings(max_examples=60)
def test_torch_s_choice_among_very_many_ties(data, variant):
    """Scores are all one half, so the bias alone decides, bit for bit; few different ones make ties."""
    experts = data.draw(st.integers(1, 300))
    k = data.draw(st.one_of(st.integers(1, experts), st.integers(1, max(1, experts // 64))))
    levels = data.draw(st.lists(st.sampled_from([0.0, 0.5, -0.5, 1.0, 7.0, INF, -INF, NAN]), min_size=1, max_size=4))
    seed = data.draw(st.integers(0, 1 << 20))
    chosen = torch.randint(len(levels), (8, experts), generator=torch.Generator().manual_seed(seed))
    table = torch.tensor(levels)[chosen]
    for bias in (*table, table[0].sort().values, table[0].sort(descending=True).values):
        picked, _ = routed(torch.zeros(1, experts), bias.contiguous(), k)
        expected = torch.topk(torch.full((1, experts), 0.5) + bias, k).indices.sort().values
        assert torch.equal(picked.long(), expected)


def test_all_numbers_of_experts_and_of_picked(variant):
    generator = torch.Generator().manual_seed(3)
    for experts in range(1, 301, 1 if variant == "portable" else 13):
        bias = torch.randint(3, (experts,), generator=generator).float()
        for k in {1, 2, 3, experts // 64, experts // 64 + 1, 8, experts // 2, experts - 1, experts}:
            if 1 <= k <= experts:
                picked, _ = routed(torch.zeros(1, experts), bias, k)
                expected = torch.topk(torch.full((1, experts), 0.5) + bias, k).indices.sort().values
                assert torch.equal(picked.long(), expected), (experts, k)


def a_killer_of_medians(n: int) -> Tensor:
    """An order in which the middle one of three is always a bad pivot, so that the heap must help out."""
    values = torch.zeros(n)
    half = n // 2
    for i in range(half):
        values[2 * i], values[2 * i + 1] = (i + 1, half + i + 1) if i % 2 == 0 else (half + i + 1, i + 1)
    return values


@pytest.mark.parametrize("experts", [64, 200, 256, 1024])
def test_orders_that_make_pivots_useless(experts, variant):
    rising = torch.arange(experts).float()
    killer = a_killer_of_medians(experts)
    for values in (rising, rising.flip(0), killer, -killer, (rising - experts // 2).abs(), rising % 7, killer // 8):
        for k in (experts // 64 + 1, experts // 4, experts // 2, experts - 2):
            picked, _ = routed(torch.zeros(1, experts), values.contiguous(), k)
            assert torch.equal(picked[0].long(), torch.topk(values + 0.5, k).indices.sort().values)


@given(
    tokens=st.integers(0, 5),
    experts=st.integers(1, 70),
    normalize=st.booleans(),
    softcap=st.sampled_from([0.0, 1.5, 30.0]),
    scale=st.sampled_from([1.0, 8.0, 50.0]),
    seed=st.integers(0, 1 << 20),
)
def test_shares(tokens, experts, normalize, softcap, scale, seed, variant):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(tokens, experts, generator=generator)
    bias = torch.randn(experts, generator=generator)
    k = 1 + seed % min(experts, 10)
    picked, share = routed(logits, bias, k, normalize, softcap)
    expected, shares = by_torch(logits, bias, k, normalize, softcap)
    assert torch.equal(picked, expected)
    torch.testing.assert_close(share, shares, rtol=5e-6, atol=1e-38, equal_nan=True)


@given(
    logits=st.lists(st.sampled_from([NAN, INF, -INF, 0.0, 3.0, -200.0]), min_size=1, max_size=40),
    normalize=st.booleans(),
    wanted=st.integers(1, 40),
)
def test_what_is_no_number_still_gets_distinct_experts(logits, normalize, wanted, variant):
    k, given_logits = min(wanted, len(logits)), torch.tensor([logits])
    picked, share = routed(given_logits, None, k, normalize)
    expected, shares = by_torch(given_logits, torch.zeros(len(logits)), k, normalize, 0.0)
    # Ascending and so distinct.
    assert torch.equal(picked, expected) and (picked.diff() > 0).all()
    torch.testing.assert_close(share, shares, rtol=1e-6, atol=1e-37, equal_nan=True)


@pytest.mark.parametrize("k", [0, -1, 5])
def test_a_choice_that_cannot_be_made(k, variant):
    logits = torch.zeros(1, 4)
    asked = Routing(logits.data_ptr(), None, logits.data_ptr(), logits.data_ptr(), 1, 4, k, 0, 0.0)
    assert answer(asked) == NO_SUCH_INDEX
