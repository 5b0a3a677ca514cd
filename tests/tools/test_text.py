"""Whatever a file's encoding, mark and line ends, an edit changes only what it is about."""

from __future__ import annotations

import codecs

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from laguna_agent.errors import ToolError
from laguna_agent.tools.matching import locate
from laguna_agent.tools.text import Span, decode

FORMS = {
    "utf-8": (b"", "utf-8"),
    "utf-8 with mark": (codecs.BOM_UTF8, "utf-8"),
    "utf-16-le": (codecs.BOM_UTF16_LE, "utf-16-le"),
    "utf-16-be": (codecs.BOM_UTF16_BE, "utf-16-be"),
    "utf-32-le": (codecs.BOM_UTF32_LE, "utf-32-le"),
    "latin-1": (b"", "latin-1"),
}
LINES = st.lists(
    st.tuples(st.text("ab é\tx", max_size=6), st.sampled_from(["\n", "\r\n", "\r\n", "\r", ""])), max_size=10
)


@given(st.sampled_from(sorted(FORMS)), LINES, st.integers(0, 60), st.integers(0, 20), st.text("né\n", max_size=5))
def test_a_splice_keeps_every_other_byte(
    form: str, lines: list[tuple[str, str]], at: int, length: int, new: str
) -> None:
    mark, encoding = FORMS[form]
    exact = "".join(line + end for line, end in lines)
    data = mark + exact.encode(encoding)
    file = decode(data)
    # A text in Latin-1 may happen to be UTF-8 as well.
    assume(file is not None and file.encoding == encoding)
    assert file is not None
    assert file.splice([]) == data
    start, end = min(at, len(file.text)), min(at + length, len(file.text))
    after = file.splice([Span(start, end, new)])
    assert after.startswith(mark + file.text[:0].encode(encoding))
    before_bytes = mark + _exact_prefix(exact, start).encode(encoding)
    rest = exact[len(_exact_prefix(exact, end)) :].encode(encoding)
    assert after.startswith(before_bytes)
    assert after.endswith(rest)
    middle = after[len(before_bytes) : len(after) - len(rest)].decode(encoding)
    assert middle == new.replace("\n", file.newline)


def _exact_prefix(exact: str, offset: int) -> str:
    """As much of `exact` as has `offset` characters when each CRLF counts as one."""
    at = 0
    for _ in range(offset):
        at += 2 if exact.startswith("\r\n", at) else 1
    return exact[:at]


@given(
    st.sampled_from(["utf-8", "utf-8 with mark", "utf-16-le"]),
    st.lists(st.sampled_from("abcdé"), min_size=3),
    st.data(),
)
def test_an_edit_round_trips(form: str, words: list[str], data: st.DataObject) -> None:
    mark, encoding = FORMS[form]
    names = [f"{word}{number}" for number, word in enumerate(words)]
    newline = data.draw(st.sampled_from(["\n", "\r\n"]))
    last = data.draw(st.sampled_from(["", newline]))
    file = decode(mark + (newline.join(names) + last).encode(encoding))
    assert file is not None
    chosen = data.draw(st.integers(0, len(names) - 2))
    old = f"{names[chosen]}\n{names[chosen + 1]}"
    after = file.splice(locate(file.text, old, "one\ntwo").spans)
    names[chosen : chosen + 2] = ["one", "two"]
    assert after == mark + (newline.join(names) + last).encode(encoding)


def test_what_is_no_text() -> None:
    assert decode(b"\0\1\2") is None
    assert decode(bytes(range(256))) is None
    assert decode(codecs.BOM_UTF16_LE + b"\x00\xd8") is None
    assert decode(b"") is not None


def test_a_character_the_encoding_lacks_is_refused() -> None:
    file = decode("caf\u00e9".encode("latin-1"))
    assert file is not None
    with pytest.raises(ToolError, match=r"latin-1 and cannot hold the character '€' \(U\+20AC\)"):
        file.splice([Span(0, 3, "€")])
