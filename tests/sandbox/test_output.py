"""Output is cleaned alike in every split, and cut in the middle only."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laguna_agent.redaction import know
from laguna_agent.sandbox import output
from laguna_agent.sandbox.output import Capture, Cleaner

PIECES = st.sampled_from(
    ["a", "é", "\n", "\r\n", "\r", "\t", "\x1b[31m", "\x1b[0m", "\x1b]0;t\x07", "\x1b]8;;x\x1b\\", "\x1b(B", "\x1bc",
     "\x1bP1$r\x1b\\", "\x00", "\x07", "\x9b", "\x7f", "line of text\n",
     "\x08", "a\x08a", "\x1b", "\x1b]", "\x0e", "\f", "\u200b"]
)  # fmt: skip


def cleaned(parts: list[bytes]) -> str:
    cleaner = Cleaner()
    return "".join([cleaner.feed(part) for part in parts]) + cleaner.feed(b"", final=True)


@settings(max_examples=500, deadline=None)
@given(st.lists(PIECES, max_size=12), st.lists(st.integers(0, 80), max_size=6))
def test_no_split_changes_what_is_read(pieces: list[str], cuts: list[int]) -> None:
    data = "".join(pieces).encode()
    ends = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    parts = [data[a:b] for a, b in pairwise(ends)]
    text = cleaned(parts)
    assert text == cleaned([data])
    assert not set(text) & set("\x00\x07\x08\x0e\x1b\x7f\x9b")


@given(st.binary(max_size=200))
def test_any_bytes_become_text(data: bytes) -> None:
    assert cleaned([data[i : i + 1] for i in range(len(data))]) == cleaned([data])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text("ab\n", max_size=3000), max_size=8), st.integers(10, 5000))
def test_head_and_tail(tmp_path_factory: pytest.TempPathFactory, chunks: list[str], cap: int) -> None:
    capture = Capture(tmp_path_factory.getbasetemp() / "spool.log")
    for chunk in chunks:
        capture.feed(chunk.encode())
    capture.close()
    whole, text = "".join(chunks), capture.text(cap)
    assert capture.bytes == len(whole)
    if len(whole) <= cap:
        assert text == whole
        return
    assert len(text) <= cap + 300
    head, _, rest = text.partition("[... ")
    missing, _, tail = rest.partition(" ...]\n")
    assert whole.startswith(head.removesuffix("\n"))
    assert whole.endswith(tail)
    assert int(missing.split()[0].replace(",", "")) <= len(whole)


def test_the_tail_is_right_beyond_what_memory_keeps(tmp_path: Path) -> None:
    capture = Capture(tmp_path / "spool.log")
    whole = "".join(f"{number}\n" for number in range(100_000))
    for start in range(0, len(whole), 1000):
        capture.feed(whole[start : start + 1000].encode())
    capture.close()
    text = capture.text(10_000)
    assert text.startswith("0\n1\n2\n")
    assert text.endswith("\n99998\n99999\n")
    assert (tmp_path / "spool.log").read_text() == whole


def test_the_spool_is_capped_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "SPOOL_CAP", 100_000)
    capture = Capture(tmp_path / "spool.log")
    for _ in range(300):
        capture.feed(b"x" * 999 + b"\n")
    capture.close()
    assert (tmp_path / "spool.log").stat().st_size == 100_000
    assert "the first 100,000 of 300,000 bytes are in" in capture.text(1000)


def test_progress_bars_show_their_last_state(tmp_path: Path) -> None:
    capture = Capture(tmp_path / "spool.log")
    capture.feed(b"10%\r50%\r100%\ndone\r\n")
    assert capture.text(1000) == "100%\ndone\n"
    assert capture.spool is None


def test_little_output_makes_no_file(tmp_path: Path) -> None:
    capture = Capture(tmp_path / "spool.log")
    capture.feed(b"hello\n")
    capture.close()
    assert not (tmp_path / "spool.log").exists()


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("\x1b[1;31merror\x1b[0m: no\x1b[K\n", "error: no\n"),
        ("\x1b]52;c;cm0gLXJmIH4=\x07done", "done"),
        ("\x1b]8;;https://example.org\x1b\\a link\x1b]8;;\x1b\\", "a link"),
        ("\x1b]0;title\x07\x1bP+q544e\x1b\\ok", "ok"),
        ("N\x08NA\x08A\x08AME", "NAME"),
        ("|\x08/\x08-\x08done\x07", "|/-done"),
        ("a\x00b\x9bc\x7f", "a\\u{0}b\\u{9B}c\\u{7F}"),
        ("page\n\fnext", "page\n\fnext"),
    ],
)
def test_what_honest_programs_write_is_dropped_and_the_rest_is_shown(written: str, read: str) -> None:
    assert cleaned([written.encode()]) == read
    assert cleaned([bytes([byte]) for byte in written.encode()]) == read


@pytest.mark.parametrize("opening", ["\x1b]52;c;", "\x1bP", "\x1b_", "\x1b[8;", "\x1b]" + "x" * 5000])
def test_a_sequence_that_does_not_end_hides_nothing(opening: str) -> None:
    text = cleaned([opening.encode(), b"\nrm -rf /\n" * 3, b"x" * 5000])
    assert text.startswith("\\u{1B}")
    assert text.count("rm -rf /\n") == 3


def test_a_line_end_is_whole_across_an_escape_sequence() -> None:
    assert cleaned([b"a\r\x1b[0m", b"\nb"]) == cleaned([b"a\r\x1b[0m\nb"]) == "a\nb"


def test_one_byte_at_a_time_costs_little() -> None:
    data = b"\x1b]" + b"y" * 4000 + b"\n"
    started = time.process_time()
    for _ in range(5):
        cleaned([data[at : at + 1] for at in range(len(data))])
    assert time.process_time() - started < 5


def test_a_known_key_is_taken_out_before_anything_is_cut(tmp_path: Path) -> None:
    """Half a key at the end of what is shown would pass for a word."""
    know("sk-canary-0123456789abcdef", "K")
    output = ("x" * 77 + "sk-canary-0123456789abcdef").encode()
    for cap in range(160, 260, 7):
        capture = Capture(tmp_path / "spool")
        shown = "".join(capture.feed(output[at : at + 5]) for at in range(0, len(output), 5))
        capture.feed(b"y" * 300)
        shown += capture.close()
        assert "canary" not in capture.text(cap) + shown


def test_escape_sequences_do_not_hide_a_key(tmp_path: Path) -> None:
    know("sk-canary-0123456789abcdef", "K")
    capture = Capture(tmp_path / "spool")
    shown = capture.feed(b"sk-canary-\x1b[1m0123456789abcdef\n") + capture.close()
    assert "0123456789" not in shown + capture.text(1000)


def test_the_spool_holds_neither_keys_nor_tokens(tmp_path: Path) -> None:
    know("sk-canary-0123456789abcdef", "K")
    token = b"ghp_" + b"a1B2" * 9
    capture = Capture(tmp_path / "spool")
    for _ in range(2000):
        for piece in (b"\xff sk-canary-", b"0123456789abcdef ", token[:9], token[9:], b"\n"):
            capture.feed(piece)
    capture.close()
    kept = (tmp_path / "spool").read_bytes()
    assert b"canary" not in kept
    assert token not in kept
    assert kept.count(b"\xff") == 2000
    assert (tmp_path / "spool").stat().st_mode & 0o777 == 0o600
