"""Known keys and well-known tokens taken out of text, bytes and streams; everything else left as it was."""

from __future__ import annotations

import base64
import json
import time
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laguna_agent import redaction
from laguna_agent.redaction import (
    MARK,
    StreamRedactor,
    TokenStream,
    bytes_without_keys,
    know,
    redact,
    shows_mark,
    without_keys,
    without_tokens,
)

KEY = 'sk-canary/0123456789+ab"cd'
TOKENS = {
    "sk-ant-" + "api03-" + "aB3_" * 12: "api key",
    "sk-or-v1-" + "0123456789abcdef" * 4: "api key",
    "ghp_" + "a1B2" * 9: "github token",
    "github_pat_" + "11ABCDEFG0" * 8: "github token",
    "glpat-" + "abcDEF123456_-abcDEF": "gitlab token",
    "AKIA" + "IOSFODNN7EXAMPLE": "aws key",
    "AIza" + "Sy0123456789abcdefghijklmnopqrstuvw"[:35]: "google key",
    "xoxb-" + "123456789012-123456789012-abcdefghijABCDEFGHIJ1234": "slack token",
    "npm_" + "a1B2" * 9: "npm token",
    "pypi-AgEIcHlwaS5vcmc" + "CJD" * 20: "pypi token",
    "hf_" + "abcdefghijABCDEFGHIJabcdefghijABCD": "hugging face token",
    "sk_live_" + "a1b2c3d4" * 3: "stripe key",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U": "jwt",
    "-----BEGIN OPENSSH PRIVATE KEY-----\n"
    + ("b3BlbnNzaC1rZXk" * 4 + "\n") * 9
    + "-----END OPENSSH PRIVATE KEY-----": "private key",
    "-----BEGIN RSA PRIVATE KEY-----\n" + "MIIEow" * 40: "private key",
}
INNOCENT = [
    "commit 46780ebf0cae12161ef51383cf46156ffe42884e",
    "123e4567-e89b-12d3-a456-426614174000",
    '"integrity": "sha512-v2kDEe57lecTulaDIuNTPy3Ry4gLGJ6Z1O3vE1krgXZNrsQ+LFTGHVxVjcXPs17LhbZVGedAJv8XZ1tvj5Fvg=="',
    "name = 'sk-test'",
    "sk-learn is sklearn",
    "task-0123456789",
    "api_key = os.environ['OPENAI_API_KEY']",
    "-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA\n-----END PUBLIC KEY-----",
    "-----BEGIN CERTIFICATE-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA\n-----END CERTIFICATE-----",
    'if line == "-----BEGIN PRIVATE KEY-----":\n    return True  # what follows is the key in base64, until the end\n'
    * 9,
    "npm_config_cache npm_package_json",
    "hf_hub_download",
    "ghp_short",
    "xoxb-",
    "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
]


@pytest.fixture(autouse=True)
def known() -> None:
    know(KEY, "THE_KEY")


@pytest.mark.parametrize("shift", range(4))
def test_key_in_every_spelling(shift: int) -> None:
    around = "x" * shift
    spellings = [
        KEY,
        json.dumps({"key": KEY}),
        json.dumps(json.dumps({"key": KEY})),
        json.dumps(KEY).replace("/", "\\/"),
        quote(KEY, safe=""),
        base64.b64encode((around + KEY + "tail").encode()).decode(),
        base64.urlsafe_b64encode((around + KEY + "tail").encode()).decode(),
        KEY.encode().hex(),
        KEY.encode().hex().upper(),
    ]
    for spelling in spellings:
        text = f"before {spelling} after"
        clean = without_keys(text)
        assert MARK in clean, spelling
        assert "before " in clean
        assert " after" in clean
        assert KEY not in clean
        assert bytes_without_keys(text.encode()) == clean.encode()
    encoded = base64.b64encode((around + KEY).encode()).decode()
    left = without_keys(encoded).partition(MARK)[0]
    assert KEY[:3].encode() not in base64.b64decode(left + "=" * (-len(left) % 4))


def test_redacted_json_is_json() -> None:
    line = json.dumps({"a": KEY, "b": [KEY + "x"]}).encode()
    assert json.loads(bytes_without_keys(line)) == redact({"a": KEY, "b": [KEY + "x"]})


@pytest.mark.parametrize(
    "word", ["none", "ollama", "not-needed", "sk-no-key-needed", "lm-studio", "schlüssel-0123456789"]
)
def test_words_are_no_keys(word: str) -> None:
    know(word, "KEY")
    assert without_keys(f"it says {word} here") == f"it says {word} here"


@given(
    st.lists(
        st.sampled_from([KEY, KEY[:9], KEY[5:], "s", "sk", "plain ", "\n", base64.b64encode(KEY.encode()).decode()])
    ),
    st.data(),
)
def test_a_stream_is_redacted_as_the_whole_is(parts: list[str], data: st.DataObject) -> None:
    know(KEY, "THE_KEY")
    whole = "".join(parts)
    stream, raw, out, raw_out = StreamRedactor(""), StreamRedactor(b""), "", b""
    at = 0
    while at < len(whole):
        step = data.draw(st.integers(1, 30))
        out += stream.feed(whole[at : at + step])
        raw_out += raw.feed(whole[at : at + step].encode())
        assert KEY not in out
        at += step
    out += stream.feed("", final=True)
    raw_out += raw.feed(b"", final=True)
    assert out == without_keys(whole)
    assert raw_out == out.encode()


def test_one_key_that_begins_another() -> None:
    know(KEY + "-and-more", "LONGER")
    stream = StreamRedactor("")
    out = "".join(stream.feed(each) for each in KEY + "-and-more") + stream.feed("", final=True)
    assert out == without_keys(KEY + "-and-more")
    assert "LONGER" in out
    assert "more" not in out


@pytest.mark.parametrize(("token", "kind"), TOKENS.items())
def test_tokens_by_their_format(token: str, kind: str) -> None:
    assert without_tokens(f"TOKEN={token}\nrest") in {f"TOKEN={MARK} {kind}\u27e7\nrest", f"TOKEN={MARK} {kind}\u27e7"}
    stream = TokenStream()
    live = "".join(stream.feed(token[at : at + 7]) for at in range(0, len(token), 7)) + stream.feed("", final=True)
    assert token[12:] not in live
    assert kind in live


@pytest.mark.parametrize("text", INNOCENT)
def test_what_is_no_secret_stays(text: str) -> None:
    assert without_tokens(text) == text
    stream = TokenStream()
    assert "".join(stream.feed(each) for each in text) + stream.feed("", final=True) == text


@given(st.text())
def test_other_text_stays(text: str) -> None:
    redaction.forget_all()
    know(KEY, "THE_KEY")
    assert without_keys(text) == text
    assert StreamRedactor("").feed(text, final=True) == text


def test_marks_are_seen() -> None:
    assert shows_mark({"a": [without_keys(KEY)]})
    assert not shows_mark({"a": [KEY, 1, None]})


HARD = {
    "eyJ-": 15_000, "sk-": 20_000, "-----BEGIN ": 6_000, "-----BEGIN PRIVATE KEY-----\na: ": 2_000, "xoxb-1-": 9_000,
    "pypi-AgE-": 7_000, "sk-canary-": 6_000, "-----BEGIN PRIVATE KEY-----\n" + "a: " * 400: 1,
    "-----BEGIN PRIVATE KEY-----" + "\n" * 30_000 + "!": 1, "xoxb-" + "1-" * 20_000 + "!": 1, "a": 60_000,
}  # fmt: skip


@pytest.mark.parametrize("piece", HARD)
def test_no_text_takes_long(piece: str) -> None:
    """A command's output is whatever somebody wants it to be; once two of these took until the end of the day."""
    text = piece * HARD[piece]
    stream, keys = TokenStream(), StreamRedactor("")
    began = time.process_time()
    without_tokens(text)
    for at in range(0, len(text), 512):
        stream.feed(text[at : at + 512])
        keys.feed(text[at : at + 512])
    assert time.process_time() - began < 5
