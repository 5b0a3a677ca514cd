"""Grouped-query attention over keys that lie in several places and in several number formats (section 2e).

`reference` is what attention means, in plain steps: the scores of all runs are joined before the softmax, so keys that
lie in pieces give the same numbers as keys in one piece, and none is copied to be read; codes become numbers a few
thousand at a time, and their scales are applied to scores and weights, of which there are fewer. It is also the way of
decoding where torch's fused attention cannot go: over several runs, or over codes with scales.

Everything else is fused: no score is ever stored. Few queries read the keys as they are kept, the query heads of one KV
head behind one another; many queries are worth a copy of the keys in their own dtype, one head at a time. Knows no
cache and no layer.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

FEW = 16
"""Queries up to which keys are read where and as they lie: a token, or a draft."""
MASK_AT_ONCE = 1 << 22
"""Elements of the mask of one block of queries (fp32: 16 MiB); longer prompts are done in blocks."""
CODES_AT_ONCE = 2048
"""Keys of one head that become numbers at a time: with 128 dimensions 1 MiB in fp32, which stays in a core's cache."""


class KeyRun(NamedTuple):
    """Keys and values [kv_heads, n, head_dim] of consecutive positions from `start` on.

    They are numbers, or codes whose numbers are code * scale, with scales fp32 [kv_heads, n].
    """

    k: Tensor
    v: Tensor
    start: int = 0
    k_scale: Tensor | None = None
    v_scale: Tensor | None = None


def attention(q: Tensor, first: int, runs: list[KeyRun], window: int = 0) -> Tensor:
    """Attention of queries [tokens, heads, head_dim] at positions `first`, `first + 1`, ... Returns the same shape.

    A query at t sees the keys at p <= t, with a window only those with t - p < window; it must see at least one. Query
    head j reads KV head j // (heads // kv_heads). Runs are in order of position. The result is in q's dtype.
    """
    tokens = q.shape[0]
    if not tokens:
        return q
    seen = _visible(runs, first, tokens, window)
    if tokens > FEW:
        return _many(q, first, seen, window)
    if len(seen) > 1 or seen[0].k_scale is not None:
        return reference(q, first, seen, window)
    return _few(q, first, seen[0], window)


def reference(q: Tensor, first: int, runs: list[KeyRun], window: int = 0) -> Tensor:
    """What `attention` returns, step by step; every run is read to its end. Scores and softmax are fp32."""
    tokens, heads, head_dim = q.shape
    kv_heads = runs[0].k.shape[0]
    groups = heads // kv_heads
    rows = _by_kv_head(q, kv_heads)
    scores = torch.cat([_scores(rows, run) for run in runs], dim=-1) * head_dim**-0.5
    if any(_hides(run, first, tokens, window) for run in runs):
        masks = [_mask(first - run.start, tokens, run.k.shape[1], window, q.device) for run in runs]
        scores = scores + torch.cat(masks, dim=1).repeat(groups, 1)
    weights = torch.softmax(scores, dim=-1)
    out = torch.zeros_like(rows)
    at = 0
    for run in runs:
        out = out + _weighted_sum(weights[..., at : at + run.k.shape[1]], run, q.dtype)
        at += run.k.shape[1]
    return _by_query(out, tokens)


def numbers(codes: Tensor, dtype: torch.dtype) -> Tensor:
    """Stored codes, without their scales, in a dtype to compute in; exact where it has 8 bits of precision."""
    if codes.dtype != torch.float8_e4m3fn:
        return codes.to(dtype)
    # The bits of an e4m3 number, moved to where f16 has them, mean 2^-8 of it; torch's own conversion takes 20 times as
    # long. Codes that are not numbers do not occur: the scale says so then.
    bits = codes.view(torch.int8).to(torch.int16).bitwise_left_shift_(7).bitwise_and_(~0x4000)
    return bits.view(torch.float16).to(dtype).mul_(256)


def _few(q: Tensor, first: int, run: KeyRun, window: int) -> Tensor:
    tokens, kv_heads = q.shape[0], run.k.shape[0]
    rows = _by_kv_head(q, kv_heads).to(run.k.dtype)
    mask = None
    if _hides(run, first, tokens, window):
        groups = q.shape[1] // kv_heads
        mask = _few_mask(first - run.start, tokens, run.k.shape[1], window, groups, run.k.dtype, q.device)
    out = F.scaled_dot_product_attention(rows[None], run.k[None], run.v[None], attn_mask=mask)[0]
    return _by_query(out, tokens).to(q.dtype)


def _many(q: Tensor, first: int, runs: list[KeyRun], window: int) -> Tensor:
    """Blocks of queries, each over the keys that it sees; only one KV head's keys at a time are held as numbers."""
    kv_heads = runs[0].k.shape[0]
    count = sum(run.k.shape[1] for run in runs)
    # With a window a block of queries reads at most the window and itself.
    width = min(count, 2 * window) if window else count
    size = min(max(1, MASK_AT_ONCE // width), window or MASK_AT_ONCE)
    parts = []
    for at in range(0, q.shape[0], size):
        block, t = q[at : at + size], first + at
        seen = _visible(runs, t, block.shape[0], window)
        keys = sum(run.k.shape[1] for run in seen)
        mask = _mask(t - seen[0].start, block.shape[0], keys, window, q.device).to(q.dtype)
        groups = block.transpose(0, 1).chunk(kv_heads)
        by_head = []
        for head, group in enumerate(groups):
            k = torch.cat([_decoded(run.k, run.k_scale, head, q.dtype) for run in seen])
            v = torch.cat([_decoded(run.v, run.v_scale, head, q.dtype) for run in seen])
            rows, k, v = group[None], k[None, None], v[None, None]
            by_head.append(F.scaled_dot_product_attention(rows, k, v, attn_mask=mask, enable_gqa=True))
        parts.append(torch.cat(by_head, dim=1)[0].transpose(0, 1))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _visible(runs: list[KeyRun], first: int, tokens: int, window: int) -> list[KeyRun]:
    """The parts of the runs that some of the queries can see."""
    seen = []
    for k, v, start, k_scale, v_scale in runs:
        low = max(0, first - window + 1 - start) if window else 0
        high = min(k.shape[1], first + tokens - start)
        if low == 0 and high == k.shape[1]:
            seen.append(KeyRun(k, v, start, k_scale, v_scale))
        elif low < high:
            scales = [None if scale is None else scale[:, low:high] for scale in (k_scale, v_scale)]
            seen.append(KeyRun(k[:, low:high], v[:, low:high], start + low, *scales))
    return seen


def _hides(run: KeyRun, first: int, tokens: int, window: int) -> bool:
    """Whether some query must not see some key of the run."""
    return run.start + run.k.shape[1] > first + 1 or bool(window and first + tokens - run.start > window)


def _mask(ahead: int, tokens: int, keys: int, window: int, device: torch.device) -> Tensor:
    """fp32 [tokens, keys] to add to scores: -inf where query i, which is `ahead` + i positions after key 0, must not
    see key j."""
    distance = torch.arange(ahead, ahead + tokens, device=device)[:, None] - torch.arange(keys, device=device)
    hidden = (distance < 0) | (distance >= window) if window else distance < 0
    return torch.zeros(tokens, keys, device=device).masked_fill_(hidden, float("-inf"))


@lru_cache(maxsize=4)
def _few_mask(
    ahead: int, tokens: int, keys: int, window: int, groups: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """The mask for rows of `_by_kv_head`; all layers of a step need the same."""
    return _mask(ahead, tokens, keys, window, device).to(dtype).repeat(groups, 1)


def _by_kv_head(q: Tensor, kv_heads: int) -> Tensor:
    """[tokens, heads, head_dim] -> [kv_heads, groups * tokens, head_dim]: what reads the same keys stands together."""
    tokens, heads, head_dim = q.shape
    if tokens == 1:
        return q.view(kv_heads, heads // kv_heads, head_dim)
    grouped = q.view(tokens, kv_heads, heads // kv_heads, head_dim).permute(1, 2, 0, 3)
    return grouped.reshape(kv_heads, -1, head_dim)


def _by_query(rows: Tensor, tokens: int) -> Tensor:
    """What `_by_kv_head` made, back."""
    kv_heads, count, head_dim = rows.shape
    if tokens == 1:
        return rows.reshape(1, kv_heads * count, head_dim)
    grouped = rows.view(kv_heads, count // tokens, tokens, head_dim).permute(2, 0, 1, 3)
    return grouped.reshape(tokens, -1, head_dim)


def _scores(rows: Tensor, run: KeyRun) -> Tensor:
    """fp32 [kv_heads, rows, n]."""
    if run.k.dtype == rows.dtype:
        products = torch.matmul(rows, run.k.transpose(1, 2)).float()
    else:
        heads = zip(rows, run.k, strict=True)
        by_head = [
            torch.cat([head @ numbers(part, rows.dtype).T for part in codes.split(CODES_AT_ONCE)], dim=-1)
            for head, codes in heads
        ]
        products = torch.stack(by_head).float()
    return products if run.k_scale is None else products * run.k_scale[:, None]


def _weighted_sum(weights: Tensor, run: KeyRun, dtype: torch.dtype) -> Tensor:
    """Values summed with fp32 weights [kv_heads, rows, n]: [kv_heads, rows, head_dim] in `dtype`."""
    if run.v_scale is not None:
        weights = weights * run.v_scale[:, None]
    weights = weights.to(dtype)
    if run.v.dtype == dtype:
        return torch.matmul(weights, run.v)
    out = weights.new_zeros(*weights.shape[:2], run.v.shape[-1])
    for head, codes in enumerate(run.v):
        for at in range(0, codes.shape[0], CODES_AT_ONCE):
            part = numbers(codes[at : at + CODES_AT_ONCE], dtype)
            out[head].addmm_(weights[head, :, at : at + CODES_AT_ONCE], part)
    return out


def _decoded(codes: Tensor, scale: Tensor | None, head: int, dtype: torch.dtype) -> Tensor:
    """The numbers of one head of codes [kv_heads, n, head_dim]: [n, head_dim]."""
    plain = numbers(codes[head], dtype)
    return plain if scale is None else plain.mul_(scale[head, :, None])
