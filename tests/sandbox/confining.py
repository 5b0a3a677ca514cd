"""A workspace with walls around its commands, as a session has it, and running one command in it."""

from __future__ import annotations

import os
import select
import subprocess
import time
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from laguna_agent.errors import SandboxError
from laguna_agent.sandbox.confined import Confined
from laguna_agent.sandbox.confinement import Kind, Tier
from laguna_agent.sandbox.plans import recipe
from laguna_agent.sandbox.policy import policy_for
from laguna_agent.sandbox.tiers import Proof, examine
from laguna_agent.sandbox.wardens import WardedChild

PATIENCE = 60.0


class Done(NamedTuple):
    """How a command ended and what it wrote."""

    code: int | None
    output: str


class Ground:
    """A workspace that is a repository, something outside of it, and the confinement of one tier around it."""

    def __init__(self, tier: Tier, folder: Path, *, apart: bool | None = None, **policy: Any) -> None:
        self.tier = tier
        # As the machine lets it be, unless a test wants the other.
        self.apart = tier == "landlock" and proved(tier).apart if apart is None else apart
        self.own_pids = tier == "bubblewrap" or self.apart
        self.workspace, self.outside, self.temporary = (folder / name for name in ("workspace", "outside", "temporary"))
        for each in (self.workspace, self.outside, self.temporary):
            each.mkdir(exist_ok=True)
        if not (self.workspace / ".git").exists():
            subprocess.run(["git", "init", "-q", str(self.workspace)], check=True)
        (self.outside / "file").write_text("as it was\n")
        self.policy = policy_for(self.workspace, temporary=self.temporary)
        if policy:
            self.policy = msgspec.structs.replace(self.policy, **policy)
        self.confinement = Confined(tier, tier, recipe(tier, self.policy, apart=self.apart))

    def start(
        self, *argv: str, kind: Kind = "workspace", env: dict[str, str] | None = None, cwd: Path | None = None,
        stdout: int | None = None,
    ) -> WardedChild:  # fmt: skip
        """Start a program; its output goes nowhere unless `stdout` is given."""
        base = {name: os.environ[name] for name in os.environ if name.startswith("GIT_")}
        base |= {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": os.environ["HOME"], "TMPDIR": str(self.temporary)}
        with open(os.devnull, "r+b") as nothing:
            out = nothing.fileno() if stdout is None else stdout
            return self.confinement.start(
                argv,
                cwd=cwd or self.workspace,
                environment=base | (env or {}),
                stdin=nothing.fileno(),
                stdout=out,
                stderr=out,
                kind=kind,
            )

    def run(self, command: str, kind: Kind = "workspace", **options: Any) -> Done:
        """Run a shell command to its end."""
        return self.run_program("/bin/sh", "-c", command, kind=kind, **options)

    def run_program(self, *argv: str, **options: Any) -> Done:
        """Run a program to its end."""
        reader, writer = os.pipe()
        with os.fdopen(reader, "rb") as output:
            try:
                child = self.start(*argv, stdout=writer, **options)
            finally:
                os.close(writer)
            text = output.read().decode(errors="replace")
            code = ended(child)
            child.close()
            return Done(code, text)


def ended(child: WardedChild) -> int | None:
    """The exit code, waited for as a launcher waits."""
    assert child.watch is not None
    assert select.select([child.watch], [], [], PATIENCE)[0], "it never ended"
    return child.poll()


@cache
def proved(tier: Tier) -> Proof:
    """What this machine has of a tier. Raises SandboxError."""
    return examine(tier)


@cache
def why_not(tier: Tier) -> str:
    """Why there is no such tier on this machine; empty where there is."""
    try:
        proved(tier)
    except SandboxError as error:
        return str(error)
    return ""


def gone(pid: int, patience: float = 10.0) -> bool:
    """Whether a process ends within `patience` seconds."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[0]
        except OSError:
            return True
        if state in "ZX":
            return True
        time.sleep(0.02)
    return False


def parent(pid: int) -> int:
    """The id of a process's parent."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])
