"""What a final record says of the evidence behind "done"."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from laguna_agent.agent.events import TurnEnded
from laguna_agent.agent.evidence import outcome_of_test
from laguna_agent.messages import ToolCall
from laguna_agent.tools.base import text_result
from tests.agent.driving import Conversation, converse
from tests.conftest import RunCli
from tests.model_server import ModelServer, Part, text, tool_call

PASSING = "python3 -c 'import add; assert add.add(2, 3) == 5'"


UNITTEST = "python3 -m unittest -q test_add"


def shell(command: str) -> Part:
    return tool_call("shell", {"command": command})


def edit(old: str, new: str) -> Part:
    return tool_call("edit", {"path": "add.py", "old": old, "new": new})


RIGHT = edit("a - b", "a + b")
STORIES: dict[str, tuple[list[Part], str, str]] = {
    "nothing changed": ([shell("cat add.py")], "none_needed", ""),
    "only tested": ([shell("python3 -c 'import add'")], "none_needed", ""),
    "an edit and no test": ([RIGHT, shell("cat add.py; git status")], "unverified", "no test ran after the edits"),
    "a test after the edit": ([RIGHT, shell(PASSING)], "verified", "the last test run passed, after the last edit"),
    "a test before the edit": ([shell(PASSING), RIGHT], "unverified", "the last test run predates the last edit"),
    "an edit after the test": (
        [RIGHT, shell(PASSING), edit("a + b", "b + a")],
        "unverified",
        "the last test run predates the last edit",
    ),
    "a change by a command after it": (
        [RIGHT, shell(PASSING), shell("sed -i 's/a + b/b + a/' add.py")],
        "unverified",
        "the last test run predates the last edit",
    ),
    "a test that fails": ([edit("a - b", "a * b"), shell(PASSING)], "unverified", "the last test run failed"),
    "one command that does both": (
        [tool_call("read", {"path": "add.py"}), shell(f"sed -i 's/a - b/a + b/' add.py && {UNITTEST}")],
        "verified",
        "the last test run passed, after the last edit",
    ),
    "a program that edits": (
        [tool_call("read", {"path": "add.py"}), shell('python3 -c \'open("add.py", "a").write("#")\'')],
        "unverified",
        "no test ran after the edits",
    ),
    "a program that edits what nobody has read": (
        [shell('python3 -c \'open("add.py", "a").write("#")\'')],
        "unverified",
        "no test ran after the edits",
    ),
    "a file written by a command": (
        [shell("cat > b.py <<'EOF'\npytest -q\nimport os\nEOF")],
        "unverified",
        "no test ran after the edits",
    ),
    "a report of a test": (
        [RIGHT, shell(f"{UNITTEST} 2>&1 | tee report.txt")],
        "verified",
        "the last test run passed, after the last edit",
    ),
    "a failure behind a pipe": (
        [edit("a - b", "a * b"), shell(f"{PASSING} 2>&1 | tail -3")],
        "unverified",
        "the last test run failed",
    ),
}


@pytest.mark.parametrize("name", STORIES)
def test_the_record_says_it(model_server: ModelServer, workspace: Path, name: str) -> None:
    calls, evidence, note = STORIES[name]
    (workspace / "add.py").write_text("def add(a, b):\n    return a - b\n")
    (workspace / "test_add.py").write_text(
        "import unittest, add\nclass T(unittest.TestCase):\n    def test(self): self.assertEqual(add.add(2, 3), 5)\n"
    )
    # A test that leaves nothing behind, so that order alone decides.
    model_server.reply(shell("export PYTHONDONTWRITEBYTECODE=1"), *calls, text("Done."))
    spoken = converse(model_server, workspace, "x")
    assert (spoken.result.exit_code, spoken.result.evidence, spoken.result.evidence_note) == (0, evidence, note)
    assert spoken.of(TurnEnded)[-1].evidence == evidence


@pytest.mark.parametrize(
    ("command", "output", "exit_code", "passed"),
    [
        ("pytest -q", "3 passed", 0, True),
        ("pytest -q", "", 5, False),
        ("cd src && FOO=1 timeout 60 pytest", "", 0, True),
        ("pytest 2>&1 | tail -5", "1 failed, 3 passed in 0.1s", 0, False),
        ("pytest 2>&1 | tail -5", "3 passed in 0.1s", 0, True),
        ("pytest | tail -1", "", 0, None),
        ("set -o pipefail; pytest | tail -1", "", 1, False),
        ("pytest || true", "E   assert 1\n1 failed", 0, False),
        ("cargo test; echo done", "test result: ok. 3 passed; 0 failed", 0, True),
        ("cargo test; echo done", "error[E0308]: mismatched types", 0, False),
        ("go test ./... | cat", "ok  \tx/y\t0.1s", 0, True),
        ("./check.sh", "", 0, True),
        ("pytest -q && git commit -am x", "", 0, True),
        ("ls -la", "", 0, None),
        ("git diff | cat", "", 0, None),
        ("pip install pytest", "", 0, None),
        ("while [ ! -s made.txt ]; do sleep 0.02; done", "", 0, None),
        ("for f in a b; do python $f.py; done", "2 passed", 0, True),
        ("if pytest -q; then echo yes; fi", "2 passed", 0, True),
        ("cat > x.py <<EOF\npytest\nEOF", "", 0, None),
        ("python3 - <<'EOF'\nassert 1\nEOF", "", 1, False),
        ("npm install", "3 passed", 0, None),
        ("npm test", "", 1, False),
        ("echo 'pytest' > a", "", 0, None),
        ('echo "unbalanced', "", 0, None),
    ],
)
def test_what_counts_as_a_test(command: str, output: str, exit_code: int, passed: bool | None) -> None:
    call = ToolCall("c", "shell", {"command": command})
    assert outcome_of_test(call, text_result(output, exit_code=exit_code)) is passed


def test_a_check_is_evidence(model_server: ModelServer, workspace: Path) -> None:
    (workspace / "add.py").write_text("def add(a, b):\n    return a - b\n")
    model_server.reply(RIGHT, text("Done."))
    spoken = converse(model_server, workspace, "x", check=PASSING)
    assert (spoken.result.evidence, spoken.result.evidence_note) == (
        "verified",
        "the last check passed, after the last edit",
    )
    model_server.reply(edit("a + b", "a * b"), *[text(f"Done {n}.") for n in range(5)])
    failed = converse(model_server, workspace, "x", check=PASSING)
    assert (failed.result.exit_code, failed.result.evidence) == (8, "unverified")
    assert failed.result.evidence_note == "the last check failed"


def run_with_a_busy_job(server: ModelServer, workspace: Path, job: str) -> Conversation:
    """A run whose background job goes on while the check, which takes half a second, runs."""
    (workspace / "a.txt").write_text("1\n")
    server.reply(
        tool_call("write", {"path": "b.txt", "content": "x\n"}),
        tool_call("shell", {"command": job, "background": True}),
        text("Done."),
    )
    return converse(
        server, workspace, "x", check="touch -d '2001-01-01' checking; sleep 0.5; rm -f checking; cat a.txt"
    )


def test_a_check_is_run_again_when_files_changed_meanwhile(model_server: ModelServer, workspace: Path) -> None:
    job = "while [ ! -e checking ]; do sleep 0.02; done; sleep 0.1; echo 2 >> a.txt; sleep 60"
    spoken = run_with_a_busy_job(model_server, workspace, job)
    after = [run.output for run in spoken.result.checks if run.when == "after"]
    assert [output.split() for output in after] == [["1", "2"], ["1", "2"]]
    assert (spoken.result.exit_code, spoken.result.evidence) == (0, "verified")


def test_a_job_that_never_stops_changing_files(model_server: ModelServer, workspace: Path) -> None:
    spoken = run_with_a_busy_job(model_server, workspace, "while sleep 0.05; do date +%N > a.txt; done")
    assert (spoken.result.exit_code, spoken.result.evidence) == (0, "unverified")
    assert spoken.result.evidence_note == "files changed while the last check ran"


def test_what_a_job_changed_is_a_change(model_server: ModelServer, workspace: Path) -> None:
    job = tool_call("shell", {"command": "echo 1 > made.txt; sleep 60", "background": True})
    model_server.reply(job, shell("while [ ! -s made.txt ]; do sleep 0.02; done"), text("Done."))
    spoken = converse(model_server, workspace, "x")
    assert (spoken.result.files_changed, spoken.result.evidence) == ((), "unverified")


def test_the_program_says_it_briefly(model_server: ModelServer, workspace: Path, run_cli: RunCli) -> None:
    (workspace / "add.py").write_text("def add(a, b):\n    return a - b\n")
    model_server.reply(RIGHT, text("Done."))
    ran = run_cli("run", "--approve=all", "Fix add.", env=model_server.env)
    assert (ran.returncode, ran.stdout) == (0, "Done.\n")
    assert "1 file changed, unverified (no test ran after the edits); session" in ran.stderr
    model_server.reply(edit("a + b", "b + a"), shell(PASSING), text("Done."))
    ran = run_cli("run", "--approve=all", "--output=json", "Again.", env=model_server.env)
    assert json.loads(ran.stdout)["evidence"] == "verified"
