"""Tokenizers from tokenizer.json and from GGUF metadata: equal ids, whole characters, bad files refused."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laguna_agent.backend.laguna.gguf_tokenizer import tokenizer_from_gguf
from laguna_agent.backend.laguna.tokenizer import Detokenizer, Tokenizer, read_tokenizer, stop_ids
from laguna_agent.errors import ConfigError, UsageError
from tests.laguna.small_tokenizer import TAGS, gguf_metadata, small_library, small_tokenizer

TEXTS = st.lists(
    st.sampled_from([*TAGS, "〈|EOS|〉", "\n", "\r\n", "\n\n\n", " ", "   ", "\t", "don't", "WE'LL", "1234", "x = 5"])
    | st.text(max_size=6),
    max_size=12,
).map("".join)


@functools.cache
def _from_gguf() -> Tokenizer:
    return tokenizer_from_gguf(gguf_metadata(small_library()), "f")


@given(TEXTS)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_a_gguf_gives_the_ids_of_the_tokenizer_it_was_made_from(text: str) -> None:
    ours = _from_gguf()
    assert ours.encode(text) == small_tokenizer().encode(text)
    assert ours.encode(text) == small_library().encode(text, add_special_tokens=False).ids


@given(TEXTS)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_text_comes_back_token_by_token(text: str) -> None:
    tokenizer = small_tokenizer()
    stream = Detokenizer(tokenizer)
    pieces = [stream.feed(index) for index in tokenizer.encode(text)]
    assert "".join(pieces) + stream.finish() == text == tokenizer.decode(tokenizer.encode(text))
    assert "�" not in "".join(pieces) or "�" in text


def test_half_a_character_is_held_back() -> None:
    tokenizer = small_tokenizer()
    halves = [tokenizer.token_bytes.index(bytes([byte])) for byte in "é".encode()]
    stream = Detokenizer(tokenizer)
    assert [stream.feed(index) for index in halves] == ["", "é"]
    assert stream.feed(halves[0]) == ""
    assert stream.finish() == "�"


def test_kinds_of_tokens_and_stop_ids(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(small_library().to_str(), encoding="utf-8")
    for tokenizer in (read_tokenizer(tmp_path), tokenizer_from_gguf(gguf_metadata(small_library()), "f")):
        assert [tokenizer.decode([index]) for index in sorted(tokenizer.added)][4:] == TAGS
        assert tokenizer.special == {0, 1, 2, 3}
        assert stop_ids(tokenizer, [2]) == {2, tokenizer.id_of("</assistant>")}
        assert tokenizer.encode("〈|EOS|〉a")[0] == 2
        assert 2 not in tokenizer.encode("a")
        assert len(tokenizer.token_bytes) == tokenizer.vocab_size
        with pytest.raises(ConfigError, match="eos_token_id 99999 is not in the vocabulary"):
            stop_ids(tokenizer, [99_999])
        with pytest.raises(UsageError, match="token id -1 is not in the vocabulary"):
            tokenizer.decode([-1])
        with pytest.raises(UsageError, match="half of a surrogate pair"):
            tokenizer.encode("\ud800")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not a tokenizer.json"),
        ("[]", "not a tokenizer.json"),
        ('{"model": {"type": "Unigram"}}', "model.type is 'Unigram', expected 'BPE'"),
        ('{"model": {"type": "BPE"}}', "not a tokenizer.json"),
    ],
)
def test_a_file_that_is_no_tokenizer(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(ConfigError, match=f"tokenizer.json: {words}"):
        read_tokenizer(tmp_path)


def test_a_folder_without_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tokenizer.json: the tokenizer cannot be read"):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("model", "llama", "tokenizer.ggml.model is 'llama', expected 'gpt2'"),
        ("pre", "deepseek", "tokenizer.ggml.pre is 'deepseek', expected 'laguna' or 'qwen2' or 'gpt-2'"),
        ("tokens", None, "tokenizer.ggml.tokens is no array"),
        ("tokens", ["a", "b", "a"], "tokenizer.ggml.tokens has 'a' twice"),
        ("tokens", [1, 2], "tokenizer.ggml.tokens is no array"),
        ("merges", None, "tokenizer.ggml.merges is 'NoneType', expected an array of texts"),
        ("merges", ["a  b"], r"tokenizer.ggml.merges\[0\] is 'a  b', expected two tokens"),
        ("merges", ["a"], r"tokenizer.ggml.merges\[0\] is 'a', expected two tokens"),
        ("token_type", [1], "tokenizer.ggml.token_type is 'list of 1', expected an array of"),
    ],
)
def test_bad_metadata_is_refused(key: str, value: Any, words: str) -> None:
    metadata = {**gguf_metadata(small_library()), f"tokenizer.ggml.{key}": value}
    with pytest.raises(ConfigError, match=f"f: {words}"):
        tokenizer_from_gguf(metadata, "f")


def test_lagunas_line_breaks_never_join_what_is_before_them() -> None:
    metadata = gguf_metadata(small_library())
    metadata["tokenizer.ggml.tokens"] = [*metadata["tokenizer.ggml.tokens"], ".Ċ"]
    metadata["tokenizer.ggml.token_type"] = [*metadata["tokenizer.ggml.token_type"], 1]
    metadata["tokenizer.ggml.merges"] = [". Ċ", *metadata["tokenizer.ggml.merges"]]
    joined = len(metadata["tokenizer.ggml.tokens"]) - 1
    assert joined not in tokenizer_from_gguf(metadata, "f").encode("a.\nb")
    assert joined in tokenizer_from_gguf({**metadata, "tokenizer.ggml.pre": "qwen2"}, "f").encode("a.\nb")


def test_qwen2_normalises_and_gpt2_keeps_numbers_together() -> None:
    decomposed = "e\u0301"
    qwen2 = tokenizer_from_gguf(gguf_metadata(small_library(), "qwen2"), "f")
    assert qwen2.encode(decomposed) == qwen2.encode("é")
    laguna = small_tokenizer()
    assert laguna.decode(laguna.encode(decomposed)) == decomposed


def test_a_vocabulary_that_is_not_byte_level_is_refused() -> None:
    from tokenizers import Tokenizer as Library
    from tokenizers import models

    with pytest.raises(ConfigError, match="x: token '▁a' is no byte-level BPE token"):
        Tokenizer(Library(models.BPE(vocab={"▁a": 0}, merges=[])), "x")


def test_the_trained_tokenizer_has_the_layout_the_tests_rely_on() -> None:
    config = json.loads(small_library().to_str())
    assert [token["content"] for token in config["added_tokens"]][4:] == TAGS
