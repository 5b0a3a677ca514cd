"""ripgrep runs outside the sandbox: what it must not read, and whose program it must not be."""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path

import anyio
import pytest

from laguna_agent.errors import ToolError
from laguna_agent.sandbox.warden import landlock
from laguna_agent.tools.base import ToolContext
from laguna_agent.tools.ripgrep import Found, _program, ripgrep
from tests.tools.conftest import Call

pytestmark = pytest.mark.anyio
CANARY = "CANARY-7f3a"


@pytest.fixture
def key() -> Path:
    """A file of the person's, outside the workspace."""
    folder = Path.home() / ".ssh"
    folder.mkdir()
    (folder / "id_ed25519").write_text(CANARY + "\n")
    return folder / "id_ed25519"


async def test_a_search_does_not_wait_for_a_directory_that_is_gone(call: Call, root: Path) -> None:
    with pytest.raises(ToolError):
        await call("grep", pattern="x", path="gone")
    with anyio.fail_after(20), pytest.raises(ToolError, match="may have"):
        await call("grep", pattern="(" * 200_000)


async def test_ripgrep_itself_can_read_nothing_outside(context: ToolContext, call: Call, key: Path, root: Path) -> None:
    (root.parent / ".gitignore").write_text("ignored/\n")
    (root / "ignored").mkdir()
    (root / "ignored" / "a").write_text("needle\n")
    (root / "sub").mkdir()
    (root / "sub" / "a").write_text("needle\n")
    (root / "sub" / "out").symlink_to(key.parent)
    (root / "sub" / "in").symlink_to("a")
    files = context.workspace.files
    found = await ripgrep("--follow", "--regexp=needle|CANARY", "--sort=path", files=files, path=root / "sub")
    if not landlock.abi():
        pytest.skip("no Landlock here: a directory that becomes a link while ripgrep looks is not kept from it")
    assert found == Found(b"./a\0needle\n./in\0needle\n")
    # What counts above the workspace still does.
    assert (await call("grep", pattern="needle")).text == "sub/a:1:needle"
    # This thread, and what it starts, is as free as before.
    assert CANARY in subprocess.run(["cat", key], capture_output=True, text=True, check=True).stdout


async def test_no_program_of_the_workspace_is_taken_for_ripgrep(
    call: Call, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "bin").mkdir()
    (root / "bin" / "rg").write_text(f"#!/bin/sh\ntouch {root}/ran\n")
    (root / "bin" / "rg").chmod(0o755)
    (root / "rg").symlink_to("bin/rg")
    (root / "ripgreprc").write_text(f"--pre={root}/bin/rg\n")
    (root / "a").write_text("needle\n")
    monkeypatch.chdir(root)
    monkeypatch.setenv("RIPGREP_CONFIG_PATH", str(root / "ripgreprc"))
    monkeypatch.setenv("PATH", f".:{root}/bin::{sysconfig.get_path('scripts')}")
    for scripts in (sysconfig.get_path("scripts"), "/nowhere"):
        monkeypatch.setattr(sysconfig, "get_path", lambda _, place=scripts: place)
        _program.cache_clear()
        assert (await call("grep", pattern="needle")).text == "a:1:needle"
    _program.cache_clear()
    assert not (root / "ran").exists()
