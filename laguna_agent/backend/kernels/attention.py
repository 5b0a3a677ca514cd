"""Grouped-query attention over keys that lie in several places; the reference for faster kernels (section 2e).

Scores of all runs are joined before the softmax, so a sequence whose keys are shared with others in pieces gives the
same numbers as one whose keys lie in one piece, and no key is copied to be read. Knows no cache and no layer.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

SCORES_AT_ONCE = 1 << 24
"""How many scores are computed at a time (fp32: 64 MiB); longer prompts are done in blocks of queries."""

HIDDEN = 1 << 62
"""The position of a slot that holds no key: after every query, so no query sees it."""


class KeyRun(NamedTuple):
    """Keys and values [kv_heads, n, head_dim]. Key i is at position `start + i`, or at `positions[i]` where given."""

    k: Tensor
    v: Tensor
    start: int = 0
    positions: Tensor | None = None


def attention(q: Tensor, first: int, runs: list[KeyRun], window: int = 0) -> Tensor:
    """Attention of queries [tokens, heads, head_dim] at positions `first`, `first + 1`, ... Returns the same shape.

    A query at t sees the keys at p <= t, with a window only those with t - p < window; it must see at least one. Query
    head j reads KV head j // (heads // kv_heads). Scores and softmax are fp32, the rest is in q's dtype.
    """
    tokens, heads, _ = q.shape
    if not tokens:
        return q
    # With a window a block of queries reads at most the window and itself, whatever the length.
    keys = sum(run.k.shape[1] for run in runs)
    block = max(1, SCORES_AT_ONCE // (heads * keys))
    if window and block < tokens:
        block = max(block, min(window, SCORES_AT_ONCE // (heads * 2 * window)))
    parts = [_block(q[at : at + block], first + at, runs, window) for at in range(0, tokens, block)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _block(q: Tensor, first: int, runs: list[KeyRun], window: int) -> Tensor:
    tokens, heads, head_dim = q.shape
    seen = [part for run in runs if (part := _visible(run, first, tokens, window)).k.shape[1]]
    kv_heads = seen[0].k.shape[0]
    rows = q.view(tokens, kv_heads, heads // kv_heads, head_dim).permute(1, 2, 0, 3).reshape(kv_heads, -1, head_dim)
    scores = torch.cat([torch.matmul(rows, run.k.transpose(1, 2)).float() for run in seen], dim=-1) * head_dim**-0.5
    mask = _mask(seen, first, tokens, window, q.device)
    if mask is not None:
        by_query = scores.view(kv_heads, heads // kv_heads, tokens, -1)
        scores = by_query.masked_fill(~mask, float("-inf")).view_as(scores)
    weights = torch.softmax(scores, dim=-1).to(q.dtype)
    pieces = torch.split(weights, [run.k.shape[1] for run in seen], dim=-1)
    out = torch.matmul(pieces[0], seen[0].v)
    for piece, run in zip(pieces[1:], seen[1:], strict=True):
        out = out + torch.matmul(piece, run.v)
    return out.view(kv_heads, heads // kv_heads, tokens, head_dim).permute(2, 0, 1, 3).reshape(tokens, heads, head_dim)


def _visible(run: KeyRun, first: int, tokens: int, window: int) -> KeyRun:
    """The part of a run of consecutive keys that some query of the block can see."""
    if run.positions is not None:
        return run
    low = max(0, first - window + 1 - run.start) if window else 0
    high = max(low, min(run.k.shape[1], first + tokens - run.start))
    return KeyRun(run.k[:, low:high], run.v[:, low:high], run.start + low)


def _mask(runs: list[KeyRun], first: int, tokens: int, window: int, device: torch.device) -> Tensor | None:
    """Which of the joined keys each query sees: bool [tokens, keys]; None where every query sees all."""
    if all(run.positions is None and run.start + run.k.shape[1] <= first + 1 for run in runs) and (
        not window or tokens == 1
    ):
        return None
    places = [
        run.positions
        if run.positions is not None
        else torch.arange(run.start, run.start + run.k.shape[1], device=device)
        for run in runs
    ]
    p = torch.cat(places)[None, :]
    t = torch.arange(first, first + tokens, device=device)[:, None]
    seen = p <= t
    return seen & (t - p < window) if window else seen
