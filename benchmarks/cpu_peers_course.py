"""What is run against what in `cpu_peers.py`: the courses, their contenders, and the files these open.

Knows files, interpreters and the floors that were set; must not know how anything is timed. Files are made once and
kept where the person wants them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from shutil import disk_usage
from typing import Any, NamedTuple

import torch
from cpu_peers_asked import FOLDER, Contender
from cpu_peers_bytes import Traffic, packed_sizes, plain_sizes, stored_sizes, traffic
from cpu_peers_worker import random_ids
from random_laguna import BETA_FAST, as_llama_quantize, random_checkpoint, write_gguf, xs2_settings

from laguna_agent.backend.kernels.formats import Plain
from laguna_agent.backend.laguna.config_json import parse_config
from laguna_agent.backend.laguna.weights.memory import Need, available_memory, choose, need
from laguna_agent.backend.laguna.weights.opening import open_checkpoint, open_planned, pack_path
from laguna_agent.backend.laguna.weights.stored import Checkpoint


class Floor(NamedTuple):
    """What a figure must reach and what it should; of a ceiling, what it may be and should."""

    least: float
    aim: float


class Column(NamedTuple):
    """Something that is timed: `kind` "prefill" or "decode", and the tokens that are read or stand before."""

    kind: str
    tokens: int

    @property
    def name(self) -> str:
        """For people and JSON."""
        return f"{self.kind} {self.tokens}"


@dataclass(frozen=True)
class Settings:
    """What a person chose that every course needs: `llama` is the interpreter that has llama.cpp, None for no such
    contender; `wanted`: words of which a contender's name must hold one; `judged`: tokens of the guard."""

    threads: int
    folder: Path
    llama: Path | None
    flash: Sequence[str]
    wanted: Sequence[str]
    columns: Sequence[Column]
    judged: int

    @property
    def context(self) -> int:
        """Tokens that fit into every cache, those that are decoded included."""
        longest = max((column.tokens for column in self.columns), default=0)
        return -(-(max(longest, self.judged) + 128) // 256) * 256


@dataclass(frozen=True)
class Course:
    """Contenders on the same work. `floors`: our speed against a peer's, by what its name begins with and the column's
    name; `ids`: tokens of the guard; `fits`: the disk has room for all files at once; `ceilings`: of our seconds to
    open ("open_s") and bytes resident ("rss")."""

    title: str
    contenders: Sequence[Contender]
    columns: Sequence[Column]
    ids: Sequence[int]
    floors: dict[tuple[str, str], Floor] = field(default_factory=dict)
    fits: bool = True
    ceilings: dict[str, Floor] = field(default_factory=dict)


LLAMA_FLOORS = {
    ("llama.cpp", "decode 128"): Floor(1.6, 2.3),
    ("llama.cpp", "decode 2048"): Floor(1.6, 2.3),
    ("llama.cpp", "decode 8192"): Floor(2.0, 4.0),
    ("llama.cpp", "prefill 512"): Floor(2.0, 3.5),
    ("llama.cpp", "prefill 2048"): Floor(1.8, 3.0),
}
TRANSFORMERS_FLOORS = {
    ("transformers", "decode 128"): Floor(4.0, 7.0),
    ("transformers", "prefill 512"): Floor(2.0, 4.0),
}
QWEN_FLOORS = {
    ("llama.cpp", column): floor
    for column, floor in {
        **{f"decode {tokens}": Floor(1.2, 1.5) for tokens in (128, 2048, 8192)},
        **{f"prefill {tokens}": Floor(1.3, 2.0) for tokens in (512, 2048)},
    }.items()
}
READ_SHARE = Floor(0.60, 0.85)
"""Of the machine's read bandwidth, by our decoding after 128 tokens."""
CEILINGS = {"open_s": Floor(5.0, 1.0), "rss": Floor(20 * 2.0**30, 18 * 2.0**30)}
"""Of all 40 layers, warm: seconds until it is open, bytes resident."""
KINDS = ("Q4_0", "Q4_K_M")
LONGEST_BF16 = 2048
"""Tokens of the columns that transformers is asked for."""
LARGEST_STORED = 6 << 30
"""Bytes of a GGUF file whose exact logits are computed: all of it is in memory then, and dequantised for each chunk."""
SPARE = 2 << 30
"""Bytes of a disk that are not filled."""


def xs2(settings: Settings, layers: int) -> Course:
    """XS.2's geometry with random weights: ours, and llama.cpp on both kinds of file."""
    contenders = list(_ours(settings, layers))
    for kind in KINDS if settings.llama else ():
        if _wanted(settings, f"llama.cpp {kind}"):
            checkpoint, path = _random(layers, kind), settings.folder / f"xs2-{layers}.{kind}.gguf"
            made = partial(_write, path, layers, kind)
            contenders.append(_llama(settings, f"llama.cpp {kind}", checkpoint, path, made, BETA_FAST))
    missing = sum(_size(one, layers) for one in contenders if one.file and not one.file.exists())
    fits = missing + SPARE < disk_usage(settings.folder).free
    ids = random_ids(settings.judged, xs2_settings(layers)["vocab_size"])
    ceilings = CEILINGS if layers == 40 else {}
    return Course(f"XS.2, {layers} layers", contenders, settings.columns, ids, LLAMA_FLOORS, fits, ceilings)


def against_transformers(settings: Settings, layers: int) -> Course:
    """The same geometry, so few layers that bf16 weights fit: ours against transformers."""
    contenders = list(_ours(settings, layers))
    if _wanted(settings, "transformers"):
        config = parse_config(xs2_settings(layers), "XS.2")
        read = traffic(config, plain_sizes(config, Plain(torch.bfloat16)))
        opening = {"threads": settings.threads, "settings": xs2_settings(layers)}
        command = (sys.executable, str(FOLDER / "cpu_peers_transformers.py"))
        contenders.append(Contender("transformers bf16", command, opening, read))
    shortest = [column for column in settings.columns if column.tokens <= LONGEST_BF16]
    ids = random_ids(settings.judged, xs2_settings(layers)["vocab_size"])
    return Course(f"XS.2, {layers} layers, against bf16", contenders, shortest, ids, TRANSFORMERS_FLOORS)


def real_model(settings: Settings, path: Path) -> Course:
    """A GGUF file with real weights: the program's own opening of it, and llama.cpp on the file itself."""
    checkpoint, contenders = open_checkpoint(path), []
    for option in ("auto", "int4"):
        if _wanted(settings, f"ours {option}"):
            planned = choose(checkpoint, option, settings.context, available_memory())
            opening = {"kind": "program", "quant": planned.quant, "folder": str(settings.folder), "path": str(path)}
            contenders.append(_our_own(settings, f"ours {option}", checkpoint, planned, opening))
    if settings.llama and _wanted(settings, "llama.cpp"):
        contenders.append(_llama(settings, "llama.cpp", checkpoint, path))
    return Course(path.stem, contenders, settings.columns, _text_ids(checkpoint, settings.judged), QWEN_FLOORS)


def _text_ids(checkpoint: Checkpoint, count: int) -> list[int]:
    """The beginning of this benchmark's own text: real text, for real weights."""
    from laguna_agent.backend.laguna.gguf_tokenizer import tokenizer_from_gguf

    if not count:
        return []
    text = "".join(one.read_text() for one in sorted(FOLDER.glob("cpu_peers*.py")))
    ids = tokenizer_from_gguf(checkpoint.metadata, checkpoint.where).encode(text)
    return list(ids[:count])


def _wanted(settings: Settings, name: str) -> bool:
    return not settings.wanted or any(word in name for word in settings.wanted)


def _random(layers: int, kind: str) -> Checkpoint:
    """The random model as `llama-quantize` would store it."""
    return random_checkpoint(layers, as_llama_quantize(kind, layers), f"as-{kind}")


def _write(path: Path, layers: int, kind: str) -> None:
    """The random model as a file, whole or not at all."""
    if not path.exists():
        part = path.with_suffix(".part")
        write_gguf(part, layers, as_llama_quantize(kind, layers))
        part.rename(path)


def _size(contender: Contender, layers: int) -> int:
    """About what its file takes."""
    checkpoint = _random(layers, "Q4_K_M" if "Q4_K_M" in contender.name else "Q4_0")
    return checkpoint.stored_bytes


def _ours(settings: Settings, layers: int) -> Iterator[Contender]:
    """The engine as it is used, and where a person names it the exact one, on a packed file."""
    checkpoint = _random(layers, "Q4_0")
    planned = need(checkpoint, "int4", settings.context)
    opening = {"kind": "pack", "path": str(pack_path(checkpoint, "int4", settings.folder))}
    if _wanted(settings, "ours"):
        yield _our_own(settings, "ours", checkpoint, planned, opening)
    if "ours exact" in settings.wanted:
        yield _our_own(settings, "ours exact", checkpoint, planned, {**opening, "arithmetic": "exact"})


def _our_own(
    settings: Settings, name: str, checkpoint: Checkpoint, planned: Need, opening: dict[str, Any]
) -> Contender:
    read = traffic(checkpoint.config, packed_sizes(checkpoint, planned.quant))
    file = pack_path(checkpoint, planned.quant, settings.folder)
    made = partial(open_planned, checkpoint, planned, settings.folder)
    command, exact = _exactly(settings, name, read, file, opening)
    return Contender(name, command, {"threads": settings.threads, **opening}, read, file, made, exact, ours=True)


def _llama(
    settings: Settings,
    name: str,
    checkpoint: Checkpoint,
    path: Path,
    made: Callable[[], object] | None = None,
    beta_fast: float = -1.0,
) -> Contender:
    read = traffic(checkpoint.config, stored_sizes(checkpoint))
    opening = {"path": str(path), "threads": settings.threads, "context": settings.context}
    opening |= {"flash": list(settings.flash), "beta_fast": beta_fast}
    _, exact = _exactly(settings, name, read, path, {"kind": "stored", "path": str(path)})
    if checkpoint.stored_bytes > LARGEST_STORED:
        exact = None
    command = (str(settings.llama), str(FOLDER / "cpu_peers_llama.py"))
    return Contender(name, command, opening, read, path, made, exact)


def _exactly(
    settings: Settings, name: str, read: Traffic, file: Path, opening: dict[str, Any]
) -> tuple[tuple[str, str], Contender | None]:
    """The command of our engine, and it as the one that computes exactly what the file holds."""
    command = (sys.executable, str(FOLDER / "cpu_peers_ours.py"))
    exact = {**opening, "threads": settings.threads, "arithmetic": "exact", "kv": "f32"}
    return command, Contender(f"{name}, exactly", command, exact, read, file)
