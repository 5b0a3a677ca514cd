"""From a run file to a finished run, and from a run to a checkpoint that the engine opens.

Knows who makes what out of a run file; must not know how a step is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
from torch import Tensor

from laguna_agent.atomic import replace_file
from laguna_agent.backend.laguna.config_fields import read_object
from laguna_agent.backend.laguna.config_json import parse_config
from laguna_agent.backend.laguna.model import CausalLM
from laguna_agent.backend.laguna.weights.opening import open_checkpoint, read_stored
from laguna_agent.errors import ConfigError, StorageError
from laguna_agent.training.checkpoints import Checkpoints, load_tensors, step_of
from laguna_agent.training.export import CONTINUES, export_checkpoint
from laguna_agent.training.launch import launch
from laguna_agent.training.modelling import small_laguna
from laguna_agent.training.provenance import Lineage, code
from laguna_agent.training.run_file import RunFile, read_run_file, run_directory
from laguna_agent.training.sharding import Ranks
from laguna_agent.training.supply import Supply, open_supply
from laguna_agent.training.trainer import CHECKPOINTS, RUN, Begun, Trainer

TOKENIZER = "tokenizer.json"
TEMPLATE = "chat_template.jinja"


def train_file(path: Path, kind: Literal["pretrain", "sft"], nproc: int) -> int:
    """Train as the run file says, from its last checkpoint on where there is one; returns the exit code: 0, or 128 and
    the signal that stopped it. Raises LagunaError."""
    run = read_run_file(path)
    if run.run.kind != kind:
        raise ConfigError(f"{path}: run.kind is {run.run.kind!r}, so the command is `train {run.run.kind}`")
    return launch(train_run, run, nproc)


def train_run(ranks: Ranks, run: RunFile) -> int:
    """What each process does."""
    supply = open_supply(run)
    config, initial = model_of(run, supply)
    run = _counted(run, supply)
    tokenizer = _kept_files(run, supply, first=ranks.first)
    trainer = Trainer(
        run,
        supply.stream,
        config=config,
        lineage=Lineage(run.run.name, supply.versions, code()),
        validation=supply.validation,
        initial=initial,
        ranks=ranks,
        tokenizer=tokenizer,
    )
    result = trainer.train()
    return 128 + result.stopped if result.stopped else 0


def model_of(run: RunFile, supply: Supply) -> tuple[dict[str, Any], Mapping[str, Tensor] | None]:
    """The values of the model's config.json, and the weights to begin with where they are not random. Raises
    ConfigError and WeightsError."""
    model, vocabulary = run.model, supply.vocabulary
    initial = None
    if model.from_ is not None:
        folder = Path(model.from_)
        values = dict(read_object(folder / "config.json"))
        initial = _plain(folder)
    elif model.config is not None:
        values = dict(read_object(Path(model.config)))
    else:
        sizes: dict[str, Any] = model.sizes()
        if vocabulary is None and "vocab_size" not in sizes:
            raise ConfigError("model.vocab_size is missing, and the data names no tokenizer that would say it")
        if vocabulary is not None:
            sizes.setdefault("vocab_size", vocabulary.size)
            sizes |= {"eos": vocabulary.end} if vocabulary.end is not None else {}
        values = small_laguna(**sizes)
    parsed = parse_config(values)
    if vocabulary is not None and vocabulary.size > parsed.vocab_size:
        raise ConfigError(f"model.vocab_size is {parsed.vocab_size}, the data's tokenizer has {vocabulary.size} tokens")
    if supply.capacity > parsed.context_length:
        raise ConfigError(
            f"the packs hold up to {supply.capacity} tokens, the model reads {parsed.context_length}: raise "
            "model.context, or pack with a smaller capacity"
        )
    return values, initial


def _plain(folder: Path) -> dict[str, Tensor]:
    """A checkpoint's weights as fp32. Raises WeightsError, and ConfigError where they are packed codes."""
    found = {}
    for name, weight in read_stored(open_checkpoint(folder)).items():
        if not isinstance(weight, Tensor):
            raise ConfigError(f"model.from is {folder}, whose {name} is quantised; begin with a checkpoint that is not")
        found[name] = weight.float()
    return found


def _counted(run: RunFile, supply: Supply) -> RunFile:
    """The run with its packs per step, where the file says tokens."""
    if run.run.tokens_per_step is None:
        return run
    packs = max(1, round(run.run.tokens_per_step / supply.capacity))
    return msgspec.structs.replace(run, run=msgspec.structs.replace(run.run, packs_per_step=packs))


def _kept_files(run: RunFile, supply: Supply, *, first: bool) -> Path | None:
    """Put the tokenizer, and for SFT the chat template, beside the run: an export needs them when the data is gone."""
    if supply.vocabulary is None:
        return None
    assert run.run.directory is not None
    folder = Path(run.run.directory)
    if first:
        try:
            replace_file(folder / TOKENIZER, supply.vocabulary.file)
            if supply.template is not None:
                replace_file(folder / TEMPLATE, supply.template.encode())
        except OSError as error:
            raise StorageError(f"cannot write into {folder}: {error.strerror}; choose another run.directory") from error
    return folder / TOKENIZER


def export_run(name: str, out: Path, *, step: int | None = None, dtype: str | None = None) -> Path:
    """Write the model of a run's newest checkpoint, or of `step`, into the folder `out`; returns the checkpoint's path.
    Raises LagunaError."""
    folder = run_directory(name)
    try:
        begun = msgspec.json.decode((folder / RUN).read_bytes(), type=Begun)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"{folder / RUN} cannot be read: {error}") from error
    checkpoints = Checkpoints(folder / CHECKPOINTS, 1)
    path = checkpoints.latest() if step is None else checkpoints.at(step)
    if path is None:
        raise ConfigError(f"the run {folder} has no whole checkpoint yet; train it first")
    model = CausalLM(parse_config(begun.config), torch.float32)
    with torch.no_grad():
        load_tensors(path, {name: tensor.detach() for name, tensor in model.state_dict().items()})
    template = folder / TEMPLATE
    export_checkpoint(
        model,
        begun.config,
        out,
        None if begun.tokenizer is None else folder / TOKENIZER,
        {**msgspec.to_builtins(begun.lineage), "step": step_of(path)},
        chat_template=template.read_text(encoding="utf-8") if template.is_file() else CONTINUES,
        dtype=dtype,
    )
    return path
