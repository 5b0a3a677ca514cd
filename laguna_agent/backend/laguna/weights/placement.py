"""Where a model's experts lie when a GPU computes: on it, in host memory that it reads, or with the CPU.

Everything but the routed experts, which every token reads whole, must lie on the GPU; of the experts as many layers as
there is room for. The rest stays in host memory: page-locked, and the kernels read it over the bus, or in tiles that
the CPU kernels multiply with, whichever takes less time. Pure arithmetic on numbers that `machine.py` finds out. All
sizes are bytes, all speeds bytes a second; a GB in a text is 10^9.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from laguna_agent.backend.kernels.cuda.matrices import kind_of
from laguna_agent.backend.kernels.cuda.moving import read_in_place
from laguna_agent.backend.kernels.formats import Format, Tiled, bytes_needed
from laguna_agent.backend.laguna.cache_format import DEFAULT, KVFormatName
from laguna_agent.backend.laguna.config import ModelConfig
from laguna_agent.backend.laguna.weights.canonical import Role, expected_tensors
from laguna_agent.backend.laguna.weights.memory import AUTO, OPTIONS, WORKING, cache_bytes, gigabytes
from laguna_agent.backend.laguna.weights.policy import Quant, target_format
from laguna_agent.backend.laguna.weights.stored import Checkpoint
from laguna_agent.errors import DoesNotFit

Where = Literal["gpu", "pinned", "cpu"]
"""The GPU's own memory; page-locked host memory that kernels read; host memory that the CPU kernels read."""
BUS = 12e9
"""What comes over PCIe 3.0 x16: assumed where nothing is known."""
READS = 20e9
"""What CPU kernels read from two channels of DDR4: assumed where nothing was measured."""
TURN = 60e-6
"""Seconds that a layer loses when the CPU has a turn: two copies, a wait, and a graph that is cut."""
PINNED_SHARE = 0.75
"""Of the free host memory: what is page-locked can be taken from nobody any more."""
RESERVE = 512 << 20
"""Left on the GPU: compiled kernels, workspaces of torch's libraries, and what its allocator cannot use."""
PREFILL = 512
"""Prompt tokens of one pass."""
STEP_ROWS = 8
"""Rows of the largest recorded step; the others use its buffers."""
PIECES = 64
"""Most pieces of the keys whose partial sums a step keeps."""
DEQUANTISED = 256 << 20
"""A chunk of a matrix in fp32 with its scales spread, where no kernel multiplies with it as it is."""


@dataclass(frozen=True)
class Gpu:
    """What a GPU has for the engine: bytes of memory, and of its bus."""

    free: int
    bus: float = BUS


@dataclass(frozen=True)
class Host:
    """What the computer around it has: bytes of memory, and what the compiled CPU kernels read; 0 without them."""

    free: int
    reads: float = READS


@dataclass(frozen=True)
class Footprint:
    """What a model needs with one option. `experts`: of each layer, 0 of a dense one; a token reads `share` of them.

    `backbone`: all other weights. `cache`: keys and values at `context` tokens. `work`: buffers of the steps and of one
    pass over a prompt. `in_place`: whether kernels read experts as they are stored, so that they can be page-locked.
    """

    quant: Quant
    backbone: int
    experts: tuple[int, ...]
    share: float
    cache: int
    work: int
    context: int
    in_place: bool = True

    @property
    def fixed(self) -> int:
        """What must lie on the GPU."""
        return self.backbone + self.cache + self.work + RESERVE

    @property
    def whole(self) -> int:
        """What all of it takes there."""
        return self.fixed + sum(self.experts)


@dataclass(frozen=True)
class Placement:
    """A place for the experts of every layer, None for a dense one.

    `staging`: room on the GPU for one layer's experts, through which those of other layers pass when a prompt is read.
    """

    footprint: Footprint
    layers: tuple[Where | None, ...]
    staging: int

    def bytes_in(self, where: Where) -> int:
        """Bytes of experts that lie there."""
        return sum(size for size, at in zip(self.footprint.experts, self.layers, strict=True) if at == where)

    @property
    def on_gpu(self) -> int:
        """Bytes of the GPU's memory that are planned, the reserve included."""
        return self.footprint.fixed + self.staging + self.bytes_in("gpu")

    @property
    def on_host(self) -> int:
        """Bytes of host memory that experts take."""
        return self.bytes_in("pinned") + self.bytes_in("cpu")

    def __str__(self) -> str:
        own, all_of_them = self.layers.count("gpu"), len(self.layers) - self.layers.count(None)
        said = f"{self.footprint.quant}, {gigabytes(self.on_gpu)} on the GPU"
        if not all_of_them:
            return said
        if own == all_of_them:
            return f"{said}, experts of all {own} layers among them"
        places = (("pinned", "in host memory that the GPU reads"), ("cpu", "in host memory, computed by the CPU"))
        rest = [f"{count} {text}" for where, text in places if (count := self.layers.count(where))]
        return f"{said}: experts of {own} of {all_of_them} layers on the GPU, " + ", ".join(rest)


def place(footprint: Footprint, gpu: Gpu, host: Host) -> Placement | None:
    """The placement with the most layers' experts on the GPU; None where the rest finds no room, or the backbone none.

    Small layers come first, so that more memory never means fewer layers there.
    """
    layers: list[Where | None] = [None] * len(footprint.experts)
    sparse = sorted((size, index) for index, size in enumerate(footprint.experts) if size)
    staging = 0 if footprint.whole <= gpu.free or not sparse else sparse[-1][0]
    left = gpu.free - footprint.fixed - staging
    if left < 0:
        return None
    room = _Room(footprint, gpu.bus, host)
    for size, index in sparse:
        if size <= left:
            left -= size
            layers[index] = "gpu"
        else:
            # Whatever follows is at least as large.
            left = 0
            layers[index] = room.take(size)
            if layers[index] is None:
                return None
    return Placement(footprint, tuple(layers), staging)


class _Room:
    """Host memory as layer after layer takes its share of it."""

    def __init__(self, footprint: Footprint, bus: float, host: Host) -> None:
        self._share, self._bus, self._reads = footprint.share, bus, host.reads
        self._free = host.free - WORKING
        self._pinnable = int(host.free * PINNED_SHARE) if footprint.in_place else 0

    def take(self, size: int) -> Where | None:
        """The faster place that has room for `size` bytes; None where neither has."""
        if size > self._free:
            return None
        self._free -= size
        if self._bus_is_faster(size) and size <= self._pinnable:
            self._pinnable -= size
            return "pinned"
        return "cpu"

    def _bus_is_faster(self, size: int) -> bool:
        if not self._reads:
            return True
        read = size * self._share
        return read / self._bus <= read / self._reads + TURN


def footprint(
    config: ModelConfig,
    formats: Callable[[str, Role, tuple[int, ...]], Format],
    quant: Quant,
    context: int,
    kv: KVFormatName = DEFAULT,
) -> Footprint:
    """What a model takes whose tensors get the formats that `formats` tells (name, role, shape)."""
    backbone, experts, in_place = 0, [0] * len(config.layers), True
    for name, shape, role in expected_tensors(config):
        format = formats(name, role, shape)
        size = device_bytes(format, shape)
        if role == "experts":
            experts[layer_of(name)] += size
            in_place = in_place and read_in_place(format, shape)
        else:
            backbone += size
    share = config.experts_per_token / config.experts if config.experts else 0.0
    work = step_bytes(config) + prefill_bytes(config)
    cache = cache_bytes(config, context, kv)
    return Footprint(quant, backbone, tuple(experts), share, cache, work, context, in_place)


def layer_of(name: str) -> int:
    """The layer whose tensor has that canonical name."""
    return int(name.split(".")[2])


def device_bytes(format: Format, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor on the GPU: tiles are taken apart there, and what has short rows is kept padded beside it."""
    stored = bytes_needed(format.base if isinstance(format, Tiled) else format, shape)
    kind = kind_of(format, shape) if len(shape) > 1 else None
    if kind is None or kind.nbytes == stored:
        return stored
    return stored + kind.nbytes


def step_bytes(config: ModelConfig) -> int:
    """Most bytes of the buffers of the recorded steps; fp32 throughout."""
    heads = max(layer.heads for layer in config.layers)
    inner = max(config.dense_size, config.experts_per_token * config.expert_size, config.shared_expert_size)
    row = config.vocab_size + 4 * config.hidden_size + 2 * inner + config.experts
    row += heads * (config.head_dim + 2) * PIECES + (3 * heads + 2 * config.kv_heads) * config.head_dim
    return 4 * STEP_ROWS * row


def prefill_bytes(config: ModelConfig) -> int:
    """Most bytes that one pass over a prompt works in, where its widest layer is computed."""
    heads = max(layer.heads for layer in config.layers)
    rows = max(1, config.experts_per_token)
    expert = rows * (2 * config.hidden_size + 3 * config.expert_size)
    wide = 4 * config.hidden_size + 3 * max(config.dense_size, config.shared_expert_size)
    attended = 4 * heads * config.head_dim
    return 4 * PREFILL * (wide + max(expert, attended)) + DEQUANTISED


def choose_placement(
    checkpoint: Checkpoint,
    quant: Quant | Literal["auto"],
    context: int,
    gpu: Gpu,
    host: Host,
    kv: KVFormatName = DEFAULT,
) -> Placement:
    """The option to use on a GPU, and where its experts lie.

    "auto": the first of `AUTO` that lies on the GPU as a whole, else the one that a token reads least of, partly in
    host memory. Raises DoesNotFit with the numbers and what would fit.
    """

    def sized(option: Quant, tokens: int) -> Footprint:
        def format_of(name: str, role: Role, shape: tuple[int, ...]) -> Format:
            return target_format(checkpoint.tensors[name].format, role, option, shape)

        return footprint(checkpoint.config, format_of, option, tokens, kv)

    try:
        return chosen(sized, quant, context, gpu, host)
    except DoesNotFit as problem:
        raise DoesNotFit(f"{checkpoint.where}: {problem}") from None


def chosen(
    sized: Callable[[Quant, int], Footprint], quant: Quant | Literal["auto"], context: int, gpu: Gpu, host: Host
) -> Placement:
    """`choose_placement` of a model whose footprint `sized` tells for an option and a context."""
    wanted = AUTO if quant == "auto" else (quant,)
    for option in wanted:
        each = sized(option, context)
        if each.whole <= gpu.free and (found := place(each, gpu, host)):
            return found
    # The smallest is the last one.
    if found := place(sized(wanted[-1], context), gpu, host):
        return found
    raise DoesNotFit(_refusal(sized, wanted[-1], context, gpu, host))


def _refusal(sized: Callable[[Quant, int], Footprint], quant: Quant, context: int, gpu: Gpu, host: Host) -> str:
    each = sized(quant, context)
    staging = max(each.experts, default=0)
    least = min(each.whole, each.fixed + staging)
    text = (
        f"{quant} needs {gigabytes(least)} on the GPU (all but the experts {gigabytes(each.backbone)}, KV cache of "
        f"{context} tokens {gigabytes(each.cache)}, work {gigabytes(each.work + RESERVE)}, one layer's experts "
        f"{gigabytes(staging)}) and {gigabytes(each.whole + WORKING)} in all, but {gigabytes(gpu.free)} are available "
        f"on the GPU and {gigabytes(host.free)} beside it; "
    )
    for option in OPTIONS:
        if option != quant and place(sized(option, context), gpu, host):
            return text + f"{option} would fit"
    low, high = 0, context // 256
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if place(sized(quant, middle * 256), gpu, host) else (low, middle - 1)
    if low:
        return text + f"a context of {low * 256} tokens would fit"
    return text + "with the device cpu it may fit into memory"
