"""A small byte-level BPE with Laguna's rules and tags, trained on this repository's own text."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Library

from laguna_agent.backend.laguna.tokenizer import Tokenizer

SPECIAL = ["〈|UNK|〉", "〈|CODE_START|〉", "〈|EOS|〉", "〈|CODE_END|〉"]
TAGS = ["<think>", "</think>", "<assistant>", "</assistant>", "<tool_call>", "</tool_call>"]
WORDS = (
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@functools.cache
def small_library(size: int = 2000) -> Library:
    """The library's tokenizer of about `size` tokens: special tokens from id 0, tags after them."""
    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"(?:\r?\n)+(?!\r?\n)"), "merged_with_next"),
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    library.decoder = decoders.ByteLevel()
    special = [AddedToken(text, special=True, normalized=False) for text in SPECIAL]
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[*special, *TAGS],
    )
    here = Path(__file__).parents[2]
    texts = [path.read_text(encoding="utf-8") for path in sorted((here / "laguna_agent" / "backend").glob("*.py"))]
    library.train_from_iterator([*texts, "αβγ äöü 日本語 \U0001f600 " * 20], trainer)
    # The trainer makes every added token a special one; the tags are not.
    retyped = Library.from_str(_tags_not_special(library.to_str()))
    retyped.post_processor = processors.TemplateProcessing(
        single="〈|EOS|〉 $A", special_tokens=[("〈|EOS|〉", retyped.token_to_id("〈|EOS|〉"))]
    )
    return retyped


def _tags_not_special(text: str) -> str:
    import json

    config: dict[str, Any] = json.loads(text)
    for token in config["added_tokens"]:
        token["special"] = token["content"] not in TAGS
        token["normalized"] = False
    return json.dumps(config)


@functools.cache
def small_tokenizer(size: int = 2000) -> Tokenizer:
    """Our tokenizer around it."""
    return Tokenizer(small_library(size), "small")


def gguf_metadata(library: Library, split: str = "laguna") -> dict[str, Any]:
    """What a converter writes of it."""
    import json

    config = json.loads(library.to_str())
    vocabulary = {**config["model"]["vocab"], **{token["content"]: token["id"] for token in config["added_tokens"]}}
    tokens = sorted(vocabulary, key=lambda text: vocabulary[text])
    types = {token["content"]: 3 if token["special"] else 4 for token in config["added_tokens"]}
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": split,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": [" ".join(pair) for pair in config["model"]["merges"]],
        "tokenizer.ggml.token_type": [types.get(text, 1) for text in tokens],
        "tokenizer.ggml.eos_token_id": vocabulary["〈|EOS|〉"],
    }
