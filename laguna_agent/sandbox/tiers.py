"""Which sandbox there is on this machine, and how a session gets into it.

A tier counts when its probe has held here, since this boot, with these versions; that verdict is kept in our own state,
which is hidden from every command. Knows every tier and the order of preference; must not know tools or the model.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import sys
from pathlib import Path
from typing import Literal, cast

import msgspec

from laguna_agent.atomic import OWNER_ONLY, replace_file
from laguna_agent.directories import state_directory
from laguna_agent.errors import SandboxError
from laguna_agent.sandbox.confined import Confined
from laguna_agent.sandbox.confinement import Confinement, Tier
from laguna_agent.sandbox.plans import recipe
from laguna_agent.sandbox.policy import Policy
from laguna_agent.sandbox.programs import find_bubblewrap

TIERS: tuple[Tier, ...] = ("bubblewrap", "landlock", "seatbelt")
"""From the best to the least."""
# What decides whether namespaces and Landlock can be had, and what this process may do itself.
_KNOBS = (
    "/proc/sys/kernel/random/boot_id",
    "/proc/sys/kernel/unprivileged_userns_clone",
    "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
    "/proc/sys/user/max_user_namespaces",
    "/proc/sys/user/max_pid_namespaces",
    "/proc/sys/user/max_mnt_namespaces",
)
_STATUS = ("CapEff", "CapBnd", "NoNewPrivs", "Seccomp")


class Proof(msgspec.Struct, frozen=True):
    """What was tried here and held. `claims` are what was tried, whether it held, and what the system said; `reasons`
    say why each better tier is not the one, and what this one does without."""

    tier: Tier
    boundary: Literal["full", "partial", "none"]
    summary: str
    claims: tuple[tuple[str, bool, str], ...] = ()
    reasons: tuple[str, ...] = ()
    apart: bool = False
    """Whether it was tried with namespaces that the warden makes itself. Then there are none without them."""


def prove(wish: str) -> Proof:
    """The best tier that proves itself here for `auto`, or the one by name. Raises SandboxError where that one does
    not; for `auto` with nothing the tier is `none`, with the reasons."""
    if wish == "none":
        return Proof("none", "none", "none")
    if wish not in ("auto", *TIERS):
        raise SandboxError(f"there is no sandbox {wish!r}; there are auto, {', '.join(TIERS)} and none")
    circumstances = _circumstances(wish)
    if (kept := _kept(wish, circumstances)) is not None:
        return kept
    reasons: list[str] = []
    for tier in TIERS if wish == "auto" else (cast("Tier", wish),):
        try:
            proof = examine(tier)
            proof = msgspec.structs.replace(proof, reasons=(*reasons, *proof.reasons))
        except SandboxError as error:
            reasons.append(f"{tier}: {error}")
        else:
            _keep(wish, circumstances, proof)
            return proof
    if wish != "auto":
        raise SandboxError(f"the sandbox {wish} does not prove itself here: {reasons[0].removeprefix(f'{wish}: ')}")
    return Proof("none", "none", "none", reasons=tuple(reasons))


def examine(tier: Tier) -> Proof:
    """Try one tier out, whatever was kept. Raises SandboxError where it does not hold what it must."""
    # A machine may forbid namespaces, or what works in them may be too little: then the tier is tried without.
    if tier != "landlock":
        return _examine(tier, apart=False)
    try:
        return _examine(tier, apart=True)
    except SandboxError as error:
        return msgspec.structs.replace(_examine(tier, apart=False), reasons=(f"pid namespace: {error}",))


def _examine(tier: Tier, *, apart: bool) -> Proof:
    from laguna_agent.sandbox.probe import probe

    report = probe(tier, apart=apart)
    if failures := report.failures(tier):
        raise SandboxError("it does not hold here: " + "; ".join(failures))
    parts: list[str] = [] if tier == "landlock" else [tier]
    parts += [f"landlock {report.landlock}"] if report.landlock else []
    parts += ["pid namespace"] if apart else []
    parts += [] if tier == "seatbelt" else ["seccomp"]
    whole = all(each.held for each in report.found)
    claims = tuple((each.claim.words, each.held, each.how) for each in report.found)
    return Proof(tier, "full" if whole else "partial", " + ".join(parts), claims, apart=apart)


def confine(proof: Proof, policy: Policy) -> Confinement:
    """The confinement of a session in the tier that was proved. Raises SandboxError where there is none."""
    return Confined(proof.tier, proof.summary, recipe(proof.tier, policy, apart=proof.apart))


class _Kept(msgspec.Struct):
    circumstances: str
    proof: Proof


def _verdict(wish: str) -> Path:
    return state_directory() / "sandbox" / f"proof-{wish}.json"


def _kept(wish: str, circumstances: str) -> Proof | None:
    try:
        kept = msgspec.json.decode(_verdict(wish).read_bytes(), type=_Kept)
    except (OSError, msgspec.MsgspecError):
        return None
    return kept.proof if kept.circumstances == circumstances else None


def _keep(wish: str, circumstances: str, proof: Proof) -> None:
    # Only a shortcut: where it cannot be kept, the next start tries again.
    with contextlib.suppress(OSError):
        replace_file(_verdict(wish), msgspec.json.encode(_Kept(circumstances, proof)), mode=OWNER_ONLY)


def _circumstances(wish: str) -> str:
    """Everything that a verdict depends on, as a digest: this boot, the kernel, our rights, the walls' own code."""
    facts: list[object] = [wish, platform.release(), os.getuid(), sys.version, os.path.realpath(sys.executable)]
    for path in _KNOBS:
        with contextlib.suppress(OSError):
            facts.append(Path(path).read_text())
    with contextlib.suppress(OSError):
        status = Path("/proc/self/status").read_text().splitlines()
        facts += [line for line in status if line.startswith(_STATUS)]
        facts.append(Path("/proc/self/ns/user").readlink())
    if program := find_bubblewrap():
        found = program.stat()
        facts += [program, found.st_mtime_ns, found.st_size]
    room = Path(__file__).parent
    for source in sorted([*room.glob("*.py"), *room.glob("warden/*.py")]):
        facts.append(source.read_bytes())
    return hashlib.sha256(repr(facts).encode()).hexdigest()
