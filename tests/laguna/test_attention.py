"""Attention against a loop over single queries, and the formats that keys are kept in."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from laguna_agent.backend.kernels import attention as attention_kernel
from laguna_agent.backend.kernels.attention import KeyRun, attention, numbers, reference
from laguna_agent.backend.laguna.cache_format import FORMATS, KVFormatName

RELATIVE = {"f32": 0.0, "f16": 2.0**-11, "bf16": 2.0**-8, "fp8": 2.0**-4}
"""Largest rounding error of a number, as a share of it."""


def one_by_one(q: Tensor, first: int, k: Tensor, v: Tensor, start: int, window: int) -> Tensor:
    """Attention in the plainest words: every query and head alone, its keys picked by position."""
    tokens, heads, dim = q.shape
    out = torch.zeros_like(q)
    for token in range(tokens):
        t = first + token
        seen = [at for at in range(k.shape[1]) if start + at <= t and (not window or t - start - at < window)]
        for head in range(heads):
            kv = head * k.shape[0] // heads
            share = torch.softmax(k[kv, seen] @ q[token, head] * dim**-0.5, dim=0)
            out[token, head] = share @ v[kv, seen]
    return out


@settings(max_examples=60)
@given(
    tokens=st.sampled_from([1, 2, 7, 16, 17, 40]),
    past=st.integers(0, 50),
    start=st.integers(0, 30),
    window=st.sampled_from([0, 1, 2, 5, 16, 17, 60]),
    heads=st.sampled_from([(2, 2), (6, 2), (3, 1)]),
    cuts=st.lists(st.integers(0, 90), max_size=3),
    mask_at_once=st.sampled_from([1, 300, 1 << 22]),
    seed=st.integers(0, 1 << 16),
)
def test_every_way_is_the_loop(
    tokens: int,
    past: int,
    start: int,
    window: int,
    heads: tuple[int, int],
    cuts: list[int],
    mask_at_once: int,
    seed: int,
) -> None:
    source = torch.Generator().manual_seed(seed)
    q = torch.randn(tokens, heads[0], 5, generator=source)
    k, v = (torch.randn(heads[1], past + tokens, 5, generator=source) for _ in range(2))
    first = start + past
    expected = one_by_one(q, first, k, v, start, window)
    edges = [0, *sorted(min(cut, past + tokens) for cut in cuts), past + tokens]
    runs = [KeyRun(k[:, a:b], v[:, a:b], start + a) for a, b in itertools.pairwise(edges) if a < b]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention_kernel, "MASK_AT_ONCE", mask_at_once)
        torch.testing.assert_close(attention(q, first, runs, window), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(reference(q, first, runs, window), expected, atol=1e-5, rtol=1e-5)


def decoded(name: KVFormatName, x: Tensor) -> Tensor:
    """What the format makes of numbers."""
    codes, *scale = FORMATS[name].encode(x)
    plain = numbers(codes, torch.float32)
    return plain * scale[0][..., None] if scale else plain


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("tokens", [1, 5, 40])
@pytest.mark.parametrize("pieces", [[0, 60], [0, 13, 60]])
def test_kept_keys_are_read_as_the_numbers_they_stand_for(
    name: KVFormatName, tokens: int, pieces: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_kernel, "CODES_AT_ONCE", 7)
    source = torch.Generator().manual_seed(3)
    q = torch.randn(tokens, 6, 8, generator=source)
    k, v = (torch.randn(2, 60, 8, generator=source) * 3 for _ in range(2))
    runs = []
    for a, b in itertools.pairwise(pieces):
        (kc, *ks), (vc, *vs) = FORMATS[name].encode(k[:, a:b]), FORMATS[name].encode(v[:, a:b])
        runs.append(KeyRun(kc, vc, a, *ks, *vs))
    expected = one_by_one(q, 60 - tokens, decoded(name, k), decoded(name, v), 0, 0)
    # Few queries over 16-bit keys are rounded to 16 bits themselves.
    near = {"f16": 5e-3, "bf16": 4e-2}.get(name, 2e-5)
    torch.testing.assert_close(attention(q, 60 - tokens, runs), expected, atol=near, rtol=near)
    torch.testing.assert_close(reference(q, 60 - tokens, runs), expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", FORMATS)
def test_how_far_a_format_rounds(name: KVFormatName) -> None:
    x = torch.randn(3, 50, 128, generator=torch.Generator().manual_seed(4))
    x[0, 0] = 0
    x[1, 1] *= 1e-6
    largest = x.abs().amax(-1, keepdim=True)
    error = (decoded(name, x) - x).abs()
    if name == "int8":
        assert (error <= largest / 254 * 1.0001).all()
    else:
        # The smallest numbers of a token are rounded to the format's smallest step.
        smallest = {"f16": torch.tensor(2.0**-25), "fp8": largest / 448 * 2.0**-10}.get(name, torch.tensor(0.0))
        assert (error <= RELATIVE[name] * x.abs() * 1.0001 + smallest).all()
    assert decoded(name, x)[0, 0].abs().max() == 0


def test_every_code_of_fp8_is_its_number() -> None:
    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)
    exact = codes.float()
    finite = exact.isfinite()
    assert finite.sum() == 254
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert torch.equal(numbers(codes, dtype)[finite].float(), exact[finite])


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_too_large_is_clamped_and_what_is_no_number_stays_none(name: KVFormatName) -> None:
    x = torch.tensor([[[70000.0, -1e6, 1.0, 0.0]], [[float("nan"), 1.0, 2.0, 3.0]]])
    found = decoded(name, x)
    assert found[0].isfinite().all()
    assert found[1].isnan().any()
    if name == "f16":
        assert found[0, 0].tolist() == [65504.0, -65504.0, 1.0, 0.0]


def test_the_fewest_bytes() -> None:
    assert {name: format.token_bytes(128) for name, format in FORMATS.items()} == {
        "f32": 512,
        "f16": 256,
        "bf16": 256,
        "int8": 132,
        "fp8": 132,
    }
