r"""What a tokenizer.json may ask for, looked at before the library reads it.

The file is somebody else's: a regular expression in it can take longer than the universe on a prompt, a normaliser can
make gigabytes of it, and a text of a few megabytes can become gigabytes of objects. Knows the format's rules for text;
must not know vocabularies.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from laguna_agent.errors import ConfigError

LARGEST_FILE = 64 << 20
"""Bytes; a vocabulary of 262,000 tokens with its merges takes 33 million."""
MOST_OBJECTS, MOST_LISTS, MOST_ITEMS = 200_000, 2_000_000, 8_000_000
LARGEST_RULES = 1 << 20
LONGEST_EXPRESSION = 2_000
MOST_REPETITIONS, MOST_OPTIONS = 2, 8
"""In one alternative: repetitions of more than one length (k of them try n^k places), and pieces that may be absent."""
KNOWN = frozenset({r"(?:\r?\n)+(?!\r?\n)"})
"""Laguna's line ends: the one expression in use that repeats a group."""
MOST_STEPS = 16
NORMALIZERS = frozenset({"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Strip", "StripAccents", "Sequence"})
"""None of them makes a text more than a few times longer."""

_PART = re.compile(
    r"\\[pP]\{[^}]*\}|\\x\{[^}]*\}|\\.|\[(?:\\.|\[:\^?\w+:\]|[^\]\\])*\]|\(\?[a-zA-Z-]*[:=!>]|\(\?<[=!]|\(|\)|\|"
    r"|(?P<often>[*+]|\{\d*,\d*\})[?+]?|(?P<maybe>\?)[?+]?|(?P<exactly>\{\d+\})|.",
    re.DOTALL,
)
_FORBIDDEN = re.compile(r"\\[gkKG]|\\[1-9]|\(\?[<PR&(#'|~@{+\d](?![=!])")


class _Model(msgspec.Struct, frozen=True):
    type: str | None = None


class _Rules(msgspec.Struct):
    model: _Model = _Model()
    normalizer: msgspec.Raw = msgspec.Raw(b"null")
    pre_tokenizer: msgspec.Raw = msgspec.Raw(b"null")


def check_rules(text: bytes, source: str) -> None:
    """Raise ConfigError where the tokenizer.json `text` is no byte-level BPE, or could take memory or time without
    bound; `source` names it."""
    for mark, most in ((b"{", MOST_OBJECTS), (b"[", MOST_LISTS), (b",", MOST_ITEMS)):
        if (count := text.count(mark)) > most:
            raise ConfigError(f"{source}: {count:,} times {mark.decode()!r}, more than any vocabulary needs")
    try:
        rules = msgspec.json.decode(text, type=_Rules)
        if rules.model.type != "BPE":
            raise ConfigError(f"{source}: model.type is {rules.model.type!r}, expected 'BPE'")
        steps = [_step(name, getattr(rules, name), source) for name in ("normalizer", "pre_tokenizer")]
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source}: not a tokenizer.json: {str(error)[:200]}") from None
    for kind in _values(steps[0], "type"):
        if kind not in NORMALIZERS:
            raise ConfigError(f"{source}: normalizer {kind!r} is not supported; it could make any text of a prompt")
    for step in steps:
        if len(list(_values(step, "type"))) > MOST_STEPS:
            raise ConfigError(f"{source}: more than {MOST_STEPS} steps in a normalizer or pre_tokenizer")
        for expression in _values(step, "Regex"):
            check_expression(expression, source)


def _step(name: str, raw: msgspec.Raw, source: str) -> Any:
    if len(raw) > LARGEST_RULES:
        raise ConfigError(f"{source}: {name} has {len(raw):,} bytes, {LARGEST_RULES:,} are allowed")
    return msgspec.json.decode(raw)


def _values(value: Any, key: str) -> Iterator[Any]:
    """Everything that stands at `key`, at any depth."""
    if isinstance(value, dict):
        if key in value:
            yield value[key]
        for each in value.values():
            yield from _values(each, key)
    elif isinstance(value, list):
        for each in value:
            yield from _values(each, key)


def check_expression(expression: Any, source: str) -> None:
    """Raise ConfigError for a regular expression whose matching can take exponential or high polynomial time: a
    repeated group, too many repetitions in one alternative, a reference or a recursion."""
    if not isinstance(expression, str) or len(expression) > LONGEST_EXPRESSION:
        raise ConfigError(f"{source}: a regular expression of more than {LONGEST_EXPRESSION:,} characters")
    if expression in KNOWN:
        return
    if _FORBIDDEN.search(expression):
        _refuse(expression, source, "refers back or calls itself")
    # For each open group: repetitions and options of the alternative so far, and the most of those before it.
    stack, before = [_Group()], ""
    for part in _PART.finditer(expression):
        piece = part[0]
        if (part["often"] or part["exactly"]) and before == ")":
            _refuse(expression, source, "repeats a group")
        stack[-1].repetitions += part["often"] is not None
        stack[-1].options += part["maybe"] is not None
        if piece.startswith("("):
            stack.append(_Group())
        elif piece == "|":
            stack[-1].next_alternative()
        elif piece == ")" and len(stack) > 1:
            stack[-1].next_alternative()
            inner = stack.pop()
            stack[-1].repetitions += inner.most_repetitions
            stack[-1].options += inner.most_options
        if stack[-1].repetitions > MOST_REPETITIONS or stack[-1].options > MOST_OPTIONS:
            _refuse(expression, source, "has too many repetitions in a row")
        before = piece


@dataclass
class _Group:
    repetitions: int = 0
    options: int = 0
    most_repetitions: int = 0
    most_options: int = 0

    def next_alternative(self) -> None:
        self.most_repetitions = max(self.most_repetitions, self.repetitions)
        self.most_options = max(self.most_options, self.options)
        self.repetitions = self.options = 0


def _refuse(expression: str, source: str, why: str) -> None:
    raise ConfigError(
        f"{source}: the regular expression {expression[:80]!r} {why}, and could take for ever on a prompt"
    )
