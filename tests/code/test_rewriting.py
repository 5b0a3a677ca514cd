"""Definitions that a model wrote again land where they belong, and nothing else changes."""

from __future__ import annotations

import textwrap

import pytest

from laguna_agent.code.rewriting import rewriting
from laguna_agent.code.symbols import symbols
from laguna_agent.errors import ToolError


def rewritten(text: str, block: str, path: str = "stack.py") -> str:
    found = rewriting(path, text, block)
    done = 0
    for change in found.changes:
        assert change.start >= done, "changes overlap"
        done = change.end
    return found.apply(text)


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


    # Joins.
    def push(items, item):
        return items + item


    if __name__ == "__main__":
        print(Stack())
    ''')


# -- what is replaced -------------------------------------------------------------------------------------------------


def test_a_function_is_replaced_in_place() -> None:
    result = rewritten(STACK, "def push(items, item):\n    return [*items, item]\n")
    assert result == STACK.replace("return items + item", "return [*items, item]")


def test_a_bare_method_is_told_from_a_function_by_self() -> None:
    result = rewritten(STACK, "def push(self, item):\n    self.items.append(item)\n")
    assert result == STACK.replace("self.items.insert(0, item)", "self.items.append(item)")


def test_an_indented_block_is_taken_as_it_is() -> None:
    result = rewritten(STACK, "    def push(self, item):\n        self.items.append(item)\n")
    assert result == STACK.replace("self.items.insert(0, item)", "self.items.append(item)")


def test_a_class_with_one_method_keeps_the_others_its_fields_and_bases() -> None:
    text = STACK.replace("class Stack:", "class Stack(Base):")
    block = "class Stack:\n    def push(self, item):\n        self.items.append(item)\n"
    assert rewritten(text, block) == text.replace("self.items.insert(0, item)", "self.items.append(item)")


def test_a_class_with_all_its_methods_may_change_its_bases() -> None:
    text = "class A(B):\n    def f(self):\n        return 1\n"
    assert rewritten(text, text.replace("(B)", "(C, D)")) == text.replace("(B)", "(C, D)")
    assert rewritten(text.replace("(B)", ""), text) == text


def test_decorators_and_docstrings_that_the_code_lacks_stay() -> None:
    result = rewritten(STACK, "def top(self):\n    return self.items[-1]\n")
    assert result == STACK.replace("self.items[0]", "self.items[-1]")


def test_decorators_and_docstrings_that_the_code_has_are_taken() -> None:
    block = 'class Stack:\n    @cached_property\n    def top(self):\n        """New."""\n        return 1\n'
    result = rewritten(STACK, block)
    assert '    @cached_property\n    def top(self):\n        """New."""\n        return 1\n' in result
    assert "@property" not in result


def test_a_docstring_of_several_lines_moves_to_the_new_indentation() -> None:
    text = 'class A:\n\tdef f(self):\n\t\t"""One.\n\n\t\tTwo.\n\t\t"""\n\t\treturn 1\n'
    assert rewritten(text, "def f(self):\n    return 2\n") == text.replace("return 1", "return 2")


def test_async_and_nested_functions() -> None:
    text = "async def f(x):\n    def inner(y):\n        return y\n    return inner(x)\n"
    assert rewritten(text, "def inner(y):\n    return y + 1\n") == text.replace("return y\n", "return y + 1\n")
    block = "async def f(x):\n    def inner(y):\n        return y\n    return inner(x) + 1\n"
    assert rewritten(text, block) == block


def test_a_new_helper_of_a_nested_one_s_name_stays_apart() -> None:
    text = "def f(x):\n    def inner(y):\n        return y\n    return inner(x)\n"
    block = "def inner(y):\n    return y + 1\n\n\ndef f(x):\n    return inner(x)\n"
    assert rewritten(text, block) == block


def test_of_a_function_defined_twice_the_last_is_replaced() -> None:
    text = "def f():\n    return 1\n\n\ndef f():\n    return 2\n"
    assert rewritten(text, "def f():\n    return 3\n") == text.replace("return 2", "return 3")


def test_of_two_versions_in_the_code_the_last_counts() -> None:
    block = "def push(items, item):\n    return 1\n\n# Corrected:\ndef push(items, item):\n    return 2\n"
    assert rewritten(STACK, block) == STACK.replace("return items + item", "return 2")


def test_a_property_and_its_setter_are_told_apart() -> None:
    text = code("""
        class A:
            @property
            def x(self):
                return self._x

            @x.setter
            def x(self, value):
                self._x = value
        """)
    result = rewritten(text, "@x.setter\ndef x(self, value):\n    self._x = int(value)\n")
    assert result == text.replace("self._x = value", "self._x = int(value)")
    result = rewritten(text, "def x(self):\n    return self._x or 0\n")
    assert result == text.replace("return self._x", "return self._x or 0")
    assert rewritten(text, text.replace("_x", "_y")) == text.replace("_x", "_y")


TWINS = "class A:\n    def f(self):\n        return 1\n\n\nclass B:\n    def f(self):\n        return 2\n"


def test_a_method_of_two_classes_needs_its_class() -> None:
    with pytest.raises(ToolError, match=r"A\.f and B\.f"):
        rewritten(TWINS, "def f(self):\n    return 3\n")
    result = rewritten(TWINS, "class B:\n    def f(self):\n        return 3\n")
    assert result == TWINS.replace("return 2", "return 3")


def test_two_classes_at_once() -> None:
    block = TWINS.replace("return", "return 1 +")
    assert rewritten(TWINS, block) == block


def test_a_nested_class_is_found_by_its_own_name() -> None:
    text = "class A:\n    class B:\n        def f(self):\n            return 1\n"
    result = rewritten(text, "class B:\n    def f(self):\n        return 2\n")
    assert result == text.replace("return 1", "return 2")


def test_stubs_stand_for_what_was_there() -> None:
    block = "class Stack:\n    def __init__(self):\n        ...\n\n    def push(self, item):\n        return 7\n"
    assert rewritten(STACK, block) == STACK.replace("self.items.insert(0, item)", "return 7")


def test_strings_keep_their_lines_when_a_method_moves() -> None:
    text = "class A:\n    def f(self):\n        return 1\n"
    block = 'def f(self):\n    x = """\na\n  b\n"""\n    return x\n'
    expected = 'class A:\n    def f(self):\n        x = """\na\n  b\n"""\n        return x\n'
    assert rewritten(text, block) == expected


def test_lines_of_blanks_in_docstrings_stay() -> None:
    text = 'def f():\n    """One.\n    \n    Two.\n    """\n    return 1\n'
    assert rewritten(text, "def f():\n    return 2\n") == text.replace("return 1", "return 2")
    assert rewritten(text, text.replace("return 1", "return 2")) == text.replace("return 1", "return 2")


def test_strings_side_by_side_move_with_their_lines() -> None:
    text = "class A:\n    def f(self):\n        return 1\n"
    block = "def f(self):\n    return ('a'\n            'b')\n"
    assert rewritten(text, block) == text.replace("return 1", "return ('a'\n                'b')")


@pytest.mark.parametrize("step", ["\t", "  ", "   "])
def test_the_indentation_becomes_the_file_s(step: str) -> None:
    text = STACK.replace("    ", step)
    block = "class Stack:\n    def push(self, item):\n        if item:\n            self.items.append(item)\n"
    expected = f"{step}def push(self, item):\n{step * 2}if item:\n{step * 3}self.items.append(item)\n"
    assert expected in rewritten(text, block)


def test_continuation_lines_keep_their_alignment() -> None:
    block = "def push(items,\n         item):\n    return [*items, item]\n"
    assert block in rewritten(STACK, block)


# -- what is new ------------------------------------------------------------------------------------------------------


def test_a_new_function_goes_before_the_main_guard() -> None:
    result = rewritten(STACK, "# Takes the last away.\ndef pop(items):\n    return items[:-1]\n")
    assert "item\n\n\n# Takes the last away.\ndef pop(items):\n    return items[:-1]\n\n\nif __name__" in result


def test_a_new_function_goes_to_the_end_of_a_module() -> None:
    assert rewritten("def f():\n    pass\n", "def g():\n    return 1\n") == (
        "def f():\n    pass\n\n\ndef g():\n    return 1\n"
    )
    assert rewritten("def f():\n    pass", "def g():\n    return 1\n") == (
        "def f():\n    pass\n\n\ndef g():\n    return 1\n"
    )
    assert rewritten("", "def g():\n    return 1\n") == "def g():\n    return 1\n"


def test_a_helper_before_a_function_stays_before_it() -> None:
    block = "def joined(a, b):\n    return [*a, b]\n\ndef push(items, item):\n    return joined(items, item)\n"
    result = rewritten(STACK, block)
    assert "insert(0, item)\n\n\ndef joined(a, b):\n    return [*a, b]\n\n\n# Joins.\ndef push(items" in result


def test_a_helper_is_there_when_a_statement_between_the_definitions_needs_it() -> None:
    text = "def f():\n    return 1\n\n\nX = f()\nprint(X)\n\n\ndef g():\n    return 2\n"
    result = rewritten(text, "def f():\n    return h()\n\n\ndef h():\n    return 3\n")
    exec(compile(result, "result", "exec"), {})
    assert result.index("def h") < result.index("X = f()")


def test_a_new_method_goes_to_the_end_of_its_class() -> None:
    expected = "insert(0, item)\n\n    def pop(self):\n        return self.items.pop()\n\n\n# Joins."
    assert expected in rewritten(STACK, "class Stack:\n    def pop(self):\n        return self.items.pop()\n")
    assert expected in rewritten(STACK, "def pop(self):\n    return self.items.pop()\n")


def test_a_new_method_goes_where_the_others_of_the_code_went() -> None:
    text = TWINS + "\n    def only(self):\n        return 1\n"
    result = rewritten(text, "def only(self):\n    return self.new()\n\ndef new(self):\n    return 4\n")
    assert result.endswith("    def only(self):\n        return self.new()\n\n    def new(self):\n        return 4\n")


@pytest.mark.parametrize(
    "body", ["    pass\n", "    ...\n", '    """Doc."""\n', "    x = 1\n", "    # why\n    x = 1\n"]
)
def test_a_class_without_methods_gets_one(body: str) -> None:
    text = f"class A:\n{body}\n\ny = 1\n"
    result = rewritten(text, "class A:\n    def f(self):\n        return 1\n")
    namespace: dict[str, type] = {}
    exec(compile(result, "result", "exec"), namespace)
    assert namespace["A"]().f() == 1
    assert [each.name for each in symbols("a.py", result)] == ["A", "A.f"]
    for line in body.replace("pass", "").replace("...", "").split("\n"):
        assert line in result


def test_a_new_class_comes_with_its_decorators() -> None:
    block = "@dataclass\nclass Node:\n    value: int\n"
    assert block + '\n\nif __name__ == "__main__":\n' in rewritten(STACK, block)


def test_fields_of_a_class_given_in_part_are_kept() -> None:
    text = "class P:\n    x: int = 0\n    y: int = 0\n"
    assert rewritten(text, "class P:\n    x: int = 1\n") == text.replace("x: int = 0", "x: int = 1")
    assert rewritten(text, "class P:\n    z: int = 1\n") == text + "    z: int = 1\n"


def test_constants_are_changed_and_those_that_are_used_added() -> None:
    block = "LIMIT = 20\nSTEP = 2\nresult = push([], LIMIT)\n\ndef push(items, item):\n    return LIMIT + STEP\n"
    result = rewritten(STACK, block)
    assert "import os\n\nLIMIT = 20\nSTEP = 2\n\n\nclass Stack" in result
    assert "result =" not in result


def test_a_constant_alone_can_be_changed() -> None:
    assert rewritten(STACK, "LIMIT = 20\n") == STACK.replace("LIMIT = 10", "LIMIT = 20")


def test_variables_of_an_example_change_nothing() -> None:
    text = "items = [1]\n\n\ndef push(items, item):\n    return items + item\n"
    block = "def push(items, item):\n    return [*items, item]\n\nitems = [2, 3]\nprint(push(items, 4))\n"
    assert rewritten(text, block) == text.replace("items + item", "[*items, item]")


# -- answers as small models write them -------------------------------------------------------------------------------


def test_examples_tests_and_imports_for_them_are_left_out() -> None:
    block = code("""
        import sys
        import unittest
        from stack import Stack, push

        def push(items, item):
            return [*items, item]

        def test_push():
            assert push([1], 2) == [1, 2]

        class TestPush(unittest.TestCase):
            def test_it(self):
                self.assertEqual(push([1], 2), [1, 2])

        # Example usage:
        print(push([1], 2))
        assert push([], 1) == [1]
        if __name__ == "__main__":
            unittest.main()
        """)
    assert rewritten(STACK, block) == STACK.replace("return items + item", "return [*items, item]")


def test_tests_go_into_a_file_of_tests() -> None:
    block = "def test_b():\n    assert f() == 2\n\ndef f():\n    return 2\n"
    assert "def test_b" in rewritten("def test_a():\n    pass\n", block, "test_stack.py")


def test_the_whole_file_again() -> None:
    block = STACK.replace("LIMIT = 10", "LIMIT = 11").replace("self.items[0]", "self.items[-1]")
    assert rewritten(STACK, block) == block


def test_windows_line_ends_in_the_code_do_not_count() -> None:
    with pytest.raises(ToolError, match="same as in the file"):
        rewritten(STACK, "def push(items, item):\r\n    return items + item\r\n")


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ("x = 1\n", "defines nothing"),
        ("Here is the fix.", "syntax error in line 1"),
        ("", "defines nothing"),
        ("def push(items, item):\n    return (items\n", r"syntax error in line 2 \('\(' was never closed\)"),
        ("def push(items, item):\n    return items + item\n", r"same as in the file \(push\)"),
        ("class Stack:\n    def push(self, item):\n        ...\n", "same as in the file"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(block: str, words: str) -> None:
    with pytest.raises(ToolError, match=words) as refused:
        rewritten(STACK, block)
    assert "\n" not in str(refused.value)


def test_a_method_for_no_class_in_sight_is_refused() -> None:
    with pytest.raises(ToolError, match="inside of its class"):
        rewritten(TWINS, "def g(self):\n    return 3\n")


def test_a_file_of_no_known_definitions_is_refused() -> None:
    for path in ("a.txt", "a.json"):
        with pytest.raises(ToolError, match="whole new content"):
            rewritten("{}", "def f(): pass", path)
