"""`sessions diff` and `sessions restore`, in the real program."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.agent.driving import Conversation, converse
from tests.agent.test_undo import shell, write
from tests.conftest import RunCli
from tests.model_server import ModelServer, text

RUN = "printf 'one\\ntwo' > b.txt; rm gone.txt; chmod 755 a.sh; ln -s a.sh link; printf '\\0' > bin"


@pytest.fixture
def spoken(model_server: ModelServer, workspace: Path) -> Conversation:
    """Two prompts that change files, and one that does not."""
    (workspace / "gone.txt").write_text("gone\n")
    (workspace / "a.sh").write_text("echo a\n")
    (workspace / "a.sh").chmod(0o644)
    model_server.reply(write("new.txt", "1\n2\n"), text("1"), shell(RUN), text("2"), text("3"))
    return converse(model_server, workspace, "one", "two", "three")


def test_diff(run_cli: RunCli, spoken: Conversation, workspace: Path, tmp_path: Path) -> None:
    done = run_cli("sessions", "diff", spoken.id)
    assert done.returncode == 0, done.stderr
    assert "diff --git a/new.txt b/new.txt\nnew file mode 100644\n--- /dev/null\n+++ b/new.txt\n" in done.stdout
    assert "old mode 100644\nnew mode 100755\n" in done.stdout
    assert "\\ No newline at end of file" in done.stdout
    assert "Binary files /dev/null and b/bin differ" in done.stdout
    # The text is a patch that git takes, binary files aside.
    before = tmp_path / "before"
    assert run_cli("sessions", "restore", spoken.id, "--at", "1", "--to", before).returncode == 0
    text = done.stdout.partition("diff --git a/bin")
    rest = text[2].partition("diff --git")
    patch = text[0] + rest[1] + rest[2]
    subprocess.run(["git", "apply", "-p1"], input=patch.encode(), cwd=before, check=True)
    assert (before / "b.txt").read_text() == "one\ntwo"
    assert sorted(path.name for path in before.iterdir()) == ["a.sh", "b.txt", "link", "new.txt"]
    assert run_cli("sessions", "diff", spoken.id, "--from", "3").stdout == "no files were changed\n"


def test_diff_of_one_prompt_counted(run_cli: RunCli, spoken: Conversation) -> None:
    done = run_cli("sessions", "diff", spoken.id, "--from", "2", "--to", "2", "--stat")
    assert done.stdout.splitlines() == [
        "a.sh      +0 -0 (mode 100644 to 100755)",
        "b.txt     +2 -0 (new)",
        "bin       not text (new)",
        "gone.txt  +0 -1 (gone)",
        "link      +1 -0 (new)",
        "5 files, +3 -1",
    ]
    listed = json.loads(run_cli("sessions", "diff", spoken.id, "--to", "1", "--json").stdout)
    assert [(each["path"], each["change"], each["added"]) for each in listed] == [("new.txt", "added", 2)]


def test_restore_in_place_and_back(
    run_cli: RunCli, spoken: Conversation, workspace: Path, model_server: ModelServer
) -> None:
    done = run_cli("sessions", "restore", spoken.id, "--at", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "put back 5 files; /redo in the session takes that back"
    assert sorted(path.name for path in workspace.iterdir()) == ["a.sh", "gone.txt", "new.txt"]
    converse(model_server, workspace, "/redo", resume=spoken)
    assert (workspace / "b.txt").read_text() == "one\ntwo"
    assert (workspace / "link").is_symlink()


def test_what_others_changed_is_shown_first(run_cli: RunCli, spoken: Conversation, workspace: Path) -> None:
    (workspace / "new.txt").write_text("1\nmine\n")
    done = run_cli("sessions", "restore", spoken.id, "--at", "1")
    assert (done.returncode, "-mine" in done.stdout, "--force overwrites" in done.stderr) == (2, True, True)
    assert (workspace / "b.txt").exists()
    done = run_cli("sessions", "restore", spoken.id, "--at", "1", "--force", "--json")
    assert json.loads(done.stdout)["not_restored"] == []
    assert sorted(path.name for path in workspace.iterdir()) == ["a.sh", "gone.txt"]
    done = run_cli("sessions", "restore", spoken.id)
    assert done.returncode == 2 or "put back" in done.stdout
    assert run_cli("sessions", "restore", spoken.id, "--force").returncode == 0
    assert (workspace / "new.txt").read_text() == "1\n2\n"


def test_what_cannot_be(run_cli: RunCli, spoken: Conversation) -> None:
    for arguments, complaint in (
        (["diff", spoken.id, "--from", "x"], "--from 'x' is not valid"),
        (["diff", spoken.id, "--from", "4"], "has prompts 1 to 3, and no prompt 4"),
        (["diff", spoken.id, "--from", "2", "--to", "1"], "--from 2 comes after --to 1"),
        (["restore", spoken.id, "--at", "9"], "has prompts 1 to 3, and no prompt 9"),
        (["restore", spoken.id, "--to", "."], "is not empty, and nothing was written"),
        (["diff", "nobody"], "no session with id 'nobody'"),
    ):
        done = run_cli("sessions", *arguments)
        assert (done.returncode, complaint in done.stderr) == (2, True), done.stderr
        assert "Traceback" not in done.stderr


def test_a_session_that_changed_nothing(run_cli: RunCli, model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(text("1"))
    spoken = converse(model_server, workspace, "one")
    done = run_cli("sessions", "diff", spoken.id)
    assert (done.returncode, "it changed none" in done.stderr) == (2, True), done.stderr
