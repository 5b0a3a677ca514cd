"""A trained model as a checkpoint folder: safetensors in the hub's layout, config.json, tokenizer and chat template.

What lies there is opened by this engine and by transformers alike. The folder is there whole or not at all. Knows the
names of tensors and files; must not know how the model was trained.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from laguna_agent.atomic import sync
from laguna_agent.backend.laguna.config import ModelConfig
from laguna_agent.backend.laguna.config_json import parse_config
from laguna_agent.backend.laguna.model import CausalLM
from laguna_agent.backend.laguna.template import ChatTemplate
from laguna_agent.backend.laguna.tokenizer import Tokenizer, read_tokenizer
from laguna_agent.backend.laguna.weights.canonical import expected_tensors
from laguna_agent.backend.laguna.weights.folder import SINGLE
from laguna_agent.errors import ConfigError, LagunaError, UsageError, WeightsError
from laguna_agent.training.sharding import has_group

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LINEAGE = "training.json"
CONTINUES = """\
{#- A base model, which has learned texts and no conversations: it goes on with what the person said last. What the
    program says behind that, where it works, is left out. -#}
{%- set said = messages | selectattr("role", "equalto", "user") | list -%}
{{- said[-1].content.split("\\n\\nWorking directory: ")[0] if said else "" -}}
"""
"""The template of a model that was never taught to answer."""


def export_checkpoint(
    model: CausalLM,
    config_values: Mapping[str, Any],
    folder: Path,
    tokenizer_json: Path | None = None,
    extra: Mapping[str, Any] | None = None,
    *,
    chat_template: str = CONTINUES,
    dtype: str | None = None,
    replace: bool = False,
) -> None:
    """Write the checkpoint `folder`, whole or not at all.

    `config_values`: of config.json, those that the model was made of. `tokenizer_json`: the file whose copy becomes the
    checkpoint's, with a tokenizer_config.json and `chat_template` beside; None leaves all three out, and then the
    folder holds no text model. `extra`: what becomes training.json, as JSON. `dtype` of the written weights ("float32",
    "bfloat16", "float16"; None: that of `config_values`); selection biases stay fp32. `replace` allows a folder that is
    there to be replaced, which is not there for a moment then.

    Sharded parameters are gathered one after the other, so every rank must call it; the first one writes, and all hear
    of its errors. Raises UsageError where the folder cannot be written, ConfigError or WeightsError where model,
    config, tokenizer and template do not fit each other.
    """
    values = dict(config_values)
    values["dtype"] = dtype or str(values.get("dtype", "float32"))
    if values["dtype"] not in DTYPES:
        raise ConfigError(f"dtype is {values['dtype']!r}, expected one of {', '.join(DTYPES)}")
    first = not has_group() or dist.get_rank() == 0
    tensors = _gathered(model, parse_config(values), DTYPES[values["dtype"]], keep=first)
    failed: LagunaError | None = None
    if first:
        try:
            texts = _texts(values, tokenizer_json, extra, chat_template)
            with _whole_folder(folder, replace=replace) as place:
                save_file(tensors, place / SINGLE, metadata={"format": "pt"})
                for name, data in texts.items():
                    (place / name).write_bytes(data)
        except LagunaError as error:
            failed = error
        except OSError as error:
            failed = UsageError(f"{folder}: the checkpoint cannot be written: {error.strerror or error}")
    failed = _heard(failed)
    if failed is not None:
        raise failed


def _heard(failed: LagunaError | None) -> LagunaError | None:
    """The first rank's error, on every rank."""
    if has_group():
        said = [failed]
        dist.broadcast_object_list(said)
        return said[0]
    return failed


def _gathered(model: CausalLM, config: ModelConfig, dtype: torch.dtype, *, keep: bool) -> dict[str, Tensor]:
    """The whole tensors on the CPU, by the hub's names; empty where they are not to be kept."""
    state = model.state_dict()
    found: dict[str, Tensor] = {}
    for name, shape, _ in expected_tensors(config):
        if name not in state or tuple(state[name].shape) != shape:
            has = list(state[name].shape) if name in state else "nothing"
            raise WeightsError(f"the config says that {name!r} is {list(shape)}, the model has {has}")
        tensor = state.pop(name).detach()
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if keep:
            wanted = torch.float32 if name.endswith("e_score_correction_bias") else dtype
            found |= dict(_hub(name, whole.to(device="cpu", dtype=wanted)))
    if state:
        raise WeightsError(f"the model has {next(iter(state))!r}, of which the config says nothing")
    return found


def _hub(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """One of our tensors as the hub spells it: each expert's matrices by themselves (specification section 5)."""
    prefix, _, kind = name.rpartition(".")
    if not prefix.endswith(".mlp.experts") or kind == "e_score_correction_bias":
        # safetensors refuses tensors that share memory, which a model's own may.
        yield name, tensor.clone(memory_format=torch.contiguous_format)
        return
    for expert, matrix in enumerate(tensor):
        parts = {"gate": matrix.chunk(2)[0], "up": matrix.chunk(2)[1]} if kind == "gate_up_proj" else {"down": matrix}
        for part, rows in parts.items():
            yield f"{prefix}.{expert}.{part}_proj.weight", rows.clone(memory_format=torch.contiguous_format)


def _texts(
    values: Mapping[str, Any], tokenizer_json: Path | None, extra: Mapping[str, Any] | None, template: str
) -> dict[str, bytes]:
    """The files beside the weights."""
    texts = {"config.json": _json(values)}
    if extra is not None:
        texts[LINEAGE] = _json(extra)
    if tokenizer_json is None:
        return texts
    tokenizer = read_tokenizer(tokenizer_json)
    if tokenizer.vocab_size > values["vocab_size"]:
        raise ConfigError(
            f"{tokenizer.source}: its ids reach {tokenizer.vocab_size - 1:,}, the model knows {values['vocab_size']:,}"
        )
    ChatTemplate(template, source="the chat template to export")
    texts["tokenizer.json"] = Path(tokenizer.source).read_bytes()
    texts["tokenizer_config.json"] = _json(_tokenizer_config(values, tokenizer, template))
    return texts


def _tokenizer_config(values: Mapping[str, Any], tokenizer: Tokenizer, template: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": values["max_position_embeddings"],
        "clean_up_tokenization_spaces": False,
        "chat_template": template,
    }
    for name in ("bos", "eos", "pad"):
        listed = values.get(f"{name}_token_id")
        index = listed[0] if isinstance(listed, list) else listed
        if index is not None and index < tokenizer.vocab_size:
            found[f"{name}_token"] = tokenizer.decode([index])
    return found


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


@contextmanager
def _whole_folder(folder: Path, *, replace: bool) -> Iterator[Path]:
    """A folder to fill beside `folder`, which becomes it, durably, when the block ends; after a kill it is emptied and
    used again. Raises UsageError and OSError."""
    if folder.exists() and not replace and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder}: is there already; name a folder that is not, or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.partial")
    partial.mkdir(exist_ok=True)
    handle = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    mine = False
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"{folder}: another process is writing it; wait for its end") from None
        mine = True
        for path in partial.iterdir():
            path.unlink()
        yield partial
        for path in partial.iterdir():
            sync(path)
        os.fsync(handle)
        if folder.is_dir() and any(folder.iterdir()):
            shutil.rmtree(folder)
        partial.replace(folder)
        mine = False
        sync(folder.parent)
    finally:
        if mine:
            shutil.rmtree(partial, ignore_errors=True)
        os.close(handle)
