"""The engine against llama.cpp: one random F32 Laguna as a GGUF file and as safetensors, the same numbers in all three.

llama.cpp computes here without fused attention and with an F32 cache, so that nothing is rounded to 16 bits.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest
import torch
from laguna_gguf import FULL, SLIDING
from llama_distributions import LlamaCpp
from model_server import model_server

from laguna_agent.backend.laguna.gguf_tokenizer import tokenizer_from_gguf
from laguna_agent.backend.laguna.loading import build_model
from laguna_agent.backend.laguna.model import CausalLM, Piece
from laguna_agent.backend.laguna.weights.gguf_file import GgufFile
from laguna_agent.backend.laguna.weights.opening import open_checkpoint, read_stored
from tests.laguna.twins import BETA_FAST, settings, write_twins

PLAIN_ROPE = {
    FULL: {"rope_type": "default", "rope_theta": 500000.0, "partial_rotary_factor": 0.5},
    SLIDING: {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0},
}
VARIATIONS = {
    "as XS.2": {},
    "gate per element, several dense layers": {
        "gating": "per-element",
        "mlp_layer_types": ["dense"] * 3 + ["sparse"] * 3,
    },
    "all layers full, tied": {"layer_types": [FULL] * 6, "sliding_window": 0, "tie_word_embeddings": True},
    "no yarn, other scale": {"rope_parameters": PLAIN_ROPE, "moe_routed_scaling_factor": 1.0},
}
PROMPT, ANSWER = 70, 12
"""Tokens; the window is 16."""


@pytest.mark.parametrize("name", VARIATIONS)
def test_greedy_tokens_and_distributions_equal_those_of_llama_cpp(tmp_path, name):
    config = settings(**VARIATIONS[name])
    hub, gguf = write_twins(tmp_path, config, seed=3)
    vocabulary = config["vocab_size"]
    random_source = random.Random(1)
    ids = [random_source.randrange(vocabulary) for _ in range(PROMPT)]
    with model_server(gguf, tmp_path / "log", cache_type="f32", beta_fast=BETA_FAST) as url:
        server = LlamaCpp(url)
        expected = server.greedy(ids, ANSWER)
        told = server.top(ids, vocabulary)
    for path in (gguf, hub):
        logprobs, tokens = continued(read_model(path), ids)
        assert tokens == expected, path.name
        assert max(abs(logprobs[token].item() - value) for token, value in told.items()) < 2e-4
    # Were the distribution flat or certain, equal tokens would say little.
    entropy = -math.fsum(value * math.exp(value) for value in told.values())
    assert 1 < entropy < 0.95 * math.log(vocabulary)


def test_a_file_that_llama_cpp_reads_with_another_attention_factor_is_read_so_here(tmp_path):
    # llama.cpp multiplies attn_factor with its own 1 + 0.1 ln(factor), and does not look at yarn_attn_factor.
    _, gguf = write_twins(
        tmp_path, settings(), seed=4, rope__scaling__attn_factor=0.75, rope__scaling__yarn_attn_factor=3.0
    )
    with model_server(gguf, tmp_path / "log", cache_type="f32", beta_fast=BETA_FAST) as url:
        told = LlamaCpp(url).top(list(range(30, 80)), settings()["vocab_size"])
    logprobs, _ = continued(read_model(gguf), list(range(30, 80)))
    assert max(abs(logprobs[token].item() - value) for token, value in told.items()) < 2e-4


def test_llama_cpp_takes_a_beta_fast_of_its_own_unless_it_is_told(tmp_path):
    # So a file with XS.2's 64 gives other numbers there, which are ours with 32. config.json and the file both say 64.
    rope = settings()["rope_parameters"]
    other = settings(rope_parameters={**rope, FULL: {**rope[FULL], "beta_fast": 32.0}})
    ids = list(range(30, 100))
    for folder in ("said", "meant"):
        (tmp_path / folder).mkdir()
    said, gguf = write_twins(tmp_path / "said", settings(), seed=6)
    meant, _ = write_twins(tmp_path / "meant", other, seed=6)
    with model_server(gguf, tmp_path / "log", cache_type="f32") as url:
        told = LlamaCpp(url).top(ids, settings()["vocab_size"])
    ours = [continued(read_model(hub), ids)[0] for hub in (said, meant)]
    apart = [max(abs(logprobs[token].item() - value) for token, value in told.items()) for logprobs in ours]
    assert apart[0] > 0.1
    assert apart[1] < 2e-4


def test_the_tokenizer_of_a_gguf_file_gives_the_ids_of_llama_cpp(tmp_path):
    _, gguf = write_twins(tmp_path, settings(), seed=5)
    tokenizer = tokenizer_from_gguf(GgufFile(gguf).keys, str(gguf))
    texts = [path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parent.glob("test_p*.py"))]
    texts += [
        "a\n\n\nb\r\n\r\nc",
        "x = 12345  # ½ äöü 日本\n\tpass",
        "don't  I'LL \n \n  end ",
        "",
        json.dumps(texts[0]),
    ]
    with model_server(gguf, tmp_path / "log") as url:
        server = LlamaCpp(url)
        for text in texts:
            assert tokenizer.encode(text) == server.tokenize(text)


def read_model(path: Path) -> CausalLM:
    checkpoint = open_checkpoint(path)
    return build_model(checkpoint.config, read_stored(checkpoint), torch.float32)


@torch.inference_mode()
def continued(model: CausalLM, ids: list[int]) -> tuple[torch.Tensor, list[int]]:
    """Log-probabilities [vocab] after `ids`, and the greedy tokens that follow."""
    cache = model.new_cache()
    logprobs = first = model([Piece(torch.tensor(ids), cache)], last=1)[0].log_softmax(-1)
    tokens: list[int] = []
    for _ in range(ANSWER):
        tokens.append(int(logprobs.argmax()))
        logprobs = model([Piece(torch.tensor(tokens[-1:]), cache)], last=1)[0].log_softmax(-1)
    return first, tokens
