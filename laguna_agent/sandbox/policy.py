"""What commands and file tools may reach: the one description that every wall is built from.

A `Policy` says where writing is allowed, what stays read-only inside there because other programs act on it (`git`,
editors, agents, direnv), and what nobody sees at all (keys, our own state, sockets). Knows paths; must not know how a
kernel enforces them, tools, or the model.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import msgspec

from laguna_agent.directories import config_directory, data_directory, home, state_directory
from laguna_agent.sandbox.git_directories import git_directories, read_small
from laguna_agent.sandbox.presence import exists, is_directory

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
_OBEYED = (
    ".bashrc", ".bash_profile", ".bash_login", ".bash_logout", ".profile", ".zshrc", ".zshenv", ".zprofile", ".zlogin",
    ".inputrc", ".gitconfig", ".config/git", ".config/fish", ".config/autostart", ".config/systemd",
    ".config/environment.d", ".config/nvim", ".vimrc", ".emacs", ".emacs.d", ".pam_environment", ".xprofile",
    ".local/bin",
)  # fmt: skip
"""Below the home directory: what a login obeys. It counts only where the workspace is the home directory or above."""
_ABOVE_PROCESSES = (Path("/"), Path("/proc"))


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What a session's commands and file tools may reach; all paths are real ones (no symlink on the way).

    Of `hidden` on one side, `readable` and the roots on the other, what names a path more closely counts: a directory
    of kept output inside a hidden one is shown, and `~/.ssh` is hidden in a workspace that is the home directory.
    `protected` are paths that are read-only beside those that `protects` tells by name. `denied` are the person's own
    read(...) denials: globs as `is_denied` reads them.
    """

    root: Path
    roots: tuple[Path, ...] = ()
    writable: tuple[Path, ...] = ()
    """More that the person lets commands write, such as a cache."""
    hidden: tuple[Path, ...] = ()
    readable: tuple[Path, ...] = ()
    protected: tuple[Path, ...] = ()
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
        parts = path.parts
        return next((root for root in self.workspace if parts[: len(root.parts)] == root.parts), None)

    def is_hidden(self, path: Path) -> bool:
        """Whether a real path lies in what nobody sees. The nearest says: keys below a home directory that is itself
        the workspace are hidden, a workspace below a hidden directory is not."""
        if _of_a_process(path):
            return True
        return _depth(path, self.hidden) > _depth(path, (*self.readable, *self.workspace, *self.git_directories))

    def hides_below(self, path: Path) -> bool:
        """Whether there may be something hidden below a real path that is not hidden itself."""
        return path in _ABOVE_PROCESSES or any(hidden.is_relative_to(path) for hidden in self.hidden)

    def is_protected(self, path: Path) -> bool:
        """Whether a real path inside the workspace is read-only there, at whatever depth, absent or not."""
        root = self.root_of(path)
        if root is None:
            return False
        return protects(path.relative_to(root).parts) or _depth(path, self.protected) > 0

    def is_denied(self, path: Path) -> bool:
        """Whether the person denies reading a real path, or a directory that it lies in.

        A glob is relative to each root, `**` stands for any number of directories, and one without a slash counts at
        any depth, as in an ignore file. One that begins with `/` is absolute. Case counts for nothing.
        """
        return any(_covers(glob, path, self.workspace) for glob in self.denied)


def _depth(path: Path, above: Iterable[Path]) -> int:
    """The number of parts of the nearest of `above` that `path` lies in; 0 where there is none."""
    # By parts: `is_relative_to` costs ten times as much, and every path that a tool is given comes here.
    parts = path.parts
    return max((len(wanted) for each in above if parts[: len(wanted := each.parts)] == wanted), default=0)


def protects(parts: tuple[str, ...]) -> bool:
    """Whether a path below a root, by its parts, is one that other programs act on. Neither case counts nor what some
    file systems leave out of a name."""
    folded = [_folded(part) for part in parts]
    if any(part in PROTECTED_NAMES for part in folded):
        return True
    if ".git" not in folded:
        return False
    at = folded.index(".git")
    # `.git` itself: as a file it is a pointer to a git directory.
    return len(folded) == at + 1 or any(part in PROTECTED_GIT for part in folded[at + 1 :])


def _folded(part: str) -> str:
    if part.isascii() and not part.endswith((".", " ")) and "~" not in part and ":" not in part:
        return part.lower()
    # HFS+ drops invisible characters, NTFS trailing dots and what follows a colon, and it knows `.git` as `git~1` too.
    visible = "".join(each for each in unicodedata.normalize("NFKC", part) if unicodedata.category(each) != "Cf")
    name = visible.casefold().split(":")[0].rstrip(". ")
    return ".git" if re.fullmatch(r"git~\d", name) else name


def _of_a_process(path: Path) -> bool:
    # Environment, memory and open files of every process that we may look at, this one first.
    return path.parts[:2] == ("/", "proc") and len(path.parts) > 2 and path.parts[2].isdigit()


@cache
def _glob_parts(glob: str) -> tuple[bool, tuple[str, ...]]:
    parts = tuple(part.casefold() for part in glob.split("/") if part not in ("", "."))
    absolute = glob.startswith("/")
    return absolute, parts if absolute or len(parts) != 1 else ("**", *parts)


def _covers(glob: str, path: Path, roots: Iterable[Path]) -> bool:
    absolute, wanted = _glob_parts(glob)
    if not wanted:
        return False
    bases = [Path(path.anchor)] if absolute else [root for root in roots if path.is_relative_to(root)]
    return any(_begins(tuple(part.casefold() for part in path.relative_to(base).parts), wanted) for base in bases)


def _begins(parts: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    """Whether a path, or a directory that it lies in, is what the parts of a glob name."""
    if not wanted:
        return True
    if wanted[0] == "**":
        return any(_begins(parts[skipped:], wanted[1:]) for skipped in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], wanted[0]) and _begins(parts[1:], wanted[1:])


def hidden_paths(owners: Path) -> tuple[Path, ...]:
    """What is hidden from everything that a model chooses: keys and histories below `owners`, this program's own
    configuration, state and weights, and the directories of sockets; only what there is."""
    ours = (config_directory(), state_directory(), data_directory())
    wanted = [*(owners / name for name in _SECRETS), *ours, Path("/run"), Path("/var/run")]
    return tuple(dict.fromkeys(Path(os.path.realpath(path)) for path in wanted if exists(path)))


def protected_paths(roots: Sequence[Path], owners: Path) -> tuple[Path, ...]:
    """What is read-only inside `roots` without its name telling so: the same parts of git directories that have another
    name than `.git`, and what a login obeys where the home directory is part of the workspace."""
    found: list[Path] = []
    for root in roots:
        found += [directory / name for directory in _git_directories(root) for name in PROTECTED_GIT]
        if owners.is_relative_to(root):
            found += [owners / name for name in _OBEYED]
    below = ((path, root) for path in dict.fromkeys(found) for root in roots if path.is_relative_to(root))
    return tuple(dict.fromkeys(path for path, root in below if not protects(path.relative_to(root).parts)))


def _git_directories(root: Path) -> Iterator[Path]:
    if all(exists(root / name) for name in ("HEAD", "objects", "refs")):
        yield root
    git = Path(os.path.realpath(root / ".git"))
    if is_directory(git):
        yield git
    elif found := re.match(r"gitdir:\s*(.+)", read_small(git)):
        yield Path(os.path.realpath(root / found[1].rstrip()))


def policy_for(
    root: Path,
    roots: Iterable[Path] = (),
    *,
    writable: Iterable[Path] = (),
    readable: Iterable[Path] = (),
    denied: Iterable[str] = (),
    temporary: Path | None = None,
) -> Policy:
    """The policy of a session in `root`. A glob of `denied` may begin with `~/`."""

    def real(paths: Iterable[Path]) -> tuple[Path, ...]:
        return tuple(Path(os.path.realpath(path)) for path in paths)

    workspace = real((root, *roots))
    policy = Policy(
        root=workspace[0],
        roots=workspace[1:],
        writable=real(path.expanduser() for path in writable),
        hidden=hidden_paths(home()),
        readable=real(readable),
        protected=protected_paths(workspace, Path(os.path.realpath(home()))),
        denied=tuple(str(home() / glob[2:]) if glob.startswith("~/") else glob for glob in denied),
        temporary=temporary and Path(os.path.realpath(temporary)),
    )
    found = [each for root in workspace for each in git_directories(root) if policy.root_of(each) is None]
    return msgspec.structs.replace(
        policy, git_directories=tuple(dict.fromkeys(each for each in found if not policy.is_hidden(each)))
    )
