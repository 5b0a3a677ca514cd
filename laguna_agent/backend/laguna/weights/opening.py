"""From a path to weights that can be computed with: find the format, plan the memory, pack once, map.

The one door of this package. Knows the order of the steps; each of them lives in a module of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from laguna_agent.backend.kernels.formats import PackedTensor, Plain, Weight
from laguna_agent.backend.laguna.cache_format import DEFAULT, KVFormatName
from laguna_agent.backend.laguna.config import ModelConfig
from laguna_agent.backend.laguna.weights.folder import NO_PICKLES, PICKLES
from laguna_agent.backend.laguna.weights.gguf import open_gguf
from laguna_agent.backend.laguna.weights.hub import open_hub
from laguna_agent.backend.laguna.weights.memory import Need, available_memory, choose
from laguna_agent.backend.laguna.weights.pack_file import VERSION, Pack, open_pack
from laguna_agent.backend.laguna.weights.packing import CHUNK, write_pack
from laguna_agent.backend.laguna.weights.policy import Quant, converted
from laguna_agent.backend.laguna.weights.progress import Progress, silent
from laguna_agent.backend.laguna.weights.stored import CanonicalTensor, Checkpoint
from laguna_agent.backend.laguna.weights.whole_file import locked
from laguna_agent.directories import cache_directory
from laguna_agent.errors import WeightsError

SUFFIX = ".lagpack"
DEFAULT_CONTEXT = 8192


@dataclass(frozen=True, eq=False)
class Weights:
    """A model ready to compute with. `tensors` has every canonical name of the config (`expected_tensors`).

    `need` is what was planned; `pack` is the mapped file. The tensors are read-only.
    """

    config: ModelConfig
    tensors: Mapping[str, Weight]
    need: Need
    pack: Path


def open_checkpoint(path: Path, attention_factor: float | None = None) -> Checkpoint:
    """The model at `path`: a GGUF file, or a folder with config.json and safetensors (or with one GGUF file).

    Only headers are read. `attention_factor` overrides yarn's factor A of a GGUF file. Raises WeightsError where there
    is no model or a damaged one, ConfigError where it is a model that the engine does not compute.
    """
    if path.is_dir():
        files = sorted(path.glob("*.gguf"))
        if (path / "config.json").is_file():
            return open_hub(path)
        if len(files) == 1:
            return open_gguf(files[0], attention_factor)
        raise WeightsError(f"{path}: no config.json, and {len(files)} GGUF files, expected one")
    if path.suffix in PICKLES:
        raise WeightsError(f"{path}: {NO_PICKLES}")
    if path.is_file():
        return open_gguf(path, attention_factor)
    raise WeightsError(f"{path}: there is no such file or folder")


def open_weights(
    path: Path,
    quant: Quant | Literal["auto"] = "auto",
    *,
    context: int = DEFAULT_CONTEXT,
    kv: KVFormatName = DEFAULT,
    attention_factor: float | None = None,
    available: int | None = None,
    folder: Path | None = None,
    progress: Progress = silent,
) -> Weights:
    """Open the model at `path`, packing it first where that was not done before.

    `context`: tokens that the KV cache will have to hold, and `kv` in which format, for the plan; `available`: bytes of
    memory that may be used (None: ask the system); `folder`: where packed files are kept (None: the cache directory).
    Raises WeightsError, ConfigError, and DoesNotFit before anything is read.
    """
    checkpoint = open_checkpoint(path, attention_factor)
    context = min(context, checkpoint.config.context_length)
    need = choose(checkpoint, quant, context, available_memory() if available is None else available, kv)
    return open_planned(checkpoint, need, folder, progress)


def open_planned(
    checkpoint: Checkpoint, need: Need, folder: Path | None = None, progress: Progress = silent
) -> Weights:
    """`open_weights` of a checkpoint whose headers were read and whose memory was planned before."""
    place = pack_path(checkpoint, need.quant, folder or cache_directory() / "packed")
    pack = _opened(place, checkpoint) or _packed(checkpoint, need.quant, place, progress)
    return Weights(checkpoint.config, pack.tensors, need, place)


def pack_path(checkpoint: Checkpoint, quant: Quant, folder: Path) -> Path:
    """Where the packed file of that checkpoint and option belongs; another source or version has another place."""
    name = Path(checkpoint.where).name.removesuffix(".gguf")
    stem = re.sub(r"[^A-Za-z0-9._-]", "-", name)[:80] or "model"
    return folder / f"{stem}.{quant}.v{VERSION}.{checkpoint.identity[:16]}{SUFFIX}"


def _opened(place: Path, checkpoint: Checkpoint) -> Pack | None:
    """The packed file, where it is there and sound; a damaged one is made again."""
    if not place.exists():
        return None
    with suppress(WeightsError):
        pack = open_pack(place)
        if pack.header.identity == checkpoint.identity:
            return pack
    return None


def _packed(checkpoint: Checkpoint, quant: Quant, place: Path, progress: Progress) -> Pack:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with locked(place, lambda: progress("waiting", 0, 0)):
            # Whoever held the lock may have made it.
            pack = _opened(place, checkpoint)
            if pack is None:
                write_pack(checkpoint, quant, place, progress)
                _drop_stale(checkpoint, place)
                pack = open_pack(place)
            return pack
    except OSError as error:
        raise WeightsError(f"{place}: cannot be written: {error.strerror or error}") from error


def _drop_stale(checkpoint: Checkpoint, place: Path) -> None:
    """Remove packed files of the same option made from files that have been replaced since."""
    prefix = place.name.removesuffix(SUFFIX).rpartition(".")[0]
    for other in place.parent.glob(f"{prefix}.*{SUFFIX}"):
        with suppress(WeightsError, OSError):
            if other != place and open_pack(other).header.source == checkpoint.where:
                other.unlink()


def read_stored(checkpoint: Checkpoint) -> dict[str, Weight]:
    """Every tensor as its files have it, in memory or as views of the mapped files, without packing.

    For comparisons and small models: stacked experts are copied. Raises WeightsError at values that are no numbers.
    """
    return {name: _whole(tensor) for name, tensor in checkpoint.tensors.items()}


def _whole(tensor: CanonicalTensor) -> Weight:
    target = tensor.format
    chunks = [converted(chunk, target, where) for where, chunk in tensor.chunks(max(CHUNK, tensor.shape[-1]))]
    parts = {
        part.name: torch.cat([chunk.parts[part.name] for chunk in chunks])
        if len(chunks) > 1
        else chunks[0].parts[part.name]
        for part in target.parts(tensor.shape[-1])
    }
    shaped = {name: part.reshape(*tensor.shape[:-1], part.shape[-1]) for name, part in parts.items()}
    packed = PackedTensor(target, tensor.shape, shaped)
    return packed.parts["values"] if isinstance(target, Plain) else packed
