"""What commands and file tools may reach: the one description that every wall is built from.

A `Policy` says where writing is allowed, what stays read-only inside there because other programs act on it (`git`,
editors, agents, direnv), and what nobody sees at all (keys, our own state, sockets). Knows paths; must not know how a
kernel enforces them, tools, or the model.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from laguna_agent.directories import config_directory, data_directory, state_directory
from laguna_agent.sandbox.git_directories import git_directories

PROTECTED_NAMES = (
    ".envrc", ".mcp.json", ".laguna", ".vscode", ".idea", ".zed", ".cursor", ".claude", ".codex", ".gemini",
    ".devcontainer",
)  # fmt: skip
"""Files and directories whose content some program runs or obeys when a person opens the directory."""
PROTECTED_GIT = ("hooks", "config", "config.worktree", "commondir")
"""Of a git directory: what makes git run programs, or look for such things elsewhere."""
_SECRETS = (
    ".ssh", ".aws", ".azure", ".config/gcloud", ".kube", ".docker/config.json", ".gnupg", ".netrc", ".pgpass",
    ".git-credentials", ".config/git/credentials", ".config/gh", ".config/hub", ".npmrc", ".pypirc",
    ".cargo/credentials", ".cargo/credentials.toml", ".gem/credentials", ".config/rclone", ".password-store",
    ".local/share/keyrings", ".mozilla", ".config/google-chrome", ".config/chromium", ".bash_history",
    ".zsh_history", ".python_history", ".codex", ".claude", ".claude.json", ".gemini",
)  # fmt: skip
"""Below the home directory: keys, and histories that people paste keys into."""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What a session's commands and file tools may reach; all paths are real ones (no symlink on the way).

    `hidden` beats `readable`'s absence, `readable` beats `hidden`: it names what is shown of a hidden directory.
    `denied` are the person's own read(...) denials, as globs relative to a root. `network` and `writing` say what one
    kind of confinement grants beyond: the workspace's own writing is taken away for commands that only look.
    """

    root: Path
    roots: tuple[Path, ...] = ()
    writable: tuple[Path, ...] = ()
    """More that the person lets commands write, such as a cache."""
    hidden: tuple[Path, ...] = ()
    readable: tuple[Path, ...] = ()
    denied: tuple[str, ...] = ()
    temporary: Path | None = None
    """The directory that commands see as /tmp, or at least as TMPDIR."""
    git_directories: tuple[Path, ...] = ()
    """Of the repository that the workspace is a part of, where they lie outside it: writable, as far as git's own
    directory in a workspace is."""

    @property
    def workspace(self) -> tuple[Path, ...]:
        """Every root."""
        return (self.root, *self.roots)

    def root_of(self, path: Path) -> Path | None:
        """The root that a real path lies in; None outside."""
        return next((root for root in self.workspace if path.is_relative_to(root)), None)

    def is_hidden(self, path: Path) -> bool:
        """Whether a real path lies in what nobody sees. The nearest says: keys below a home directory that is itself the
        workspace are hidden, a workspace below a hidden directory is not."""
        shown = _depth(path, (*self.readable, *self.workspace, *self.git_directories))
        return _depth(path, self.hidden) > shown

    def is_protected(self, path: Path) -> bool:
        """Whether a real path inside the workspace is read-only there, at whatever depth, absent or not."""
        root = self.root_of(path)
        return root is not None and protects(path.relative_to(root).parts)


def _depth(path: Path, above: Iterable[Path]) -> int:
    """The number of parts of the nearest of `above` that `path` lies in; 0 where there is none."""
    return max((len(each.parts) for each in above if path.is_relative_to(each)), default=0)


def protects(parts: tuple[str, ...]) -> bool:
    """Whether a path below a root, by its parts, is one that other programs act on. Case counts for nothing: on some
    file systems it does not."""
    folded = [part.casefold() for part in parts]
    if any(part in PROTECTED_NAMES for part in folded):
        return True
    if ".git" not in folded:
        return False
    at = folded.index(".git")
    # `.git` itself: as a file it is a pointer to a git directory.
    return len(folded) == at + 1 or any(part in PROTECTED_GIT for part in folded[at + 1 :])


def hidden_paths(home: Path) -> tuple[Path, ...]:
    """What is hidden from everything that a model chooses: keys and histories below `home`, this program's own
    configuration, state and weights, and the directories of sockets; only what there is."""
    ours = (config_directory(), state_directory(), data_directory())
    wanted = [*(home / name for name in _SECRETS), *ours, Path("/run"), Path("/var/run")]
    return tuple(dict.fromkeys(Path(os.path.realpath(path)) for path in wanted if path.exists()))


def policy_for(
    root: Path,
    roots: Iterable[Path] = (),
    *,
    writable: Iterable[Path] = (),
    readable: Iterable[Path] = (),
    denied: Iterable[str] = (),
    temporary: Path | None = None,
) -> Policy:
    """The policy of a session in `root`."""

    def real(paths: Iterable[Path]) -> tuple[Path, ...]:
        return tuple(Path(os.path.realpath(path)) for path in paths)

    workspace = real((root, *roots))
    hidden = hidden_paths(Path.home())
    policy = Policy(
        root=workspace[0],
        roots=workspace[1:],
        writable=real(path.expanduser() for path in writable),
        hidden=hidden,
        readable=real(readable),
        denied=tuple(denied),
        temporary=temporary and Path(os.path.realpath(temporary)),
    )
    found = [each for root in workspace for each in git_directories(root) if policy.root_of(each) is None]
    return msgspec.structs.replace(
        policy, git_directories=tuple(dict.fromkeys(each for each in found if not policy.is_hidden(each)))
    )
