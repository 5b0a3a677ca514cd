"""Changes as rows: the right lines with the right numbers, marks that need no colour, bounds."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from laguna_agent.messages import FileDiff
from laguna_agent.terminal.diffs import Row, changed_words, counts, diff_lines, hunks
from laguna_agent.terminal.theme import THEMES
from tests.terminal.scenes import AFTER, BEFORE, plain

THEME = THEMES["dark"]
LINES = st.lists(st.sampled_from(("a", "b", "    return x", "", "世界", "\tif x:", "same\r")), max_size=12)


def rows_of(diff: FileDiff) -> list[Row]:
    return [row for hunk in hunks(diff) for row in hunk.rows()]


def test_a_small_change() -> None:
    rows = plain(diff_lines(FileDiff("src/calc.py", BEFORE, AFTER), 80, THEME))
    assert rows == [
        "src/calc.py  +1 −1",
        " 1  1   def add(a, b):",
        " 2    -     return a - b",
        "    2 +     return a + b",
        " 3  3",
        " 4  4",
        " 5  5   def double(a):",
    ]


@settings(max_examples=200)
@given(LINES, LINES, st.integers(1, 5_000))
def test_the_rows_lead_from_one_text_to_the_other(old: list[str], new: list[str], line: int) -> None:
    texts = ["".join(f"{each}\n" for each in lines) for lines in (old, new)]
    rows = rows_of(FileDiff("x.py", *texts, line))
    assert [row.old for row in rows if row.sign == "-"] == sorted(row.old for row in rows if row.sign == "-")
    crlf = all("\r\n" in text for text in texts) or not all(texts)
    for row in rows:
        for number, lines in ((row.old, old), (row.new, new)):
            if number:
                text = lines[number - line].removesuffix("\r") if crlf else lines[number - line]
                assert row.text == text.replace("\r", "\\u{D}").expandtabs(4)
    kept = [text for at, text in enumerate(old) if at + line not in {row.old for row in rows if row.sign == "-"}]
    came = [text for at, text in enumerate(new) if at + line not in {row.new for row in rows if row.sign == "+"}]
    assert [each.removesuffix("\r") for each in kept] == [each.removesuffix("\r") for each in came]


@given(LINES, LINES, st.sampled_from((20, 40, 80)), st.integers(1, 8))
def test_it_fits_and_is_bounded(old: list[str], new: list[str], width: int, limit: int) -> None:
    diff = FileDiff("a/long/path/to/some/file.py", "\n".join(old), "\n".join(new))
    rows = plain(diff_lines(diff, width, THEME, limit))
    assert max(map(cell_len, rows)) <= width
    head = len(rows) - len([row for row in rows if not row.startswith(("a/", "le.py", "some", "file"))])
    assert len(rows) <= head + limit + 1


def test_a_long_change_says_how_much_is_left_out() -> None:
    diff = FileDiff("new.py", None, "x = 1\n" * 100)
    rows = plain(diff_lines(diff, 80, THEME))
    assert rows[0] == "new.py (new file)  +100"
    assert len(rows) == 62
    assert rows[-1] == "  … 40 more lines"


def test_parts_that_stand_apart_are_separated() -> None:
    old = [f"line {number}" for number in range(1, 61)]
    new = [*old]
    new[4], new[49] = "five", "fifty"
    rows = plain(diff_lines(FileDiff("x", "\n".join(old), "\n".join(new)), 80, THEME))
    assert rows.count("   ⋮") == 1
    assert " 5    - line 5" in rows
    assert "   50 + fifty" in rows


def test_of_an_excerpt_the_numbers_are_those_of_the_file() -> None:
    rows = plain(diff_lines(FileDiff("x.py", "a\nb\n", "a\nc\n", 3_000), 80, THEME))
    assert rows[1:] == ["3000 3000   a", "3001      - b", "     3001 + c"]


def test_only_the_line_ends_changed_and_that_is_seen() -> None:
    rows = plain(diff_lines(FileDiff("x", "a\r\nb\r\n", "a\nb\n"), 80, THEME))
    assert rows[1:] == [" 1    - a\\u{D}", " 2    - b\\u{D}", "    1 + a", "    2 + b"]


def test_what_hides_in_a_line_is_shown() -> None:
    rows = plain(diff_lines(FileDiff("a\x1b[2Jb", "x\n", "x\u202e\n"), 80, THEME))
    assert rows[0].startswith("a\\u{1B}[2Jb")
    assert rows[-1] == "    1 + x\\u{202E}"


def test_the_words_that_changed() -> None:
    old, new = changed_words("    return a - b", "    return a + b")
    assert (old, new) == (((13, 14),), ((13, 14),))
    assert changed_words("nothing alike", "entirely other words here") == ((), ())
    line = diff_lines(FileDiff("x.txt", "a return - b\n", "a return + b\n"), 80, THEME)[-1]
    word = next(segment for segment in line if segment.text == "+")
    assert word.style is not None
    assert word.style.bold


def test_a_large_rewrite_costs_little() -> None:
    old = "".join(f"line {number}\n" for number in range(20_000))
    diff = FileDiff("x.txt", old, old.replace("line", "row"))
    assert counts(diff) == (20_000, 20_000)
    assert len(diff_lines(diff, 80, THEME)) == 62
