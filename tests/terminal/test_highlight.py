"""Code in colours line by line: what is open goes on, and not a character changes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laguna_agent.terminal.highlight import LINE_CAP, Highlighter, lexer_of_language, lexer_of_path
from laguna_agent.terminal.theme import THEMES

THEME = THEMES["dark"]
LANGUAGES = (
    "python",
    "c",
    "js",
    "typescript",
    "rust",
    "go",
    "java",
    "sh",
    "console",
    "yaml",
    "json",
    "html",
    "diff",
    "rb",
)
LANGUAGES += ("sql", "php", "toml", "make", "dockerfile", "markdown", "perl", "lua", "nonsense", "")
PIECES = (
    '"',
    "'",
    '"""',
    "/*",
    "*/",
    "//",
    "#",
    "def f():",
    "\\",
    "<<EOF",
    "EOF",
    "{",
    "}",
    " ",
    "x",
    "0x1f",
    "`",
    "<b>",
)


@given(st.sampled_from(LANGUAGES), st.lists(st.lists(st.sampled_from(PIECES), max_size=8).map("".join), max_size=8))
def test_no_character_changes(language: str, lines: list[str]) -> None:
    code = Highlighter(lexer_of_language(language))
    for line in lines:
        assert "".join(segment.text for segment in code.copy().line(line, THEME)) == line
        assert "".join(segment.text for segment in code.line(line, THEME)) == line


@pytest.mark.parametrize(
    ("language", "lines", "style"),
    [
        ("python", ['x = """one', "two", 'three"""'], "syntax.string"),
        ("c", ["int x; /* one", "int two", "three */"], "syntax.comment"),
        ("js", ["/* one", "const two = 2", "three */"], "syntax.comment"),
        ("js", ["let x = `one", "two", "three`"], "syntax.string"),
        ("rust", ["/* one", "let two", "three */"], "syntax.comment"),
    ],
)
def test_what_is_open_goes_on_in_the_next_line(language: str, lines: list[str], style: str) -> None:
    code = Highlighter(lexer_of_language(language))
    drawn = [code.line(line, THEME) for line in lines]
    assert {segment.style for segment in drawn[1]} == {THEME.style(style)}
    after = code.line("name", THEME)
    assert {segment.style for segment in after} != {THEME.style(style)}


def test_a_string_that_looks_like_a_comment_opens_none() -> None:
    code = Highlighter(lexer_of_language("js"))
    code.line('const glob = "src/*";', THEME)
    assert any(segment.style == THEME.style("syntax.keyword") for segment in code.line("const x = 1;", THEME))


def test_a_file_is_known_by_its_name_and_a_long_line_is_left_plain() -> None:
    for path, name in (("src/calc.py", "Python"), ("a/Makefile", "Makefile"), ("x.unknown", None), (".bashrc", "Bash")):
        lexer = lexer_of_path(path)
        assert (lexer.name if lexer else None) == name
    code = Highlighter(lexer_of_path("x.py"))
    assert len(code.line("x = 1; " * LINE_CAP, THEME)) == 1
