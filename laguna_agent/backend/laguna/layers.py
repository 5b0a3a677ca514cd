"""The blocks of a decoder layer, for Laguna and for dense Qwen2 (section 2).

Every block takes the tokens of a whole batch packed into one axis, [tokens, hidden]; only attention knows where one
sequence ends. Parameter names equal the names in the checkpoints (section 5, hub layout, experts stacked). Knows
configs and kernels; must not know files, sampling or how a cache stores its keys.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laguna_agent.backend.kernels import training
from laguna_agent.backend.kernels.attention import KeyRun, attention
from laguna_agent.backend.laguna.config import ModelConfig
from laguna_agent.backend.laguna.holders import Experts, Linear
from laguna_agent.backend.laguna.rope import Rotation, rotate


class Span(Protocol):
    """The tokens of one sequence within a batch: rows `begin` to `end`, the first of them at position `first`."""

    begin: int
    end: int
    first: int

    def keys(self, layer: int, k: Tensor, v: Tensor) -> list[KeyRun]:
        """Every key that the sequence's tokens may see in `layer`, given their own, each [kv_heads, n, head_dim]."""
        ...


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last axis; statistics in fp32, result in x's dtype."""

    def __init__(self, size: int, eps: float, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """x [..., size] -> same shape and dtype."""
        wide = x.float()
        scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight.to(x.dtype) * scaled.to(x.dtype)


class Attention(nn.Module):
    """Grouped-query attention with the options of both architectures (sections 2a to 2g)."""

    def __init__(self, config: ModelConfig, layer: int, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        at, hidden, dim = config.layers[layer], config.hidden_size, config.head_dim
        self.layer, self.heads, self.kv_heads, self.head_dim, self.gate = layer, at.heads, config.kv_heads, dim, at.gate
        self.window = config.sliding_window if at.attention == "sliding_attention" else 0
        self.q_proj = Linear(hidden, at.heads * dim, bias=config.qkv_bias, dtype=dtype)
        self.k_proj = Linear(hidden, config.kv_heads * dim, bias=config.qkv_bias, dtype=dtype)
        self.v_proj = Linear(hidden, config.kv_heads * dim, bias=config.qkv_bias, dtype=dtype)
        self.o_proj = Linear(at.heads * dim, hidden, bias=config.output_bias, dtype=dtype)
        self.q_norm = RMSNorm(dim, config.norm_eps, dtype) if config.query_key_norm else None
        self.k_norm = RMSNorm(dim, config.norm_eps, dtype) if config.query_key_norm else None
        self.g_proj = Linear(hidden, config.gate_rows(layer), dtype=dtype) if at.gate else None

    def forward(self, x: Tensor, turn: Rotation, spans: list[Span]) -> Tensor:
        """x [tokens, hidden] (normed, tokens > 0) -> [tokens, hidden]."""
        tokens = x.shape[0]
        q = self.q_proj(x).view(tokens, self.heads, self.head_dim)
        k = self.k_proj(x).view(tokens, self.kv_heads, self.head_dim)
        v = self.v_proj(x).view(tokens, self.kv_heads, self.head_dim)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotate(q, turn), rotate(k, turn)
        y: Tensor = self.o_proj(self._gated(self._seen(q, k, v, spans), x).flatten(1))
        return y

    def _seen(self, q: Tensor, k: Tensor, v: Tensor, spans: list[Span]) -> Tensor:
        if q.requires_grad:
            # Gradients are never asked for with a cache: every sequence is whole and sees only itself.
            lengths = tuple(span.end - span.begin for span in spans)
            return training.attention(q, k, v, lengths, self.window)
        parts = [self._attend(q, k, v, span) for span in spans]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, span: Span) -> Tensor:
        rows = slice(span.begin, span.end)
        runs = span.keys(self.layer, k[rows].transpose(0, 1), v[rows].transpose(0, 1))
        return attention(q[rows], span.first, runs, self.window)

    def _gated(self, seen: Tensor, x: Tensor) -> Tensor:
        """seen [tokens, heads, head_dim], times the softplus gate of x; the softplus in fp32."""
        if self.g_proj is None:
            return seen
        gate = F.softplus(self.g_proj(x).float()).to(seen.dtype)
        return seen * (gate[..., None] if self.gate == "per-head" else gate.view_as(seen))


class MLP(nn.Module):
    """down(silu(gate x) * (up x))."""

    def __init__(self, hidden: int, inner: int, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.gate_proj = Linear(hidden, inner, dtype=dtype)
        self.up_proj = Linear(hidden, inner, dtype=dtype)
        self.down_proj = Linear(inner, hidden, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """x [tokens, hidden] -> same shape and dtype."""
        y: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return y


class Router(nn.Module):
    """Chooses the experts of every token by sigmoid scores; all of it in fp32 (section 2i)."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.per_token, self.softcap, self.normalize = (
            config.experts_per_token,
            config.router_softcap,
            config.normalize_top_k,
        )
        self.weight = nn.Parameter(torch.empty(config.experts, config.hidden_size, dtype=dtype))
        self.observer: Callable[[Tensor, Tensor], None] | None = None
        """Told the plain scores fp32 [tokens, experts] and what was picked, where somebody balances the experts."""

    def forward(self, x: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """x [tokens, hidden], bias fp32 [experts] -> (picked int64 [tokens, k], share [tokens, k] in x's dtype).

        The bias counts in the selection only; the shares are the plain scores, normalised to sum to 1.
        """
        logits = F.linear(x.float(), self.weight.float())
        if self.softcap:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        scores = torch.sigmoid(logits)
        picked = torch.topk(scores + bias.float(), self.per_token, dim=-1).indices
        if self.observer is not None:
            self.observer(scores, picked)
        share = scores.gather(-1, picked)
        if self.normalize:
            share = share / share.sum(dim=-1, keepdim=True)
        return picked, share.to(x.dtype)


class SparseMLP(nn.Module):
    """Routed experts, scaled, plus the shared expert, which is neither scaled nor gated (section 2i)."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.scale = config.routed_scale
        self.gate = Router(config, dtype)
        self.experts = Experts(config, dtype)
        shared = config.shared_expert_size
        self.shared_expert = MLP(config.hidden_size, shared, dtype) if shared else None

    def forward(self, x: Tensor) -> Tensor:
        """x [tokens, hidden] -> same shape and dtype."""
        picked, share = self.gate(x, self.experts.e_score_correction_bias)
        y: Tensor = self.experts(x, picked, share) * self.scale
        return y if self.shared_expert is None else y + self.shared_expert(x)


class DecoderLayer(nn.Module):
    """Pre-norm attention and MLP, each added to the stream."""

    def __init__(self, config: ModelConfig, layer: int, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.attention_type = config.layers[layer].attention
        self.input_layernorm = RMSNorm(config.hidden_size, config.norm_eps, dtype)
        self.self_attn = Attention(config, layer, dtype)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.norm_eps, dtype)
        self.mlp: nn.Module = (
            SparseMLP(config, dtype)
            if config.layers[layer].mlp == "sparse"
            else MLP(config.hidden_size, config.dense_size, dtype)
        )

    def forward(self, h: Tensor, turn: Rotation, spans: list[Span]) -> Tensor:
        """h [tokens, hidden] -> same shape and dtype."""
        h = h + self.self_attn(self.input_layernorm(h), turn, spans)
        y: Tensor = h + self.mlp(self.post_attention_layernorm(h))
        return y
