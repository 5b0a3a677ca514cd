"""The contract between the launcher and whatever confines the processes that it starts.

A `Confinement` starts processes for one session under one `Policy`, in up to three kinds (`Kind`); a `Child` is one of
them as seen from outside. Knows file descriptors and process ids; must not know shells, tools or the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

Tier = Literal["bubblewrap", "landlock", "seatbelt", "none"]
Boundary = Literal["full", "partial", "none"]
"""How much a tier is worth: a partial one leaves protected files inside the workspace to be looked after."""
Kind = Literal["workspace", "reading", "network"]
"""What a command is granted: writing the workspace; looking only (nothing but the private /tmp is writable); writing
the workspace and the network. None of them grants what lies outside; `unconfined` commands never come here."""


class Child(Protocol):
    """A running process, the leader of a session of its own."""

    @property
    def pid(self) -> int:
        """Its id as this process sees it, also where it lives in a namespace."""
        ...

    @property
    def watch(self) -> int | None:
        """A descriptor that becomes readable when it ends, closed by `close`; None where the system has none."""
        ...

    def poll(self) -> int | None:
        """Its exit code, negative for a signal as in `subprocess`; None while it runs."""
        ...

    def close(self) -> None:
        """Give back what is held; after the end only."""
        ...


class Confinement(Protocol):
    """Starts processes behind the same walls. Thread-safe."""

    tier: Tier

    @property
    def summary(self) -> str:
        """What was proved, for people: `bubblewrap + landlock 7 + seccomp`."""
        ...

    def start(
        self,
        argv: Sequence[str],
        *,
        cwd: Path,
        environment: Mapping[str, str],
        stdin: int,
        stdout: int,
        stderr: int,
        kind: Kind = "workspace",
    ) -> Child:
        """Start a process with these descriptors as its 0, 1 and 2, and no other. Raises SandboxError where the walls
        cannot be put up: never a process without them; OSError where the program itself cannot be started."""
        ...

    def close(self) -> None:
        """End everything that it started; blocking, at most a few seconds."""
        ...
