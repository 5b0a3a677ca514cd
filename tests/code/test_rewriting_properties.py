"""Whatever is rewritten, what the code does not define stays as it was."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from laguna_agent.code.outline import QUERIES
from laguna_agent.code.rewriting import rewriting
from laguna_agent.code.symbols import Symbol, symbols
from laguna_agent.code.syntax import new_error
from laguna_agent.errors import ToolError

NAMES = ["f", "g", "h", "été", "K", "L", "test_f"]
STATEMENTS = ["return 1", "x = 'é'", "pass", "# why", '"""doc"""', 'y = """a\n b\n"""', "if x:\n{step}{step}return 3"]
BETWEEN = ["\n", "\n\n", "\nX = 1\n", "\n# c\n", "\n\n\nprint('loaded')\n\n\n"]
EXTENSIONS = ["py", "js", "ts", "tsx", "go", "rs", "java", "c", "cpp", "rb", "sh"]


@st.composite
def functions(draw: st.DrawFn, name: str, step: str, first: str, indent: str) -> str:
    lines = [*draw(st.lists(st.sampled_from(STATEMENTS), max_size=3)), f"return {draw(st.integers(0, 3))}"]
    kind = draw(st.sampled_from(["def", "async def", "@d\ndef", "@d(\n    1)\ndef"])).replace("\n", f"\n{indent}")
    body = "\n".join(f"{indent}{step}{line}" for line in lines).replace("{step}{step}", indent + step * 2)
    return f"{indent}{kind} {name}({first}):\n{body}"


@st.composite
def modules(draw: st.DrawFn) -> str:
    step = draw(st.sampled_from(["  ", "    ", "\t"]))
    parts = [draw(st.sampled_from(["", '"""Doc."""\n', "import os\n", "#!/bin/python\n"]))]
    for name in draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=5, unique=True)):
        if name.isupper():
            methods = draw(st.lists(st.sampled_from("mno"), min_size=1, max_size=3, unique=True))
            bodies = [draw(functions(each, step, "self", step)) for each in methods]
            parts.append(f"class {name}:\n" + draw(st.sampled_from(["\n", "\n\n"])).join(bodies))
        else:
            parts.append(draw(functions(name, step, "a", "")))
        parts.append(draw(st.sampled_from(BETWEEN)))
    return "".join(parts) + draw(st.sampled_from(["", "\n", "if __name__ == '__main__':\n    f(1)\n"]))


def texts(text: str) -> dict[str, str]:
    """The text of each definition that holds no others."""
    found, data = symbols("a.py", text), text.encode()

    def leaf(one: Symbol) -> bool:
        return not any(other.name.startswith(f"{one.name}.") for other in found)

    return {each.name: data[each.start_byte : each.end_byte].decode() for each in found if leaf(each)}


@settings(max_examples=80, deadline=None)
@given(modules(), st.data())
def test_rewriting_one_definition_leaves_all_other_text_alone(text: str, data: st.DataObject) -> None:
    before = symbols("a.py", text)
    target = data.draw(st.sampled_from([each for each in before if each.kind != "class"]))
    owner, _, name = target.name.rpartition(".")
    new = data.draw(functions(name, "    ", "self" if owner else "a", "    " if owner else ""))
    block = f"class {owner}:\n{new}\n" if owner else new + "\n"
    try:
        result = rewriting("a.py", text, block).apply(text)
    except ToolError as refused:
        assert "same as in the file" in str(refused)
        return
    source, after = text.encode(), symbols("a.py", result)
    [found] = [each for each in after if each.name == target.name]
    assert [each.name for each in after] == [each.name for each in before]
    assert result.encode()[: found.start_byte] == source[: target.start_byte]
    assert result.encode()[found.end_byte :] == source[target.end_byte :]
    assert new_error("a.py", text, result) is None
    try:
        again = rewriting("a.py", result, block).apply(result)
    except ToolError:
        return
    raise AssertionError(f"doing it again changed something: {again}")


@settings(max_examples=80, deadline=None)
@given(modules(), modules())
def test_no_definition_is_ever_lost_and_others_keep_their_text(text: str, block: str) -> None:
    try:
        result = rewriting("a.py", text, block).apply(text)
    except ToolError as refused:
        assert "same as in the file" in str(refused)
        return
    assert new_error("a.py", text, result) is None
    given_names, after = {each.name for each in symbols("a.py", block)}, texts(result)
    for name, old in texts(text).items():
        assert after[name] == old or name in given_names
    statements = [line for line in text.split("\n") if line.startswith(("X", "#", "print", "import", "if __"))]
    assert not set(statements) - set(result.split("\n"))


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(EXTENSIONS), st.text(max_size=60), st.text(max_size=60))
def test_any_text_is_rewritten_or_refused(extension: str, text: str, block: str) -> None:
    try:
        found = rewriting(f"a.{extension}", text, block)
    except ToolError as refused:
        assert "\n" not in str(refused)
        return
    assert found.changes and found.done
    found.apply(text)


PIECES = {
    "js": ["class A {", "m() {", "}", "\n", "function f() {", "const g = () => 1;", "exports.h =", "f", "x = 1;"],
    "rs": ["impl A {", "fn f() {", "}", "\n", "struct S;", "mod m {", "use a::b;", "pub "],
    "cpp": ["class A {", "int f() {", "}", ";", "\n", "namespace n {", "#include <a>\n", "int A::f() {}"],
    "rb": ["class A\n", "def f\n", "end\n", "module M\n", "X = 1\n", "require 'a'\n"],
    "py": [
        "class A:\n",
        "  def f(self):\n",
        "    pass\n",
        "def g(): 1\n",
        "X = 1\n",
        "@d\n",
        "\\\n",
        "import a\n",
        "'''",
    ],
}


@settings(max_examples=80, deadline=None)
@given(st.data(), st.sampled_from(sorted(PIECES)))
def test_scraps_of_code_are_rewritten_or_refused(data: st.DataObject, extension: str) -> None:
    scraps = st.lists(st.sampled_from(PIECES[extension]), max_size=12).map("".join)
    text, block = data.draw(scraps), data.draw(scraps)
    try:
        found = rewriting(f"a.{extension}", text, block)
    except ToolError:
        return
    ends = [0]
    for change in found.changes:
        assert ends[-1] <= change.start <= change.end <= len(text.encode())
        ends.append(change.end)


def test_the_languages_tried_are_all() -> None:
    assert len(EXTENSIONS) == len(QUERIES)
