"""The compiled attention against `attention.reference` in fp64, on every variant that runs here."""

from __future__ import annotations

import ctypes
import itertools
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from laguna_agent.backend.kernels.attention import KeyRun, numbers, reference
from laguna_agent.backend.kernels.cpu import abi
from tests.laguna.kernel_variants import opened, using
from tests.laguna.processor import variants_here

KINDS = {"f32": abi.KV_F32, "f16": abi.KV_F16, "bf16": abi.KV_BF16, "int8": abi.KV_INT8}
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16, "int8": torch.int8}
RELATIVE = 1e-5
"""Of the largest output: what fp32 may differ from fp64 on the same stored numbers."""


class Span(NamedTuple):
    """Queries [tokens, heads, dim] from position `first` on, and the runs that hold their keys."""

    q: Tensor
    first: int
    runs: list[KeyRun]


def ours(spans: list[Span], *, kind: str, kv_heads: int, window: int = 0, threads: int = 2) -> Tensor:
    """The library's answer for all spans, [tokens, heads, dim], in the variant that is chosen."""
    q = torch.cat([span.q for span in spans])
    out = torch.full_like(q, 77.0)
    edges = [0, *itertools.accumulate(len(span.q) for span in spans)]
    runs = [run for span in spans for run in span.runs]
    given = abi.Attention(
        q.data_ptr(),
        out.data_ptr(),
        (abi.Span * len(spans))(*[(edges[i], edges[i + 1], span.first) for i, span in enumerate(spans)]),
        (ctypes.c_int32 * len(spans))(*[len(span.runs) for span in spans]),
        (abi.Run * len(runs))(*[raw(run) for run in runs]),
        len(q),
        len(spans),
        q.shape[1],
        kv_heads,
        q.shape[2],
        window,
        KINDS[kind],
        threads,
    )
    assert opened().laguna_attention(ctypes.byref(given)) == abi.DONE
    return out


def raw(run: KeyRun) -> abi.Run:
    """The struct of a run whose tensors are views of [kv_heads, capacity, dim]."""
    scales = (None if scale is None else scale.data_ptr() for scale in (run.k_scale, run.v_scale))
    capacity = run.k.stride(0) // run.k.shape[2]
    return abi.Run(run.k.data_ptr(), run.v.data_ptr(), *scales, capacity, run.start, run.k.shape[1])


def exact(spans: list[Span], window: int = 0) -> Tensor:
    """The reference in fp64 on the same stored numbers, all of them."""

    def wide(run: KeyRun) -> KeyRun:
        parts = ((run.k, run.k_scale), (run.v, run.v_scale))
        k, v = (numbers(x, torch.float64) * (1 if s is None else s.double()[..., None]) for x, s in parts)
        return KeyRun(k, v, run.start)

    found = [reference(span.q.double(), span.first, [wide(run) for run in span.runs], window) for span in spans]
    return torch.cat(found)


def stored(x: Tensor, kind: str) -> tuple[Tensor, Tensor | None]:
    """`x` [kv_heads, n, dim] as the cache keeps it, in a buffer with room behind it that holds no numbers."""
    scale = None
    if kind == "int8":
        scale = roomy((x.abs().amax(dim=2) / 127).clamp(min=1e-6), float("nan"))
        x = (x / scale[..., None]).round()
    return roomy(x.to(DTYPES[kind]), 99 if kind == "int8" else float("nan")), scale


def roomy(x: Tensor, beyond: float) -> Tensor:
    buffer = torch.full((x.shape[0], x.shape[1] + 3, *x.shape[2:]), beyond, dtype=x.dtype)
    buffer[:, : x.shape[1]] = x
    return buffer[:, : x.shape[1]]


def a_span(tokens: int, past: int, start: int, cuts: list[int], shape: tuple[int, int, int], kind: str) -> Span:
    """Random queries after `past` keys, the first of them at `start`; a run ends and the next begins at each cut."""
    heads, kv_heads, dim = shape
    count = past + tokens
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < count}), count]
    k, v = (torch.randn(kv_heads, count, dim) for _ in range(2))
    runs = []
    for low, high in itertools.pairwise(edges):
        (codes_k, scale_k), (codes_v, scale_v) = (stored(x[:, low:high], kind) for x in (k, v))
        runs.append(KeyRun(codes_k, codes_v, start + low, scale_k, scale_v))
    return Span(torch.randn(tokens, heads, dim) * 2, start + past, runs)


def close(found: Tensor, expected: Tensor) -> None:
    assert torch.isfinite(found).all()
    assert (found - expected).abs().max() <= RELATIVE * expected.abs().max()


SHAPES = [
    (1, 1, 1),
    (3, 1, 5),
    (6, 2, 16),
    (12, 2, 33),
    (8, 1, 128),
    (5, 5, 47),
    (2, 1, 257),
    (6, 1, 64),
    (8, 2, 192),
    (7, 1, 64),
]
SPANS = st.tuples(
    st.sampled_from([1, 2, 3, 7, 16, 17, 33, 70]),
    st.sampled_from([0, 1, 15, 16, 40, 127, 128, 260]),
    st.integers(0, 30),
    st.lists(st.integers(1, 300), max_size=3),
)


@settings(max_examples=40)
@given(
    spans=st.lists(SPANS, min_size=1, max_size=3),
    shape=st.sampled_from(SHAPES),
    window=st.sampled_from([0, 1, 2, 16, 31, 130]),
    kind=st.sampled_from(list(KINDS)),
    seed=st.integers(0, 1 << 16),
)
def test_every_variant_is_the_reference(spans, shape, window, kind, seed):
    torch.manual_seed(seed)
    made = [a_span(*span, shape, kind) for span in spans]
    expected = exact(made, window)
    for variant in variants_here():
        with using(variant):
            one, two, three = (
                ours(made, kind=kind, kv_heads=shape[1], window=window, threads=threads) for threads in (1, 2, 3)
            )
        close(one, expected)
        assert torch.equal(one, two) and torch.equal(one, three)


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("tokens", [1, 5, 20])
def test_keys_in_pieces_are_merged(kind, tokens):
    torch.manual_seed(3)
    # Few rows are cut every 1024 keys, 80 rows every 4096; a window leaves odd counts.
    made = [a_span(tokens, 4500, 7, [1000, 1001, 3333], (8, 2, 32), kind), a_span(1, 3, 0, [], (8, 2, 32), kind)]
    for window in (0, 2500):
        expected = exact(made, window)
        for variant in variants_here():
            with using(variant):
                close(ours(made, kind=kind, kv_heads=2, window=window), expected)


def test_chunks_and_single_tokens_agree():
    torch.manual_seed(4)
    q, first, [run] = a_span(150, 0, 0, [], (12, 2, 64), "f16")
    whole = ours([Span(q, first, [run])], kind="f16", kv_heads=2, window=90)
    for size in (1, 16, 64):
        parts = []
        for at in range(0, 150, size):
            end = min(150, at + size)
            cut = KeyRun(run.k[:, :end], run.v[:, :end], 0)
            parts.append(ours([Span(q[at:end].contiguous(), at, [cut])], kind="f16", kv_heads=2, window=90))
        close(torch.cat(parts), whole)


@pytest.mark.parametrize("tokens", [1, 40])
def test_large_scores_do_not_overflow(tokens):
    torch.manual_seed(5)
    made = [a_span(tokens, 300, 0, [], (4, 2, 32), "f32")]
    made = [Span(made[0].q * 1000, made[0].first, made[0].runs)]
    expected = exact(made)
    for variant in variants_here():
        with using(variant):
            found = ours(made, kind="f32", kv_heads=2)
        # Scores of thousands have errors of some 1e-4, and so have the weights.
        assert torch.isfinite(found).all()
        assert (found - expected).abs().max() <= 2e-3 * expected.abs().max()


@pytest.mark.parametrize("tokens", [1, 40])
@pytest.mark.parametrize("where", ["q", "k", "v"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_is_seen(tokens, where, bad):
    torch.manual_seed(6)
    q, first, [run] = a_span(tokens, 200, 0, [], (4, 2, 32), "f32")
    if where == "q":
        q[:, 0, 3] = bad
    else:
        getattr(run, where)[0, 20, 3] = bad
    for variant in variants_here():
        with using(variant):
            out = ours([Span(q, first, [run])], kind="f32", kv_heads=2)
        spoilt = out[:, 0]
        if where == "v":
            assert not torch.isfinite(spoilt[:, 3]).any()
        elif bad != bad or where == "q":
            assert spoilt.isnan().all()
        else:
            # A score of infinity is no weight; one of minus infinity is a weight of 0.
            score = q[:, 0, 3] > 0
            assert spoilt[score].isnan().all() and torch.isfinite(spoilt[~score]).all()
        # The other KV head's queries saw nothing of it.
        assert torch.isfinite(out[:, 2:]).all()


def test_nonsense_is_refused():
    span = a_span(1, 3, 0, [], (4, 2, 8), "f32")
    given = abi.Attention(span.q.data_ptr(), span.q.data_ptr(), tokens=1, heads=4, kv_heads=3, head_dim=8, threads=1)
    assert opened().laguna_attention(ctypes.byref(given)) == abi.NO_SUCH_INDEX
