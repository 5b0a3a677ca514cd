"""What each format of the KV cache costs: time of a token's attention, bytes, time to disk and back, and error.

    python benchmarks/kv_cache.py [--threads 2] [--model FILE.gguf [--text FILE] [--tokens 400]]

Times are of storing one token and attending to all before it, per layer, the best of 15 rounds that go through all
formats in turn. With a model, a text is read once for each format, all of them in one batch: in chunks and, its last
part, a few tokens at a time, as drafts are. The table shows how far the next-token distributions are from those over
an f32 cache.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch

from laguna_agent.backend.kernels.attention import attention
from laguna_agent.backend.laguna.cache import KVCache
from laguna_agent.backend.laguna.cache_file import load_cache, save_cache
from laguna_agent.backend.laguna.cache_format import FORMATS, KVFormatName
from laguna_agent.backend.laguna.config import AttentionType, LayerConfig, ModelConfig, RopeConfig
from laguna_agent.backend.laguna.loading import build_model
from laguna_agent.backend.laguna.model import CausalLM, Piece
from laguna_agent.backend.laguna.tokenizer import read_tokenizer
from laguna_agent.backend.laguna.weights import open_weights

CHUNK, STEP = 128, 4
STEPPED = 0.25
"""The share of a text that is read a few tokens at a time."""


def geometry(heads: int, kv_heads: int, layers: int, kind: AttentionType = "full_attention") -> ModelConfig:
    """The attention of a model, and nothing else of it."""
    return ModelConfig(
        architecture="laguna",
        vocab_size=8,
        hidden_size=8,
        head_dim=128,
        kv_heads=kv_heads,
        context_length=1 << 18,
        layers=tuple(LayerConfig(heads=heads, attention=kind) for _ in range(layers)),
        rope={kind: RopeConfig(theta=1e6, rotary_dim=128)},
        dense_size=8,
        sliding_window=512 if kind == "sliding_attention" else 0,
    )


SHAPES = {
    "Qwen2 1.5B, 128 tokens": (geometry(12, 2, 28), 128),
    "Qwen2 1.5B, 2,000": (geometry(12, 2, 28), 2000),
    "Qwen2 1.5B, 8,000": (geometry(12, 2, 10), 8000),
    "Laguna XS full, 2,000": (geometry(48, 8, 8), 2000),
    "Laguna XS full, 8,000": (geometry(48, 8, 3), 8000),
    "Laguna XS sliding, 2,000": (geometry(64, 8, 10, "sliding_attention"), 2000),
}


def append(cache: KVCache, tokens: int, source: torch.Generator) -> float:
    """Store random keys and attend to all, layer by layer; returns seconds of a layer."""
    config, step = cache.config, cache.begin([1] * tokens)
    layers = []
    for layer in config.layers:
        sizes = (layer.heads, config.kv_heads, config.kv_heads)
        layers.append([torch.randn(tokens, heads, config.head_dim, generator=source) for heads in sizes])
    start = time.perf_counter()
    for index, (q, k, v) in enumerate(layers):
        runs = step.keys(index, k.transpose(0, 1), v.transpose(0, 1))
        if tokens == 1:
            attention(q, step.first, runs, config.sliding_window)
    step.commit()
    return (time.perf_counter() - start) / len(layers)


def times(config: ModelConfig, length: int) -> dict[KVFormatName, float]:
    """Seconds of one token in one layer."""
    source = torch.Generator().manual_seed(1)
    caches = {name: KVCache(config, format=name) for name in FORMATS}
    for cache in caches.values():
        while cache.length < length:
            append(cache, min(CHUNK, length - cache.length), source)
    best = dict.fromkeys(caches, 1.0)
    for _ in range(15):
        for name, cache in caches.items():
            best[name] = min(best[name], append(cache, 1, source))
    return best


def disk(config: ModelConfig, length: int) -> dict[KVFormatName, tuple[int, float, float]]:
    """Bytes of a saved cache, seconds to save and to load it."""
    found = {}
    source = torch.Generator().manual_seed(1)
    with tempfile.TemporaryDirectory() as folder:
        for name in FORMATS:
            cache, path = KVCache(config, format=name), Path(folder) / name
            append(cache, length, source)
            start = time.perf_counter()
            size = save_cache(cache, path, identity="benchmark")
            saved = time.perf_counter()
            load_cache(path, config, identity="benchmark")
            found[name] = (size, saved - start, time.perf_counter() - saved)
    return found


def distributions(model: CausalLM, ids: torch.Tensor) -> dict[KVFormatName, torch.Tensor]:
    """Log-probabilities after each of the ids, over a cache of every format."""
    caches = {name: model.new_cache(name) for name in FORMATS}
    parts: dict[KVFormatName, list[torch.Tensor]] = {name: [] for name in FORMATS}
    at = 0
    while at < len(ids):
        count = min(CHUNK if at < len(ids) * (1 - STEPPED) else STEP, len(ids) - at)
        logits = model([Piece(ids[at : at + count], cache) for cache in caches.values()])
        for name, own in zip(caches, logits.split(count), strict=True):
            parts[name].append(torch.log_softmax(own.float(), dim=-1))
        at += count
    return {name: torch.cat(own) for name, own in parts.items()}


def compare(path: Path, text: Path, tokens: int) -> None:
    """Print how far every format is from f32 on a text."""
    weights = open_weights(path, "int4")
    model = build_model(weights.config, weights.tensors, torch.float32)
    ids = torch.tensor(read_tokenizer(path).encode(text.read_text(encoding="utf-8"))[:tokens])
    with torch.no_grad():
        found = distributions(model, ids)
    exact = found["f32"]
    print(f"\n{len(ids)} tokens of {text}, against f32    mean KL      largest KL   top-1 agreement   perplexity")
    for name, own in found.items():
        divergence = (exact.exp() * (exact - own)).sum(-1)
        agreement = (exact.argmax(-1) == own.argmax(-1)).float().mean().item()
        perplexity = (-own[:-1].gather(-1, ids[1:, None])).mean().exp().item()
        print(f"  {name:6} {divergence.mean():42.2e} {divergence.max():14.2e} {agreement:14.4f} {perplexity:14.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--text", type=Path, default=Path(__file__))
    parser.add_argument("--tokens", type=int, default=400)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    if options.model is not None:
        compare(options.model, options.text, options.tokens)
    print(f"\nmicroseconds of a token and layer{'':8}" + "".join(f"{name:>8}" for name in FORMATS))
    for title, (config, length) in SHAPES.items():
        print(f"  {title:38}" + "".join(f"{1e6 * seconds:8.0f}" for seconds in times(config, length).values()))
    print("\nQwen2 1.5B, 2,000 tokens on disk          MB   save s   load s")
    for name, (size, saved, loaded) in disk(geometry(12, 2, 28), 2000).items():
        print(f"  {name:36}{size / 1e6:8.1f} {saved:8.3f} {loaded:8.3f}")


if __name__ == "__main__":
    main()
