"""What leaves the log for other eyes and never comes back: exports, and sessions shown. Here guesses count too.

A log keeps what is needed to go on with, so only sure finds are taken out of it (`redaction`). An export is read by
people and trainers, who lose nothing with a hash: of it every known key, every token that shows its format, and what
detect-secrets takes for a secret goes, that is a value assigned to a name such as `password`, or a quoted string of
high entropy. What is a git commit, a UUID or a checksum by its form is left.

detect-secrets is asked line by line, by its detectors' own classes: its scanner wants files, and loads all of them. It
is loaded by the first export and by nothing else, for it brings `requests`. Knows JSON; must not know a log's records.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any

from laguna_agent.redaction import MARK, without_tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_LONGEST_LINE = 20_000
"""Characters; a line that is longer is data, and the detectors take time by its square."""
_SHORTEST = 8
# Checksums in hex, UUIDs, and the integrity words of lock files.
_NO_SECRET = re.compile(
    r"(?i)(?:[0-9a-f]{7,12}|[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{56}|[0-9a-f]{64}|[0-9a-f]{96}|[0-9a-f]{128}"
    r"|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|(?:h1|md5|sha\d+)[-:=].*)"
)
_CHECKSUM_BEFORE = re.compile(r"(?i)(?:sha\d+|md5|h1|integrity|checksum|hash|digest|commit|etag)[\"' :=_-]*\Z")
# Names and calls are what code is made of, not values: `password=password`, `token = get_token()`, `$TOKEN`, `<key>`.
_CODE = re.compile(r"[A-Za-z_.]*|.*[(){}\[\]<>$%*].*")
# What stands unquoted behind a name, and is a value: `password: correcthorse1`, not `password: the one you chose`.
_VALUE = re.compile(r"(?=\S*\d)(?=\S*[A-Za-z])\S+")
_INTERESTING = re.compile(r"(?i)pass|pw|secret|key|token|auth|cred|://|[A-Za-z0-9+/=_-]{20}")

# What each name of a secret has in it that the detector of names knows; to look for these costs a fraction.
_NAMED = re.compile(r"(?i)key|pass|pwd|secret|contrase")


def for_export(value: Any) -> Any:
    """JSON-like data without anything that may be a secret."""
    if isinstance(value, str):
        return text_for_export(value)
    if isinstance(value, dict):
        return {text_for_export(key): for_export(each) for key, each in value.items()}
    return [for_export(each) for each in value] if isinstance(value, list | tuple) else value


def text_for_export(text: str) -> str:
    """The text without anything that may be a secret."""
    text = without_tokens(text)
    if not _INTERESTING.search(text):
        return text
    return "".join(_line(line) for line in text.splitlines(keepends=True))


def _line(line: str) -> str:
    if len(line) > _LONGEST_LINE or not _INTERESTING.search(line):
        return line
    for secret in sorted(_secrets(line), key=len, reverse=True):
        at = line.find(secret)
        if at >= 0 and not _CHECKSUM_BEFORE.search(line[:at]):
            line = line.replace(secret, f"{MARK} likely a secret\u27e7")
    return line


def _secrets(line: str) -> Iterable[str]:
    for find in _detectors():
        for found in find(line):
            secret = found.strip()
            plain = _NO_SECRET.fullmatch(secret) or _CODE.fullmatch(secret) or MARK in secret
            if len(secret) >= _SHORTEST and not plain:
                yield secret


@cache
def _detectors() -> tuple[Callable[[str], Iterable[str]], ...]:
    from detect_secrets.plugins.basic_auth import BasicAuthDetector
    from detect_secrets.plugins.high_entropy_strings import Base64HighEntropyString, HexHighEntropyString
    from detect_secrets.plugins.keyword import CONFIG_DENYLIST_REGEX_TO_GROUP, KeywordDetector

    keyword, entropies = KeywordDetector(), [Base64HighEntropyString(limit=4.5), HexHighEntropyString(limit=3.0)]

    def quoted(line: str) -> Iterable[str]:
        return keyword.analyze_string(line) if _NAMED.search(line) else ()

    def unquoted(line: str) -> Iterable[str]:
        if not _NAMED.search(line):
            return ()
        return filter(_VALUE.fullmatch, map(str.strip, keyword.analyze_string(line, CONFIG_DENYLIST_REGEX_TO_GROUP)))

    def by_entropy(line: str) -> Iterable[str]:
        for each in entropies:
            found = each.analyze_string(line)
            yield from (text for text in found if each.calculate_shannon_entropy(text) > each.entropy_limit)

    return BasicAuthDetector().analyze_string, quoted, unquoted, by_entropy
