"""The arithmetic of a pass that is learned from: the picked experts, and attention, with their gradients.

Autograd over `reference` is right and slow: each slice of a stack of experts costs a gradient as large as the stack,
and attention is called for one sequence and one head at a time. Here the pairs of token and expert are sorted once,
each expert is one product forward and two backward, written into one stack; and sequences of like length are one call.
The results equal those of `reference` and `attention` but for the order of sums. Knows tensors; must not know layers.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

STEPS = 4
"""Lengths in an octave to which sequences are padded so that they can share a call: at most a quarter is padding."""


def experts(x: Tensor, gate_up: Tensor, down: Tensor, picked: Tensor, share: Tensor) -> Tensor:
    """What `reference.experts` gives, for plain weights; shapes as there. Products are made in x's dtype."""
    out: Tensor = _Experts.apply(x, gate_up.to(x.dtype), down.to(x.dtype), picked, share)  # type: ignore[no-untyped-call]
    return out


class _Experts(torch.autograd.Function):
    """Pairs of token and expert stand in the order of experts; `inverse` finds a token's own again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate_up: Tensor, down: Tensor, picked: Tensor, share: Tensor) -> Tensor:
        pairs = picked.flatten()
        order = torch.argsort(pairs, stable=True)
        inverse = torch.empty_like(order)
        inverse[order] = torch.arange(len(order), device=order.device)
        counts = torch.bincount(pairs, minlength=len(gate_up)).tolist()
        rows = x[order // picked.shape[1]]
        inner = _products(rows, gate_up.transpose(1, 2), counts)
        gate, up = inner.chunk(2, dim=-1)
        y = _products(F.silu(gate) * up, down.transpose(1, 2), counts)
        ctx.counts = counts
        ctx.save_for_backward(x, gate_up, down, share, order, inverse, inner)
        by_token = y[inverse].view(*picked.shape, y.shape[-1])
        return torch.bmm(share[:, None], by_token)[:, 0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, gate_up, down, share, order, inverse, inner = ctx.saved_tensors
        counts, token = ctx.counts, order // share.shape[1]
        arrived = gradient[token]
        gate, up = inner.chunk(2, dim=-1)
        active = F.silu(gate) * up
        weight = share.flatten()[order][:, None]
        # <g, W a> = <W^T g, a>: so what an expert said need not be kept to know how its share should change.
        back = _products(arrived, down, counts)
        d_share = (back * active).sum(-1)[inverse].view_as(share) if ctx.needs_input_grad[4] else None
        d_down = _outer(arrived, active.mul_(weight), counts) if ctx.needs_input_grad[2] else None
        back.mul_(weight)
        d_inner = torch.empty_like(inner)
        d_gate, d_up = d_inner.chunk(2, dim=-1)
        torch.mul(back, F.silu(gate), out=d_up)
        d_gate.copy_(torch.ops.aten.silu_backward(back.mul_(up), gate))
        d_gate_up = _outer(d_inner, x[token], counts) if ctx.needs_input_grad[1] else None
        d_x = None
        if ctx.needs_input_grad[0]:
            d_x = _products(d_inner, gate_up, counts)[inverse].view(*share.shape, x.shape[-1]).sum(1)
        return d_x, d_gate_up, d_down, None, d_share


def _products(rows: Tensor, stack: Tensor, counts: list[int]) -> Tensor:
    """Each expert's rows [n, a] times its matrix of stack [E, a, b]: [all n, b]."""
    out = rows.new_empty(len(rows), stack.shape[-1])
    at = 0
    for expert, count in enumerate(counts):
        if count:
            torch.mm(rows[at : at + count], stack[expert], out=out[at : at + count])
        at += count
    return out


def _outer(left: Tensor, right: Tensor, counts: list[int]) -> Tensor:
    """Each expert's rows of left [n, a] and right [n, b], summed as products: [E, a, b]; 0 where nobody came."""
    out = left.new_empty(len(counts), left.shape[-1], right.shape[-1])
    at = 0
    for expert, count in enumerate(counts):
        if count:
            torch.mm(left[at : at + count].T, right[at : at + count], out=out[expert])
        else:
            out[expert].zero_()
        at += count
    return out


def attention(q: Tensor, k: Tensor, v: Tensor, lengths: tuple[int, ...], window: int = 0) -> Tensor:
    """Attention of whole sequences behind one another, each over its own keys: [tokens, heads, head_dim].

    q [tokens, heads, head_dim], k and v [tokens, kv_heads, head_dim]; `lengths` (each positive) sum to tokens. Who sees
    what is as in `kernels.attention.attention`. Sequences of like length go together, padded at their ends, where no
    token of theirs looks; with a window, a long one is cut into blocks that see themselves and the one before.
    """
    layout = _layout(lengths, window, q.device)
    if layout.source is not None:
        q, k, v = (_Padded.apply(part, layout) for part in (q, k, v))  # type: ignore[no-untyped-call]
    parts, at = [], 0
    for count, length in layout.groups:
        rows = slice(at, at + count * length)
        a, b, c = (part[rows].view(count, length, *part.shape[1:]).transpose(1, 2) for part in (q, k, v))
        seen = _banded(a, b, c, window) if window and length > window else _causal(a, b, c)
        parts.append(seen.transpose(1, 2).reshape(count * length, *q.shape[1:]))
        at = rows.stop
    out = parts[0] if len(parts) == 1 else torch.cat(parts)
    if layout.source is not None:
        out = _Unpadded.apply(out, layout)  # type: ignore[no-untyped-call]
    return out


def _causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """[n, heads, length, head_dim] over [n, kv_heads, length, head_dim]."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def _banded(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """`_causal` with a window that divides the length: half the products at two windows, a quarter at four."""
    count, _, length, dim = q.shape
    blocks = length // window
    first = _causal(*(part[:, :, :window] for part in (q, k, v)))
    # [n, heads, blocks, window, dim] -> [n * blocks, heads, ...]: blocks are sequences of their own.
    apart = [part.reshape(count, -1, blocks, window, dim).transpose(1, 2) for part in (q, k, v)]
    queries = apart[0][:, 1:].flatten(0, 1)
    keys, values = (torch.cat((part[:, :-1], part[:, 1:]), dim=3).flatten(0, 1) for part in apart[1:])
    mask = _band(window, q.dtype, q.device)
    rest = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, enable_gqa=True)
    rest = rest.view(count, blocks - 1, -1, window, dim).transpose(1, 2).reshape(count, -1, length - window, dim)
    return torch.cat((first, rest), dim=2)


@lru_cache(maxsize=4)
def _band(window: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[window, 2 * window] to add to scores: a block's queries over the block before and their own."""
    distance = torch.arange(window, 2 * window, device=device)[:, None] - torch.arange(2 * window, device=device)
    hidden = (distance < 0) | (distance >= window)
    return torch.zeros(window, 2 * window, dtype=dtype, device=device).masked_fill_(hidden, float("-inf"))


class _Layout(NamedTuple):
    """How sequences are grouped: (sequences, padded length) of each group. Padded row i is a copy of row `source`[i],
    row i stands at `back`[i] of the padded ones, `real` [padded, 1, 1] is 0 at padding. None: they lie as they must."""

    groups: tuple[tuple[int, int], ...]
    source: Tensor | None = None
    back: Tensor | None = None
    real: Tensor | None = None


# All layers of a pass ask for the same one or two.
@lru_cache(maxsize=8)
def _layout(lengths: tuple[int, ...], window: int, device: torch.device) -> _Layout:
    classes: dict[int, list[int]] = {}
    for index, length in enumerate(lengths):
        classes.setdefault(_class(length, window), []).append(index)
    begins = [0, *torch.tensor(lengths).cumsum(0).tolist()]
    groups, source, real, order = [], [], [], []
    for size, members in sorted(classes.items()):
        length = size if window and size > window else max(lengths[index] for index in members)
        groups.append((len(members), length))
        order += members
        for index in members:
            places = torch.arange(length)
            real.append(places < lengths[index])
            source.append(begins[index] + places.clamp(max=lengths[index] - 1))
    rows, kept = torch.cat(source), torch.cat(real)
    if torch.equal(rows, torch.arange(begins[-1])):
        return _Layout(tuple(groups))
    back = torch.empty(begins[-1], dtype=torch.int64)
    back[rows[kept]] = kept.nonzero()[:, 0]
    return _Layout(tuple(groups), rows.to(device), back.to(device), kept[:, None, None].to(device))


def _class(length: int, window: int) -> int:
    """The most tokens that sequences which share a call with this one may have."""
    if window and length > window:
        return -(-length // window) * window
    step = max(1, 1 << length.bit_length() - 1 >> STEPS.bit_length() - 1)
    return -(-length // step) * step


class _Padded(torch.autograd.Function):
    """Rows where the layout wants them. Padding repeats a last token: finite, and seen by nobody."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, layout: _Layout) -> Tensor:
        ctx.layout = layout
        assert layout.source is not None
        return rows.index_select(0, layout.source)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.index_select(0, ctx.layout.back), None


class _Unpadded(torch.autograd.Function):
    """Rows back in their own order, without padding, which no gradient reaches."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, layout: _Layout) -> Tensor:
        ctx.layout = layout
        assert layout.back is not None
        return rows.index_select(0, layout.back)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.index_select(0, ctx.layout.source).mul_(ctx.layout.real), None
