"""A tokenizer built from the vocabulary, merges and token types in a GGUF file's metadata.

Knows the keys `tokenizer.ggml.*`; reads no file. The split of text into words is not in a GGUF, only its name is
(`tokenizer.ggml.pre`); names that are not known here are refused, for a wrong split gives plausible, wrong ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from laguna_agent.backend.laguna.tokenizer import LARGEST_VOCABULARY, Tokenizer, added_token
from laguna_agent.errors import ConfigError

_CONTROL, _USER_DEFINED, _UNUSED = 3, 4, 5
_WORDS = (
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LINES = r"(?:\r?\n)+(?!\r?\n)"
_KNOWN = ("laguna", "qwen2", "gpt-2")


def tokenizer_from_gguf(metadata: Mapping[str, Any], source: str) -> Tokenizer:
    """The tokenizer that `metadata` (key to value, arrays as sequences) describes; `source` names the file in errors.

    Raises ConfigError where a key is missing, of the wrong kind or of the wrong length.
    """
    from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
    from tokenizers import Tokenizer as Library

    def refuse(key: str, found: object, expected: str) -> NoReturn:
        raise ConfigError(f"{source}: tokenizer.ggml.{key} is {str(found)[:80]!r}, expected {expected}")

    def value(key: str) -> Any:
        return metadata.get(f"tokenizer.ggml.{key}")

    if value("model") != "gpt2":
        refuse("model", value("model"), "'gpt2' (byte-level BPE)")
    split = value("pre") or "gpt-2"
    if split not in _KNOWN:
        refuse("pre", split, " or ".join(map(repr, _KNOWN)))
    tokens, merges, types = value("tokens"), value("merges"), value("token_type")
    _check_tokens(tokens, source)
    if not _is_texts(merges):
        refuse("merges", type(merges).__name__, "an array of texts")
    if types is not None and (not _is_array(types) or len(types) != len(tokens)):
        refuse("token_type", f"{type(types).__name__} of {len(types)}", f"an array of {len(tokens)}")
    kinds = list(types) if types is not None else [1] * len(tokens)
    vocabulary = {text: index for index, text in enumerate(tokens)}
    model = models.BPE(vocab=vocabulary, merges=_pairs(merges, vocabulary, source), byte_fallback=False)
    library = Library(model)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split == "gpt-2")
    steps: list[Any] = [byte_level]
    if split != "gpt-2":
        steps.insert(0, pre_tokenizers.Split(Regex(_WORDS), "isolated"))
    if split == "laguna":
        steps.insert(0, pre_tokenizers.Split(Regex(_LINES), "merged_with_next"))
    if split == "qwen2":
        library.normalizer = normalizers.NFC()
    library.pre_tokenizer = pre_tokenizers.Sequence(steps)
    library.decoder = decoders.ByteLevel()
    added = [
        added_token(text, special=kind == _CONTROL)
        for text, kind in zip(tokens, kinds, strict=True)
        if kind in {_CONTROL, _USER_DEFINED, _UNUSED}
    ]
    library.add_tokens(added)
    return Tokenizer(library, source)


def _check_tokens(tokens: Any, source: str) -> None:
    key = f"{source}: tokenizer.ggml.tokens"
    if not _is_texts(tokens) or not 0 < len(tokens) <= LARGEST_VOCABULARY:
        raise ConfigError(f"{key} is no array of 1 to {LARGEST_VOCABULARY:,} texts")
    seen: set[str] = set()
    for text in tokens:
        if text in seen:
            raise ConfigError(f"{key} has {text[:80]!r} twice, expected each token once")
        seen.add(text)


def _pairs(merges: Sequence[str], vocabulary: Mapping[str, int], source: str) -> list[tuple[str, str]]:
    pairs = []
    for line, merge in enumerate(merges):
        # A token holds no space: byte-level vocabularies spell it with another character.
        left, _, right = merge.partition(" ")
        if not left or not right or left not in vocabulary or right not in vocabulary or left + right not in vocabulary:
            raise ConfigError(
                f"{source}: tokenizer.ggml.merges[{line}] is {merge[:80]!r}, expected two tokens whose sum is a token"
            )
        pairs.append((left, right))
    return pairs


def _is_array(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _is_texts(value: Any) -> bool:
    return _is_array(value) and all(isinstance(item, str) for item in value)
