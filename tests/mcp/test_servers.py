"""Servers on stdio, driven without a session: what they offer, what calls give, and what becomes of those that fail."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import anyio
import msgspec
import pytest

from laguna_agent.errors import ToolError
from laguna_agent.mcp.description import McpServer
from laguna_agent.mcp.elicitation import Elicitation, ElicitationAnswer
from laguna_agent.messages import ImageBlock, TextBlock
from tests.acp.program import is_alive, wait_for
from tests.mcp.serving import bare, official, running

BARE = ["echo", "wait", "ask", "grow", "die", "spawn", "lines"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def appeared(path: Path) -> str:
    return await anyio.to_thread.run_sync(wait_for, path)


@pytest.mark.anyio
async def test_a_server_of_the_official_package(tmp_path: Path) -> None:
    async with running(tmp_path, official()) as theirs:
        names, notices = await theirs.offer()
        assert (names[0], names[-1], notices) == ("official__add", "official__child", [])
        assert (await theirs.call("official__add", a=1, b=2)).text == "the sum is 3"
        assert (await theirs.call("official__fail", why="x")).is_error
        mixed = await theirs.call("official__mixed")
        assert [type(block) for block in mixed.content] == [TextBlock, ImageBlock]
        assert mixed.text.split("\n") == [
            "words",
            "[audio, audio/wav, 3 bytes: it cannot be heard here]",
            "[resource file:///other.txt: other; another file]",
            "[resource file:///note.txt]",
            "a note",
        ]
        assert json.loads((await theirs.call("official__structured")).text) == {"answer": 42}
        where = (await theirs.call("official__where")).text
        assert where == f"{tmp_path} ['{tmp_path.as_uri()}'] sour"
        with pytest.raises(ToolError, match="Elicitation not supported"):
            await theirs.call("official__ask")


@pytest.mark.anyio
async def test_a_list_in_pages_and_a_greeting_on_stdout(tmp_path: Path) -> None:
    async with running(tmp_path, bare("b", "pages", "greeting")) as theirs:
        assert await theirs.offer() == ([f"b__{name}" for name in BARE], [])
        assert (await theirs.call("b__echo", text="hä\u2028?")).text == "hä\u2028?"


@pytest.mark.anyio
async def test_a_server_of_the_newest_revision_only(tmp_path: Path) -> None:
    async def elicit(question: Elicitation) -> ElicitationAnswer:
        return ElicitationAnswer("accept", {"colour": f"{question.message} {question.call_id}"})

    async with running(tmp_path, bare("b", "modern"), elicit=elicit) as theirs:
        assert await theirs.offer() == ([f"b__{name}" for name in BARE], [])
        assert (await theirs.call("b__echo", text="new")).text == "new"
        told = json.loads((await theirs.call("b__ask")).text)
        assert told == {"action": "accept", "content": {"colour": "Which colour? call-1"}}
        await theirs.call("b__grow")
        assert "b__grown" in (await theirs.offer())[0]


@pytest.mark.anyio
async def test_long_text_is_kept_whole_elsewhere(tmp_path: Path) -> None:
    async with running(tmp_path, bare()) as theirs:
        await theirs.offer()
        result = await theirs.call("bare__lines", count=5_000)
    assert len(result.text) < theirs.context.output_cap + 300
    assert result.text.startswith("line 0\n")
    assert result.text.endswith("line 4999")
    kept = re.search(r"all of it is in (\S+) \.\.\.\]", result.text)
    assert kept is not None
    assert Path(kept[1]).read_text().split("\n")[2_500] == "line 2500"


@pytest.mark.anyio
async def test_a_changed_list_counts_from_the_next_prompt_on(tmp_path: Path) -> None:
    async with running(tmp_path, bare()) as theirs:
        before, _ = await theirs.offer()
        await theirs.call("bare__grow")
        with pytest.raises(ToolError, match="not offered"):
            await theirs.call("bare__grown")
        while (after := (await theirs.offer())[0]) == before:
            await anyio.sleep(0.02)  # the notification may come after the answer
        assert after == [*before, "bare__grown"]


@pytest.mark.anyio
async def test_servers_that_cannot_be_used_cost_a_notice_each(tmp_path: Path) -> None:
    servers = [
        McpServer("missing", command="/does/not/exist"),
        McpServer("empty"),
        McpServer("broken", command="sh", args=("-c", "echo 'no licence found' >&2; exit 3")),
        McpServer("strange", "telepathy", url="x:"),
        McpServer("url", "http", url="not a url"),
        McpServer("nobody", "http", url="http://127.0.0.1:9/mcp"),
        McpServer("silent", "sse", url="http://127.0.0.1:9/sse"),
        bare("good"),
    ]
    async with running(tmp_path, *servers) as theirs:
        names, notices = await theirs.offer()
        assert names == [f"good__{name}" for name in BARE]
        assert [notice.split(" cannot be used: ")[0] for notice in notices] == [
            f"MCP server {server.name}" for server in servers[:-1]
        ]
        assert "/does/not/exist: No such file or directory" in notices[0]
        assert notices[2].endswith("it ended (exit code 3); it said: no licence found")
        assert "'telepathy' is not supported" in notices[3]
        assert all("connect" in notice.lower() for notice in notices[5:]), notices
        assert await theirs.offer() == (names, [])


@pytest.mark.anyio
async def test_a_server_that_hangs_is_waited_for_once(tmp_path: Path) -> None:
    async with running(tmp_path, bare("slow", "hang", PID=tmp_path / "pid"), bare("good"), patience=0.5) as theirs:
        _, notices = await theirs.offer()
        assert "MCP server slow is still starting; its tools come with a later prompt" in notices
        theirs.servers.patience = 3600.0
        while not (names := (await theirs.offer())[0]):
            await anyio.sleep(0.02)  # the machine may be so busy that the good one is late too
        assert names == [f"good__{name}" for name in BARE]
        pid = int(await appeared(tmp_path / "pid"))
    assert not is_alive(pid)


@pytest.mark.anyio
async def test_a_server_that_dies_is_started_again_once(tmp_path: Path) -> None:
    async with running(tmp_path, bare("a"), bare("b", "once", ONCE=tmp_path / "once")) as theirs:
        _, notices = await theirs.offer()
        assert notices == []
        for name in ("a", "b"):
            with pytest.raises(ToolError, match=f"MCP server {name} ended while"):
                await theirs.call(f"{name}__die")
            with pytest.raises(ToolError, match=f"MCP server {name} is not running"):
                await theirs.call(f"{name}__echo", text="?")
        for connection in theirs.servers._connections:
            await connection.gone.wait()
        again, notices = await theirs.offer()
        assert again == [f"a__{name}" for name in BARE]
        assert notices[0].startswith("MCP server a was started again: it ended (exit code 4); it said:")
        assert notices[0].endswith("dying as told")
        assert notices[1].startswith("MCP server b cannot be used: it ended (exit code 4)")
        assert "the next start failed: it ended (exit code 1)" in notices[1]
        assert (await theirs.call("a__echo", text="back")).text == "back"
        assert await theirs.offer() == (again, [])


@pytest.mark.anyio
async def test_what_does_not_fit_is_left_out(tmp_path: Path) -> None:
    async with running(tmp_path, bare("a"), bare("b")) as theirs:
        tools, notices = await theirs.servers.offer()
        assert (len(tools), notices) == (2 * len(BARE), ())
        room = sum(len(msgspec.json.encode(tool)) for tool in tools[:9])
        fewer, notices = await theirs.servers.offer(room)
        assert fewer == tools[:9]
        assert notices == (
            "the MCP servers offer 14 tools, more than the model's window has room for; the last 5 are left out",
        )
        assert await theirs.servers.offer(room) == (fewer, ())
        with pytest.raises(ToolError, match="not offered"):
            await theirs.call("b__lines", count=1)


@pytest.mark.anyio
async def test_a_cancelled_call_is_cancelled_there(tmp_path: Path) -> None:
    async with running(tmp_path, bare("b", CANCELLED=tmp_path / "cancelled")) as theirs:
        await theirs.offer()
        with anyio.move_on_after(0.2) as scope:
            await theirs.call("b__wait")
        assert scope.cancelled_caught
        assert await appeared(tmp_path / "cancelled")
        assert (await theirs.call("b__echo", text="alive")).text == "alive"


@pytest.mark.anyio
async def test_a_server_that_reads_nothing_holds_up_nobody(tmp_path: Path) -> None:
    async with running(tmp_path, bare("b", "deaf", PID=tmp_path / "pid")) as theirs:
        await theirs.offer()
        started = anyio.current_time()
        for _ in range(3):
            with anyio.move_on_after(0.3):
                await theirs.call("b__echo", text="x" * 1_000_000)
        # The package would give its word of each cancelling five seconds to get out.
        assert anyio.current_time() - started < 10
    assert not is_alive(int((tmp_path / "pid").read_text()))


@pytest.mark.anyio
async def test_a_call_without_an_answer_ends(tmp_path: Path) -> None:
    async with running(tmp_path, bare("b", CANCELLED=tmp_path / "cancelled")) as theirs:
        await theirs.offer()
        theirs.servers._connections[0].call_timeout = 0.3
        with pytest.raises(ToolError, match=r"no answer and no news for 0\.3 s"):
            await theirs.call("b__wait")
        assert await appeared(tmp_path / "cancelled")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (ElicitationAnswer("accept", {"colour": "red"}), {"action": "accept", "content": {"colour": "red"}}),
        (ElicitationAnswer("decline"), {"action": "decline"}),
        (ElicitationAnswer("cancel"), {"action": "cancel"}),
    ],
)
async def test_a_question_to_the_person(tmp_path: Path, answer: ElicitationAnswer, told: dict[str, object]) -> None:
    asked: list[Elicitation] = []
    deadlines: list[float] = []

    async def elicit(question: Elicitation) -> ElicitationAnswer:
        asked.append(question)
        (flight,) = theirs.servers._connections[0]._flights
        # The clock of the call stands still while the person thinks.
        deadlines.append(flight.scope.deadline)
        return answer

    async with running(tmp_path, bare("b"), elicit=elicit) as theirs:
        await theirs.offer()
        assert json.loads((await theirs.call("b__ask")).text) == told
        assert deadlines == [math.inf]
        (question,) = asked
        assert (question.server, question.message, question.call_id, question.url) == (
            "b",
            "Which colour?",
            "call-1",
            "",
        )
        assert question.schema is not None
        assert question.schema["properties"]["colour"]["enum"] == ["red", "blue"]
        await theirs.call("b__ask", url="https://example.invalid/visit")
        assert (asked[1].url, asked[1].id, asked[1].schema) == ("https://example.invalid/visit", "visit-1", None)


@pytest.mark.anyio
async def test_a_question_is_taken_back_with_its_call(tmp_path: Path) -> None:
    seen: list[str] = []
    asked = anyio.Event()

    async def elicit(question: Elicitation) -> ElicitationAnswer:
        asked.set()
        try:
            await anyio.sleep_forever()
        finally:
            seen.append("taken back")
        raise AssertionError

    async with running(tmp_path, bare("b"), elicit=elicit) as theirs:
        await theirs.offer()
        async with anyio.create_task_group() as group:
            group.start_soon(theirs.call, "b__ask")
            await asked.wait()
            group.cancel_scope.cancel()
        while not seen:
            await anyio.sleep(0.01)
        assert (await theirs.call("b__echo", text="alive")).text == "alive"


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["closed", "died"])
async def test_nothing_of_a_server_survives(tmp_path: Path, how: str) -> None:
    """Neither a server that ignores the end of its stdin and SIGTERM, nor a child of it that does."""
    async with running(tmp_path, bare("b", "stubborn", PID=tmp_path / "pid")) as theirs:
        await theirs.offer()
        await theirs.call("b__spawn", mark=str(tmp_path / "child"))
        pids = [int(await appeared(tmp_path / name)) for name in ("pid", "child")]
        assert all(is_alive(pid) for pid in pids)
        if how == "died":
            with pytest.raises(ToolError):
                await theirs.call("b__die")
            await theirs.servers._connections[0].gone.wait()
            assert not any(is_alive(pid) for pid in pids)
    assert not any(is_alive(pid) for pid in pids)


def test_a_server_that_nobody_ended_ends_with_the_program(tmp_path: Path) -> None:
    code = """
import sys, time
from pathlib import Path
import anyio
from laguna_agent.mcp.process import ServerProcess
from tests.mcp.serving import bare

folder = Path(sys.argv[1])

async def main():
    await ServerProcess.start(bare("b", "stubborn", PID=folder / "pid"), folder)
    while not (folder / "pid").exists() or not (folder / "pid").read_text():
        await anyio.sleep(0.02)

anyio.run(main)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], timeout=60, check=True, capture_output=True)
    assert not is_alive(int((tmp_path / "pid").read_text()))
