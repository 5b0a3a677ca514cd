"""Tokenizers trained on a corpus, and documents as token ids.

What is trained here is a byte-level BPE with Laguna's rules and tags (specification section 8), so that the engine, its
chat templates and transformers take it as they take the published one. Knows texts and vocabularies; must not know
where documents are stored nor what is packed of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tokenizers import Regex, decoders, models, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Library

from laguna_agent.backend.laguna.quoting import Quoting
from laguna_agent.backend.laguna.tokenizer import Tokenizer, added_token
from laguna_agent.backend.laguna.tokenizer_rules import check_rules
from laguna_agent.errors import ConfigError, UsageError

END_OF_TEXT = "〈|EOS|〉"
SPECIAL = ("〈|UNK|〉", "〈|CODE_START|〉", END_OF_TEXT, "〈|CODE_END|〉", "〈|PAD|〉")
"""Control, never text, from id 0 on: the end of text has id 2, as in the published models."""
TAGS = ("<think>", "</think>", "<assistant>", "</assistant>", "<tool_call>", "</tool_call>")
"""What a chat is made of, matched as wholes and shown as text; the published models have these six, and write the rest
(`<user>`, `<arg_key>`) as ordinary text."""
LINE_ENDS = r"(?:\r?\n)+(?!\r?\n)"
WORDS = (
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BATCH = 256
"""Documents that are encoded at once: enough for every core, and their ids fit anywhere."""


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, special: Sequence[str] = SPECIAL, *, tags: Sequence[str] = TAGS
) -> bytes:
    """A tokenizer.json of at most `vocab_size` tokens, byte-level BPE; the same for the same texts in any order.

    Ids: `special`, `tags`, the 256 bytes, then merges, the most frequent first. Where texts are few there are fewer
    tokens. Raises ConfigError where the vocabulary is too small or a special token is named twice.
    """
    added = [*special, *tags]
    if len(set(added)) < len(added) or not all(added):
        raise ConfigError(f"special tokens are empty or named twice: {', '.join(map(repr, added))}")
    if vocab_size < (least := len(added) + 256):
        raise ConfigError(
            f"a vocabulary of {vocab_size:,} tokens cannot hold the 256 bytes and {len(added)} tags: it "
            f"needs at least {least}"
        )
    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LINE_ENDS), "merged_with_next"),
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[added_token(text, special=True) for text in added],
    )
    library.train_from_iterator(_without_tags(texts, added), trainer)
    if END_OF_TEXT in special:
        # As the published tokenizer does for those who ask; templates write it themselves.
        library.post_processor = processors.TemplateProcessing(
            single=f"{END_OF_TEXT} $A", special_tokens=[(END_OF_TEXT, library.token_to_id(END_OF_TEXT))]
        )
    data = _with_kinds(library.to_str(), frozenset(special))
    check_rules(data, "the trained tokenizer")
    return data


def tokenizer_from(data: bytes, source: str) -> Tokenizer:
    """The tokenizer of a tokenizer.json that somebody trained or gave. Raises ConfigError where it is not usable."""
    check_rules(data, source)
    try:
        return Tokenizer(Library.from_str(data.decode("utf-8")), source)
    except ConfigError:
        raise
    except Exception as error:  # noqa: BLE001 - the library raises bare Exceptions
        raise ConfigError(f"{source}: not a tokenizer.json: {str(error)[:200]}") from None


def tokenizer_hash(data: bytes) -> str:
    """What a derivation names a tokenizer by: the SHA-256 of its tokenizer.json."""
    return hashlib.sha256(data).hexdigest()


class DocumentTokenizer:
    """Documents to ids with one tokenizer: the end of text before and after each, as Laguna's templates begin with it
    too, and between them the text. A tag that a document spells is ordinary text (`backend/laguna/quoting.py`).
    """

    def __init__(self, tokenizer: Tokenizer, end_of_text: str = END_OF_TEXT) -> None:
        found = tokenizer.id_of(end_of_text)
        if found is None:
            raise ConfigError(
                f"{tokenizer.source}: has no token {end_of_text!r} that could end a document; name the one that it has"
            )
        self.tokenizer = tokenizer
        self.end = found
        self._quoting = Quoting(tokenizer)

    def each(self, texts: Iterable[str]) -> Iterator[list[int]]:
        """The ids of each text, ends included. Raises UsageError for text that is no valid Unicode."""
        batch: list[str] = []
        for text in texts:
            batch.append(text)
            if len(batch) == _BATCH:
                yield from self._batch(batch)
                batch = []
        yield from self._batch(batch)

    def _batch(self, texts: list[str]) -> Iterator[list[int]]:
        quoted = [self._quoting.text(text) for text in texts]
        plain = iter(
            self.tokenizer.encode_each([text for text, same in zip(texts, quoted, strict=True) if text == same])
        )
        for text, told in zip(texts, quoted, strict=True):
            ids = next(plain) if text == told else self._quoting.encode(told)
            yield [self.end, *ids, self.end]


def _without_tags(texts: Iterable[str], added: Sequence[str]) -> Iterator[str]:
    """The texts cut at the tags that they spell: no merge may be learned from a tag's inside."""
    for number, text in enumerate(texts):
        pieces = [text]
        for tag in added:
            pieces = [part for piece in pieces for part in piece.split(tag)] if tag in text else pieces
        try:
            "".join(pieces).encode()
        except UnicodeEncodeError:
            raise UsageError(f"text {number + 1} holds half of a surrogate pair, which no token stands for") from None
        yield from filter(None, pieces)


def _with_kinds(text: str, special: frozenset[str]) -> bytes:
    """The tokenizer.json with tags that are text: the trainer makes every added token a control token."""
    config: dict[str, Any] = json.loads(text)
    for token in config["added_tokens"]:
        token["special"] = token["content"] in special
    return json.dumps(config, ensure_ascii=False, separators=(",", ":")).encode()
