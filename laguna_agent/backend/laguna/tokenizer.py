"""Text to token ids and back, by the checkpoint's own vocabulary (specification section 8).

Knows the `tokenizers` library; must not know messages, templates or tensors. What a token stands for is bytes: only a
`Detokenizer` makes text of them, so that half a character is never shown.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Any

from laguna_agent.backend.laguna.tokenizer_rules import LARGEST_FILE, check_rules
from laguna_agent.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Library

LARGEST_VOCABULARY = 4_000_000


class Tokenizer:
    """A vocabulary with its rules. `source` names it in errors.

    `token_bytes[id]` are the bytes of each token, of a special one too; `special` holds the ids that are control and
    never text, `added` every id that is matched in text as a whole. `vocab_size` is one more than the largest id.
    """

    def __init__(self, library: Library, source: str) -> None:
        self._library = library
        self.source = source
        ids = {index: text for text, index in library.get_vocab(with_added_tokens=True).items()}
        if not ids:
            raise ConfigError(f"{source}: the vocabulary is empty")
        self.vocab_size = max(ids) + 1
        if self.vocab_size > LARGEST_VOCABULARY:
            raise ConfigError(f"{source}: the largest token id is {max(ids):,}, {LARGEST_VOCABULARY:,} is allowed")
        added = library.get_added_tokens_decoder()
        self.added = frozenset(added)
        self.special = frozenset(index for index, token in added.items() if token.special)
        self.token_bytes: tuple[bytes, ...] = tuple(
            self._bytes(ids[index], index in added) if index in ids else b"" for index in range(self.vocab_size)
        )
        self._ids = {token.content: index for index, token in added.items()}

    def _bytes(self, text: str, added: bool) -> bytes:
        if not added:
            try:
                return bytes(_BYTE_OF[char] for char in text)
            except KeyError:
                raise ConfigError(f"{self.source}: token {text!r} is no byte-level BPE token") from None
        return text.encode()

    def encode(self, text: str) -> list[int]:
        """The ids of a rendered prompt. Texts of added tokens become those tokens; nothing is put before or after, for
        the template has written what belongs there."""
        try:
            return list(self._library.encode(text, add_special_tokens=False).ids)
        # The library takes a text that is not valid Unicode for no text at all.
        except (UnicodeEncodeError, TypeError):
            raise UsageError("the text holds half of a surrogate pair, which no token stands for") from None

    def encode_each(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, as `encode` gives them; on all cores at once."""
        try:
            return [list(each.ids) for each in self._library.encode_batch_fast(texts, add_special_tokens=False)]
        except (UnicodeEncodeError, TypeError):
            raise UsageError("a text holds half of a surrogate pair, which no token stands for") from None

    def decode(self, ids: Iterable[int]) -> str:
        """The text of whole output; broken UTF-8 becomes U+FFFD."""
        return self.bytes_of(ids).decode("utf-8", "replace")

    def bytes_of(self, ids: Iterable[int]) -> bytes:
        """The bytes of the ids, special tokens in their own spelling. Raises UsageError for an id out of range."""
        ids = list(ids)
        for index in ids:
            if not 0 <= index < self.vocab_size:
                raise UsageError(f"{self.source}: token id {index} is not in the vocabulary of {self.vocab_size:,}")
        return b"".join(self.token_bytes[index] for index in ids)

    def id_of(self, text: str) -> int | None:
        """The id of the added token that is spelled `text`."""
        return self._ids.get(text)


class Detokenizer:
    """Text of output tokens as they come. Characters are passed on when they are whole."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, index: int) -> str:
        """The text that this token completes."""
        return self._decoder.decode(self._tokenizer.bytes_of((index,)))

    def finish(self) -> str:
        """What is left at the end: U+FFFD for half a character, or nothing."""
        return self._decoder.decode(b"", final=True)


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a tokenizer.json, or of the folder that holds one. Raises ConfigError where it is not usable."""
    from tokenizers import Tokenizer as Library

    path = path / "tokenizer.json" if path.is_dir() else path
    try:
        status = path.stat()
        if not S_ISREG(status.st_mode) or status.st_size > LARGEST_FILE:
            raise ConfigError(f"{path}: has {status.st_size:,} bytes, expected a file of at most {LARGEST_FILE:,}")
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: the tokenizer cannot be read: {error}") from None
    check_rules(data, str(path))
    try:
        library = Library.from_str(data.decode("utf-8"))
    # The library raises bare Exceptions, and where it panics something that is not even one.
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise ConfigError(f"{path}: not a tokenizer.json: {str(error)[:200]}") from None
        raise
    library.no_truncation()
    library.no_padding()
    return Tokenizer(library, str(path))


def stop_ids(tokenizer: Tokenizer, configured: Sequence[int]) -> frozenset[int]:
    """The ids that end an answer: the configured ones, and the closing tokens that the vocabulary itself has.

    Leaving out `</assistant>` makes Laguna run on past its turn. Raises ConfigError for an id out of range.
    """
    for index in configured:
        if not 0 <= index < tokenizer.vocab_size:
            raise ConfigError(
                f"{tokenizer.source}: eos_token_id {index} is not in the vocabulary of {tokenizer.vocab_size:,}"
            )
    closing = (tokenizer.id_of(text) for text in ("</assistant>", "<|im_end|>"))
    return frozenset(configured) | {index for index in closing if index is not None}


def _bytes_by_character() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for: itself where it is printable, else the next
    free code point from 256 on."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + index): byte for index, byte in enumerate(hidden)}


_BYTE_OF = _bytes_by_character()


def added_token(text: str, *, special: bool) -> Any:
    """An added token that is matched as it is spelled, in text that is not normalised."""
    from tokenizers import AddedToken

    return AddedToken(text, special=special, normalized=False)
