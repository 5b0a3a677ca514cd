"""Everything of one checkpoint that answering needs: the model, its tokenizer, its template, its stop tokens.

Knows where a checkpoint keeps each of them; must not know requests, caches or threads. Opening has two steps: `plan`
reads headers alone and refuses what will not fit, `load` maps (or first packs) the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from laguna_agent.backend.laguna.cache_format import DEFAULT, KVFormatName
from laguna_agent.backend.laguna.config import ModelConfig
from laguna_agent.backend.laguna.constraint import GrammarVocabulary
from laguna_agent.backend.laguna.gguf_tokenizer import tokenizer_from_gguf
from laguna_agent.backend.laguna.gpu import DeviceName, DeviceOption, build_on_gpu, chosen_device
from laguna_agent.backend.laguna.loading import Arithmetic, build_model
from laguna_agent.backend.laguna.template import ChatTemplate, read_template, template_from_gguf
from laguna_agent.backend.laguna.tokenizer import Tokenizer, read_tokenizer, stop_ids
from laguna_agent.backend.laguna.weights.machine import gpu_now, host_now
from laguna_agent.backend.laguna.weights.memory import Need, available_memory, choose, need
from laguna_agent.backend.laguna.weights.opening import open_checkpoint, open_planned
from laguna_agent.backend.laguna.weights.placement import Gpu, Host, Placement, choose_placement
from laguna_agent.backend.laguna.weights.policy import Quant
from laguna_agent.backend.laguna.weights.progress import Progress, silent
from laguna_agent.backend.laguna.weights.stored import Checkpoint
from laguna_agent.errors import ConfigError

if TYPE_CHECKING:
    from laguna_agent.backend.laguna.model import CausalLM

ROOMY = 6 << 30
"""Bytes of memory beside the model's file from which a long context is the default."""
MOST_OUTPUT = 4_096
"""Tokens of an answer where nobody said: a small model that loops would else write until its context is full."""


class ModelOptions(msgspec.Struct, frozen=True):
    """How a person wants a checkpoint opened. `context` is in tokens, None for what the machine has room for;
    `chat_template` names a file that replaces the checkpoint's own template; `kv` is the format of cached keys; with
    the `arithmetic` "fast" a CPU rounds activations to 8 bits before they meet packed weights; `device` is where it is
    computed, "auto" an NVIDIA GPU where there is one; `gpu_memory` is what it may use of that: "8GB", or a part, "0.5",
    None for what is free."""

    path: str
    quant: Quant | Literal["auto"] = "auto"
    context: int | None = None
    chat_template: str | None = None
    kv: KVFormatName = DEFAULT
    arithmetic: Arithmetic = "fast"
    device: DeviceOption = "auto"
    gpu_memory: str | None = None


@dataclass(frozen=True, eq=False)
class ModelPlan:
    """What opening will give, told from headers. `context` is the most tokens that prompt and answer may have;
    `placement`: where weights lie on a GPU and beside it, None where the CPU computes."""

    options: ModelOptions
    checkpoint: Checkpoint
    template: ChatTemplate
    need: Need
    context: int
    placement: Placement | None = None

    @property
    def device(self) -> DeviceName:
        """Where the model is computed."""
        return "cpu" if self.placement is None else "cuda"

    @property
    def config(self) -> ModelConfig:
        """The model's."""
        return self.checkpoint.config


@dataclass(frozen=True, eq=False)
class LocalModel:
    """An open checkpoint. `identity` changes with anything that would give a token another key or value."""

    plan: ModelPlan
    model: CausalLM
    tokenizer: Tokenizer
    stop: frozenset[int]
    identity: str

    @property
    def template(self) -> ChatTemplate:
        """The chat template in use."""
        return self.plan.template

    @cached_property
    def vocabulary(self) -> GrammarVocabulary:
        """The vocabulary as grammars need it; made when the first answer is constrained."""
        return GrammarVocabulary(self.tokenizer, self.stop, self.plan.config.vocab_size)


def plan_model(options: ModelOptions) -> ModelPlan:
    """Look at the checkpoint's headers and at this machine's memory.

    Raises WeightsError, ConfigError or DoesNotFit, each naming the file, and ConfigError for a GPU that is not there;
    nothing large is read. A context longer than the model's is a ConfigError, for it would compute positions that it
    was never made for.
    """
    on_gpu = chosen_device(options.device) == "cuda"
    checkpoint = open_checkpoint(Path(options.path))
    if on_gpu:
        return planned(options, checkpoint, gpu_now(options.gpu_memory), host_now())
    return planned(options, checkpoint)


def planned(
    options: ModelOptions, checkpoint: Checkpoint, gpu: Gpu | None = None, host: Host | None = None
) -> ModelPlan:
    """`plan_model` of an open checkpoint, for a GPU and the host around it, or for the CPU alone."""
    longest, name = checkpoint.config.context_length, Path(options.path).name
    if options.context is not None and options.context > longest:
        raise ConfigError(f"context_length is {options.context}, {name} reads at most {longest} tokens")
    available = available_memory()
    room = available - checkpoint.stored_bytes if gpu is None else gpu.free
    context = options.context or min(16_384 if room >= ROOMY else 8_192, longest)
    template = _template(options, checkpoint)
    if gpu is None:
        chosen = choose(checkpoint, options.quant, context, available, options.kv)
        return ModelPlan(options, checkpoint, template, chosen, context)
    placement = choose_placement(checkpoint, options.quant, context, gpu, host or Host(available), options.kv)
    wanted = need(checkpoint, placement.footprint.quant, context, options.kv)
    return ModelPlan(options, checkpoint, template, wanted, context, placement)


def load_model(plan: ModelPlan, progress: Progress = silent) -> LocalModel:
    """Open what was planned, packing it first where that was never done. What `progress` raises stops it."""
    weights = open_planned(plan.checkpoint, plan.need, progress=progress)
    tokenizer = _tokenizer(Path(plan.options.path), plan.checkpoint)
    stop = stop_ids(tokenizer, plan.config.eos_token_ids)
    arithmetic = plan.options.arithmetic
    computed = arithmetic if plan.device == "cpu" else plan.device
    described = f"{weights.pack.name} {computed} {msgspec.json.encode(plan.config)!r}"
    identity = sha256(described.encode()).hexdigest()
    if plan.placement is not None:
        model = build_on_gpu(plan.config, weights.tensors, plan.placement, progress)
    else:
        model = build_model(plan.config, weights.tensors, arithmetic=arithmetic)
    return LocalModel(plan, model, tokenizer, stop, identity)


def _tokenizer(path: Path, checkpoint: Checkpoint) -> Tokenizer:
    if checkpoint.metadata:
        return tokenizer_from_gguf(checkpoint.metadata, checkpoint.where)
    return read_tokenizer(path)


def _template(options: ModelOptions, checkpoint: Checkpoint) -> ChatTemplate:
    path = Path(options.path)
    named = Path(options.chat_template).expanduser() if options.chat_template else None
    if checkpoint.metadata and named is None:
        return template_from_gguf(checkpoint.metadata, checkpoint.where)
    return read_template(path if path.is_dir() else path.parent, file=named)
