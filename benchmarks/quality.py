"""Is our engine right, and what do its packed formats cost? Next-token distributions against llama.cpp's.

    python benchmarks/quality.py                                    # the 1.5B coder model of the store
    python benchmarks/quality.py --gguf FILE.gguf --tokens 500

Both read the same GGUF file and the same text, which is this repository's own source. Printed for each of our packs:
how often the most probable next token is llama.cpp's, the mean divergence KL(llama.cpp || ours) in nats, and the
perplexity beside llama.cpp's own. Our side computes in fp32. That the token ids are equal is checked first.

llama.cpp rounds activations to 8 bits and its cache to 16, so part of the divergence is its own. `--exact 100` shows
how much: on the first 100 positions it runs a copy of the file in fp32 (7.1 GB for the 1.5B model), which it rounds
nowhere, beside our engine on the file itself.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from agreement import HEADER, Agreement, compared, reference_perplexity
from laguna_gguf import write_exact_copy
from llama_distributions import LlamaCpp, NextToken
from model_server import model_server

from laguna_agent.backend.kernels.cpu.library import status
from laguna_agent.backend.laguna.gguf_tokenizer import tokenizer_from_gguf
from laguna_agent.backend.laguna.loading import build_model
from laguna_agent.backend.laguna.weights import open_weights
from laguna_agent.backend.laguna.weights.gguf_file import GgufFile
from laguna_agent.backend.laguna.weights.opening import open_checkpoint, read_stored
from laguna_agent.backend.laguna.weights.policy import Quant
from laguna_agent.backend.weights.store import Store
from laguna_agent.errors import LagunaError

ROOT = Path(__file__).resolve().parents[1]
SOURCES = (
    "laguna_agent/backend/laguna/rope.py",
    "laguna_agent/backend/sse.py",
    "laguna_agent/backend/kernels/ggml_blocks.py",
    "laguna_agent/backend/retry.py",
)
"""Files that change seldom, taken one after the other; the digest of the text says whether a run had the same."""
QUANTS: tuple[Quant, ...] = ("bf16", "int8", "int4")


def options(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", type=Path, help="the model (default: --model of the store)")
    parser.add_argument("--model", default="qwen2.5-coder-1.5b", help="a name of the store (%(default)s)")
    parser.add_argument("--text", type=Path, help="the text (default: files of this repository)")
    parser.add_argument("--tokens", type=int, default=2000, help="positions that are compared (%(default)s)")
    parser.add_argument("--listed", type=int, default=2000, help="tokens listed by llama.cpp a position (%(default)s)")
    parser.add_argument("--quants", default=",".join(QUANTS), help="our packs, comma-separated (%(default)s)")
    parser.add_argument("--exact", type=int, default=0, help="positions compared without any rounding (%(default)s)")
    parser.add_argument("--packs", type=Path, help="where packed files are kept (default: a temporary folder)")
    return parser.parse_args(argv)


def source_text(path: Path | None) -> str:
    """The text that is read, whole."""
    if path is not None:
        return path.read_text(encoding="utf-8")
    return "\n".join((ROOT / name).read_text(encoding="utf-8") for name in SOURCES)


def ask_llama(gguf: Path, text: str, tokens: int, listed: int, log: Path) -> tuple[list[int], list[NextToken]]:
    """Token ids and llama.cpp's distributions, one for each id but the first. Exits where the ids are not ours."""
    ours = tokenizer_from_gguf(GgufFile(gguf).keys, str(gguf)).encode(text)
    vocabulary = len(GgufFile(gguf).keys["tokenizer.ggml.tokens"])
    with model_server(gguf, log) as url:
        server = LlamaCpp(url)
        theirs = server.tokenize(text)
        if ours != theirs:
            place = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), len(ours))
            raise SystemExit(f"token {place} of {len(ours)} (ours) and {len(theirs)} (llama.cpp's) differs")
        print(f"token ids: all {len(ours)} of the text equal llama.cpp's")
        if len(ours) <= tokens:
            raise SystemExit(f"the text has {len(ours)} tokens, {tokens + 1} are needed")
        ids = ours[: tokens + 1]
        vocabulary = max(vocabulary, len(server.top(ids[:1], 1 << 20)))
        server.check_plain(ids[:32], vocabulary)
        print(f"llama.cpp's log-probabilities: plain softmax over {vocabulary} tokens, whatever the temperature")
        started = time.monotonic()
        found = list(server.distributions(ids, listed, vocabulary))
        print(f"llama.cpp: {len(found)} positions in {time.monotonic() - started:.0f} s")
    return ids, found


def measure(gguf: Path, quant: Quant, folder: Path, ids: Sequence[int], expected: Sequence[NextToken]) -> Agreement:
    """Our pack of that kind against the reference."""
    started = time.monotonic()
    weights = open_weights(gguf, quant, folder=folder, context=len(ids))
    model = build_model(weights.config, weights.tensors, torch.float32)
    opened = time.monotonic()
    result = compared(quant, model, ids, expected)
    size, seconds = weights.pack.stat().st_size / 1e9, time.monotonic() - opened
    print(f"{quant}: {size:.2f} GB, packed or opened in {opened - started:.0f} s, computed in {seconds:.0f} s")
    return result


def exactly(gguf: Path, ids: Sequence[int], listed: int, folder: Path) -> Agreement:
    """Our engine on the file as it is, against llama.cpp on a copy of it in fp32."""
    copy = folder / "exact.gguf"
    write_exact_copy(gguf, copy)
    with model_server(copy, folder / "exact.log", cache_type="f32") as url:
        expected = list(LlamaCpp(url).distributions(ids, listed))
    copy.unlink()
    checkpoint = open_checkpoint(gguf)
    model = build_model(checkpoint.config, read_stored(checkpoint), torch.float32)
    return compared("exact", model, ids, expected)


def main(argv: list[str] | None = None) -> int:
    settings = options(argv)
    try:
        store = Store()
        gguf = settings.gguf or store.blob_path(store.get(settings.model).sha256)
    except LagunaError as error:
        raise SystemExit(str(error)) from error
    text = source_text(settings.text)
    print(status())
    print(f"{gguf.name}; text of {len(text)} characters, SHA-256 {hashlib.sha256(text.encode()).hexdigest()[:16]}")
    with tempfile.TemporaryDirectory() as scratch:
        ids, expected = ask_llama(gguf, text, settings.tokens, settings.listed, Path(scratch) / "server.log")
        folder = settings.packs or Path(scratch)
        results = [measure(gguf, quant, folder, ids, expected) for quant in settings.quants.split(",")]
        if settings.exact:
            exact = exactly(gguf, ids[: settings.exact + 1], settings.listed, Path(scratch))
            print(f"\nllama.cpp in fp32, {exact.positions} positions", HEADER, exact.row(), sep="\n")
    own = reference_perplexity(expected)
    print(f"\n{len(expected)} positions; beyond llama.cpp's {settings.listed} listed tokens, one bucket on both sides")
    print(f"{HEADER}  perplexity", f"{'llama.cpp':<{len(HEADER)}}  {own:>10.4f}", sep="\n")
    for one in results:
        print(f"{one.row()}  {one.perplexity:>10.4f}  {100 * (one.perplexity / own - 1):>+6.2f} %")
    return 0


if __name__ == "__main__":
    sys.exit(main())
