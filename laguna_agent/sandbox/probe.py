"""Trying a tier out on this machine: canaries outside, one hostile child inside, and a look at what became of them.

A claim holds when the child was refused and nothing outside has changed. Knows what each tier must hold; must not know
how it does.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from laguna_agent.directories import state_directory
from laguna_agent.errors import SandboxError
from laguna_agent.sandbox.confinement import Tier
from laguna_agent.sandbox.plans import recipe
from laguna_agent.sandbox.policy import Policy
from laguna_agent.sandbox.temporary import make_temporary, remove_temporary
from laguna_agent.sandbox.warden.attempts import Canaries
from laguna_agent.sandbox.wardens import Warden, as_request, interpreter, put_up

_PATIENCE = 30.0
_STALE = 600.0
_PATH = "/usr/local/bin:/usr/bin:/bin"


class Claim(msgspec.Struct, frozen=True):
    """What is claimed of a tier. `works` says that the attempt must succeed; else it must be refused and change
    nothing. A tier in `gaps` may lack it, and is called partial for that; every other one must hold it."""

    key: str
    words: str
    works: bool = False
    gaps: tuple[Tier, ...] = ()


CLAIMS = (
    Claim("write", "commands can write the workspace", works=True),
    Claim("temporary", "commands can write the temporary directory", works=True),
    Claim("attributes", "commands can change modes and times in the workspace", works=True),
    Claim("git", "git status works", works=True),
    Claim("loopback", "servers on a private loopback work", works=True, gaps=("landlock", "seatbelt")),
    Claim("outside", "no writing outside the workspace"),
    Claim("link", "no writing through a link that leads outside"),
    Claim("hooks", "no writing to .git/hooks", gaps=("landlock",)),
    Claim("config", "no writing to .git/config", gaps=("landlock",)),
    Claim("moved", "no moving .git away", gaps=("landlock",)),
    Claim("absent", "no making an absent .envrc", gaps=("landlock",)),
    # Within somebody else's supervised filter there can be no supervisor of ours.
    Claim("mode", "no changing the mode or times of a file outside", gaps=("landlock",)),
    Claim("hidden", "no reading of hidden keys"),
    Claim("denied", "no reading of what the person denies in the workspace", gaps=("landlock",)),
    Claim("tcp", "no TCP connection out"),
    Claim("udp", "no UDP packet out"),
    Claim("socket", "no local socket outside by path"),
    Claim("abstract", "no local socket outside by abstract name"),
    Claim("environment", "no reading of the agent's environment"),
    # Landlock has no right for it; where namespaces can be had, a /proc of its own.
    Claim("arguments", "no reading of the arguments of other processes", gaps=("landlock", "seatbelt")),
    Claim("priority", "no changing the priority of the agent", gaps=("landlock", "seatbelt")),
    # Where the kernel is older than Landlock's ABI 6, nothing but a pid namespace forbids it.
    Claim("signal", "no signal to the agent", gaps=("landlock", "seatbelt")),
    Claim("io_uring", "no io_uring"),
    Claim("mount", "no mounting"),
    Claim("unmount", "no unmounting of what is protected"),
    Claim("namespace", "no new user namespace"),
    Claim("device", "no device nodes"),
)


class Found(msgspec.Struct, frozen=True):
    """What came of one claim: `how` is what the system said."""

    claim: Claim
    held: bool
    how: str


class Report(msgspec.Struct, frozen=True):
    """A tier's probe: every claim, the Landlock ABI that was in force, and how long it took in seconds."""

    found: tuple[Found, ...]
    landlock: int
    seconds: float

    def failures(self, tier: Tier) -> list[str]:
        """The claims that this tier must hold and does not."""
        return [
            f"{each.claim.words}: {each.how}"
            for each in self.found
            if not each.held and tier not in each.claim.gaps
        ]  # fmt: skip


def probe(tier: Tier, *, apart: bool = False) -> Report:
    """Try the tier out; `apart` as in `plans.recipe`. Raises SandboxError where it cannot be put up or the child tells
    nothing."""
    began = time.monotonic()
    with _ground() as ground, _Canaries(ground) as canaries:
        policy = Policy(
            root=ground / "workspace", hidden=(ground / "hidden",), temporary=ground / "temporary", denied=(".env",)
        )
        warden = put_up(lambda: recipe(tier, policy, apart=apart)("workspace"))
        try:
            told = _attempt(warden, canaries.described, ground)
        finally:
            warden.close()
        found = tuple(
            Found(claim, *_judge(claim, told.get(claim.key, "nothing was said"), canaries)) for claim in CLAIMS
        )
    return Report(found, warden.landlock, time.monotonic() - began)


def _judge(claim: Claim, said: str, canaries: _Canaries) -> tuple[bool, str]:
    if claim.works:
        return said in ("done", "no git"), said
    happened = canaries.harm(claim.key)
    if claim.key == "udp":
        # In a network of its own a packet goes nowhere, and nobody says so.
        return not happened, "it arrived" if happened else said if said != "done" else "nothing arrived"
    return said != "done" and not happened, f"{said}, and it took effect" if happened and said != "done" else said


def _stand_in(secret: str, argument: str) -> subprocess.Popen[bytes]:
    """A process that stands for the agent, with something in its environment and an argument. It reads from this one,
    and so ends with it, whatever ends that."""
    words = ["sh", "-c", "echo there; read -r _", "agent", argument]
    environment = {"PATH": _PATH, "SECRET": secret}
    pipe = subprocess.PIPE
    process = subprocess.Popen(words, env=environment, stdin=pipe, stdout=pipe, start_new_session=True)
    # What is still on the way into its program shows no arguments.
    if process.stdout is None or process.stdout.readline() != b"there\n":
        raise SandboxError("the sandbox cannot be tried out: no sh can be started that would stand for the agent")
    return process


def _sweep(folder: Path) -> None:
    """Remove the grounds of probes that were killed; none takes so long."""
    for left in folder.glob("probe-*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _STALE:
                shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def _ground() -> Iterator[Path]:
    """A throwaway directory outside /tmp, which bubblewrap exchanges: what is not there would prove nothing."""
    folder = state_directory() / "sandbox"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _sweep(folder)
        made = Path(os.path.realpath(tempfile.mkdtemp(prefix="probe-", dir=folder)))
    except OSError as error:
        raise SandboxError(f"the sandbox cannot be tried out: {error}") from error
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


class _Canaries:
    """What must stay untouched: files, listeners, and a process that stands for the agent."""

    def __init__(self, ground: Path) -> None:
        self._ground = ground
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> _Canaries:
        with contextlib.ExitStack() as stack:
            self.described = self._lay_out(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _lay_out(self, stack: contextlib.ExitStack) -> Canaries:
        workspace, secret, name = self._ground / "workspace", secrets.token_hex(16), f"canary-{secrets.token_hex(8)}"
        for each in ("workspace/.git/hooks", "workspace/.git/objects", "workspace/.git/refs", "outside", "hidden"):
            (self._ground / each).mkdir(parents=True)
        (self._ground / "temporary").mkdir()
        (workspace / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
        for each in ("outside/file", "outside/linked", "workspace/.git/config"):
            (self._ground / each).write_text("[core]\n\trepositoryformatversion = 0\n")
        (self._ground / "hidden" / "key").write_text(secret)
        (workspace / ".env").write_text(secret)
        (workspace / "link").symlink_to(self._ground / "outside")
        self._sizes = {each: self._size(each) for each in ("outside/file", "outside/linked", "workspace/.git/config")}
        argument = secrets.token_hex(16)
        self._agent = _stand_in(secret, argument)
        stack.callback(self._agent.communicate)
        stack.callback(self._agent.kill)
        self._listening: dict[str, socket.socket] = {}
        # The whole path of a local socket may have 107 bytes; a short link to the directory keeps below.
        short = make_temporary("la-")
        stack.callback(remove_temporary, short)
        (short / "d").symlink_to(self._ground / "outside")
        for key, family, kind, address in (
            ("tcp", socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
            ("udp", socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
            ("socket", socket.AF_UNIX, socket.SOCK_STREAM, f"{short}/d/s"),
            ("abstract", socket.AF_UNIX, socket.SOCK_STREAM, f"\0{name}"),
        ):
            listener = stack.enter_context(socket.socket(family, kind))
            listener.bind(address)
            if kind == socket.SOCK_STREAM:
                listener.listen()
            listener.setblocking(False)
            self._listening[key] = listener
        return {
            "workspace": str(workspace),
            "outside": str(self._ground / "outside"),
            "hidden": str(self._ground / "hidden"),
            "temporary": str(self._ground / "temporary"),
            "socket": str(self._ground / "outside" / "s"),
            "abstract": name,
            "secret": secret,
            "argument_backwards": argument[::-1],
            "tcp": self._listening["tcp"].getsockname()[1],
            "udp": self._listening["udp"].getsockname()[1],
            "agent": self._agent.pid,
            "git": shutil.which("git", path=_PATH) is not None,
        }

    def _size(self, relative: str) -> int:
        return (self._ground / relative).stat().st_size

    def harm(self, key: str) -> bool:
        """Whether an attempt took effect out here."""
        workspace = self._ground / "workspace"
        if key in self._listening:
            return bool(select.select([self._listening[key]], [], [], 0)[0])
        seen: dict[str, Any] = {
            "outside": lambda: self._changed("outside/file"),
            "link": lambda: self._changed("outside/linked"),
            "hooks": lambda: any((self._git() / "hooks").iterdir()),
            "config": lambda: self._changed(str(self._git().relative_to(self._ground) / "config")),
            "moved": lambda: (workspace / "moved").exists(),
            "absent": lambda: (workspace / ".envrc").is_file(),
            "mode": lambda: self._has_other_attributes(self._ground / "outside" / "file"),
            "priority": lambda: os.getpriority(os.PRIO_PROCESS, self._agent.pid) != os.getpriority(os.PRIO_PROCESS, 0),
            "signal": lambda: self._agent.poll() is not None,
            "device": lambda: (workspace / "device").exists(),
        }
        return bool(seen[key]()) if key in seen else False

    def _has_other_attributes(self, path: Path) -> bool:
        found = path.stat()
        return found.st_mode & 0o777 == 0o777 or found.st_mtime < 2

    def _git(self) -> Path:
        moved = self._ground / "workspace" / "moved"
        return moved if moved.exists() else self._ground / "workspace" / ".git"

    def _changed(self, relative: str) -> bool:
        return self._size(relative) != self._sizes[relative.replace("/moved/", "/.git/")]


def _attempt(warden: Warden, canaries: Canaries, ground: Path) -> dict[str, str]:
    """Run the attempts in a warden. Raises SandboxError."""
    command = [*interpreter("attempts"), json.dumps(canaries)]
    request = as_request(command, ground / "workspace", {"PATH": _PATH, "HOME": "/", "LANG": "C.UTF-8"})
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as output, Path(os.devnull).open("rb") as nothing, tempfile.TemporaryFile() as words:
        try:
            child = warden.start(request, (nothing.fileno(), writer, words.fileno()))
        except OSError as error:
            raise SandboxError(f"no program can be started in the sandbox: {error}") from error
        finally:
            os.close(writer)
        with contextlib.closing(child):
            if not select.select([output], [], [], _PATIENCE)[0]:
                raise SandboxError(f"the probe said nothing for {_PATIENCE:g} s")
            text = output.read()
            words.seek(0)
            said = words.read(4096).decode(errors="replace").strip().splitlines()
    try:
        return msgspec.json.decode(text, type=dict[str, str])
    except msgspec.MsgspecError:
        raise SandboxError(f"the probe could not run: {said[-1] if said else 'it said nothing'}") from None
