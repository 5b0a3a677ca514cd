"""What file tools must not reach, one wall after the other, as a model would try them."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laguna_agent.errors import ToolError
from laguna_agent.messages import ToolCall
from laguna_agent.sandbox.policy import policy_for
from laguna_agent.tools.base import Need, ToolContext
from laguna_agent.tools.grep import _visible
from laguna_agent.tools.leave import inside, path_need
from laguna_agent.tools.ledger import FileLedger
from laguna_agent.tools.registry import default_registry
from laguna_agent.tools.workspace import LocalWorkspace
from tests.tools.conftest import Call
from tests.unwalled import unwalled

pytestmark = pytest.mark.anyio
CANARY = "CANARY-7f3a"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A hidden file: there before the workspace is opened, as people's keys are."""
    folder = Path.home() / ".ssh"
    folder.mkdir()
    (folder / "id_ed25519").write_text(CANARY + "\n")
    return folder / "id_ed25519"


@pytest.fixture
async def context(key: Path, root: Path, tmp_path: Path) -> AsyncIterator[ToolContext]:
    (tmp_path / "spool").mkdir()
    policy = policy_for(root, readable=[tmp_path / "spool"], denied=[".env", "**/*.pem", "secrets/**"])
    workspace = LocalWorkspace(root, spool=tmp_path / "spool", walls=unwalled(policy))
    yield ToolContext(workspace, FileLedger())
    await workspace.aclose()


def need(context: ToolContext, name: str, **arguments: object) -> Need | None:
    registry = default_registry()
    return registry.get(name).needs(registry.decode(ToolCall("1", name, dict(arguments))), context.workspace)


async def later(context: ToolContext, name: str, **arguments: object) -> str:
    """A call that runs with the leave that it was given before something changed."""
    registry = default_registry()
    return (await registry.get(name).run(registry.decode(ToolCall("1", name, dict(arguments))), context)).text


async def test_what_a_call_needs_leave_for(context: ToolContext, key: Path, root: Path, tmp_path: Path) -> None:
    (root / "link").symlink_to(key)
    (root / "hooks").symlink_to(".git/hooks")
    for name, more in (("read", {}), ("list", {}), ("grep", {"pattern": "x"})):
        for path in (str(key), "~/.ssh/id_ed25519", "link", f"/proc/self/root{key}"):
            found = need(context, name, path=path, **more)
            assert found == Need("read", str(key), outside=True, hidden=True), (name, path)
        assert need(context, name, path="a/../b", **more) == Need("read", "b")
        assert need(context, name, path="/etc/hosts", **more) == Need("read", "/etc/hosts", outside=True)
        # Looking at what is protected needs no leave.
        assert need(context, name, path=".git/config", **more) == Need("read", ".git/config")
    changes = (("write", {"content": ""}), ("edit", {"old": "a", "new": "b"}), ("rewrite_symbol", {"code": "x"}))
    for name, more in changes:
        for path in (".git/hooks/pre-commit", ".vscode/settings.json", "sub/.ENVRC", ".mcp.json", "a/.git"):
            assert need(context, name, path=path, **more) == Need("write", path, protected=True)
        assert need(context, name, path="hooks/x", **more) == Need("write", ".git/hooks/x", protected=True)
        assert need(context, name, path="AGENTS.md", **more) == Need("write", "AGENTS.md")
        assert need(context, name, path=str(key), **more) == Need("write", str(key), outside=True, hidden=True)
        with pytest.raises(ToolError, match="kept output of a command"):
            need(context, name, path=str(tmp_path / "spool" / "1.log"), **more)


async def test_leave_is_for_the_place_that_it_was_given_for(
    context: ToolContext, key: Path, root: Path, tmp_path: Path
) -> None:
    (root / "dir").mkdir()
    (root / "dir" / "id_ed25519").write_text("harmless\n")
    (tmp_path / "else").mkdir()
    calls = [("read", {}), ("grep", {"pattern": "."}), ("list", {}), ("edit", {"old": CANARY, "new": "b"})]
    calls += [("write", {"content": "mine\n"}), ("rewrite_symbol", {"code": "def f():\n    pass\n"})]
    for name, more in calls:
        path = "dir" if name == "list" else "dir/id_ed25519"
        for target in (key.parent, tmp_path / "else", root):
            context.leave = need(context, name, path=path, **more)
            (root / "dir").rename(root / "aside")
            (root / "dir").symlink_to(target)
            with pytest.raises(ToolError, match="no leave for"):
                await later(context, name, path=path, **more)
            (root / "dir").unlink()
            (root / "aside").rename(root / "dir")
    assert key.read_text() == CANARY + "\n"
    assert os.listdir(tmp_path / "else") == []
    context.leave = need(context, "read", path=str(key))
    assert CANARY in await later(context, "read", path=str(key))


async def test_without_a_leave_of_its_own_a_call_reaches_what_needs_none(context: ToolContext, key: Path) -> None:
    for name, more in (("read", {"path": str(key)}), ("read", {"path": "/etc/hosts"})):
        with pytest.raises(ToolError, match="no leave"):
            await later(context, name, **more)
    with pytest.raises(ToolError, match="no leave"):
        await later(context, "write", path=".git/hooks/pre-commit", content="x")
    await later(context, "write", path="plain", content="x")


async def test_what_the_person_denies_reaches_neither_model_nor_diff(
    context: ToolContext, call: Call, root: Path
) -> None:
    (root / "secrets" / "deep").mkdir(parents=True)
    for name in (".env", "sub.PEM", "secrets/a", "secrets/deep/b", ".ENV"):
        (root / name).write_text(f"TOKEN={CANARY}\n")
    (root / "link").symlink_to("secrets/a")
    (root / "behind").write_text(f"TOKEN={CANARY}\n")
    (root / "a.pem").symlink_to("behind")
    (root / "plain").write_text(f"not {CANARY}\n")
    os.link(root / "secrets" / "deep" / "b", root / "twin")
    for path in (".env", "sub.PEM", "secrets/a", "secrets/deep/b", ".ENV", "link", "./secrets/../.env", "a.pem"):
        for name, more in (("read", {}), ("edit", {"old": "TOKEN=", "new": "b"}), ("grep", {"pattern": "TOKEN"})):
            with pytest.raises(ToolError, match="the person's rules deny it"):
                await call(name, path=path, **more)
        with pytest.raises(ToolError, match="the person's rules deny it"):
            await call("write", path=path, content="mine\n")
    with pytest.raises(ToolError, match="another name of a file"):
        await call("read", path="twin")
    (root / "also-behind").write_text("x\n")
    (root / "fresh.pem").symlink_to("also-behind")
    with pytest.raises(ToolError, match="the person's rules deny it"):
        await call("read", path="fresh.pem")
    assert (await call("grep", pattern="CANARY")).text == f"plain:1:not {CANARY}"
    for options in ({"glob": "*.env"}, {"glob": ".env"}, {"glob": "secrets/**"}, {"context": 2}):
        assert "TOKEN" not in (await call("grep", pattern="TOKEN|CANARY", **options)).text
    with pytest.raises(ToolError, match="the person's rules deny it"):
        await call("grep", pattern="TOKEN", path="secrets")
    assert ".env" in (await call("list")).text
    assert (await call("list", path="secrets")).text == "In secrets:\na\ndeep/b"
    result = await call("shell", command="for f in .env secrets/a; do echo more >> $f; done")
    assert result.diffs == ()
    assert CANARY not in str(result)


async def test_grep_and_list_leave_out_what_is_hidden_where_the_workspace_is_above_it(key: Path) -> None:
    home = Path.home()
    (home / "notes").write_text(f"{CANARY} too\n")
    workspace = LocalWorkspace(home)
    context = ToolContext(workspace, FileLedger())
    try:
        assert await later(context, "grep", pattern="CANARY") == f"notes:1:{CANARY} too"
        assert await later(context, "grep", pattern="CANARY", glob=".ssh/*") == "No matches."
        # Whatever ripgrep says, for globs do not say everything.
        told = b"./.ssh/id_ed25519\0001:x\n--\n./notes\0001:y\n--\n./.ssh/a\0001-z\n"
        assert _visible(told, workspace.resolve("."), workspace.files) == ["notes:1:y"]
        listed = (await later(context, "list")).split("\n")
        assert "notes" in listed
        assert not [name for name in listed if ".ssh" in name]
        assert need(context, "read", path=".ssh/id_ed25519") == Need("read", ".ssh/id_ed25519", True, hidden=True)
        # With leave for the directory itself it is searched.
        context.leave = need(context, "grep", pattern="CANARY", path=".ssh")
        assert await later(context, "grep", pattern="CANARY", path=".ssh") == f".ssh/id_ed25519:1:{CANARY}"
    finally:
        await workspace.aclose()


async def test_a_hard_link_to_a_key_is_not_read_and_other_hard_links_are(
    call: Call, key: Path, root: Path, tmp_path: Path
) -> None:
    os.link(key, root / "innocent")
    (tmp_path / "store").write_text("a package's file\n")
    os.link(tmp_path / "store", root / "package.js")
    with pytest.raises(ToolError, match="another name of a file that is hidden"):
        await call("read", path="innocent")
    with pytest.raises(ToolError, match="another name of a file that is hidden"):
        await call("grep", pattern="CANARY", path="innocent")
    assert (await call("grep", pattern="CANARY|package")).text == "package.js:1:a package's file"
    assert (await call("read", path="package.js")).text == "1\ta package's file"
    # What is linked after the first look is found as well.
    (key.parent / "other").write_text(CANARY)
    os.link(key.parent / "other", root / "later")
    with pytest.raises(ToolError, match="another name of a file that is hidden"):
        await call("read", path="later")


async def test_writing_leaves_the_other_name_of_a_file_alone(call: Call, root: Path, tmp_path: Path) -> None:
    (tmp_path / "outside.txt").write_text("one\ntwo\n")
    os.link(tmp_path / "outside.txt", root / "inside.txt")
    await call("edit", path="inside.txt", old="two", new="three")
    assert (root / "inside.txt").read_text() == "one\nthree\n"
    assert (tmp_path / "outside.txt").read_text() == "one\ntwo\n"
    assert (tmp_path / "outside.txt").stat().st_nlink == 1


async def test_the_set_user_id_bit_does_not_outlive_a_write(call: Call, root: Path) -> None:
    (root / "tool").write_text("one\n")
    (root / "tool").chmod(0o6755)
    await call("edit", path="tool", old="one", new="two")
    assert (root / "tool").stat().st_mode & 0o7777 == 0o755


@pytest.mark.parametrize("name", ["read", "edit", "grep", "write"])
async def test_what_is_no_file_is_refused_at_once(call: Call, root: Path, name: str) -> None:
    os.mkfifo(root / "fifo")
    (root / "to-fifo").symlink_to("fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        here = os.getcwd()
        os.chdir(root)
        try:
            listening.bind("socket")
        finally:
            os.chdir(here)
        more = {"edit": {"old": "a", "new": "b"}, "grep": {"pattern": "x"}, "write": {"content": "x"}}.get(name, {})
        began = time.monotonic()
        for path in ("fifo", "to-fifo", "socket", "/dev/zero", "/dev/stdin", "/dev/tty", "/dev/full"):
            with pytest.raises(ToolError, match=r"device|FIFO|regular file|no file|No such"):
                await call(name, path=path, **more)
        assert time.monotonic() - began < 10


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="Linux's /proc")
async def test_proc(call: Call, context: ToolContext, root: Path) -> None:
    for path in ("/proc/self/environ", "/proc/thread-self/environ", f"/proc/{os.getppid()}/mem", "/proc/self/fd/0"):
        found = need(context, "read", path=path)
        assert found is not None and (found.hidden or found.subject.startswith("/dev/") or found.outside), path
    assert need(context, "read", path="/proc/self/environ").hidden  # type: ignore[union-attr]
    # Magic links lead where they lead: nothing is inside by its name.
    assert need(context, "read", path="/proc/self/cwd/x").subject == f"{os.getcwd()}/x"  # type: ignore[union-attr]
    (root / "magic").symlink_to("/proc/self/root/etc/hosts")
    assert need(context, "read", path="magic") == Need("read", "/etc/hosts", outside=True)
    with pytest.raises(ToolError):
        # It never ends, and it has no size.
        await call("read", path="/proc/kmsg")


async def test_oversized_and_sparse_files_are_refused_before_they_are_read(call: Call, root: Path) -> None:
    with (root / "sparse").open("wb") as file:
        file.truncate(2**40)
    began = time.monotonic()
    for name, more in (("read", {}), ("edit", {"old": "a", "new": "b"}), ("write", {"content": "x"})):
        with pytest.raises(ToolError, match=r"1,099,511,627,776 bytes"):
            await call(name, path="sparse", **more)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("a\0b", "NUL"),
        ("\ud800", "surrogate"),
        ("\udc80", "surrogate"),
        ("x" * 300, "File name too long|no file"),
        ("a/" * 3000, "characters"),
        ("~nobody-of-that-name/x", "no such home"),
        ("loop", "circle|symbolic"),
        ("loop/x", "circle|symbolic"),
    ],
)
async def test_paths_that_are_none(call: Call, root: Path, path: str, words: str) -> None:
    (root / "loop").symlink_to("loop")
    with pytest.raises(ToolError, match=words):
        await call("read", path=path)
    with pytest.raises(ToolError):
        await call("edit", path=path, old="a", new="b")
    with pytest.raises(ToolError):
        await call("write", path=path, content="x")


@given(st.text(st.characters(codec=None, exclude_categories=[]), max_size=12))
def test_every_text_is_a_place_or_a_clear_refusal(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    root = Path("/nowhere/at/all")
    workspace = LocalWorkspace(root)
    try:
        place = workspace.resolve(text)
    except ToolError:
        return
    real = os.path.realpath(os.path.join(root, os.path.expanduser(text.strip() or ".")))
    assert str(place.path) == real
    assert place.outside == (os.path.commonpath([real, root]) != str(root))
    assert path_need("read", text, workspace).outside == place.outside


async def test_links_inside_the_workspace_work_as_ever(call: Call, root: Path) -> None:
    (root / "real" / "deep").mkdir(parents=True)
    (root / "real" / "deep" / "a.py").write_text("x = 1\n")
    (root / "folder").symlink_to("real")
    (root / "a.py").symlink_to("folder/deep/a.py")
    result = await call("edit", path="a.py", old="x = 1", new="x = 2")
    assert result.diffs[0].path == "real/deep/a.py"
    await call("write", path="folder/deep/new.py", content="y = 1\n")
    await call("write", path="folder/more/new.py", content="y = 1\n")
    assert (root / "a.py").is_symlink() and (root / "folder").is_symlink()
    assert (root / "real/deep/a.py").read_text() == "x = 2\n"
    assert (await call("read", path="folder/more/new.py")).text == "1\ty = 1"
    assert (await call("grep", pattern="x = ", path="folder")).text == "real/deep/a.py:1:x = 2"
    assert (await call("list", path="folder/deep")).text == "In real/deep:\na.py\nnew.py"


async def test_kept_output_is_read_and_never_written(call: Call, tmp_path: Path) -> None:
    log = tmp_path / "spool" / "1.log"
    log.write_text("output\n")
    assert (await call("read", path=str(log))).text == "1\toutput"
    assert (await call("grep", pattern="out", path=str(log))).text == f"{log}:1:output"
    for name, more in (("write", {"content": "x"}), ("edit", {"old": "output", "new": "x"})):
        with pytest.raises(ToolError, match="can be read, not changed"):
            await call(name, path=str(log), **more)


async def test_the_private_tmp_of_commands_is_the_model_s_under_the_name_it_has_there(
    key: Path, root: Path, tmp_path: Path
) -> None:
    # None that the machine has.
    name, private = f"{secrets.token_hex(8)}.txt", tmp_path / "private"
    private.mkdir()
    workspace = LocalWorkspace(root, walls=unwalled(policy_for(root, temporary=private)))
    (private / "leads-out").symlink_to(key)
    (private / "leads-on").symlink_to(f"/tmp/{name}")
    context = ToolContext(workspace, FileLedger())
    assert need(context, "read", path=f"/tmp/{name}").outside  # type: ignore[union-attr]
    assert need(context, "read", path=str(private / "x")) == Need("read", str(private / "x"))
    workspace.sandbox = "bubblewrap"
    await later(context, "write", path=f"/tmp/{name}", content="kept\n")
    assert (private / name).read_text() == "kept\n"
    for path in (f"/tmp/{name}", f"/var/tmp/{name}", str(private / name), "/tmp/leads-on"):
        assert workspace.resolve(path).shown == f"/tmp/{name}"
    assert await later(context, "grep", pattern="kept", path="/tmp") == f"/tmp/{name}:1:kept"
    assert need(context, "read", path="/tmp/leads-out") == Need("read", str(key), outside=True, hidden=True)
    # What only the person's own /tmp has is outside, and so is asked about.
    (tmp_path / "crash.log").write_text("x")
    assert need(context, "read", path=str(tmp_path / "crash.log")) == Need("read", str(tmp_path / "crash.log"), True)
    # The workspace itself may lie below /tmp.
    assert workspace.resolve(str(root / "a")).scope == "workspace"
    await workspace.aclose()


async def test_what_the_program_reads_by_itself_stays_inside(context: ToolContext, key: Path, root: Path) -> None:
    (root / "AGENTS.md").symlink_to(key)
    with pytest.raises(ToolError, match="leads out of the workspace"):
        inside("AGENTS.md", context.workspace)
    (root / "CLAUDE.md").write_text("inside\n")
    (root / "here").symlink_to("CLAUDE.md")
    assert inside("here", context.workspace).path == root / "CLAUDE.md"


async def test_a_command_s_footprint_does_not_follow_a_link_that_the_command_made(
    call: Call, key: Path, root: Path
) -> None:
    (root / "dir").mkdir()
    (root / "dir" / key.name).write_text("harmless\n")
    await call("read", path=f"dir/{key.name}")
    result = await call("shell", command=f"mv dir aside; ln -s {key.parent} dir")
    assert CANARY not in str(result)
    assert result.exit_code == 0


async def test_names_that_are_no_utf_8_are_shown_and_harm_nothing(call: Call, root: Path) -> None:
    Path(os.fsdecode(bytes(root) + b"/bad\xff.txt")).write_text("needle\n")
    assert "bad" in (await call("read", path=".")).text
    text = (await call("grep", pattern="needle")).text
    text.encode()
    assert "needle" in text
    (await call("list")).text.encode()
