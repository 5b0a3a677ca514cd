"""XS.2's exact geometry with random weights: the engine against llama.cpp, and the whole model on one machine.

    python benchmarks/geometry.py --layers 8                  # a Q4_0 file of 3.7 GB that llama.cpp runs too
    python benchmarks/geometry.py --layers 2 --type f32       # the same in fp32 throughout: 5.3 GB
    python benchmarks/geometry.py --layers 40 --folder DIR    # packed to int4 (19 GB), mapped, generating

The first two write a GGUF file, ask llama.cpp for its next-token distributions and compare; our side is the int4 pack
of it (which holds Q4_0 codes unchanged), computed in fp32. The last one makes the packed file only, from a checkpoint
whose rows are made when they are read, opens it in a process of its own and generates. `random_laguna.py` says how
large the random values are and why. Files go to --folder and are removed at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from agreement import HEADER, Agreement, compared
from llama_distributions import LlamaCpp, NextToken
from model_server import model_server
from random_laguna import BETA_FAST, all_as, random_checkpoint, write_gguf

from laguna_agent.backend.kernels.cpu.library import status
from laguna_agent.backend.kernels.formats import Format, Ggml, Plain
from laguna_agent.backend.laguna.loading import build_model
from laguna_agent.backend.laguna.model import CausalLM, Piece
from laguna_agent.backend.laguna.weights import open_weights
from laguna_agent.backend.laguna.weights.memory import available_memory, gigabytes, need
from laguna_agent.backend.laguna.weights.opening import open_checkpoint, read_stored
from laguna_agent.backend.laguna.weights.pack_file import open_pack
from laguna_agent.backend.laguna.weights.packing import write_pack

VOCABULARY = 100352
TYPES: dict[str, Format] = {"q4_0": Ggml("Q4_0"), "f32": Plain(torch.float32)}
PROMPT, ANSWER = 64, 32


def options(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=8, help="of XS.2's 40 (%(default)s)")
    parser.add_argument("--type", choices=TYPES, default="q4_0", help="of the matrices in the file (%(default)s)")
    parser.add_argument("--tokens", type=int, default=640, help="positions compared; the window is 512 (%(default)s)")
    parser.add_argument("--listed", type=int, default=4000, help="tokens listed by llama.cpp a position (%(default)s)")
    parser.add_argument("--folder", type=Path, help="where files are made (default: a temporary folder)")
    parser.add_argument("--pack", type=Path, help="of 40 layers: the packed file is kept here, and not made again")
    parser.add_argument("--generate", type=Path, help="only open this packed file and generate (what --layers 40 runs)")
    return parser.parse_args(argv)


def against_llama(settings: argparse.Namespace, folder: Path) -> None:
    """Write the GGUF file, ask llama.cpp, compare."""
    path, exact = folder / "random.gguf", settings.type == "f32"
    started = time.monotonic()
    write_gguf(path, settings.layers, all_as(TYPES[settings.type]))
    print(f"{path.name}: {path.stat().st_size / 1e9:.2f} GB, written in {time.monotonic() - started:.0f} s", flush=True)
    source = random.Random(1)
    ids = [source.randrange(256, VOCABULARY) for _ in range(settings.tokens + 1)]
    with model_server(path, folder / "server.log", "f32" if exact else "f16", BETA_FAST) as url:
        server = LlamaCpp(url)
        server.check_plain(ids[:32], VOCABULARY)
        started = time.monotonic()
        expected = list(server.distributions(ids, settings.listed))
        print(f"llama.cpp: {len(expected)} positions in {time.monotonic() - started:.0f} s", flush=True)
    started = time.monotonic()
    result = ours(path, settings.type, folder, ids, expected)
    print(f"ours: opened and computed in {time.monotonic() - started:.0f} s")
    spread = sum(sum(-p * 2.718281828459045**p for p in one.logprobs) for one in expected) / len(expected)
    print(f"\n{settings.layers} layers, {settings.type}; {len(expected)} positions of random tokens; mean entropy of")
    print(f"the {settings.listed} listed tokens {spread:.2f} nats; beyond them, one bucket on both sides")
    print(HEADER, result.row(), sep="\n")


def ours(path: Path, kind: str, folder: Path, ids: list[int], expected: list[NextToken]) -> Agreement:
    """Our engine on the same file."""
    if kind == "f32":
        checkpoint = open_checkpoint(path)
        model = build_model(checkpoint.config, read_stored(checkpoint), torch.float32)
        return compared("f32", model, ids, expected)
    weights = open_weights(path, "int4", folder=folder, context=len(ids))
    model = build_model(weights.config, weights.tensors, torch.float32)
    return compared("int4", model, ids, expected)


def whole(settings: argparse.Namespace, folder: Path) -> None:
    """Pack, then open and generate in a process of its own."""
    checkpoint = random_checkpoint(settings.layers, all_as(TYPES[settings.type]), settings.type)
    # Many small steps on large tensors: a second thread gains little, and waits whenever another program runs.
    torch.set_num_threads(1)
    planned = need(checkpoint, "int4", 4 * (PROMPT + ANSWER))
    print(f"{planned}; available now: {gigabytes(available_memory())}", flush=True)
    path = settings.pack or folder / "random.lagpack"
    if not path.exists():
        started = time.monotonic()
        write_pack(checkpoint, "int4", path)
        print(f"packed in {time.monotonic() - started:.0f} s")
    print(f"{path.name}: {path.stat().st_size / 1e9:.2f} GB", flush=True)
    # Threads that spin while they wait for another one keep it from running wherever a core is taken.
    calm = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
    subprocess.run([sys.executable, __file__, "--generate", str(path)], check=True, env=os.environ | calm)


def memory() -> dict[str, float]:
    """This process's resident memory in GB: all, of its own, and pages of files."""
    names = {"VmRSS": "rss", "VmHWM": "peak", "RssAnon": "anonymous", "RssFile": "file"}
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {names[one[0][:-1]]: round(int(one[1]) / 1e6, 2) for one in lines if one and one[0][:-1] in names}


@torch.inference_mode()
def generate(path: Path) -> None:
    """Open a packed file and let the model continue random tokens, greedily."""
    report(before=memory())
    started = time.perf_counter()
    pack = open_pack(path)
    model = build_model(pack.header.config, pack.tensors)
    report(opened_s=time.perf_counter() - started, **memory())
    source, cache = random.Random(1), model.new_cache()
    ids = [source.randrange(256, VOCABULARY) for _ in range(PROMPT)]
    # Twice, for the first reading brings the pages in from disk.
    for name in ("prefill_cold", "prefill"):
        started = time.perf_counter()
        logits = model([Piece(torch.tensor(ids), cache)], last=1)
        report(**{f"{name}_tokens_per_s": PROMPT / (time.perf_counter() - started)}, **memory())
    for name in ("decode_cold", "decode"):
        seconds, tokens, logits = answer(model, cache, logits)
        report(**{f"{name}_tokens_per_s": ANSWER / seconds}, **memory(), tokens=tokens[:8])


def answer(model: CausalLM, cache: object, logits: torch.Tensor) -> tuple[float, list[int], torch.Tensor]:
    """ANSWER tokens one after the other: seconds, the tokens, the last logits."""
    tokens: list[int] = []
    started = time.perf_counter()
    for _ in range(ANSWER):
        tokens.append(int(logits[-1].argmax()))
        logits = model([Piece(torch.tensor(tokens[-1:]), cache)], last=1)
        if not logits.isfinite().all():
            raise SystemExit("the logits are not finite")
    return time.perf_counter() - started, tokens, logits


def report(**figures: object) -> None:
    """One line of figures."""
    rounded = {key: round(value, 3) if isinstance(value, float) else value for key, value in figures.items()}
    print(json.dumps(rounded), flush=True)


def main(argv: list[str] | None = None) -> int:
    settings = options(argv)
    if settings.generate:
        generate(settings.generate)
        return 0
    print(status())
    with tempfile.TemporaryDirectory(dir=settings.folder) as scratch:
        (whole if settings.layers == 40 else against_llama)(settings, Path(scratch))
    return 0


if __name__ == "__main__":
    sys.exit(main())
