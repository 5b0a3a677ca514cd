"""A model's decode step on a device: what its modules hold, and what its caches keep, as the kernels take them.

A step has at most eight tokens, of any sequences; longer passes go through the modules. Numbers are fp32 from the
embedding to the logits. Knows models, caches and the step's kernels; must not know files or who asks.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from laguna_agent.backend.kernels.cuda.attention import MOST_RUNS
from laguna_agent.backend.kernels.cuda.geometry import Geometry, LayerGeometry
from laguna_agent.backend.kernels.cuda.graphs import MOST_ROWS, HostExperts, StepGraphs, StepWeights
from laguna_agent.backend.kernels.cuda.launch import ALIGNED, Device
from laguna_agent.backend.kernels.cuda.matrices import DeviceMatrix, placed
from laguna_agent.backend.kernels.cuda.step import DecodeStep, plan_of
from laguna_agent.backend.kernels.cuda.step_inputs import StepInputs
from laguna_agent.backend.kernels.formats import Weight
from laguna_agent.backend.laguna.cache import KVCache, Step
from laguna_agent.backend.laguna.cache_format import KVFormatName
from laguna_agent.backend.laguna.config import AttentionType, ModelConfig
from laguna_agent.backend.laguna.layers import MLP, DecoderLayer, SparseMLP
from laguna_agent.backend.laguna.rope import RotationTable
from laguna_agent.backend.laguna.sampling import Choice
from laguna_agent.errors import KernelError

if TYPE_CHECKING:
    from laguna_agent.backend.laguna.model import CausalLM, Piece

log = logging.getLogger(__name__)
_SORTS: dict[AttentionType, str] = {"full_attention": "full", "sliding_attention": "sliding"}


class DeviceStep:
    """The steps of one model; those for each format of keys are made when first asked for. One thread at a time."""

    def __init__(
        self, config: ModelConfig, device: Device, weights: StepWeights, *, faulty: frozenset[str] = frozenset()
    ) -> None:
        self.config, self.device, self.weights, self.faulty = config, device, weights, faulty
        self.geometry = geometry_of(config)
        self._graphs: dict[KVFormatName, StepGraphs] = {}
        self._refused: set[KVFormatName] = set()
        self._tables = {kind: RotationTable(rope, config.context_length) for kind, rope in config.rope.items()}
        self._layers = {
            sort: torch.tensor([index for index, layer in enumerate(config.layers) if layer.attention == sort])
            for sort in _SORTS
        }

    def serves(self, pieces: Sequence[Piece]) -> bool:
        """Whether a step may have these pieces: few tokens, all with caches of one format that lie on this device, in
        no more runs than a row can have."""
        given = [piece for piece in pieces if len(piece.ids)]
        if not 0 < sum(len(piece.ids) for piece in given) <= MOST_ROWS:
            return False
        caches = [piece.cache for piece in given]
        formats = {None if cache is None else cache.shape.format.name for cache in caches}
        here = all(
            cache is not None and len(piece.ids) <= cache.takes and self._reads(cache)
            for piece, cache in zip(given, caches, strict=True)
        )
        format = formats.pop()
        if not here or formats or format is None:
            return False
        return self._ready(format, sum(len(piece.ids) for piece in given))

    def _reads(self, cache: KVCache) -> bool:
        # Appending may begin a run of its own.
        return cache.shape.device.type == self.device.place.type and len(cache.runs()) < MOST_RUNS

    def _ready(self, format: KVFormatName, tokens: int) -> bool:
        """Whether there is such a step: made now where it was never needed before. What a kernel refuses once is not
        tried again."""
        if format in self._refused:
            return False
        if format not in self._graphs:
            kinds = {name: matrix.kind for name, matrix in self.weights.matrices.items()}
            try:
                plan_of(self.geometry, MOST_ROWS, kinds, format, frozenset(self.weights.hosts))
            except ValueError as error:
                return self._refuse(format, error)
            self._graphs[format] = StepGraphs(self.device, self.geometry, self.weights, format, faulty=self.faulty)
        try:
            self._graphs[format].at(tokens)
        except KernelError as error:
            return self._refuse(format, error)
        return True

    def _refuse(self, format: KVFormatName, error: Exception) -> bool:
        log.warning("torch decodes with %s keys, which is slower: %s", format, error)
        self._refused.add(format)
        return False

    def logits(self, pieces: Sequence[Piece], rows: Sequence[int] | None) -> Tensor:
        """fp32 [rows, vocab] on the device for tokens `rows` of all the pieces' (None: all), which are appended to
        their caches. Must only be given what it `serves`; caches stay as they were where it raises."""
        graphs, total = self._run(pieces, None)
        found = graphs.rows("logits", total)
        return found.clone() if rows is None else found[torch.tensor(rows, device=found.device)]

    def sampled(self, pieces: Sequence[Piece], choices: Sequence[Choice | None]) -> list[int | None]:
        """The token that follows each piece, drawn as its choice says; None without one, -1 where its logits are no
        numbers. Otherwise as `logits`; only the ids come back from the device."""
        graphs, total = self._run(pieces, choices)
        drawn = graphs.buffers["chosen"][:total].tolist()
        last, found = -1, []
        for piece, choice in zip(pieces, choices, strict=True):
            last += len(piece.ids)
            found.append(None if choice is None else int(drawn[last]))
        return found

    def _run(self, pieces: Sequence[Piece], choices: Sequence[Choice | None] | None) -> tuple[StepGraphs, int]:
        steps = [
            piece.cache.begin(piece.ids.tolist()) for piece in pieces if piece.cache is not None and len(piece.ids)
        ]
        total = sum(len(step.ids) for step in steps)
        graphs = self._graphs[steps[0].cache.shape.format.name]
        step, inputs = graphs.at(total)
        inputs.wait()
        self._tell(inputs.host, steps)
        if choices is not None:
            _tell_choices(inputs.host, pieces, choices)
        self._launch(step, inputs, choose=choices is not None)
        for each in steps:
            each.commit()
        return graphs, total

    @staticmethod
    def _launch(step: DecodeStep, inputs: StepInputs, *, choose: bool) -> None:
        inputs.send()
        step.run()
        if choose:
            step.choose()

    def _tell(self, host: Mapping[str, Tensor], steps: Sequence[Step]) -> None:
        """Write what the kernels must know of every row; rows that nobody has are dead."""
        ids = [index for step in steps for index in step.ids]
        positions = [step.first + at for step in steps for at in range(len(step.ids))]
        dead = [0] * (len(host["ids"]) - len(ids))
        host["ids"].copy_(torch.tensor(ids + dead, dtype=torch.int32))
        host["positions"].copy_(torch.tensor(positions + dead, dtype=torch.int32))
        for kind, sort in _SORTS.items():
            host[f"{sort}.counts"].zero_()
            if f"{sort}.cos" not in host:
                continue
            for rows, step in _rows_of(steps):
                cos, sin = self._tables[kind].rows(step.first, len(step.ids))
                host[f"{sort}.cos"][rows], host[f"{sort}.sin"][rows] = cos, sin
        for rows, step in _rows_of(steps):
            for (kind, sort), runs in zip(_SORTS.items(), step.places(), strict=True):
                if runs:
                    host[f"{sort}.counts"][rows] = len(runs)
                    host["runs"][self._layers[kind], rows, : len(runs)] = torch.stack(runs, 1)[:, None]


def _rows_of(steps: Sequence[Step]) -> Iterator[tuple[slice, Step]]:
    at = 0
    for step in steps:
        yield slice(at, at + len(step.ids)), step
        at += len(step.ids)


def _tell_choices(host: Mapping[str, Tensor], pieces: Sequence[Piece], choices: Sequence[Choice | None]) -> None:
    host["settings"].zero_()
    host["top_k"].zero_()
    last = -1
    for piece, choice in zip(pieces, choices, strict=True):
        last += len(piece.ids)
        if choice is not None:
            host["settings"][last] = torch.tensor((choice.temperature, choice.top_p, choice.min_p, choice.uniform))
            host["top_k"][last] = choice.top_k


def geometry_of(config: ModelConfig) -> Geometry:
    """A model's sizes as its kernels see them."""
    layers = tuple(
        LayerGeometry(
            layer.heads,
            config.rope[layer.attention].rotary_dim,
            config.sliding_window if layer.attention == "sliding_attention" else 0,
            layer.gate,
            config.dense_size if layer.mlp == "dense" else 0,
        )
        for layer in config.layers
    )
    sparse = any(layer.mlp == "sparse" for layer in config.layers)
    return Geometry(
        config.architecture,
        config.vocab_size,
        config.hidden_size,
        config.kv_heads,
        config.head_dim,
        layers,
        config.experts if sparse else 0,
        config.experts_per_token if sparse else 0,
        config.expert_size if sparse else 0,
        config.shared_expert_size if sparse else 0,
        normalize=config.normalize_top_k,
        softcap=bool(config.router_softcap),
        query_key_norm=config.query_key_norm,
        qkv_bias=config.qkv_bias,
        output_bias=config.output_bias,
        tied=config.tied,
    )


def device_step(
    model: CausalLM,
    device: Device,
    *,
    faulty: frozenset[str] = frozenset(),
    hosts: Mapping[int, HostExperts] | None = None,
) -> DeviceStep | None:
    """The decode step of a model on `device`, sharing its weights where they lie there as kernels read them; None where
    no kernel reads them, or one is `faulty` that nothing stands in for.

    `hosts`: by layer, who computes its experts; their weights are not looked at. The modules' weights must stay as they
    are for as long as this is used.
    """
    config = model.config
    if not StepGraphs.possible(faulty) or config.head_dim % 2:
        return None
    hosts, matrices, vectors = hosts or {}, {}, {"norm": _vector(model.model.norm.weight, device)}
    table = model.model.embed_tokens.weight
    wanted: dict[str, Weight] = {"embed": table, "head": table if model.lm_head is None else model.lm_head.weight}
    for index, layer in enumerate(model.model.layers):
        assert isinstance(layer, DecoderLayer)
        wanted |= {f"{index}.{name}": weight for name, weight in _matrices(layer, index in hosts)}
        vectors |= {f"{index}.{name}": _vector(value, device) for name, value in _vectors(layer)}
    made: dict[int, DeviceMatrix | None] = {}
    for name, weight in wanted.items():
        if id(weight) not in made:
            made[id(weight)] = placed(weight, device.place)
        matrix = made[id(weight)]
        if matrix is None:
            return None
        matrices[name] = matrix
    weights = StepWeights(matrices, vectors, config.norm_eps, config.routed_scale, config.router_softcap, hosts)
    return DeviceStep(config, device, weights, faulty=faulty)


def _matrices(layer: DecoderLayer, hosted: bool) -> Iterator[tuple[str, Weight]]:
    attention, mlp = layer.self_attn, layer.mlp
    yield from (("q", attention.q_proj.weight), ("k", attention.k_proj.weight), ("v", attention.v_proj.weight))
    yield "o", attention.o_proj.weight
    if attention.g_proj is not None:
        yield "g", attention.g_proj.weight
    dense = mlp.shared_expert if isinstance(mlp, SparseMLP) else mlp
    if isinstance(dense, MLP):
        yield from (("gate", dense.gate_proj.weight), ("up", dense.up_proj.weight), ("down", dense.down_proj.weight))
    if isinstance(mlp, SparseMLP):
        yield "router", mlp.gate.weight
        if not hosted:
            yield from (("experts_gate_up", mlp.experts.gate_up_proj), ("experts_down", mlp.experts.down_proj))


def _vectors(layer: DecoderLayer) -> Iterator[tuple[str, Tensor]]:
    attention, mlp = layer.self_attn, layer.mlp
    yield from (("input_norm", layer.input_layernorm.weight), ("post_norm", layer.post_attention_layernorm.weight))
    if attention.q_norm is not None and attention.k_norm is not None:
        yield from (("q_norm", attention.q_norm.weight), ("k_norm", attention.k_norm.weight))
    for name in ("q", "k", "v", "o"):
        bias = getattr(attention, f"{name}_proj").bias
        if bias is not None:
            yield f"{name}_bias", bias
    if isinstance(mlp, SparseMLP):
        yield "selection", mlp.experts.e_score_correction_bias


def _vector(values: Tensor, device: Device) -> Tensor:
    """In fp32 on the device, at a place that kernels may read."""
    moved = values.detach().to(device.place, torch.float32).contiguous()
    return moved.clone() if moved.data_ptr() % ALIGNED else moved
