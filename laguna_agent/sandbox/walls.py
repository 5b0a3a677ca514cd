"""The walls of one session: what was proved of this machine, what the session may reach, and what starts its commands.

Knows the proof, the policy and the confinement, and puts them together; must not know tools, settings files or faces.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import msgspec

from laguna_agent.errors import SandboxError, StorageError
from laguna_agent.sandbox.confinement import Boundary, Confinement, Tier
from laguna_agent.sandbox.environment import command_environment, confined_environment
from laguna_agent.sandbox.landlock_tier import cannot_deny
from laguna_agent.sandbox.policy import Policy, policy_for
from laguna_agent.sandbox.protected import Protected, find_protected
from laguna_agent.sandbox.temporary import make_temporary, remove_temporary
from laguna_agent.sandbox.tiers import confine, prove
from laguna_agent.sandbox.unconfined import Unconfined
from laguna_agent.sandbox.watch import Watch

NOTHING = Protected((), (), ())
GONE_ASIDE = "replaced"
"""The directory beside a session's output that holds what was found in the place of protected files."""


class Walls(msgspec.Struct, frozen=True):
    """See the module. `boundary` is what was proved of them, `summary` the same for people; `watch` looks after the
    protected files that the kernel cannot keep."""

    policy: Policy
    confinement: Confinement
    boundary: Boundary
    summary: str
    why: str = ""
    """Where there are none: why each tier is not to be had here."""
    watch: Watch | None = None
    passed: tuple[str, ...] = ()
    """What the person lets commands see of the environment beyond the usual."""

    @property
    def tier(self) -> Tier:
        """What confines commands."""
        return self.confinement.tier

    @property
    def leaks(self) -> bool:
        """Whether commands can read what the person denies reading of."""
        return self.tier == "landlock" and cannot_deny(self.policy)

    @property
    def environment(self) -> dict[str, str]:
        """The whole environment of a command behind them."""
        allowed = command_environment(os.environ, self.passed)
        temporary = self.policy.temporary
        if temporary is None:
            return allowed
        seen_at = Path("/tmp") if self.tier == "bubblewrap" else temporary
        return allowed | confined_environment(os.environ, seen_at, self.policy.writable)

    def take_down(self) -> None:
        """End what still runs behind them and remove the private temporary directory. Blocking."""
        self.confinement.close()
        if self.policy.temporary is not None:
            remove_temporary(self.policy.temporary)


def put_up(
    wish: str,
    root: Path,
    roots: Iterable[Path] = (),
    *,
    spool: Path,
    writable: Iterable[Path] = (),
    denied: Iterable[str] = (),
    passed: tuple[str, ...] = (),
) -> Walls:
    """The walls for a session in `root`, with what `wish` names or the best that proves itself on this machine. What
    confines is started by the first command. Blocking. Raises SandboxError where the wish cannot be fulfilled, and
    StorageError where there is no place for the session.

    `spool` is where commands' output is kept: hidden with our own state, but theirs to read.
    """
    proof = prove(wish)
    try:
        spool.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StorageError(f"cannot keep a session in {spool.parent}: {error.strerror}") from error
    if proof.tier == "none":
        policy = policy_for(root, roots, writable=writable, readable=[spool], denied=denied)
        why = "; ".join(proof.reasons)
        return Walls(policy, Unconfined(), "none", "none: commands run with your rights", why, passed=passed)
    try:
        temporary = make_temporary()
    except OSError as error:
        raise SandboxError(f"cannot make a temporary directory for commands: {error.strerror}") from error
    policy = policy_for(root, roots, writable=writable, readable=[spool], denied=denied, temporary=temporary)

    @cache
    def enforced() -> frozenset[Path]:
        """What is there before the first command can be a mount point; what comes later has to be looked after."""
        mounted = find_protected(policy) if proof.tier != "landlock" else NOTHING
        return frozenset((*mounted.present, *mounted.absent))

    watch = Watch(
        (*policy.workspace, *policy.git_directories),
        lambda: _paths(find_protected(policy)) - enforced(),
        spool / GONE_ASIDE,
    )
    return Walls(policy, confine(proof, policy), proof.boundary, proof.summary, watch=watch, passed=passed)


def _paths(protected: Protected) -> frozenset[Path]:
    return frozenset((*protected.present, *protected.absent, *protected.unenforced))
