"""A model's decoder layers in the compiled library: what its modules hold, and what its caches keep, as the library
takes them.

The numbers are those of the modules but for one thing: activations meet packed weights in 8 bits ("fast" arithmetic).
Knows models, caches and the library's stack; must not know files or who asks.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from laguna_agent.backend.kernels.cpu.layers import (
    HEAD_MOST,
    KV_KINDS,
    ExpertWeights,
    LayerWeights,
    MlpWeights,
    Pass,
    Product,
    Stack,
    served,
)
from laguna_agent.backend.kernels.cpu.library import library
from laguna_agent.backend.kernels.formats import Weight
from laguna_agent.backend.laguna.cache import KVCache, Step
from laguna_agent.backend.laguna.cache_storage import AT_ONCE
from laguna_agent.backend.laguna.config import ModelConfig
from laguna_agent.backend.laguna.holders import Linear
from laguna_agent.backend.laguna.layers import MLP, DecoderLayer, SparseMLP
from laguna_agent.backend.laguna.rope import RotationTable


class CompiledLayers:
    """The decoder layers of one model, and its head where that is served. One thread at a time may use it."""

    def __init__(self, config: ModelConfig, stack: Stack, head: Product | None) -> None:
        self.config, self.stack, self.head = config, stack, head
        self._turns = {kind: RotationTable(rope, config.context_length) for kind, rope in config.rope.items()}
        self._sliding = tuple(layer.attention == "sliding_attention" for layer in config.layers)

    def serves(self, caches: Sequence[KVCache]) -> bool:
        """Whether a pass may go over these caches: all of one format, which the library reads and writes."""
        formats = {cache.shape.format.dtype for cache in caches}
        return len(formats) <= 1 and all(
            cache.shape.device.type == "cpu" and cache.shape.format.dtype in KV_KINDS for cache in caches
        )

    def run(self, h: Tensor, given: Sequence[tuple[KVCache, list[int]]]) -> None:
        """All layers over h, fp32 [tokens, hidden], in place: the rows of sequence after sequence, each with the cache
        that they are appended to and their ids.

        At most `AT_ONCE` tokens of a sequence are done at a time, and count then. Raises PassCancelled between two
        layers; what was done at that time counts for nothing.
        """
        most = min(AT_ONCE, *(cache.takes for cache, _ in given))
        longest = max(len(ids) for _, ids in given)
        if longest <= most:
            self._run(h, [cache.begin(ids) for cache, ids in given])
            return
        begins = [sum(len(ids) for _, ids in given[:index]) for index in range(len(given))]
        for at in range(0, longest, most):
            parts = [(begin, cache, ids[at : at + most]) for begin, (cache, ids) in zip(begins, given, strict=True)]
            rows = [slice(begin + at, begin + at + len(ids)) for begin, _, ids in parts if ids]
            some = torch.cat([h[row] for row in rows])
            self._run(some, [cache.begin(ids) for _, cache, ids in parts if ids])
            for row, done in zip(rows, torch.split(some, [row.stop - row.start for row in rows]), strict=True):
                h[row] = done

    def _run(self, h: Tensor, steps: Sequence[Step]) -> None:
        seen = [step for step in steps if step.ids]
        spans, at = array("q"), 0
        for step in seen:
            spans.extend((at, at + len(step.ids), step.first))
            at += len(step.ids)
        turns = {kind: [table.rows(step.first, len(step.ids)) for step in seen] for kind, table in self._turns.items()}
        joined = {kind: _joined(rows) for kind, rows in turns.items()}
        counts, runs = self._runs([step.places() for step in seen])
        by_layer = [joined[layer.attention] for layer in self.config.layers]
        self.stack.run(h, Pass(spans, counts, runs, by_layer, seen[0].cache.shape.format.dtype))
        for step in seen:
            step.commit()

    def _runs(self, places: Sequence[tuple[list[Tensor], list[Tensor]]]) -> tuple[Tensor, Tensor]:
        """How many runs every layer has for each sequence, int32 [layers, sequences], and the runs in that order."""
        kinds = [torch.stack([run for one in places for run in one[kind]], 1) for kind in (0, 1) if places[0][kind]]
        widths = [[len(one[kind]) for one in places] for kind in (0, 1)]
        order, counts = _order(tuple(map(tuple, widths)), self._sliding)
        return counts, torch.cat([kind.flatten(0, 1) for kind in kinds])[order]


def _joined(turns: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    if len(turns) == 1:
        return turns[0]
    return torch.cat([cos for cos, _ in turns]), torch.cat([sin for _, sin in turns])


@lru_cache(maxsize=64)
def _order(widths: tuple[tuple[int, ...], tuple[int, ...]], sliding: tuple[bool, ...]) -> tuple[Tensor, Tensor]:
    """For runs that lie kind after kind, layer after layer: where each one of all layers, in their order, is to be
    taken from; and how many there are, int32 [layers, sequences]. `widths`: runs of each sequence in a layer of either
    kind; `sliding`: the kind of every layer."""
    each = [sum(width) for width in widths]
    begins = [0, each[0] * sliding.count(False)]
    order: list[int] = []
    for kind in sliding:
        order += range(begins[kind], begins[kind] + each[kind])
        begins[kind] += each[kind]
    counts = torch.tensor([widths[kind] for kind in sliding], dtype=torch.int32)
    return torch.tensor(order), counts


def compiled_layers(config: ModelConfig, layers: Sequence[DecoderLayer], head: Weight) -> CompiledLayers | None:
    """The layers and the head as the library takes them; None where there is no library, or it does not serve them.

    The modules' weights must stay as they are for as long as this is used.
    """
    opened = library().opened
    if opened is None or config.head_dim > HEAD_MOST:
        return None
    weights = [_layer_weights(config, index, layer) for index, layer in enumerate(layers)]
    if not all(served(weight) for layer in weights for weight in layer.matrices()):
        return None
    return CompiledLayers(config, Stack(opened, weights), Product(opened, head) if served(head) else None)


def _layer_weights(config: ModelConfig, index: int, layer: DecoderLayer) -> LayerWeights:
    attention, mlp = layer.self_attn, layer.mlp
    dense = mlp.shared_expert if isinstance(mlp, SparseMLP) else mlp
    assert dense is None or isinstance(dense, MLP)
    return LayerWeights(
        heads=attention.heads,
        kv_heads=attention.kv_heads,
        head_dim=attention.head_dim,
        rotary=config.rope[layer.attention_type].rotary_dim,
        window=attention.window,
        eps=config.norm_eps,
        input_norm=layer.input_layernorm.weight,
        post_norm=layer.post_attention_layernorm.weight,
        q_norm=None if attention.q_norm is None else attention.q_norm.weight,
        k_norm=None if attention.k_norm is None else attention.k_norm.weight,
        q=_linear(attention.q_proj),
        k=_linear(attention.k_proj),
        v=_linear(attention.v_proj),
        o=_linear(attention.o_proj),
        gate=None if attention.g_proj is None else attention.g_proj.weight,
        gate_kind=attention.gate,
        mlp=None if dense is None else _mlp(dense),
        experts=_experts(config, mlp) if isinstance(mlp, SparseMLP) else None,
    )


def _linear(module: Linear) -> tuple[Weight, Tensor | None]:
    return module.weight, module.bias


def _mlp(module: MLP) -> MlpWeights:
    return MlpWeights(module.gate_proj.weight, module.up_proj.weight, module.down_proj.weight)


def _experts(config: ModelConfig, mlp: SparseMLP) -> ExpertWeights:
    return ExpertWeights(
        router=mlp.gate.weight,
        bias=mlp.experts.e_score_correction_bias,
        gate_up=mlp.experts.gate_up_proj,
        down=mlp.experts.down_proj,
        per_token=mlp.gate.per_token,
        normalize=mlp.gate.normalize,
        scale=mlp.scale,
        softcap=mlp.gate.softcap,
    )
