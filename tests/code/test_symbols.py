"""Languages by name, and the symbols of a text."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laguna_agent.code.languages import grammar, language_of
from laguna_agent.code.outline import QUERIES, outline
from laguna_agent.code.symbols import find, symbols

SOURCES = {
    "a.py": (
        "@cache\nclass A:\n    @property\n    def f(self):\n        return 1\n\n"
        "    async def g(self): ...\n\ndef outer():\n    def inner(): pass\n    return inner\n",
        "class A 1-7, method A.f 3-5, method A.g 7-7, function outer 9-11, function outer.inner 10-10",
    ),
    "a.js": (
        "export const f = (a) => {\n  return a;\n};\nclass A {\n  g = () => 1;\n"
        "  static async h() {}\n}\nmodule.exports.k = function () {};\nA.prototype.m = () => 1;\n"
        "function* n() {}\n",
        "function f 1-3, class A 4-7, method A.g 5-5, method A.h 6-6, function k 8-8, function A.m 9-9, "
        "function n 10-10",
    ),
    "a.ts": (
        "@Dec()\nexport class A<T> {\n  @Input()\n  f(): void {}\n}\ninterface B { x: number }\n"
        "type C = string;\nenum D { E }\nnamespace N {\n  function g() {}\n}\n"
        "function h(a: number): void;\nfunction h(a: any) {}\n",
        "class A 1-5, method A.f 3-4, interface B 6-6, type C 7-7, enum D 8-8, namespace N 9-11, "
        "function N.g 10-10, function h 12-12, function h 13-13",
    ),
    "a.tsx": (
        "const A = () => <p>x</p>;\n",
        "function A 1-1",
    ),
    "a.go": (
        "package m\n\ntype S[T any] struct {\n	x int\n}\n\nfunc (s *S[T]) Get() int { return s.x }\n"
        "\ntype R interface{ Read() }\n\nfunc F() {}\n",
        "struct S 3-5, method S.Get 7-7, interface R 9-9, function F 11-11",
    ),
    "a.rs": (
        "#[derive(Debug)]\npub struct P<T> { x: T }\n\nimpl<T> fmt::Display for P<T> {\n"
        "    #[inline]\n    fn fmt(&self) {}\n}\ntrait S { fn area(&self); }\n"
        "mod m { pub fn f() {} }\nmacro_rules! k { () => {} }\n",
        "struct P 1-2, impl impl fmt::Display for P 4-7, method P.fmt 5-6, trait S 8-8, "
        "method S.area 8-8, module m 9-9, function m.f 9-9, macro k 10-10",
    ),
    "A.java": (
        "@Tag\npublic class A {\n    A(int x) {}\n\n    @Override\n    public int f() { return 1; }\n"
        "    enum E { X }\n}\nrecord R(int a) {}\ninterface I { void g(); }\n",
        "class A 1-8, method A.A 3-3, method A.f 5-6, enum A.E 7-7, class R 9-9, interface I 10-10, method I.g 10-10",
    ),
    "a.c": (
        "#define MAX(a) (a)\nstruct s { int x; };\ntypedef int number;\nstatic char **f(int a) { return 0; }\n",
        "macro MAX 1-1, struct s 2-2, type number 3-3, function f 4-4",
    ),
    "a.cpp": (
        "namespace n {\ntemplate <class T>\nclass A {\n  int f() { return 1; }\n};\n"
        "int A::g() const { return 1; }\n}\n",
        "namespace n 1-7, class n.A 2-5, method n.A.f 4-4, function n.A.g 6-6",
    ),
    "a.rb": (
        "module M\n  class A < B\n    def f\n    end\n    def self.g; end\n  end\nend\n",
        "module M 1-7, class M.A 2-6, method M.A.f 3-4, method M.A.g 5-5",
    ),
    "a.sh": (
        "f() {\n  :\n}\nfunction g { :; }\n",
        "function f 1-3, function g 4-4",
    ),
    "a.json": (
        '{"a": 1}',
        "",
    ),
    "README.md": (
        "# def f(): pass",
        "",
    ),
}


@pytest.mark.parametrize("path", SOURCES)
def test_definitions_have_qualified_names_kinds_and_lines(path: str) -> None:
    text, expected = SOURCES[path]
    assert ", ".join(f"{each.kind} {each.name} {each.start}-{each.end}" for each in symbols(path, text)) == expected


def test_offsets_are_bytes_and_span_the_definition() -> None:
    text = "é = 1\n@d\ndef f():\n    return 'ü'\n\nx = 2\n"
    [symbol] = symbols("a.py", text)
    assert text.encode()[symbol.start_byte : symbol.end_byte].decode() == "@d\ndef f():\n    return 'ü'"


def test_lines_of_a_text_with_windows_line_ends() -> None:
    assert [(each.start, each.end) for each in symbols("a.c", "#define A(x) x\r\nint f() {\r\n}\r\n")] == [
        (1, 1),
        (2, 3),
    ]


def test_find_takes_the_qualified_name_or_a_unique_last_part() -> None:
    text = "class A:\n    def f(self): pass\n    def g(self): pass\nclass B:\n    def f(self): pass\ndef h(): pass\n"
    found = find("a.py", text, "A.f")
    assert found is not None and found.start == 2
    found = find("a.py", text, "g")
    assert found is not None and found.name == "A.g"
    assert find("a.py", text, "f") is None
    assert find("a.py", text, "nothing") is None
    found = find("a.py", text + "def h(): return 2\n", "h")
    assert found is not None and found.start == 7


def test_languages_by_file_name() -> None:
    assert language_of("src/a.PY") == "python"
    assert language_of("Gemfile") == "ruby"
    assert language_of("a.h") == "cpp"
    assert language_of("py") is None
    assert language_of("README.md") is None


@pytest.mark.parametrize("language", [*QUERIES, "json"])
def test_every_grammar_loads(language: str) -> None:
    assert grammar(language).node_kind_count > 0


def test_asking_for_a_language_loads_no_grammar() -> None:
    code = "import sys, laguna_agent.code.symbols; print('tree_sitter' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_very_deep_nesting_is_survived() -> None:
    for path, text in (("a.py", "(" * 20_000), ("a.js", "{" * 20_000), ("a.c", "int f() {" + "{" * 5_000)):
        symbols(path, text)


PIECES = [
    "def ",
    "class A:",
    "\n",
    "    ",
    "f",
    "(",
    ")",
    "{",
    "}",
    "'",
    '"""',
    "é",
    "\r\n",
    "\0",
    "\ud800",
    "=>",
    "@x\n",
]


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(
        ["a.py", "a.js", "a.ts", "a.tsx", "a.go", "a.rs", "a.java", "a.c", "a.cpp", "a.rb", "a.sh", "a.json"]
    ),
    st.one_of(st.text(max_size=40), st.lists(st.sampled_from(PIECES), max_size=25).map("".join)),
)
def test_any_text_has_ordered_symbols_inside_of_it(path: str, text: str) -> None:
    length, lines = len(text.encode("utf-8", "surrogatepass")), text.count("\n") + 1
    found = symbols(path, text)
    assert [each.start_byte for each in found] == sorted(each.start_byte for each in found)
    for each in found:
        assert 0 <= each.start_byte <= each.end_byte <= length
        assert 1 <= each.start <= each.end <= lines


def test_the_outline_keeps_imports_of_functions_apart() -> None:
    found = outline("a.py", b"import a\ntry:\n    import b\nexcept E:\n    b = 1\ndef f():\n    import c\n")
    assert found is not None
    assert [found.text(node.start_byte, node.end_byte) for node in found.imports] == ["import a", "import b"]
