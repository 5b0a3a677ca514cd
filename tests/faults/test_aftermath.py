"""That no process scenario is half told: each comes to `Aftermath`, which sees what is wrong."""

from __future__ import annotations

import importlib
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import RunCli
from tests.faults.aftermath import Aftermath, the_log
from tests.faults.process_runs import RUN
from tests.model_server import ModelServer, text, tool_call

FORGETFUL = """
def test_takes_it_not(workspace): pass
def test_does_not_call_it(aftermath): pass
"""


def test_every_process_scenario_takes_it() -> None:
    """And there are as many as there shall be."""
    scenarios = {
        f"{path.stem}.{name}": inspect.signature(function).parameters
        for path in Path(__file__).parent.glob("test_process_*.py")
        for name, function in inspect.getmembers(
            importlib.import_module(f"tests.faults.{path.stem}"), inspect.isfunction
        )
        if name.startswith("test_")
    }
    assert len(scenarios) >= 25
    assert [name for name, parameters in scenarios.items() if "aftermath" not in parameters] == []


def test_a_scenario_that_does_not_look_fails(tmp_path: Path) -> None:
    file = tmp_path / "test_process_forgetful.py"
    file.write_text(FORGETFUL)
    plugins = ("-p", "tests.conftest", "-p", "tests.faults.conftest", "-p", "no:cacheprovider")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *plugins, f"--rootdir={tmp_path}", "--basetemp=temp", file],
        env=os.environ, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    for name in ("test_takes_it_not", "test_does_not_call_it"):
        assert f"{name} did not look at what the fault left" in done.stdout, done.stdout
    assert "2 failed" in done.stdout


def test_it_sees_what_is_wrong(
    run_cli: RunCli, model_server: ModelServer, workspace: Path, aftermath: Aftermath
) -> None:
    model_server.reply(tool_call("write", {"path": "made.txt", "content": "1\n"}), text("Done."))
    done = run_cli(*RUN, env=model_server.env)
    for code, outcome, files in (
        (1, "completed", {"made.txt": "1\n"}),
        (0, "interrupted", {"made.txt": "1\n"}),
        (0, "completed", {}),
        (0, "completed", {"made.txt": "2\n"}),
        (0, "completed", {"made.txt": "1\n", "lost.txt": None}),
    ):
        with pytest.raises(AssertionError):
            aftermath(done, code, outcome, files)
    # Of ours by where it works, and by nothing else.
    with subprocess.Popen(["/bin/sleep", "60"], cwd=workspace, env={}) as left:
        with pytest.raises(AssertionError, match="sleep"):
            aftermath(done, 0, "completed", {"made.txt": "1\n"})
        left.kill()
    assert not model_server.chats[2:], "nothing was resumed where the fault's own traces were wrong"
    whole = the_log().read_bytes()
    the_log().write_bytes(b"garbage\n" + whole)
    with pytest.raises(AssertionError):
        aftermath(done, 0, None, {"made.txt": "1\n"})
    the_log().write_bytes(whole)
    assert aftermath.looked == 0
    aftermath(done, 0, "completed", {"made.txt": "1\n"})
    assert aftermath.looked == 1
