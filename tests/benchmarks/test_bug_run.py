"""A run is judged by the fix: the tests come back, the limit holds, nothing is left behind; and the tables add up."""

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import arms
import bug_run
import pytest
import report
import small_model
from arms import Arm, Job
from bug_run import Bug, Result
from counting_proxy import CountingProxy

CORPUS = Path(bug_run.__file__).parent / "bugs"
DIGITS = Bug.load(CORPUS / "tuning" / "digits")


@pytest.fixture
def proxy() -> Iterator[CountingProxy]:
    with CountingProxy("http://127.0.0.1:9") as counting:
        yield counting
        counting.shutdown()


def scripted(script: str) -> Arm:
    """An agent that is a Python script, run in the project."""
    return Arm("scripted", lambda job: [sys.executable, "-c", script])


FIX = """
import pathlib
module = pathlib.Path("digits.py")
module.write_text(module.read_text().replace("product+int_digit", "product*int_digit"))
"""
WEAKEN_TESTS = 'import pathlib; pathlib.Path("test_digits.py").write_text("")'
SHADOW_UNITTEST = """
import pathlib
pathlib.Path("unittest.py").write_text("")
pathlib.Path("test_more.py").write_text("raise SystemExit(0)")
"""


@pytest.mark.parametrize(
    ("script", "fixed", "changed"),
    [(FIX, True, True), (WEAKEN_TESTS, False, False), (SHADOW_UNITTEST, False, False), ("", False, False)],
    ids=["a fix", "weakened tests", "a shadowed unittest", "nothing done"],
)
def test_only_a_fix_counts(script: str, fixed: bool, changed: bool, proxy: CountingProxy, tmp_path: Path) -> None:
    result = bug_run.run_bug(scripted(script), DIGITS, proxy, 30, tmp_path)
    assert (result.fixed, result.changed, result.exit_code) == (fixed, changed, 0)


def test_an_agent_sees_a_git_repository_a_home_of_its_own_and_the_check(proxy: CountingProxy, tmp_path: Path) -> None:
    script = """
import os, pathlib, subprocess, sys
assert subprocess.run(["git", "status", "--porcelain"], capture_output=True, check=True).stdout == b""
assert pathlib.Path.home().parent == pathlib.Path.cwd().parent
assert subprocess.run(["python", "-m", "unittest", "-q"]).returncode == 1
assert sys.stdin.read() == ""
"""
    assert bug_run.run_bug(scripted(script), DIGITS, proxy, 30, tmp_path).exit_code == 0


def test_the_limit_ends_the_agent_and_its_children(proxy: CountingProxy, tmp_path: Path) -> None:
    script = f"""
import subprocess, time
child = subprocess.Popen(["sleep", "60"])
open({str(tmp_path / "child")!r}, "w").write(str(child.pid))
time.sleep(60)
"""
    result = bug_run.run_bug(scripted(script), DIGITS, proxy, 1.5, tmp_path)
    assert result.timed_out
    assert result.exit_code is None
    deadline = time.monotonic() + 5
    child = int((tmp_path / "child").read_text())
    while _alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(child)


def _alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_our_command_line_names_the_format_the_server_and_the_check(tmp_path: Path) -> None:
    job = Job(tmp_path, "http://127.0.0.1:1/v1", "qwen2.5-coder-1.5b", "Fix it.", "python -m unittest -q", ["a.py"])
    argv = arms.ARMS["ours-symbol"]().command(job)
    assert argv[argv.index("--edit-format") + 1] == "symbol"
    assert argv[argv.index("--check") + 1] == job.check
    assert argv[argv.index("--base-url") + 1] == job.base_url
    assert job.prompt in argv


def result(arm: str, bug: str, fixed: bool, **fields: object) -> Result:
    values: dict[str, object] = {
        "kind": "single",
        "split": "tuning",
        "changed": fixed,
        "exit_code": 0,
        "timed_out": False,
        "seconds": 10.0,
        "requests": 2,
        "prompt_tokens": 1000,
        "cached_tokens": 400,
        "completion_tokens": 50,
        **fields,
    }
    return Result(arm=arm, bug=bug, fixed=fixed, **values)  # type: ignore[arg-type]


def test_the_tables_add_up() -> None:
    results = [
        result("ours-symbol", "digits", True),
        result("ours-symbol", "count_nums", True, kind="two_file", split="held_out", seconds=30.0),
        result("pi", "digits", False),
        result("pi", "count_nums", False, kind="two_file", split="held_out", timed_out=True, exit_code=None),
        result("aider", "digits", True),
        result("aider", "count_nums", False, kind="two_file", changed=True),
    ]
    rows = report.summary(results).splitlines()
    assert rows[2] == "| ours-symbol | 1/1 | 1/1 | 1/1 | 2/2 | 2,000 | 800 | 100 | 4 | 20 | 40 |"
    assert rows[3].startswith("| pi | 0/1 | 0/1 | 0/1 | 0/2 |")
    table = report.matrix(results, small_model.chosen_bugs(small_model.options(["--server", "http://x"])))
    assert "| digits | single | tuning | **fixed** 10 s | no edit 10 s | **fixed** 10 s |" in table
    assert "| count_nums | two-file | tuning | **fixed** 30 s | time limit 10 s | wrong 10 s |" in table
    assert report.comparison(results) == "On 2 shared bugs ours-symbol fixed 2, aider 1: 2.0 times as many."


def test_results_are_kept_as_they_come_and_a_half_written_line_is_run_again(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    kept = result("pi", "digits", False)
    file.write_text(kept.as_json() + "\n" + result("pi", "maximum", True).as_json()[:40])
    assert small_model.earlier_results(file) == [kept]
    assert small_model.earlier_results(tmp_path / "none.jsonl") == []


def test_resuming_with_nothing_left_prints_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "results.jsonl"
    file.write_text(result("ours-symbol", "digits", True).as_json() + "\n")
    argv = ["--server", "http://127.0.0.1:9", "--arms", "ours-symbol", "--bugs", "digits", "--resume"]
    assert small_model.main([*argv, "--json", str(file), "--logs", str(tmp_path / "logs")]) == 0
    assert "| ours-symbol | 1/1 |" in capsys.readouterr().out
    assert len(file.read_text().splitlines()) == 1


def test_a_bug_record_is_complete() -> None:
    for bug in bug_run.load_bugs(CORPUS):
        assert json.loads((bug.folder / "bug.json").read_text())["id"] == bug.folder.name
        assert len(bug.modules) == (1 if bug.kind == "single" else 2)
        assert os.path.exists(bug.folder / "project" / f"test_{bug.id}.py")
