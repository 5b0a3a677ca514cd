"""The arithmetic of a training step on many GPUs: memory, traffic and time, as formulae. `scaling.py` prints them.

No GPU was measured. FLOPs and bytes are counted from the model's geometry; speeds of links and cards are data sheets';
how much of a card's peak is reached is an argument; that Newton-Schulz reaches `NS_SPEED` times the model's rate was
measured, on a CPU (`benchmarks/training.py --claims overhead`). Traffic of the shards is taken to be hidden behind the
arithmetic as far as there is any, everything else is not. Knows geometries and arithmetic; must not know tensors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from laguna_agent.backend.kernels.cuda.geometry import Geometry, LayerGeometry

NS_STEPS = 5
NS_SPEED = 1.0
"""FLOP/s of Newton-Schulz over the model's own: the cautious end of what `--claims overhead` measures on a CPU."""
FP32, BF16 = 4, 2
ADAMW_PASS = 7 * FP32
"""Bytes of memory traffic per parameter: fused AdamW reads four numbers and writes three."""
MUON_PASS = 9 * FP32
"""Momentum, direction and update are three passes of two reads and one write."""
LOGITS_AT_ONCE = 4096
"""Tokens whose logits exist at a time."""

Optimizer = Literal["muon", "adamw"]
Layout = Literal["fsdp", "hsdp"]


class Matrices(NamedTuple):
    """`number` matrices of one shape; `routed`: they belong to experts that a token may not visit."""

    rows: int
    columns: int
    number: int
    routed: bool = False

    @property
    def parameters(self) -> int:
        """Numbers in all of them."""
        return self.rows * self.columns * self.number

    def newton_schulz(self, steps: int = NS_STEPS) -> float:
        """FLOPs that make all of them orthogonal: per step m x m from m x n, its square, and m x m times m x n."""
        m, n = sorted((self.rows, self.columns))
        return float(steps * self.number * (4 * m * m * n + 2 * m**3))


def layer_matrices(geometry: Geometry, layer: LayerGeometry) -> list[Matrices]:
    """The matrices of one layer that Muon moves (gate and up apart)."""
    hidden, query, keys = geometry.hidden, layer.heads * geometry.head_dim, geometry.kv_heads * geometry.head_dim
    found = [Matrices(query, hidden, 1), Matrices(keys, hidden, 2), Matrices(hidden, query, 1)]
    if layer.dense:
        return [*found, Matrices(layer.dense, hidden, 2), Matrices(hidden, layer.dense, 1)]
    found += [Matrices(geometry.inner, hidden, 2 * geometry.experts, True)]
    found += [Matrices(hidden, geometry.inner, geometry.experts, True)]
    if geometry.shared:
        found += [Matrices(geometry.shared, hidden, 2), Matrices(hidden, geometry.shared, 1)]
    return found


@dataclass(frozen=True)
class Parameters:
    """Counts: matrices of routed experts, other matrices, and the rest (AdamW's); `applied` of all of them multiply
    with a token (an embedding is looked up)."""

    routed: int
    matrices: int
    rest: int
    applied: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.routed + self.matrices + self.rest


def parameters(geometry: Geometry) -> Parameters:
    """What the model's parameters are, by who optimises them."""
    routed = matrices = steering = norms = 0
    for layer in geometry.layers:
        for each in layer_matrices(geometry, layer):
            routed += each.parameters if each.routed else 0
            matrices += 0 if each.routed else each.parameters
        steering += geometry.hidden * (geometry.gate_rows(layer) + (0 if layer.dense else geometry.experts))
        norms += 2 * geometry.hidden + 2 * geometry.head_dim * geometry.query_key_norm
    table = geometry.vocabulary * geometry.hidden
    rest = steering + norms + geometry.hidden + table * (1 if geometry.tied else 2)
    visited = routed * geometry.per_token // geometry.experts if geometry.experts else 0
    return Parameters(routed, matrices, rest, visited + matrices + steering + table)


def keys_seen(window: int, sequence: int) -> float:
    """Keys that a token of a sequence sees on average, itself included; `window` 0: all before it."""
    reach = min(window, sequence) if window else sequence
    return (reach * (reach + 1) / 2 + (sequence - reach) * reach) / sequence


def training_flops(geometry: Geometry, sequence: int) -> float:
    """FLOPs of forward and backward per token: six for each parameter that multiplies with it, and per head and key
    twelve for each of its dimensions (scores and values, each three products of two FLOPs)."""
    seen = sum(layer.heads * keys_seen(layer.window, sequence) for layer in geometry.layers)
    return 6.0 * parameters(geometry).applied + 12.0 * geometry.head_dim * seen


def newton_schulz_flops(geometry: Geometry, *, routed: bool | None = None) -> float:
    """FLOPs of one Muon step over all matrices, or over those of routed experts alone, or over the others."""
    found = [each for layer in geometry.layers for each in layer_matrices(geometry, layer)]
    return sum(each.newton_schulz() for each in found if routed is None or each.routed == routed)


def crossing(ns_seconds: float, token_seconds: float, share: float) -> float:
    """Tokens per step from which on Newton-Schulz is at most `share` of a step that is nothing else but it and
    `token_seconds` for each token."""
    return ns_seconds * (1 - share) / (share * token_seconds)


@dataclass(frozen=True)
class Cluster:
    """Nodes of 8 GPUs. Speeds per GPU: peak FLOP/s in bf16 without sparsity and bytes/s of memory (H100 SXM's data
    sheet), bytes/s in one direction of NVLink (900 GB/s in both) and of its own network card (400 Gb/s, as a DGX H100
    has eight). `mfu`: the share of the peak that a model reaches; Llama 3 reports 0.38 to 0.43 for a dense one
    (arXiv 2407.21783, table 4), and experts of 512 x 2048 reach less."""

    nodes: int = 1
    per_node: int = 8
    peak: float = 989e12
    mfu: float = 0.35
    ns_speed: float = NS_SPEED
    memory: float = 80e9
    memory_speed: float = 3.35e12
    nvlink: float = 450e9
    network: float = 50e9

    @property
    def gpus(self) -> int:
        """All of them."""
        return self.nodes * self.per_node

    def ring(self, size: float, nodes: int | None = None) -> float:
        """Seconds in which every GPU of `nodes` nodes (all) gets `size` bytes that lie spread over them, or the other
        way round: within a node over NVLink, between nodes over its eight cards together; the slower of both."""
        nodes = self.nodes if nodes is None else nodes
        ranks = nodes * self.per_node
        inside = size * (ranks - 1) / ranks / self.nvlink
        return max(inside, size * (nodes - 1) / nodes / (self.per_node * self.network))


@dataclass(frozen=True)
class Plan:
    """How a step is cut up. `tokens` of all GPUs together, `micro` those that a GPU takes at a time, in sequences of
    `sequence`. Layout "fsdp": every parameter is cut over all GPUs; "hsdp": over those of a node, and the nodes are
    replicas. Experts are cut whole (the stack's first axis). `owners`: each matrix is made orthogonal by one
    GPU only."""

    tokens: int = 1 << 23
    micro: int = 1 << 14
    sequence: int = 4096
    layout: Layout = "fsdp"
    optimizer: Optimizer = "muon"
    owners: bool = True

    def shards(self, cluster: Cluster) -> int:
        """GPUs that share one copy of the model."""
        return cluster.gpus if self.layout == "fsdp" else cluster.per_node

    def micro_steps(self, cluster: Cluster) -> int:
        """Passes that a GPU makes before the optimizer steps."""
        return math.ceil(self.tokens / (cluster.gpus * self.micro))


def state_bytes(geometry: Geometry, optimizer: Optimizer) -> int:
    """Bytes of the optimizers' state in fp32: one buffer per matrix with Muon, two with AdamW; two for the rest."""
    counted = parameters(geometry)
    per_matrix = FP32 if optimizer == "muon" else 2 * FP32
    return per_matrix * (counted.routed + counted.matrices) + 2 * FP32 * counted.rest


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU: the shards that stay (weights and gradients in fp32, the optimizer's state), and what comes
    and goes (layers gathered in bf16 with their gradients, activations and logits)."""

    weights: float
    gradients: float
    optimizer: float
    gathered: float
    activations: float

    @property
    def total(self) -> float:
        """All at the same time."""
        return self.weights + self.gradients + self.optimizer + self.gathered + self.activations


def memory(geometry: Geometry, cluster: Cluster, plan: Plan) -> Memory:
    """What a GPU holds. Of activations each layer's input is kept and the rest of a layer made again on the way back;
    two layers are gathered at a time, with the gradients of one of them."""
    shards, total = plan.shards(cluster), parameters(geometry).total
    layers = [sum(each.parameters for each in layer_matrices(geometry, layer)) for layer in geometry.layers]
    wide = max(layer.heads for layer in geometry.layers) * geometry.head_dim
    visited = geometry.per_token * (3 * geometry.inner + 2 * geometry.hidden) + 3 * geometry.shared
    inside = 6 * geometry.hidden + 4 * wide + 4 * geometry.kv_heads * geometry.head_dim + visited
    # Of the layer that is made again: its activations, and their gradients.
    kept = plan.micro * BF16 * (len(geometry.layers) * geometry.hidden + 2 * inside)
    logits = 2 * FP32 * min(plan.micro, LOGITS_AT_ONCE) * geometry.vocabulary
    return Memory(
        FP32 * total / shards,
        FP32 * total / shards,
        state_bytes(geometry, plan.optimizer) / shards,
        3 * BF16 * max(layers),
        float(kept + logits),
    )


@dataclass(frozen=True)
class Traffic:
    """Bytes that one GPU receives in a step: shards gathered twice per micro-step in bf16 and gradients scattered in
    fp32, gradients of replicas summed, and Muon's rows to their owners and back."""

    gathered: float
    scattered: float
    replicas: float
    muon: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.gathered + self.scattered + self.replicas + self.muon


def traffic(geometry: Geometry, cluster: Cluster, plan: Plan) -> Traffic:
    """What a GPU receives. Expert stacks are cut between whole matrices, so Muon moves none of them."""
    shards, counted, micro = plan.shards(cluster), parameters(geometry), plan.micro_steps(cluster)
    others = (shards - 1) / shards
    copies = cluster.gpus // shards
    rows = FP32 * counted.matrices * others
    if plan.optimizer == "adamw":
        muon = 0.0
    elif plan.owners:
        muon = 2 * rows / shards
    else:
        # Whole matrices on every GPU, those of the experts too, as `full_tensor()` makes them.
        muon = rows + FP32 * counted.routed * others
    return Traffic(
        2 * BF16 * counted.total * others * micro,
        FP32 * counted.total * others * micro,
        2 * FP32 * counted.total / shards * (copies - 1) / copies,
        muon,
    )


@dataclass(frozen=True)
class Step:
    """Seconds of one step: arithmetic and shards of its micro-steps (which overlap), then replicas, Muon's traffic,
    Newton-Schulz and the optimizer's passes over memory."""

    arithmetic: float
    shards: float
    replicas: float
    muon_traffic: float
    newton_schulz: float
    passes: float

    @property
    def total(self) -> float:
        """The slower of arithmetic and shards, and all that follows."""
        after = self.replicas + self.muon_traffic + self.newton_schulz + self.passes
        return max(self.arithmetic, self.shards) + after

    @property
    def ns_share(self) -> float:
        """What Newton-Schulz and its traffic are of the step."""
        return (self.newton_schulz + self.muon_traffic) / self.total


def _newton_schulz_seconds(geometry: Geometry, cluster: Cluster, plan: Plan) -> float:
    """The busiest GPU's: whole experts cannot be cut further, the other matrices go to who has less."""
    if plan.optimizer == "adamw":
        return 0.0
    work = newton_schulz_flops(geometry)
    if plan.owners:
        shards = plan.shards(cluster)
        experts = newton_schulz_flops(geometry, routed=True)
        most = math.ceil(geometry.experts / shards) / geometry.experts if geometry.experts else 0.0
        work = max(work / shards, experts * most)
    return work / (cluster.peak * cluster.mfu * cluster.ns_speed)


def step(geometry: Geometry, cluster: Cluster, plan: Plan) -> Step:
    """How long a step takes, and what of."""
    counted, moved, shards = parameters(geometry), traffic(geometry, cluster, plan), plan.shards(cluster)
    nodes = cluster.nodes if plan.layout == "fsdp" else 1
    each = 2 * cluster.ring(BF16 * counted.total, nodes) + cluster.ring(FP32 * counted.total, nodes)
    flops = training_flops(geometry, plan.sequence) * plan.tokens / cluster.gpus
    matrices = counted.routed + counted.matrices
    per_matrix = MUON_PASS if plan.optimizer == "muon" else ADAMW_PASS
    if plan.owners:
        muon = moved.muon / (cluster.network if nodes > 1 else cluster.nvlink)
    else:
        muon = cluster.ring(FP32 * matrices, nodes)
    return Step(
        flops / (cluster.peak * cluster.mfu),
        each * plan.micro_steps(cluster),
        moved.replicas / cluster.network,
        muon if plan.optimizer == "muon" else 0.0,
        _newton_schulz_seconds(geometry, cluster, plan),
        (per_matrix * matrices + ADAMW_PASS * counted.rest) / shards / cluster.memory_speed,
    )
