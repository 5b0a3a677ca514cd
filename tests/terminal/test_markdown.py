"""Markdown as it streams: the same rows however it is split, nothing lost, nothing too wide."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from laguna_agent.terminal.lines import Line
from laguna_agent.terminal.markdown import Markdown
from laguna_agent.terminal.theme import THEMES
from tests.terminal.snapshots import check

THEME = THEMES["dark"]
PIECES = (
    *(
        "word ",
        "a",
        "I'll ",
        "2*3",
        " ",
        "  ",
        "    ",
        "\n",
        "\n\n",
        "\t",
        "- ",
        "* ",
        "1. ",
        "12) ",
        "> ",
        "# ",
        "## ",
    ),
    *("*", "**", "***", "_", "__", "`", "``", "```", "```py\n", "~~~", "[", "](", ")", "!", "<", ">", "http://e.org/a"),
    *(
        "| a | b |\n|---|--:|\n",
        "|",
        "\\",
        "[ ] ",
        "[x] ",
        "---",
        "世界",
        "，",
        "é",
        "e\u0301",
        "🇩🇪",
        "❤️",
        "שלום",
        "مرحبا ",
    ),
    *("def f():\n", '"""', "/*", "*/", "#!", "-", "+", "0", "=", ":", ".", "x_y_z", "\u3000", "\u00a0", "👩\u200d💻"),
)
texts = st.lists(st.sampled_from(PIECES), max_size=40).map("".join)


def plain(lines: list[Line]) -> str:
    return "\n".join("".join(segment.text for segment in line) for line in lines)


def at_once(text: str, width: int) -> list[Line]:
    markdown = Markdown(THEME, width)
    markdown.feed(text)
    return markdown.end()


def letters(text: str) -> str:
    return "".join(re.findall(r"[^\W_]", text))


@settings(max_examples=400)
@given(texts, st.lists(st.integers(0, 120), max_size=12), st.integers(20, 200))
@example("**a\n\n- b**", [3], 20)
def test_rows_do_not_depend_on_how_the_text_was_split(text: str, cuts: list[int], width: int) -> None:
    markdown = Markdown(THEME, width)
    rows: list[Line] = []
    places = [0, *sorted(min(each, len(text)) for each in cuts), len(text)]
    for begin, end in pairwise(places):
        markdown.feed(text[begin:end])
        rows += markdown.finished()
        assert len(markdown.live(5)) <= 5
    rows += markdown.end()
    assert rows == at_once(text, width)


@settings(max_examples=300)
@given(texts, st.integers(20, 200))
def test_no_row_is_too_wide_and_no_letter_is_lost(text: str, width: int) -> None:
    markdown = Markdown(THEME, width)
    markdown.feed(text)
    markdown.finished()
    rows = [*markdown.live(50), *at_once(text, width)]
    assert max((cell_len(row) for row in plain(rows).split("\n")), default=0) <= width
    shown = letters(plain(at_once(text, width)))
    # A fence's language is not shown, a list's number may repeat nothing; all else is there, in its order.
    assert (
        shown == letters(re.sub(r"(?m)^[ \t>*+\-\d.)]*(?:```|~~~)[^`\n]*$", "", text)) or "```" in text or "~~~" in text
    )


@settings(max_examples=150)
@given(texts, st.lists(st.tuples(st.integers(0, 120), st.integers(20, 120)), max_size=5))
def test_another_width_in_the_middle_holds_for_what_follows(text: str, changes: list[tuple[int, int]]) -> None:
    markdown = Markdown(THEME, 80)
    rows: list[Line] = []
    begin, width = 0, 80
    for end, following in [*sorted(changes), (len(text), 40)]:
        markdown.feed(text[begin:end])
        new = markdown.finished()
        assert max((cell_len(row) for row in plain(new).split("\n")), default=0) <= width
        rows += new
        begin, width = max(begin, min(end, len(text))), following
        markdown.look(THEME, width)
        assert max((cell_len(row) for row in plain(markdown.live(9)).split("\n")), default=0) <= width
    assert letters(plain([*rows, *markdown.end()])) == letters(plain(at_once(text, 80)))


def test_what_is_deep_is_text_and_costs_no_more() -> None:
    rows = plain(at_once("> " * 5_000 + "end", 40)).split("\n")
    assert "".join(rows).count(">") == 5_000 - 16
    assert rows[-1].endswith("end")


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_each_character_alone_gives_the_same(width: int) -> None:
    text = SAMPLE
    markdown = Markdown(THEME, width)
    rows: list[Line] = []
    for character in text:
        markdown.feed(character)
        rows += markdown.finished()
    assert rows + markdown.end() == at_once(text, width)


SAMPLE = """# Plan
I'll fix `calc.py`: **the sign** is wrong, see [docs](https://example.org/a).

1. First
   - nested
2. Run:
   ```python
   def add(a, b):
       return a - b
   ```

| Name | Value |
|------|------:|
| a    |     1 |

> quoted *text*
"""


KINDS = """## Kinds of *text*
Some `code`, **strong**, *slanted* and ***both***; snake_case_name, 2*3*4, __init__ and \\*none\\*.
[words](https://example.org/a_b), <https://example.org>, ![picture](p.png) and https://example.org/x_y.
A line end stays,
and a hard one too.

- one
- two with a text that is long enough to need another row on most screens of our time
  1. inner
     > quoted in it

  continued
- [x] done
- [ ] open

> a quote that goes on
without its mark

```python
def add(a, b):
    \"\"\"Two lines
    of words.\"\"\"
    return a + b  # a comment that is so long that it does not fit into a narrow screen
```

    indented code

| Left | Right | What there is to say about it |
|:-----|------:|:-----------------------------:|
| a | 1 | `code` |
| bcd | 1,234 | a cell that is much longer than the others are |

世界你好，这是一个没有空格的句子，它必须在任何地方换行。 שלום עולם, that was right to left. 👩‍💻 🇩🇪 é
***
<b>HTML</b> is text
#hashtag is no heading
"""


@pytest.mark.parametrize("width", [24, 40, 80, 200])
def test_every_kind_of_block(width: int) -> None:
    check(f"markdown_{width}", plain(at_once(KINDS, width)).split("\n"), exact=True)


def test_styles_carry_what_marks_said() -> None:
    (line,) = at_once("a **b** *c* `d` https://e.org f", 80)
    styles = {segment.text: segment.style for segment in line}
    assert styles["b"] == THEME.style("strong")
    assert styles["c"] == THEME.style("emphasis")
    assert styles["d"] == THEME.style("code")
    assert styles["https://e.org"] == THEME.style("link")
    assert styles["a "] is None


def test_an_open_mark_is_drawn_as_it_will_be_and_given_up_at_the_end() -> None:
    markdown = Markdown(THEME, 80)
    markdown.feed("see **this")
    assert markdown.finished() == []
    assert plain(markdown.live(5)) == "see this"
    assert plain(markdown.end()) == "see **this"


def test_what_it_looks_like() -> None:
    assert plain(at_once(SAMPLE, 40)).split("\n") == [
        "# Plan",
        "I'll fix calc.py: the sign is wrong, see",
        "docs (https://example.org/a).",
        "",
        "1. First",
        "   • nested",
        "2. Run:",
        "     def add(a, b):",
        "         return a - b",
        "",
        "Name  Value",
        "────  ─────",
        "a         1",
        "",
        "│ quoted text",
    ]
