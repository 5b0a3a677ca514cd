"""Taking secrets out of text: keys that this process knows, wherever they turn up, and tokens that say what they are.

Two walls of different kinds. **Known keys** (`know`) are taken out everywhere: of what tools and files give before it
becomes an event, of what the model streams, and once more of every line of a log. Each also in the spellings that a
command makes of it by accident: JSON escapes, URL quoting, base64 at any offset, hex. **Formats** (`without_tokens`)
are tokens whose issuer gave them a shape, and private keys: they are taken out of whatever a tool gave, at the same
place, so that the model, the faces, the log and a replay of it all see the same. Guesses by entropy are for exports
alone (`agent/exports.py`): a log must stay good enough to go on with, and hashes in lock files are no secrets.

What edits act on is the file itself, never a redacted copy; `MARK` tells that an edit would write one. None of this
stops a program that wants to smuggle a key out: that is what the sandbox and the empty environment are for.

Knows text; must not know where a key comes from or what a log is.
"""

from __future__ import annotations

import re
import threading
from functools import cache
from typing import Any, Generic, TypeVar

MARK = "\u27e6redacted:"
"""How every replacement begins."""
SHORTEST = 12
_ENOUGH = 20
"""Characters from which on a secret counts without a digit in it; shorter ones are words like `not-needed`."""

_LONGEST_TOKEN = 16_384
"""Characters that are held back at most until a token, or a private key, is whole."""

Piece = TypeVar("Piece", str, bytes)

_known: dict[str, str] = {}
_lock = threading.Lock()
_compiled: tuple[re.Pattern[str], dict[str, str]] | None = None

# Shapes that issuers publish for their tokens; long enough that no word of a program has them by chance.
_FORMATS = r"""(?x)
      (?P<private_key>-----BEGIN\ (?:[A-Z0-9]{1,20}\ ){0,4}PRIVATE\ KEY(?:\ BLOCK)?-----
          (?:\\[nr]|\s){0,8}(?:[A-Za-z-]{1,40}:\ [^\r\n\\]{0,200}(?:\\[nr]|[\r\n]){1,4}){0,8}(?:\\[nr]|\s){0,8}
          (?:[A-Za-z0-9+/]{32,}={0,2}(?:\\[nr]|\s){0,4})+(?:[A-Za-z0-9+/=]{1,31}(?:\\[nr]|\s){0,4}){0,2}
          (?:-----END\ (?:[A-Z0-9]{1,20}\ ){0,4}PRIVATE\ KEY(?:\ BLOCK)?-----)?)
    | \b(?P<api_key>sk-(?:ant-|or-v1-|proj-|svcacct-|admin-|lf-)[A-Za-z0-9_-]{20,}
          |sk-(?=[A-Za-z]*[0-9])[A-Za-z0-9]{40,64})\b
    | \b(?P<github_token>(?:gh[pousr]_[A-Za-z0-9]{36,251}|github_pat_[A-Za-z0-9_]{60,251}))\b
    | \b(?P<gitlab_token>gl(?:pat|dt|rt|cbt|ptt|ft|imt|agent|oas|soat)-[A-Za-z0-9_-]{20,64})\b
    | \b(?P<aws_key>(?:AKIA|ASIA)[A-Z2-7]{16})\b
    | \b(?P<google_key>AIza[A-Za-z0-9_-]{35})(?![A-Za-z0-9_-])
    | \b(?P<slack_token>xox[abeoprs]-[0-9]{1,20}-[A-Za-z0-9-]{16,}|xapp-[0-9]-[A-Z0-9]+-[0-9]+-[a-f0-9]{32,})
    | \b(?P<npm_token>npm_[A-Za-z0-9]{36})\b
    | \b(?P<pypi_token>pypi-AgE[A-Za-z0-9_-]{50,})
    | \b(?P<hugging_face_token>hf_[A-Za-z]{34})\b
    | \b(?P<stripe_key>[rs]k_live_[A-Za-z0-9]{24,})\b
    | (?<![A-Za-z0-9_-])(?P<jwt>eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{20,})
    """
_HINTS = (
    "PRIVATE KEY", "sk-", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "gldt-", "glrt-", "glcbt-",
    "glptt-", "glft-", "glimt-", "glagent-", "gloas-", "glsoat-", "AKIA", "ASIA", "AIza", "xoxa-", "xoxb-", "xoxe-",
    "xoxo-", "xoxp-", "xoxr-", "xoxs-", "xapp-", "npm_", "pypi-A", "hf_", "rk_live_", "sk_live_", "eyJ",
)  # fmt: skip
"""What a text with such a token holds: to look for these costs a fraction of what the pattern does."""
_BEGIN = "-----BEGIN"
_LONGEST_HINT = 11
_KEY_END = re.compile(r"-----END[^\n-]*-----")
_TOKEN_BACKWARDS = re.compile(r"[\w.-]+")
_WORD_BACKWARDS = re.compile(rf"[A-Z]{{0,5}}-{{1,5}}(?!-)|[A-Za-z_]{{1,{_LONGEST_HINT}}}(?!\w)")


def know(secret: str, name: str) -> None:
    """Take this key, which people call `name`, out of everything from now on. Too short a word is no key: servers that
    need none are often given `ollama` or `none`. Nor is anything but ASCII: no provider has such keys."""
    global _compiled
    counts = len(secret) >= _ENOUGH or (len(secret) >= SHORTEST and any(each.isdigit() for each in secret))
    if not counts or not secret.isascii() or secret in _known:
        return
    with _lock:
        _known[secret] = name
        _compiled = None


def forget_all() -> None:
    """Know no key any more."""
    global _compiled
    with _lock:
        _known.clear()
        _compiled = None


def without_keys(text: str) -> str:
    """The text with a mark in the place of every known key."""
    if not _known:
        return text
    pattern, names = _patterns()
    if not any(form in text for form in names):  # many times faster than the pattern
        return text
    return pattern.sub(lambda found: _mark(names[found[0]]), text)


def bytes_without_keys(data: bytes) -> bytes:
    """The bytes with a mark in the place of every known key. JSON and UTF-8 text stay that."""
    if not _known:
        return data
    names = _patterns()[1]
    if not any(form.encode() in data for form in names):
        return data
    return _byte_pattern().sub(lambda found: _mark(names[found[0].decode()]).encode(), data)


def without_tokens(text: str) -> str:
    """The text with a mark in the place of every known key, private key, and token of a well-known format."""
    text = without_keys(text)
    return _formats().sub(_mark_format, text) if any(hint in text for hint in _HINTS) else text


def redact(value: Any, *, tokens: bool = False) -> Any:
    """JSON-like data with the known keys (and tokens) taken out of every text in it, dictionaries' keys too."""
    if isinstance(value, str):
        return without_tokens(value) if tokens else without_keys(value)
    if isinstance(value, dict):
        return {redact(key, tokens=tokens): redact(each, tokens=tokens) for key, each in value.items()}
    return [redact(each, tokens=tokens) for each in value] if isinstance(value, list | tuple) else value


def shows_secret(data: bytes, *, tokens: bool = False) -> bool:
    """Whether there may be anything to take out of this JSON or text; cheap, and right where it says no."""
    if _known and _byte_pattern().search(data):
        return True
    return tokens and any(hint.encode() in data for hint in _HINTS)


class StreamRedactor(Generic[Piece]):
    """Takes known keys out of a stream, in whatever pieces it comes."""

    def __init__(self, empty: Piece) -> None:
        """`empty` is "" or b"", and says what the stream is made of."""
        self._held: Piece = empty
        self._empty: Piece = empty

    def feed(self, piece: Piece, *, final: bool = False) -> Piece:
        """What can be passed on: all but an end that may be the beginning of a key."""
        if not _known and not self._held:
            return piece
        whole = self._held + piece
        cut = len(whole) if final or not _known else self._unsure(whole)
        done, self._held = whole[:cut], whole[cut:]
        return without_keys(done) if isinstance(done, str) else bytes_without_keys(done)

    def _unsure(self, whole: Piece) -> int:
        """Where an end begins that more may make a key of. A key that is whole already is never cut."""
        pattern, names = _patterns()
        text = whole if isinstance(whole, str) else whole.decode("latin-1")
        whole_keys = any(form in text for form in names)
        found = [match.span() for match in pattern.finditer(text)] if whole_keys else []
        for at in range(max(0, len(text) - max(map(len, names)) + 1), len(text)):
            inside = any(start < at < end for start, end in found)
            if not inside and any(len(text) - at < len(form) and form.startswith(text[at:]) for form in names):
                return at
        return len(text)


def _mark(name: str) -> str:
    return f"{MARK} {name}\u27e7"


def _mark_format(found: re.Match[str]) -> str:
    return _mark((found.lastgroup or "secret").replace("_", " "))


class TokenStream:
    """Takes known keys and tokens out of text that comes in pieces; a token that is not whole yet is held back."""

    def __init__(self) -> None:
        self._keys = StreamRedactor("")
        self._held = ""

    def feed(self, piece: str, *, final: bool = False) -> str:
        """What can be passed on."""
        whole = self._held + self._keys.feed(piece, final=final)
        cut = len(whole) if final else _token_begun(whole)
        self._held = whole[cut:]
        return without_tokens(whole[:cut])

    def feed_bytes(self, piece: bytes, *, final: bool = False) -> bytes:
        """The same for bytes of whatever encoding; one stream is either of text or of bytes."""
        clean = self.feed(piece.decode("latin-1"), final=final)
        for bracket in "\u27e6\u27e7":
            clean = clean.replace(bracket, bracket.encode().decode("latin-1"))
        return clean.encode("latin-1")


def shows_mark(value: Any) -> bool:
    """Whether there is a replacement's mark in JSON-like data."""
    if isinstance(value, str):
        return MARK in value
    if isinstance(value, dict):
        return any(shows_mark(each) for each in value.values())
    return isinstance(value, list | tuple) and any(shows_mark(each) for each in value)


def _token_begun(text: str) -> int:
    """Where an end of the text begins that may become a token or a private key. Takes time by the end's length alone,
    whatever is in it: this is asked for every piece of a stream."""
    end = text[-_LONGEST_TOKEN:]
    before = len(text) - len(end)
    key = end.rfind(_BEGIN)
    if key >= 0 and not _KEY_END.search(end, key):
        return before + key
    # Read backwards, so that only what stands at the end is looked at.
    run = _TOKEN_BACKWARDS.match(end[::-1])
    start = len(end) - run.end() if run else len(end)
    places = [place for hint in _HINTS if (place := end.find(hint, start)) >= 0]
    if places:
        return before + min(places)
    word = _WORD_BACKWARDS.match(end[: -_LONGEST_HINT - 2 : -1])
    return len(text) - word.end() if word else len(text)


@cache
def _formats() -> re.Pattern[str]:
    # Compiled at the first use: it takes milliseconds, and every start of the program imports this.
    return re.compile(_FORMATS)


def _patterns() -> tuple[re.Pattern[str], dict[str, str]]:
    global _compiled
    with _lock:
        if _compiled is None:
            names = {form: name for secret, name in _known.items() for form in _forms(secret)}
            # The longest first: one key may be the beginning of another.
            alternatives = sorted(names, key=len, reverse=True)
            _compiled = re.compile("|".join(map(re.escape, alternatives))), names
        return _compiled


def _byte_pattern() -> re.Pattern[bytes]:
    return _bytes_of(_patterns()[0].pattern)


@cache
def _bytes_of(pattern: str) -> re.Pattern[bytes]:
    return re.compile(pattern.encode())


def _forms(secret: str) -> set[str]:
    """The key as commands and formats spell it."""
    import base64
    import json
    from urllib.parse import quote

    data = secret.encode()
    escaped = json.dumps(secret)[1:-1]
    forms = {secret, escaped, escaped.replace("/", "\\/"), quote(secret, safe=""), quote(secret), data.hex()}
    forms |= {data.hex().upper(), json.dumps(escaped)[1:-1]}
    for shift in range(3):
        # Of base64 only the characters that no neighbour of the key has a part in.
        encoded = base64.b64encode(b"\0" * shift + data)
        whole = encoded[(8 * shift + 5) // 6 : (len(data) + shift) * 8 // 6]
        forms |= {whole.decode(), whole.decode().replace("+", "-").replace("/", "_")}
    return {form for form in forms if len(form) >= SHORTEST}
