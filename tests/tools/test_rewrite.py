"""`rewrite_symbol` on real files."""

from __future__ import annotations

from pathlib import Path

import pytest

from laguna_agent.errors import ToolError
from laguna_agent.messages import FileDiff, Location, ToolCall
from laguna_agent.tools.base import Need, ToolContext, ToolResult
from laguna_agent.tools.ledger import FileLedger
from laguna_agent.tools.registry import default_registry, spec
from laguna_agent.tools.rewrite import RewriteArguments, RewriteSymbol
from laguna_agent.tools.workspace import LocalWorkspace

pytestmark = pytest.mark.anyio

FILE = "import os\n\n\ndef add(a, b):\n    return a - b\n\n\ndef name():\n    return 'é'\n"
FIXED = "def add(a, b):\n    return a + b\n"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def lent(tmp_path: Path) -> ToolContext:
    return ToolContext(LocalWorkspace(tmp_path), FileLedger())


async def rewrite(lent: ToolContext, path: str, code: str) -> ToolResult:
    registry = default_registry()
    call = ToolCall("1", "rewrite_symbol", {"path": path, "code": code})
    return await registry.get(call.name).run(registry.decode(call), lent)


async def test_the_file_is_changed_and_the_result_says_how(tmp_path: Path, lent: ToolContext) -> None:
    file = tmp_path / "src" / "add.py"
    file.parent.mkdir()
    file.write_text(FILE)
    file.chmod(0o755)
    result = await rewrite(lent, "src/add.py", FIXED)
    after = FILE.replace("a - b", "a + b")
    assert file.read_text() == after
    assert file.stat().st_mode & 0o777 == 0o755
    assert result.text == "src/add.py: rewrote add."
    assert result.diffs == (FileDiff("src/add.py", FILE, after),)
    assert result.locations == (Location("src/add.py", 4),)
    assert not result.is_error


@pytest.mark.parametrize(
    ("mark", "encoding", "newline"),
    [
        (b"", "utf-8", "\n"),
        (b"", "utf-8", "\r\n"),
        (b"\xef\xbb\xbf", "utf-8", "\r\n"),
        (b"\xff\xfe", "utf-16-le", "\r\n"),
        (b"", "latin-1", "\n"),
    ],
)
async def test_encoding_mark_and_line_ends_are_kept(
    tmp_path: Path, lent: ToolContext, mark: bytes, encoding: str, newline: str
) -> None:
    def stored(text: str) -> bytes:
        return mark + text.replace("\n", newline).encode(encoding)

    (tmp_path / "add.py").write_bytes(stored(FILE))
    code = "import math\n\ndef helper(a):\n    return math.pi\n\n" + FIXED
    result = await rewrite(lent, "add.py", code)
    helper = "import os\nimport math\n\n\ndef helper(a):\n    return math.pi\n\n\ndef add"
    expected = FILE.replace("a - b", "a + b").replace("import os\n\n\ndef add", helper)
    assert (tmp_path / "add.py").read_bytes() == stored(expected)
    assert result.diffs[0].new_text == expected


async def test_mixed_line_ends_outside_of_the_symbol_are_kept(tmp_path: Path, lent: ToolContext) -> None:
    (tmp_path / "add.py").write_bytes(b"x = 1\r\ny = 2\ndef add(a, b):\r\n    return a - b\r\nz = 3\n")
    await rewrite(lent, "add.py", FIXED)
    assert (tmp_path / "add.py").read_bytes() == b"x = 1\r\ny = 2\ndef add(a, b):\r\n    return a + b\r\nz = 3\n"


async def test_a_file_changed_since_it_was_seen_is_left_alone(tmp_path: Path, lent: ToolContext) -> None:
    file = tmp_path / "add.py"
    file.write_text(FILE + "# mine\n")
    lent.ledger.saw(file, FILE.encode())
    with pytest.raises(ToolError, match="changed on disk") as refused:
        await rewrite(lent, "add.py", FIXED)
    assert "+# mine" in str(refused.value)
    assert file.read_text() == FILE + "# mine\n"
    await rewrite(lent, "add.py", FIXED)
    assert file.read_text() == FILE.replace("a - b", "a + b") + "# mine\n"


async def test_what_was_written_has_been_seen(tmp_path: Path, lent: ToolContext) -> None:
    (tmp_path / "add.py").write_text(FILE)
    await rewrite(lent, "add.py", FIXED)
    await rewrite(lent, "add.py", "def add(a, b):\n    return b + a\n")
    assert "return b + a" in (tmp_path / "add.py").read_text()


@pytest.mark.parametrize(
    ("path", "code", "words"),
    [
        ("nothing.py", FIXED, "no file nothing.py"),
        ("notes.txt", FIXED, "whole new content"),
        ("add.py", "def add(a, b:\n", "syntax error in line 1"),
        ("add.py", "print(1)\n", "defines nothing"),
        ("add.py", "def name():\n    return 'é'\n", "same as in the file"),
        ("add.py", "def add(a, b):\n    x = 1\n    # ... rest of the code ...\n    return x\n", "left out"),
        ("binary.py", FIXED, "binary"),
        (".", FIXED, "directory"),
    ],
)
async def test_a_refusal_changes_nothing(tmp_path: Path, lent: ToolContext, path: str, code: str, words: str) -> None:
    (tmp_path / "add.py").write_text(FILE)
    (tmp_path / "notes.txt").write_text(FILE)
    (tmp_path / "binary.py").write_bytes(b"\0\1\2")
    with pytest.raises(ToolError, match=words):
        await rewrite(lent, path, code)
    assert (tmp_path / "add.py").read_text() == FILE
    assert (tmp_path / "notes.txt").read_text() == FILE


async def test_elisions_between_the_methods_of_a_class_stand_for_the_file_s(tmp_path: Path, lent: ToolContext) -> None:
    text = "class A:\n    def f(self):\n        return 1\n\n    def g(self):\n        return 2\n"
    (tmp_path / "a.py").write_text(text)
    code = "class A:\n    # ... existing methods ...\n\n    def g(self):\n        return 3\n"
    await rewrite(lent, "a.py", code)
    assert (tmp_path / "a.py").read_text() == text.replace("return 2", "return 3")


async def test_an_error_that_the_file_had_does_not_stop_a_rewriting(tmp_path: Path, lent: ToolContext) -> None:
    broken = FILE + "\n\ndef broken(:\n    pass\n"
    (tmp_path / "add.py").write_text(broken)
    await rewrite(lent, "add.py", FIXED)
    assert (tmp_path / "add.py").read_text() == broken.replace("a - b", "a + b")
    await rewrite(lent, "add.py", "def broken():\n    pass\n")
    assert "def broken():\n    pass\n" in (tmp_path / "add.py").read_text()


async def test_a_character_that_the_file_s_encoding_lacks_is_refused(tmp_path: Path, lent: ToolContext) -> None:
    (tmp_path / "add.py").write_bytes(FILE.encode("latin-1"))
    with pytest.raises(ToolError, match="latin-1"):
        await rewrite(lent, "add.py", "def add(a, b):\n    return '→'\n")
    assert (tmp_path / "add.py").read_bytes() == FILE.encode("latin-1")


async def test_a_preview_shows_the_change_without_making_it(tmp_path: Path, lent: ToolContext) -> None:
    (tmp_path / "add.py").write_text(FILE)
    diffs = await RewriteSymbol().preview(RewriteArguments("add.py", FIXED), lent)
    assert diffs == (FileDiff("add.py", FILE, FILE.replace("a - b", "a + b")),)
    assert (tmp_path / "add.py").read_text() == FILE


async def test_it_needs_leave_to_write_and_is_not_advertised(tmp_path: Path) -> None:
    workspace, tool = LocalWorkspace(tmp_path), RewriteSymbol()
    assert tool.needs(RewriteArguments("a.py", ""), workspace) == Need("write", "a.py")
    outside = tool.needs(RewriteArguments("/etc/a.py", ""), workspace)
    assert outside is not None and outside.outside
    assert tool.locations(RewriteArguments("a.py", "")) == (Location("a.py"),)
    assert tool.title(RewriteArguments("a.py", "")) == "Rewrite in a.py"
    assert "rewrite_symbol" not in [each.name for each in default_registry().specs()]
    assert sorted(spec(tool).parameters["properties"]) == ["code", "path"]
