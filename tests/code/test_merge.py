"""Definitions that a model wrote again land where they belong, and nothing else is lost."""

from __future__ import annotations

import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laguna_agent.code.languages import language_of, language_of_fence
from laguna_agent.code.merge import merge
from laguna_agent.code.symbols import symbols
from laguna_agent.code.syntax import first_new_problem
from laguna_agent.errors import ToolError


def merged(source: str, block: str, language: str = "python") -> str:
    data, result, done = source.encode(), b"", 0
    for change in merge(language, source, block):
        assert change.start >= done, "changes overlap"
        result += data[done : change.start] + change.new.encode()
        done = change.end
    return (result + data[done:]).decode()


def code(text: str) -> str:
    return textwrap.dedent(text).lstrip("\n")


STACK = code('''
    """A stack."""
    import os

    LIMIT = 10


    class Stack:
        """Last in, first out."""

        size: int = 0

        def __init__(self):
            self.items = []

        @property
        def top(self):
            """The last item."""
            return self.items[0]

        def push(self, item):
            self.items.insert(0, item)


    def push(items, item):
        return items + item


    if __name__ == "__main__":
        print(Stack())
    ''')


def test_a_function_is_replaced_in_place() -> None:
    result = merged(STACK, "def push(items, item):\n    return [*items, item]\n")
    assert result == STACK.replace("return items + item", "return [*items, item]")


def test_a_bare_method_is_told_from_a_function_by_self() -> None:
    result = merged(STACK, "def push(self, item):\n    self.items.append(item)\n")
    assert result == STACK.replace("self.items.insert(0, item)", "self.items.append(item)")


def test_a_class_with_one_method_keeps_the_others_and_its_fields() -> None:
    block = "class Stack:\n    def push(self, item):\n        self.items.append(item)\n"
    assert merged(STACK, block) == STACK.replace("self.items.insert(0, item)", "self.items.append(item)")


def test_a_method_without_its_decorator_and_docstring_keeps_the_file_s() -> None:
    result = merged(STACK, "def top(self):\n    return self.items[-1]\n")
    assert result == STACK.replace("self.items[0]", "self.items[-1]")


def test_a_new_decorator_is_taken() -> None:
    block = "import functools\n\n@functools.cache\ndef push(items, item):\n    return items + item\n"
    result = merged(STACK, block)
    assert "import os\nimport functools\n" in result
    assert "\n\n\n@functools.cache\ndef push(items, item):" in result


def test_examples_tests_and_unused_imports_are_left_out() -> None:
    block = code("""
        import sys
        import unittest
        from stack import Stack, push

        def push(items, item):
            return [*items, item]

        def test_push():
            assert push([1], 2) == [1, 2]

        print(push([1], 2))
        if __name__ == "__main__":
            unittest.main()
        """)
    assert merged(STACK, block) == STACK.replace("return items + item", "return [*items, item]")


def test_a_helper_that_is_new_comes_before_what_uses_it() -> None:
    block = "def push(items, item):\n    return _joined(items, item)\n\ndef _joined(a, b):\n    return [*a, b]\n"
    result = merged(STACK, block)
    assert result.index("def _joined") < result.index("def push(items")
    assert "\n\n\ndef _joined(a, b):\n    return [*a, b]\n\n\ndef push(items, item):" in result


def test_a_new_function_alone_goes_before_the_main_guard() -> None:
    result = merged(STACK, "def pop(items):\n    return items[:-1]\n")
    assert "\n\n\ndef pop(items):\n    return items[:-1]\n\n\nif __name__" in result


def test_a_new_method_goes_to_the_end_of_its_class() -> None:
    result = merged(STACK, "class Stack:\n    def pop(self):\n        return self.items.pop()\n")
    assert "insert(0, item)\n\n    def pop(self):\n        return self.items.pop()\n\n\ndef push(items" in result


def test_the_indentation_becomes_the_file_s() -> None:
    source = STACK.replace("    ", "\t")
    result = merged(source, "class Stack:\n  def push(self, item):\n    if item:\n      self.items.append(item)\n")
    assert "\tdef push(self, item):\n\t\tif item:\n\t\t\tself.items.append(item)\n" in result


def test_continuation_lines_keep_their_alignment() -> None:
    block = "def push(items,\n         item):\n    return [*items, item]\n"
    assert "def push(items,\n         item):\n    return [*items, item]\n" in merged(STACK, block)


def test_the_last_of_two_versions_counts() -> None:
    block = "def push(items, item):\n    return 1\n\n# Corrected:\ndef push(items, item):\n    return 2\n"
    assert merged(STACK, block) == STACK.replace("return items + item", "return 2")


def test_property_and_setter_are_told_apart() -> None:
    source = code("""
        class A:
            @property
            def x(self):
                return self._x

            @x.setter
            def x(self, value):
                self._x = value
        """)
    result = merged(source, "@x.setter\ndef x(self, value):\n    self._x = int(value)\n")
    assert result == source.replace("self._x = value", "self._x = int(value)")
    result = merged(source, "def x(self):\n    return self._x or 0\n")
    assert result == source.replace("return self._x", "return self._x or 0")


def test_a_name_in_two_classes_goes_to_the_one_it_is_like_else_is_refused() -> None:
    source = code("""
        class A:
            def area(self):
                return self.width * self.height

        class B:
            def area(self):
                return 3.14 * self.radius
        """)
    result = merged(source, "def area(self):\n    return 3.14159 * self.radius ** 2\n")
    assert result == source.replace("3.14 * self.radius", "3.14159 * self.radius ** 2")
    twins = source.replace("3.14 * self.radius", "self.width * self.depth")
    with pytest.raises(ToolError, match=r"A.area \(line 2\), B.area \(line 6\)"):
        merge("python", twins, "def area(self):\n    return self.width\n")


def test_stubs_stand_for_what_was_there() -> None:
    block = "class Stack:\n    def __init__(self):\n        ...\n\n    def push(self, item):\n        return 7\n"
    assert merged(STACK, block) == STACK.replace("self.items.insert(0, item)", "return 7")


def test_a_constant_is_changed_and_a_used_one_added() -> None:
    block = "LIMIT = 20\nSTEP = 2\nresult = push([], LIMIT)\n\ndef push(items, item):\n    return LIMIT + STEP\n"
    result = merged(STACK, block)
    assert "LIMIT = 20\n" in result
    assert "STEP = 2\n" in result
    assert "result =" not in result


def test_the_whole_file_again_changes_its_statements_too() -> None:
    block = STACK.replace("LIMIT = 10", "LIMIT = 11").replace("self.items[0]", "self.items[-1]")
    assert merged(STACK, block) == block


def test_a_dataclass_is_replaced_whole_only_when_no_field_is_lost() -> None:
    source = "class P:\n    x: int = 0\n    y: int = 0\n"
    assert merged(source, "class P:\n    x: int = 1\n    y: int = 0\n") == source.replace("x: int = 0", "x: int = 1")
    with pytest.raises(ToolError, match="changes nothing"):
        merge("python", source, "class P:\n    x: int = 1\n")


def test_imports_are_added_by_name_and_only_once() -> None:
    source = "from typing import List\n\n\ndef f(a):\n    return a\n"
    block = "from typing import Dict, List, Any\nimport math as m\n\ndef f(a: Dict) -> List:\n    return m.sqrt(a)\n"
    result = merged(source, block)
    assert result.startswith("from typing import List\nfrom typing import Dict\nimport math as m\n\n\ndef f(a: Dict)")


def test_imports_into_a_file_without_any_follow_the_docstring() -> None:
    assert merged('"""Doc."""\n\ndef f():\n    return 1\n', "import math\ndef f():\n    return math.pi\n") == (
        '"""Doc."""\n\nimport math\n\ndef f():\n    return math.pi\n'
    )
    assert merged("def f():\n    return 1\n", "import math\ndef f():\n    return math.pi\n") == (
        "import math\n\ndef f():\n    return math.pi\n"
    )


def test_what_cannot_be_done_is_said() -> None:
    with pytest.raises(ToolError, match="no complete definition"):
        merge("python", STACK, "x = 1\n")
    with pytest.raises(ToolError, match="same as what the file has"):
        merge("python", STACK, "def push(items, item):\n    return items + item\n")


OTHERS = {
    "javascript": (
        "export function f(a) {\n  return a;\n}\n"
        "\nclass S {\n  m(x) {\n    return x;\n  }\n\n  n() {\n    return 1;\n  }\n}\n",
        "m(x) {\n    return x + 1;\n}\n",
        "  m(x) {\n    return x + 1;\n  }\n",
    ),
    "typescript": (
        "export const f = (a: number): number => {\n\treturn a;\n};\n\nexport default class K {}\n",
        "const f = (a: number): number => {\n  return a + 1;\n};\n",
        "export const f = (a: number): number => {\n\treturn a + 1;\n};\n",
    ),
    "go": (
        'package s\n\nimport "fmt"\n\ntype S struct{ a int }\n'
        "\nfunc (s *S) M() int {\n\treturn 1\n}\n\nfunc F() { fmt.Println() }\n",
        'package s\n\nimport (\n\t"fmt"\n)\n\nfunc (s *S) M() int {\n    return s.a\n}\n',
        "func (s *S) M() int {\n\treturn s.a\n}\n",
    ),
    "rust": (
        "struct S { a: i32 }\n"
        "\nimpl S {\n    #[inline]\n    fn m(&self) -> i32 {\n        1\n    }\n\n    fn n() {}\n}\n",
        "impl S {\n    fn m(&self) -> i32 {\n        self.a\n    }\n\n    fn o() {}\n}\n",
        "    #[inline]\n    fn m(&self) -> i32 {\n        self.a\n    }\n",
    ),
    "java": (
        "class A {\n    int n = 0;\n\n    int m(int a) {\n        return 1;\n    }\n"
        "\n    int m(String a) {\n        return 2;\n    }\n}\n",
        "int m(String a) {\n    return n;\n}\n",
        "    int m(String a) {\n        return n;\n    }\n",
    ),
    "c": (
        "#include <stdio.h>\n\nstatic int f(int a) {\n  return a;\n}\n\nint main(void) {\n  return f(1);\n}\n",
        "#include <stdio.h>\n#include <math.h>\n\nstatic int f(int a) {\n  return abs(a);\n}\n",
        "#include <stdio.h>\n#include <math.h>\n\nstatic int f(int a) {\n  return abs(a);\n}\n",
    ),
    "cpp": (
        "namespace n {\ntemplate <class T>\nT f(T a) {\n  return a;\n}\n}\n\nint S::m() {\n  return 1;\n}\n",
        "int S::m() {\n  return 2;\n}\n",
        "int S::m() {\n  return 2;\n}\n",
    ),
    "ruby": (
        "module M\n  class A\n    def m(a)\n      a\n    end\n\n    def n; end\n  end\nend\n",
        "def m(a)\n  a + 1\nend\n",
        "    def m(a)\n      a + 1\n    end\n",
    ),
    "bash": ("f() {\n  echo 1\n}\n\nf\n", "f() {\n  echo 2\n}\n", "f() {\n  echo 2\n}\n"),
}


@pytest.mark.parametrize("language", OTHERS)
def test_other_languages(language: str) -> None:
    source, block, expected = OTHERS[language]
    result = merged(source, block, language)
    assert expected in result
    before = {each.qualified for each in symbols(language, source.encode())}
    assert before <= {each.qualified for each in symbols(language, result.encode())}
    assert first_new_problem(language, source.encode(), result.encode()) is None


NAMES = st.sampled_from(["f", "g", "h", "é", "K", "L", "test_f"])


@st.composite
def python_sources(draw: st.DrawFn) -> str:
    parts = []
    for name in draw(st.lists(NAMES, min_size=1, max_size=5)):
        lines = draw(
            st.lists(st.sampled_from(["return 1", "x = 'é'", "pass", "# why", '"""doc"""']), min_size=1, max_size=3)
        )
        lines.append("return 2")
        step = draw(st.sampled_from(["  ", "    ", "\t"]))
        if name.isupper():
            methods = draw(st.lists(st.sampled_from(["m", "n", "o"]), min_size=1, max_size=3))
            body = [f"{step}def {m}(self):\n{step}{step}return {draw(st.integers(0, 9))}" for m in methods]
            parts.append(f"class {name}:\n" + "\n".join(body))
        else:
            parts.append(f"def {name}(a):\n" + "\n".join(step + line for line in lines))
    return draw(st.sampled_from(["\n", "\n\n", "\nX = 1\n"])).join(parts) + draw(st.sampled_from(["", "\n"]))


@settings(max_examples=150, deadline=None)
@given(python_sources(), python_sources())
def test_no_definition_is_ever_lost(source: str, block: str) -> None:
    try:
        result = merged(source, block)
    except ToolError:
        return
    before = {each.qualified for each in symbols("python", source.encode())}
    assert before <= {each.qualified for each in symbols("python", result.encode())}
    assert first_new_problem("python", source.encode(), result.encode()) is None


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["python", "cpp", "rust", "typescript", "ruby"]), st.text(max_size=60), st.text(max_size=60))
def test_any_text_is_merged_or_refused(language: str, source: str, block: str) -> None:
    try:
        merged(source, block, language)
    except ToolError:
        return


def test_languages_by_file_and_fence() -> None:
    assert language_of("a/b.PY") == "python"
    assert language_of("x.tsx") == "tsx"
    assert language_of("README.md") is None
    assert language_of_fence("py title=x") == "python"
    assert language_of_fence("") is None
