"""The first syntax error that a change brought."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laguna_agent.code.syntax import SyntaxProblem, new_error

BROKEN = {
    "a.py": ("def f():\n    return 1\n", "def f():\n    return (1\n", SyntaxProblem(2, "'(' was never closed")),
    "b.py": ("x = 1\n", "x = 1\nreturn x\n", SyntaxProblem(2, "'return' outside function")),
    "c.py": (
        "if x:\n    y\n",
        "if x:\ny\n",
        SyntaxProblem(2, "expected an indented block after 'if' statement on line 1"),
    ),
    "a.json": ('{"a": 1}\n', '{\n"a": 1,\n}\n', SyntaxProblem(2, "unexpected ','")),
    "a.java": ("class A { int x = 1; }\n", "class A {\n int x = 1\n}\n", SyntaxProblem(2, "missing ';'")),
}


@pytest.mark.parametrize("path", BROKEN)
def test_a_new_error_has_its_line_and_a_reason(path: str) -> None:
    before, after, problem = BROKEN[path]
    assert new_error(path, before, after) == problem
    assert new_error(path, None, after) == problem
    assert new_error(path, after, before) is None
    assert new_error(path, after, after) is None


@pytest.mark.parametrize(
    ("path", "good", "bad"),
    [
        ("a.js", "function f() { return 1; }\n", "function f() { return 1;\n"),
        ("a.ts", "const f = (a: number) => a;\n", "const f = (a: number => a;\n"),
        ("a.tsx", "const A = () => <p>x</p>;\n", "const A = () => <p>x</p;\n"),
        ("a.go", "package m\n\nfunc F() {}\n", "package m\n\nfunc F( {}\n"),
        ("a.rs", "fn f() -> i32 { 1 }\n", "fn f() -> i32 { 1 \n"),
        ("a.c", "int f(void) { return 1; }\n", "int f(void) { return 1 }\n"),
        ("a.cpp", "class A { int f(); };\n", "class A { int f( };\n"),
        ("a.rb", "def f\n  1\nend\n", "def f\n  1 +\nend\n"),
        ("a.sh", "if true; then echo; fi\n", "if true; then echo; \n"),
    ],
)
def test_every_language_tells_good_from_bad(path: str, good: str, bad: str) -> None:
    assert new_error(path, None, good) is None
    assert new_error(path, good, bad) is not None


def test_unknown_languages_have_no_errors() -> None:
    assert new_error("a.txt", None, "def f(:") is None


def test_an_error_beside_an_old_one_is_found() -> None:
    before = "def f(:\n    pass\n"
    assert new_error("a.py", before, before + "def g(:\n    pass\n") == SyntaxProblem(3, "missing ')'")


def test_a_text_that_was_as_broken_has_no_new_error() -> None:
    assert new_error("a.py", "def f(:\n    pass\n", "x = 1\ndef g(:\n    pass\n") is None
    assert new_error("a.py", "print 'python 2'\n", "print 'still python 2'\n") is None


def test_warnings_are_no_errors_and_nothing_runs(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert new_error("a.py", None, "import re\nprint(re.match('\\d', '1'))\nassert (1, 'x')\n") is None
    assert capsys.readouterr().out == ""


def test_texts_that_no_compiler_takes_are_reported_not_raised() -> None:
    assert new_error("a.py", None, "x = 1\0") is not None
    assert new_error("a.py", None, "x = '\ud800'") is not None
    assert new_error("a.py", None, "(" * 3_000) is not None
    assert new_error("a.py", None, "-" * 200_000 + "1") is not None


def test_a_very_long_text_is_not_looked_at() -> None:
    assert new_error("a.py", None, "(" * 2_000_000) is None


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["a.py", "a.js", "a.rb", "a.json", "a.sh", "a.cpp"]), st.text(max_size=40), st.text(max_size=40))
def test_any_text_gives_a_line_inside_of_it_or_nothing(path: str, before: str, after: str) -> None:
    for old in (before, None):
        found = new_error(path, old, after)
        assert found is None or 1 <= found.line <= after.count("\n") + after.count("\r") + 1
    assert new_error(path, after, after) is None
