r"""Files that hold hidden characters are edited by what the model saw, `\u{200B}`, and keep what it did not touch."""

from __future__ import annotations

from pathlib import Path

import pytest

from laguna_agent.errors import ToolError
from laguna_agent.visible import SINGLY, visible
from tests.tools.conftest import Call

pytestmark = pytest.mark.anyio

NAMES = "na\u200bme = 'x'  # a\u202eb\nother = 1\nname = 2\n"


async def edit(call: Call, root: Path, before: str, old: str, new: str, **more: object) -> str:
    path = root / "a.txt"
    path.write_bytes(before.encode())
    await call("read", path="a.txt")
    assert path.read_bytes() == before.encode()
    await call("edit", path="a.txt", old=old, new=new, **more)
    return path.read_bytes().decode()


async def test_what_was_shown_is_found_and_stays_what_it_was(call: Call, root: Path) -> None:
    after = await edit(call, root, NAMES, "na\\u{200B}me = 'x'", "na\\u{200B}me = 'y'")
    assert after == NAMES.replace("'x'", "'y'")


async def test_what_is_left_out_of_the_new_text_goes(call: Call, root: Path) -> None:
    assert await edit(call, root, NAMES, "na\\u{200B}me", "name") == NAMES.replace("\u200b", "")
    assert await edit(call, root, NAMES, "  # a\\u{202E}b\n", "\n") == NAMES.replace("  # a\u202eb", "")


async def test_several_lines_with_the_indentation_wrong(call: Call, root: Path) -> None:
    before = "if a:\n        b = '\u200b'\n        c = '\u2060'\n"
    after = await edit(call, root, before, "b = '\\u{200B}'\nc = '\\u{2060}'", "b = '\\u{200B}'\nd = '\\u{2060}'")
    assert after == before.replace("c =", "d =")


async def test_a_form_that_is_new_is_written_as_it_is_spelled(call: Call, root: Path) -> None:
    before = "const a = '\u200b';\n"
    after = await edit(call, root, before, "const a = '\\u{200B}';", "const a = '\\u{200B}', b = '\\u{200B}\\u{41}';")
    assert after == "const a = '\u200b', b = '\\u{200B}\\u{41}';\n"


async def test_a_form_that_the_file_spells_out_is_no_hidden_character(call: Call, root: Path) -> None:
    before = "let a = '\\u{200B}';\nlet b = 'x\u200by';\n"
    after = await edit(call, root, before, "let a = '\\u{200B}';", "let first = '\\u{200B}';")
    assert after == before.replace("let a", "let first")
    both = "let a = '\\u{200B}';\nlet b = 'x\\u{200B}y';"
    assert await edit(call, root, before, both, both.replace("let a", "let c")) == before.replace("let a", "let c")


async def test_a_long_run_is_one_piece(call: Call, root: Path) -> None:
    before = "a = 1" + "\u200b" * 40 + "\nb = 2\n"
    shown = visible(before).split("\n")[0]
    assert shown.endswith(f"\\u{{+{40 - SINGLY} more}}")
    assert await edit(call, root, before, shown, shown.replace("1", "3")) == before.replace("1", "3")
    assert await edit(call, root, before, shown, "a = 1") == "a = 1\nb = 2\n"


async def test_everywhere_and_more_than_once(call: Call, root: Path) -> None:
    before = "x\u200by x\u200by x\u2060y\n"
    with pytest.raises(ToolError, match="is there 2 times"):
        await edit(call, root, before, "x\\u{200B}y", "z")
    assert await edit(call, root, before, "x\\u{200B}y", "z", replace_all=True) == "z z x\u2060y\n"


async def test_what_does_not_fit_changes_nothing(call: Call, root: Path) -> None:
    with pytest.raises(ToolError, match="stands for one character"):
        await edit(call, root, NAMES, "na\\u{200", "x")
    with pytest.raises(ToolError, match="not in the file"):
        await edit(call, root, NAMES, "na\\u{2060}me is not there", "x")
    assert (root / "a.txt").read_text() == NAMES


async def test_line_ends_marks_and_encodings_stay(call: Call, root: Path) -> None:
    path = root / "a.txt"
    before = "\ufeffone\u200b\r\ntwo\r\n".encode("utf-16-le")
    path.write_bytes(before)
    await call("read", path="a.txt")
    await call("edit", path="a.txt", old="one\\u{200B}\ntwo", new="one\\u{200B}\nthree")
    assert path.read_bytes() == "\ufeffone\u200b\r\nthree\r\n".encode("utf-16-le")


async def test_a_file_written_whole_keeps_what_was_shown(call: Call, root: Path) -> None:
    path = root / "a.txt"
    path.write_text(NAMES)
    await call("read", path="a.txt")
    await call("write", path="a.txt", content=visible(NAMES).replace("other = 1", "other = 2"))
    assert path.read_text() == NAMES.replace("other = 1", "other = 2")
    await call("write", path="new.js", content="a = '\\u{200B}'\n")
    assert (root / "new.js").read_text() == "a = '\\u{200B}'\n"


async def test_a_definition_written_again_keeps_what_was_shown(call: Call, root: Path) -> None:
    path = root / "a.py"
    path.write_text("def first():\n    return 'a\u200bb'\n\n\ndef second():\n    return 'c\u200bd'\n")
    await call("rewrite_symbol", path="a.py", code="def second():\n    return 'c\\u{200B}d' + 'e'\n")
    assert path.read_text() == ("def first():\n    return 'a\u200bb'\n\n\ndef second():\n    return 'c\u200bd' + 'e'\n")


async def test_a_name_cannot_make_a_line_of_its_own(call: Call, root: Path) -> None:
    (root / "sub").mkdir()
    (root / "sub" / "a\nb\u202e.py").touch()
    assert (await call("read", path="sub")).text == "sub is a directory:\na\\u{A}b\\u{202E}.py"
