"""From a policy to a profile of macOS's sandbox-exec.

UNVERIFIED: written from the published grammar and held against its text in tests; it has never run on a Mac, so there
the probe alone decides whether this tier exists. In a profile the last rule that matches counts. Pure: text from paths.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from laguna_agent.errors import SandboxError
from laguna_agent.sandbox.confinement import Kind
from laguna_agent.sandbox.policy import PROTECTED_GIT, PROTECTED_NAMES, Policy

PROGRAM = Path("/usr/bin/sandbox-exec")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/tty", "/dev/ptmx", "/dev/dtracehelper")
_SERVICES = (
    "com.apple.system.opendirectoryd.libinfo",
    "com.apple.system.logger",
    "com.apple.system.notification_center",
)
_SPECIAL = re.compile(r"[.^$*+?()\[\]{}|\\]")
_RESOLVER = ("com.apple.SystemConfiguration.configd", "com.apple.trustd.agent", "com.apple.networkd")


def profile(policy: Policy, kind: Kind) -> str:
    """The profile of one kind of confinement. Raises SandboxError for a path that cannot be written in one."""
    lines = [
        "(version 1)",
        "(deny default)",
        "(allow process-exec*)",
        "(allow process-fork)",
        "(allow signal (target same-sandbox))",
        "(allow process-info* (target same-sandbox))",
        "(allow sysctl-read)",
        "(allow pseudo-tty)",
        "(allow ipc-posix-sem)",
        _rule("allow", "mach-lookup", [f"(global-name {_text(name)})" for name in _SERVICES]),
        "(allow file-read*)",
        *_visible(policy),
        *(_rule("deny", "file-read*", [_pattern(root, each)]) for root in policy.workspace for each in policy.denied),
        _rule("allow", "file-write* file-ioctl", [f"(literal {_text(each)})" for each in _DEVICES]),
        *_below("allow", "file-write*", _writable(policy, kind)),
        *(rule for root in (*policy.workspace, *policy.git_directories) for rule in _protect(root)),
    ]
    if kind == "network":
        lines += ["(allow network*)", "(allow system-socket)"]
        lines += [_rule("allow", "mach-lookup", [f"(global-name {_text(name)})" for name in _RESOLVER])]
    else:
        lines += ["(deny network*)"]
    return "\n".join(lines) + "\n"


def _visible(policy: Policy) -> list[str]:
    """What is hidden and what is shown, the nearest last: a workspace below a hidden directory, keys below a home that
    is the workspace."""
    own = (policy.temporary,) if policy.temporary else ()
    found = [*((path, "deny") for path in policy.hidden)]
    found += [(path, "allow") for path in (*policy.readable, *policy.workspace, *policy.git_directories, *own)]
    ordered = sorted(found, key=lambda each: len(each[0].parts))
    return [rule for path, decision in ordered for rule in _below(decision, "file-read*", (path,))]


def _writable(policy: Policy, kind: Kind) -> tuple[Path, ...]:
    own = (policy.temporary,) if policy.temporary else ()
    return own if kind == "reading" else (*policy.workspace, *policy.git_directories, *policy.writable, *own)


def _protect(root: Path) -> list[str]:
    """What other programs act on, at any depth below a root; and no moving of a git directory to make room."""
    names = "|".join(_any_case(name) for name in PROTECTED_NAMES)
    parts = "|".join(_any_case(name) for name in PROTECTED_GIT)
    below = _literal(_checked(root))
    git = f"^{below}/(.*/)?{_any_case('.git')}"
    inside = git if root.name != ".git" else f"^{below}"
    return [
        f'(deny file-write* (regex #"^{below}/(.*/)?({names})(/.*)?$"))',
        f'(deny file-write* (regex #"{inside}/((modules|worktrees)/.+/)?({parts})(/.*)?$"))',
        f'(deny file-write-data file-write-unlink (regex #"{git}$"))',
    ]


def _any_case(name: str) -> str:
    """The file systems of a Mac take any case for the same name."""
    return "".join(f"[{each.lower()}{each.upper()}]" if each.isalpha() else _literal(each) for each in name)


def _pattern(root: Path, denied: str) -> str:
    below = "" if denied.startswith("/") else _literal(_checked(root))
    return f'(regex #"^{below}/{_expression(_checked(denied))}(/.*)?$")'


def _below(decision: str, what: str, paths: Iterable[Path]) -> list[str]:
    found = [f"(subpath {_text(path)})" for path in paths]
    return [_rule(decision, what, found)] if found else []


def _rule(decision: str, what: str, where: list[str]) -> str:
    return f"({decision} {what} {' '.join(where)})"


def _text(value: Path | str) -> str:
    return f'"{_checked(value)}"'.replace("\\", "\\\\")


def _checked(value: Path | str) -> str:
    text = str(value)
    if '"' in text or not text.isprintable():
        raise SandboxError(f"sandbox-exec cannot be told of {text!r}: it has a quote or a control character")
    return text


def _expression(pattern: str) -> str:
    """A pattern as a regular expression, in what every dialect of them understands."""
    pattern = pattern.removeprefix("./")
    anchored = "/" in pattern.rstrip("/")
    pattern = pattern.strip("/")
    found = "" if anchored else "(.*/)?"
    at = 0
    while at < len(pattern):
        if pattern.startswith("**/", at):
            found, at = found + "(.*/)?", at + 3
        elif pattern.startswith("**", at):
            found, at = found + ".*", at + 2
        else:
            found, at = found + ({"*": "[^/]*", "?": "[^/]"}.get(pattern[at]) or _literal(pattern[at])), at + 1
    return found


def _literal(text: str) -> str:
    """A regular expression for just this text, any case of it being for the caller."""
    return _SPECIAL.sub(r"\\\g<0>", text)
