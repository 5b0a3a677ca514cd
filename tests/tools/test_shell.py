"""The shell tool: words for the model around what the launcher does."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from laguna_agent.errors import ToolError
from laguna_agent.tools.base import ToolContext
from laguna_agent.tools.workspace import LocalWorkspace
from tests.tools.conftest import Call

pytestmark = pytest.mark.anyio


async def test_output_and_exit_code(call: Call, root: Path) -> None:
    result = await call("shell", command="pwd; exit 3")
    assert result.text == f"{root}\n[exit code 3]"
    assert (result.exit_code, result.is_error) == (3, False)
    assert (await call("shell", command="true")).text == "(no output)\n[exit code 0]"
    assert "1 process(es) that it left behind" in (await call("shell", command="sleep 871.1 & :")).text


async def test_timeout(call: Call) -> None:
    result = await call("shell", command="echo a; sleep 872.1", timeout=0.3)
    assert result.text.startswith("a\n[timed out after 0.3 s")
    assert result.is_error
    with pytest.raises(ToolError, match="more than 0"):
        await call("shell", command="true", timeout=-1)


async def test_live_output_arrives_while_it_runs(context: ToolContext, call: Call, root: Path) -> None:
    arrived: list[str] = []
    seen = anyio.Event()

    async def emit(text: str) -> None:
        arrived.append(text)
        seen.set()

    context.emit = emit
    async with anyio.create_task_group() as group:
        command = "echo early; until [ -e go ]; do sleep 0.05; done; echo late"
        group.start_soon(lambda: call("shell", command=command))
        with anyio.fail_after(20):
            await seen.wait()
        assert "".join(arrived) == "early\n"
        (root / "go").touch()
    assert "".join(arrived) == "early\nlate\n"


async def test_long_output_is_cut_in_the_middle_and_can_be_read_whole(context: ToolContext, call: Call) -> None:
    result = await call("shell", command="seq 1 50000")
    assert len(result.text) < context.output_cap + 300
    assert result.text.startswith("1\n2\n")
    assert result.text.endswith("49999\n50000\n[exit code 0]")
    path = result.text.partition("all of it is in ")[2].partition(" ...]")[0]
    assert (await call("read", path=path, offset=25_000, limit=1)).text.startswith("25000\t25000\n")
    workspace = context.workspace
    assert isinstance(workspace, LocalWorkspace)
    await workspace.aclose()
    assert not Path(path).exists()


async def test_background_jobs(call: Call) -> None:
    assert (await call("shell", command="echo up; sleep 873.1", background=True)).text.startswith("[job-1: running]")
    with anyio.fail_after(20):
        while (await call("shell", job="job-1")).text != "[job-1: running]\nup":
            await anyio.sleep(0.05)
    assert (await call("shell", job="job-1", kill=True)).text == "[job-1: ended, exit code 143]\nup"
    await call("shell", command="exit 4", background=True)
    assert (await call("shell", job="job-2", timeout=20)).text == "[job-2: ended, exit code 4]"
    assert (await call("shell", command="sleep 0.7; echo done", background=True)).text == "[job-3: running]"
    assert (await call("shell", job="job-3", timeout=20)).text == "[job-3: ended, exit code 0]\ndone"
    with pytest.raises(ToolError, match="no job 'job-9'; there are job-1, job-2, job-3"):
        await call("shell", job="job-9")


async def test_a_command_or_a_job(call: Call) -> None:
    for arguments in ({}, {"command": " "}, {"command": "true", "job": "job-1"}):
        with pytest.raises(ToolError, match="either a command to run or a job"):
            await call("shell", **arguments)
