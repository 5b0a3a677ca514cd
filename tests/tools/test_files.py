"""read, write, edit and list, as a model calls them."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from laguna_agent.errors import ToolError
from laguna_agent.messages import FileDiff, ImageBlock
from laguna_agent.tools.base import ToolContext
from laguna_agent.tools.edit import Edit, EditArguments
from tests.tools.conftest import Call

pytestmark = pytest.mark.anyio

PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII=")


async def test_read_numbers_lines_and_says_where_to_go_on(call: Call, root: Path) -> None:
    (root / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\nthree")
    assert (await call("read", path="a.txt")).text == "1\tone\n2\ttwo\n3\tthree"
    assert (await call("read", path="a.txt", offset=2, limit=1)).text == (
        "2\ttwo\n[lines 2-2 of 3; go on with offset=3]"
    )
    with pytest.raises(ToolError, match="only 3 lines"):
        await call("read", path="a.txt", offset=4)
    (root / "empty").touch()
    assert (await call("read", path="empty")).text == "(the file is empty)"


async def test_read_caps_lines_and_length(call: Call, root: Path, context: ToolContext) -> None:
    (root / "wide").write_text("x" * 5000 + "\n" + "y\n" * 20_000)
    text = (await call("read", path="wide")).text
    assert "[... 3,000 more characters]" in text
    assert len(text) <= context.read_cap
    assert text.endswith("of 20001; go on with offset=" + text.rpartition("=")[2])


async def test_read_refuses_what_is_no_text(call: Call, root: Path) -> None:
    (root / "prog").write_bytes(b"\x7fELF" + bytes(100))
    (root / "blob").write_bytes(bytes(range(256)))
    os.mkfifo(root / "fifo")
    with (root / "huge.txt").open("wb") as file:
        file.truncate(5 * 2**30)
    with pytest.raises(ToolError, match=r"prog is binary \(ELF program or library, 104 bytes\)"):
        await call("read", path="prog")
    with pytest.raises(ToolError, match=r"blob is binary \(unknown type, 256 bytes\)"):
        await call("read", path="blob")
    with pytest.raises(ToolError, match="device, FIFO or socket"):
        await call("read", path="fifo")
    with pytest.raises(ToolError, match="device, FIFO or socket"):
        await call("read", path="/dev/zero")
    with pytest.raises(ToolError, match="5,368,709,120 bytes"):
        await call("read", path="huge.txt")
    with pytest.raises(ToolError, match=r"no file hug\.txt\. Did you mean huge\.txt"):
        await call("read", path="hug.txt")


async def test_read_shows_images_and_directories(call: Call, root: Path) -> None:
    (root / "dot.png").write_bytes(PNG)
    (root / "sub").mkdir()
    image = (await call("read", path="dot.png")).content[1]
    assert isinstance(image, ImageBlock)
    assert (image.mime_type, base64.b64decode(image.data)) == ("image/png", PNG)
    assert (await call("read", path=".")).text == ". is a directory:\ndot.png\nsub/"


async def test_edit_keeps_everything_else(call: Call, root: Path) -> None:
    (root / "a.py").write_bytes(b"\xef\xbb\xbfx = 1\r\ny = 2\r\nz = 3")
    (root / "a.py").chmod(0o755)
    (root / "link.py").symlink_to("a.py")
    result = await call("edit", path="link.py", old="y = 2", new="y = 20\ny2 = 2")
    assert (root / "a.py").read_bytes() == b"\xef\xbb\xbfx = 1\r\ny = 20\r\ny2 = 2\r\nz = 3"
    assert (root / "a.py").stat().st_mode & 0o777 == 0o755
    assert (root / "link.py").is_symlink()
    assert result.text == "Edited a.py, line 2."
    assert result.diffs == (FileDiff("a.py", "x = 1\ny = 2\nz = 3", "x = 1\ny = 20\ny2 = 2\nz = 3"),)
    assert result.locations[0].line == 2


async def test_edit_says_when_it_was_not_exact(call: Call, root: Path) -> None:
    (root / "a.py").write_text("def f():\n    return 1\n")
    result = await call("edit", path="a.py", old="return  1", new="return 2")
    assert "`old` is not there exactly" in result.text
    assert (root / "a.py").read_text() == "def f():\n    return 2\n"


async def test_edit_refuses(call: Call, root: Path) -> None:
    (root / "a.py").write_text("x = 1\n")
    (root / "blob").write_bytes(bytes(256))
    for path, words in (
        ("b.py", r"no file b\.py\. Did you mean a\.py"),
        (".", "is a directory"),
        ("blob", "is binary"),
    ):
        with pytest.raises(ToolError, match=words):
            await call("edit", path=path, old="x", new="y")
    with pytest.raises(ToolError, match="control characters"):
        await call("edit", path="a.py", old="x", new="\0")
    with pytest.raises(ToolError, match="cannot hold"):
        await call("edit", path="a.py", old="x", new="\ud800")
    assert (root / "a.py").read_text() == "x = 1\n"


async def test_a_change_on_disk_is_shown_before_anything_is_overwritten(call: Call, root: Path) -> None:
    path = root / "a.py"
    path.write_text("x = 1\ny = 2\n")
    await call("read", path="a.py")
    path.write_text("x = 1\ny = 3\n")
    with pytest.raises(ToolError, match=r"(?s)changed on disk since you read it.*-y = 2\n\+y = 3"):
        await call("edit", path="a.py", old="x = 1", new="x = 0")
    assert path.read_text() == "x = 1\ny = 3\n"
    # Now the model has seen the change.
    await call("edit", path="a.py", old="x = 1", new="x = 0")
    assert path.read_text() == "x = 0\ny = 3\n"
    await call("edit", path="a.py", old="x = 0", new="x = 5")
    path.write_text("z\n")
    with pytest.raises(ToolError, match="changed on disk"):
        await call("write", path="a.py", content="mine\n")


async def test_a_new_syntax_error_comes_with_the_result(call: Call, root: Path) -> None:
    (root / "a.py").write_text("def f():\n    return (1)\n")
    result = await call("edit", path="a.py", old="(1)", new="(1")
    assert "syntax error into a.py, line 2" in result.text
    # It is not new any more.
    assert "syntax" not in (await call("edit", path="a.py", old="def f", new="def g")).text
    assert "syntax error into b.go, line" in (await call("write", path="b.go", content="package b\nfunc (\n")).text


async def test_preview_changes_nothing(context: ToolContext, root: Path) -> None:
    (root / "a").write_text("one\n")
    diffs = await Edit().preview(EditArguments("a", "one", "two"), context)
    assert diffs == (FileDiff("a", "one\n", "two\n"),)
    assert (root / "a").read_text() == "one\n"


async def test_write(call: Call, root: Path) -> None:
    assert (await call("write", path="new/a.txt", content="x\ny")).text == "Created new/a.txt, 2 lines."
    assert (root / "new/a.txt").read_text() == "x\ny"
    await call("write", path="new/a.txt", content="z\n")
    (root / "crlf").write_bytes(b"a\r\nb\r\n")
    with pytest.raises(ToolError, match="have not read it"):
        await call("write", path="crlf", content="c\n")
    await call("read", path="crlf")
    await call("write", path="crlf", content="c\nd\n")
    assert (root / "crlf").read_bytes() == b"c\r\nd\r\n"
    with pytest.raises(ToolError, match="already is exactly so"):
        await call("write", path="crlf", content="c\nd\n")
    with pytest.raises(ToolError, match="must name a file"):
        await call("write", path="dir/", content="")


async def test_write_refuses_words_for_code(call: Call, root: Path) -> None:
    (root / "a.py").write_text("def f():\n    return 1\n\ndef g():\n    return 2\n")
    await call("read", path="a.py")
    for words in (
        "# ... rest of the code unchanged",
        "    // ... existing code ...",
        "# The rest of the file remains the same",
    ):
        with pytest.raises(ToolError, match="left out"):
            await call("write", path="a.py", content=f"def f():\n    return 3\n\n{words}\n")
    await call("write", path="a.py", content="# ... and then some\ndef f():\n    ...\n")


async def test_list_is_an_overview_without_what_git_ignores(call: Call, root: Path) -> None:
    (root / ".gitignore").write_text("*.log\nbuild/\n")
    for name in ("src/a.py", "src/deep/b.py", "x.log", "build/out", ".git/config"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    assert (await call("list")).text == ".gitignore\nsrc/a.py\nsrc/deep/b.py"
    assert (await call("list", path="src")).text == "In src:\na.py\ndeep/b.py"
    assert (await call("list", glob="**/b.*")).text == "src/deep/b.py"
    assert (await call("list", glob="*.rs")).text == "No file in . matches *.rs."
    assert (await call("list", path="build")).text == "In build:\nout"
    (root / "logs").mkdir()
    (root / "logs/y.log").touch()
    assert "1 entries, all empty or ignored by git" in (await call("list", path="logs")).text
    with pytest.raises(ToolError, match="no directory src/a"):
        await call("list", path="src/a.py")
    for number in range(500):
        (root / f"src/deep/f{number}").touch()
    assert (await call("list")).text == ".gitignore\nsrc/a.py\nsrc/deep/ (501 files)"
    assert (await call("list", glob="f*")).text.endswith("[300 more]")


async def test_grep(call: Call, root: Path) -> None:
    (root / "a.py").write_text("def f(x):\n    return x\n" + "y" * 1000 + "needle\n")
    (root / "b.txt").write_text("def g\n" * 500)
    assert (await call("grep", pattern=r"def \w\(")).text == "a.py:1:def f(x):"
    assert (await call("grep", pattern="return", context=1)).text.startswith("a.py-1-def f(x):\na.py:2:    return x\n")
    many = (await call("grep", pattern="def", glob="*.txt")).text
    assert many.endswith("[300 more lines; narrow the pattern, path or glob]")
    assert (await call("grep", pattern="f(x")).text.endswith("searched as plain text)\na.py:1:def f(x):")
    assert (await call("grep", pattern="nothing here")).text == "No matches."
    assert len((await call("grep", pattern="needle")).text) < 500
    assert (await call("grep", pattern="return", path="a.py")).text == "a.py:2:    return x"
    assert (await call("grep", pattern="--files", path=".")).text == "No matches."
    with pytest.raises(ToolError, match="no file or directory zz"):
        await call("grep", pattern="x", path="zz")
    os.mkfifo(root / "fifo")
    with pytest.raises(ToolError, match="device, FIFO or socket"):
        await call("grep", pattern="x", path="fifo")


async def test_a_search_without_end_is_ended(call: Call, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("laguna_agent.tools.ripgrep.TIME_CAP", 0.0)
    (root / "a").write_text("x")
    with pytest.raises(ToolError, match="search a smaller directory"):
        await call("grep", pattern="x")
    with pytest.raises(ToolError, match="choose a smaller directory"):
        await call("list")
    children = Path("/proc/self/task").glob("*/children")
    assert not [pid for each in children for pid in each.read_text().split() if _name(pid) == "rg"]


def _name(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
