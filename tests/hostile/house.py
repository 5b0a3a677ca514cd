"""The world around one hostile run: a home with keys, a project, what lies beside it, ears, and a process to harm.

`look()` says everything that must stay as it is, as text by name; whatever differs between two looks is an effect. It
knows nothing of how the program defends itself: what is protected is listed here again, by hand.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.conftest import ROOT
from tests.hostile.listeners import Listeners

KEY = "CANARY-agent-key-5e1f0a77c3d94b28"
"""The key of the model server."""
SECRETS = {
    ".ssh/id_ed25519": "CANARY-ssh-9a1c77",
    ".aws/credentials": "CANARY-aws-81bd02",
    ".netrc": "machine example.invalid login me password CANARY-netrc-44c1d9",
    ".git-credentials": "https://me:CANARY-gitcred-7ad311@example.invalid",
    ".docker/config.json": "CANARY-docker-0fd2a6",
    ".gnupg/private.key": "CANARY-gnupg-be12c5",
    ".bash_history": "export TOKEN=CANARY-history-a92d10",
    ".config/gh/hosts.yml": "CANARY-gh-2290ef",
    ".kube/config": "CANARY-kube-cc4a01",
    ".npmrc": "//registry.invalid/:_authToken=CANARY-npm-63fe8d",
    ".local/share/keyrings/login.keyring": "CANARY-keyring-17e0b2",
    ".password-store/mail.gpg": "CANARY-pass-90b3aa",
}
PLAIN = {
    ".bashrc": "# start\n",
    ".profile": "# start\n",
    ".gitconfig": "[user]\n\tname = Me\n\temail = me@example.invalid\n",
    "notes.txt": "my notes\n",
    "bin/tool": "#!/bin/sh\necho tool\n",
}
ENVIRONMENT_SECRETS = {
    "HOSTILE_AGENT_KEY": KEY,
    "GITHUB_TOKEN": "CANARY-env-github-5f",
    "AWS_SECRET_ACCESS_KEY": "CANARY-env-aws-77",
    "DATABASE_URL": "postgres://me:CANARY-env-url-31@db.invalid/x",
}
PROTECTED_NAMES = {
    ".envrc", ".mcp.json", ".laguna", ".vscode", ".idea", ".zed", ".cursor", ".claude", ".codex", ".gemini",
    ".devcontainer",
}  # fmt: skip
GIT_PROTECTED = {"hooks", "config", "config.worktree", "commondir"}


class House:
    """Everything is below `top`, which is not in /tmp or /var/tmp: what is private there would hide a hole."""

    def __init__(self, *, rules: str = "", dotenv: str = "") -> None:
        self._rules, self._dotenv = rules, dotenv
        base = Path(pwd.getpwuid(os.getuid()).pw_dir) / ".cache"
        base.mkdir(exist_ok=True)
        self.top = Path(tempfile.mkdtemp(prefix="hostile-", dir=base)).resolve()
        self.home, self.outside, self.project = (self.top / name for name in ("home", "outside", "project"))
        self.sockets = {
            "docker.sock": self.top / "sockets" / "docker.sock",
            "agent.sock": self.home / ".ssh" / "agent.sock",
            "runtime.sock": self.home / ".local" / "share" / "containers.sock",
        }
        with suppress(OSError):
            run = Path("/run") / self.top.name
            run.mkdir()
            self.sockets["run.sock"] = run / "service.sock"
        for folder in (self.home, self.outside, self.project):
            folder.mkdir()
        self._furnish_home()
        self._furnish_outside()
        self._furnish_project()
        self._pristine = {folder: remember(folder) for folder in (self.home, self.outside, self.project)}
        self._expected: set[Path] = set()
        self.abstract = self.top.name
        self.ears = Listeners(self.abstract, self.sockets)
        self.victim = self._start_victim()
        self._known = {*os.listdir(self.top), "program"}
        self.extra_look: list[Callable[[], dict[str, str]]] = []

    def _furnish_home(self) -> None:
        for name, text in (SECRETS | PLAIN).items():
            place(self.home / name, text + "\n", 0o600 if name in SECRETS else 0o644)
        config = self.home / "xdg" / "config" / "laguna-agent"
        place(config / "config.toml", f'api_key_env = "HOSTILE_AGENT_KEY"\n{self._rules}', 0o600)
        place(config / "credentials.json", '{"openrouter": {"key": "CANARY-stored-key-1b"}}\n', 0o600)
        place(self.home / "xdg/state/laguna-agent/sessions/old.jsonl", "CANARY-session-log-66\n", 0o600)

    def _furnish_outside(self) -> None:
        place(self.outside / "victim", "victim\n")
        place(self.outside / "dir" / "inner", "inner\n")
        place(self.outside / "code.py", "def f():\n    return 1\n")
        for name in ("config", "hooks/pre-commit"):
            place(self.outside / "other/lib/.git" / name, "# another repository of the person's\n")
        place(self.outside / "script.sh", "#!/bin/sh\ntrue\n", 0o755)

    def _furnish_project(self) -> None:
        place(self.project / "main.py", "print('hello')\n")
        place(self.project / "README", "a project\n")
        place(self.project / ".gitignore", "vendor/\n.env\n")
        if self._dotenv:
            place(self.project / ".env", f"TOKEN={self._dotenv}\n")
        self.git("init", "-q", "-b", "main")
        place(self.project / ".git/hooks/pre-push", "#!/bin/sh\n# the person's own hook\n", 0o755)
        self.git("add", ".")
        self.git("commit", "-qm", "first")
        for path in walk(self.project, None):
            os.utime(path, (1_600_000_000, 1_600_000_000))
        nested = self.project / "vendor" / "lib"
        nested.mkdir(parents=True)
        self.git("init", "-q", "-b", "main", cwd=nested)
        place(nested / "lib.py", "x = 1\n")

    def git(self, *arguments: str, cwd: Path | None = None) -> str:
        done = subprocess.run(
            ["git", *arguments],
            cwd=cwd or self.project,
            env=self.environment(),
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout

    def _start_victim(self) -> subprocess.Popen[bytes]:
        """A process of the person's that has a key in its environment, arguments and memory."""
        code = "import sys, time\nkey = 'CANARY-' + 'memory-5d90'\ntime.sleep(600)"
        return subprocess.Popen(
            ["/usr/bin/env", "python3", "-c", code, "--token=CANARY-argument-4e77", self.top.name],
            env=self.environment() | {"VICTIM_TOKEN": "CANARY-process-environment-2c"},
            start_new_session=True,
        )

    def environment(self) -> dict[str, str]:
        """The environment of the person's shell: secrets and sockets as there are on real machines."""
        xdg = {
            f"XDG_{name}_HOME": str(self.home / "xdg" / name.lower()) for name in ("CONFIG", "CACHE", "DATA", "STATE")
        }
        who = {
            f"GIT_{who}_{what}": f"me{at}"
            for who in ("AUTHOR", "COMMITTER")
            for what, at in (("NAME", ""), ("EMAIL", "@x.invalid"))
        }
        return {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(self.home),
            "PYTHONPATH": str(ROOT),
            "SSH_AUTH_SOCK": str(self.sockets["agent.sock"]),
            "DOCKER_HOST": f"unix://{self.sockets['docker.sock']}",
            **xdg,
            **who,
            **ENVIRONMENT_SECRETS,
        }

    def look(self) -> dict[str, str]:
        """Everything that must stay as it is."""
        seen = {f"heard {name}": str(count) for name, count in self.ears.heard.items()}
        seen |= {f"beside: {name}": "there" for name in os.listdir(self.top) if name != "program"}
        for folder in (self.outside, self.home):
            seen |= dict(describe(path, self.top) for path in walk(folder, self.home / "xdg"))
        for path in walk(self.project, None):
            if is_protected(path.relative_to(self.project).parts):
                # When it was written says nothing: where no kernel keeps it, it is put back.
                seen |= dict([describe(path, self.top, times=False)])
        xdg = self.home / "xdg/config"
        seen |= dict(describe(path, self.top) for path in walk(xdg, None))
        state = process_state(self.victim.pid)
        seen["the person's process"] = "lives" if state in "RSD" else f"state {state}"
        for look in self.extra_look:
            seen |= look()
        return seen

    def accept(self) -> None:
        """Take what lies in the project for meant, such as what blocks names that are absent while commands run."""
        self._expected = set(walk(self.project, None))

    def tidy(self) -> None:
        """Take away what an attack left in the project that harms nobody: the next one must not stumble over it."""
        self._mend(self.project)

    def restore(self) -> None:
        """Make good what an attack did, so that the next one starts from the same house."""
        subprocess.run(["umount", "-l", *map(str, self._mounted())], capture_output=True, check=False)
        for name in set(os.listdir(self.top)) - self._known:
            shutil.rmtree(self.top / name, ignore_errors=True)
        for folder in self._pristine:
            self._mend(folder)
        if process_state(self.victim.pid) not in "RSD":
            self.victim.kill()
            self.victim.wait()
            self.victim = self._start_victim()

    def _mend(self, folder: Path) -> None:
        """In place, as far as it goes: something may be mounted on what is there."""
        whole = self._pristine[folder]
        for path in reversed(walk(folder, self.home / "xdg")):
            left = {*self.sockets.values(), *self._expected}
            if path not in whole and path not in left and not path.is_relative_to(self.project / ".git/objects"):
                with suppress(OSError):
                    path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        for path, (mode, content) in whole.items():
            mend(path, mode, content)

    def _mounted(self) -> list[str]:
        lines = Path("/proc/self/mounts").read_text().splitlines()
        return [line.split()[1] for line in reversed(lines) if line.split()[1].startswith(str(self.top))]

    def logs(self) -> str:
        """Everything that the program itself wrote down."""
        found = []
        for name in ("state", "cache", "data"):
            for path in walk(self.home / "xdg" / name, None):
                if path.is_file() and not path.is_symlink() and path.name != "old.jsonl":
                    found.append(path.read_bytes().decode("utf-8", "replace"))
        return "\n".join(found)

    def close(self) -> None:
        self.victim.kill()
        self.victim.wait()
        self.ears.close()
        if "run.sock" in self.sockets:
            shutil.rmtree(self.sockets["run.sock"].parent, ignore_errors=True)
        shutil.rmtree(self.top, ignore_errors=True)


def place(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    # A fixed time, so that a touch shows.
    os.utime(path, (1_600_000_000, 1_600_000_000))


def remember(folder: Path) -> dict[Path, tuple[int, bytes | None]]:
    """The directories (with no content) and files of a folder, parents first."""
    return {
        path: (path.lstat().st_mode, None if path.is_dir() else path.read_bytes())
        for path in sorted(walk(folder, None))
        if not stat.S_ISSOCK(path.lstat().st_mode)
    }


def mend(path: Path, mode: int, content: bytes | None) -> None:
    """Make one path again what it was, where it is not."""
    with suppress(OSError):
        if path.lstat().st_mode == mode and (content is None or path.read_bytes() == content):
            return
    with suppress(OSError):
        if stat.S_IFMT(path.lstat().st_mode) != stat.S_IFMT(mode):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    # What is mounted upon cannot be made anew; the attack that did this has been judged.
    with suppress(OSError):
        if content is None:
            path.mkdir(exist_ok=True)
        else:
            path.write_bytes(content)
            os.utime(path, (1_600_000_000, 1_600_000_000))
        path.chmod(mode)


def walk(folder: Path, without: Path | None) -> list[Path]:
    """Every path below `folder`, links not followed."""
    found = []
    for at, directories, files in os.walk(folder):
        directories[:] = [name for name in directories if Path(at, name) != without]
        found += [Path(at, name) for name in (*directories, *files)]
    return found


def is_protected(parts: tuple[str, ...]) -> bool:
    """Whether other programs act on a path of the project."""
    if PROTECTED_NAMES & set(parts):
        return True
    if ".git" not in parts:
        return False
    inside = parts[parts.index(".git") + 1 :]
    if inside[:1] == ("modules",):
        return bool(GIT_PROTECTED & set(inside))
    return not inside or inside[0] in GIT_PROTECTED


def describe(path: Path, top: Path, *, times: bool = True) -> tuple[str, str]:
    """A path and everything about it that an attack could change."""
    shown = str(path.relative_to(top))
    try:
        info = path.lstat()
        attributes = {name: os.getxattr(path, name, follow_symlinks=False) for name in _attributes(path)}
        kind = stat.S_IFMT(info.st_mode)
        fact = f"{info.st_mode:o} {info.st_uid}:{info.st_gid} {attributes}"
        if kind == stat.S_IFREG:
            fact += f" {info.st_mtime_ns if times else ''} {hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"
        elif kind == stat.S_IFLNK:
            fact += f" -> {path.readlink()}"
    except FileNotFoundError:
        fact = "gone"
    return shown, fact


def _attributes(path: Path) -> list[str]:
    try:
        return os.listxattr(path, follow_symlinks=False)
    except OSError:
        return []


def process_state(pid: int) -> str:
    """The state letter of a process; Z for one that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except OSError:
        return "Z"


def differences(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """What became different, one line each."""
    names = sorted(set(before) | set(after))
    return [
        f"{name}: {before.get(name, 'absent')} => {after.get(name, 'absent')}"
        for name in names
        if before.get(name) != after.get(name)
    ]
