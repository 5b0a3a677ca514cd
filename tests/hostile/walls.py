"""Every wall, and the tests that notice when it is gone: `python -m tests.hostile.walls [PART OF A NAME ...]`.

A wall is taken out of a copy of the package in a temporary directory, never out of this checkout; then the tests that
should notice are run there. Prints `wall | first test that fails`; exits 1 where nobody noticed, or where the text that
makes the wall is not what it was.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ATTACKS = "tests/hostile/test_attacks.py"
KERNEL = (
    "tests/sandbox/test_single_walls.py",
    f"{ATTACKS} -k a_tier_is_there",
    "tests/sandbox/test_walls.py",
    "tests/sandbox/test_confined.py",
)


class Unnoticed(Exception):
    """A wall that is gone and nobody noticed, or one that is not where it was."""


@dataclass(frozen=True)
class Wall:
    """`old` is replaced by `new` in a module below laguna_agent. `tests` are run in order until one fails; a selection
    may follow behind `::` as pytest has it, or behind ` -k `."""

    name: str
    module: str
    old: str
    new: str
    tests: tuple[str, ...]


def seccomp(name: str, old: str, new: str = "", *tests: str) -> Wall:
    return Wall(f"seccomp: {name}", "sandbox/warden/seccomp.py", old, new, tests or KERNEL)


def mounts(name: str, old: str, new: str = "", *tests: str) -> Wall:
    return Wall(f"bubblewrap: {name}", "sandbox/bubblewrap.py", old, new, tests or KERNEL)


APART = ("tests/sandbox/test_apart.py",)
FILES = ("tests/tools/test_walls.py", "tests/tools/test_beneath.py", "tests/tools/test_workspace.py")
GIT = ("tests/agent/test_hostile_git.py",)
WALLS = (
    seccomp("the whole filter of system calls", "    column = 0 if machine == \"x86_64\" else 1\n    denied", "    return [(_RETURN, 0, 0, ALLOW)]\n    column = 0 if machine == \"x86_64\" else 1\n    denied"),
    seccomp("io_uring", '"io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),'),
    seccomp("mounting", '"mount": (165, 40), "umount2": (166, 39), ', ""),
    seccomp("ptrace", '"ptrace": (101, 117), ', ""),
    seccomp("keys of the kernel", '"add_key": (248, 217), ', "", f"{ATTACKS} -k kernel-keyring"),
    seccomp("new namespaces", '"unshare": [*_argument(0), *_refuse_bits(_NAMESPACES | _NEW_TIME), _ALLOWED],', '"unshare": [_ALLOWED],', *KERNEL, f"{ATTACKS} -k new-user-namespace"),
    seccomp("pushing input into terminals", "*_refuse_values(_TIOCSTI, _TIOCLINUX, ", "*_refuse_values(", *KERNEL),
    seccomp("device nodes", '"mknod": [*_argument(1), (_AND, 0, 0, _TYPE_OF_FILE), *_refuse_values(*devices), _ALLOWED],', '"mknod": [_ALLOWED],', *KERNEL),
    seccomp("sockets where the machine's are in reach", '    if reach == "nothing":\n        return [(_RETURN, 0, 0, REFUSE)]\n', '    if reach == "nothing":\n        return [_ALLOWED]\n'),
    seccomp("families of sockets", 'return [*_argument(0), (_EQUAL, 0, len(netlink), _AF_NETLINK), *netlink, *_only(families)]', "return [_ALLOWED]"),
    Wall("landlock: writing", "sandbox/warden/landlock.py", "attributes = _RulesetAttributes(fs=writing | reading)", "attributes = _RulesetAttributes(fs=reading)", KERNEL),
    Wall("landlock: reading what is hidden", "sandbox/warden/landlock.py", "reading = READ_FILE if readable is not None else 0", "reading = 0", KERNEL),
    Wall("landlock: signals and abstract sockets", "sandbox/warden/landlock.py", "attributes.scoped = _SCOPE_ABSTRACT_UNIX | _SCOPE_SIGNAL", "attributes.scoped = 0", KERNEL),
    Wall("capabilities dropped", "sandbox/warden/walls.py", "    capabilities.drop_all()\n", "", (*KERNEL, f"{ATTACKS} -k landlock-disk")),
    Wall("apart: a /proc of its own", "sandbox/warden/apart.py", '    mount(b"proc", b"/proc", b"proc", _NO_SETUID | _NO_DEVICES | _NO_EXECUTION)\n', "", (*APART, f"{ATTACKS} -k process-arguments")),
    Wall("apart: other places of /proc", "sandbox/warden/apart.py", "            mount(b\"/proc\", place, None, _BIND)\n", "            pass\n", APART),
    Wall("apart: namespaces or an error", "sandbox/warden/apart.py", "        os.write(writer, b\"-%d\" % (error.errno or 1))\n        os._exit(1)\n", "        pid = os.fork()\n", APART),
    Wall("the warden's memory hidden", "sandbox/warden/walls.py", "        prctl(PR_SET_DUMPABLE, 0)\n", "        pass\n", KERNEL),
    Wall("no core files", "sandbox/warden/walls.py", "        (resource.RLIMIT_CORE, 0),\n", "", KERNEL),
    Wall("mounted by name is what was looked at", "sandbox/warden/walls.py", "        if (found.st_dev, found.st_ino) != (device, inode):", "        if False:", KERNEL),
    seccomp("calls that a supervisor decides", "denied |= dict.fromkeys(_OF_FILES.values(), HAND_OVER) if supervised else {}", "denied |= {}"),
    Wall("supervisor: where a file lies", "sandbox/warden/attributes.py", "not _lies_below(handle, changeable)", "False", ("tests/sandbox/test_supervisor.py",)),
    Wall("supervisor: no magic links", "sandbox/warden/attributes.py", "flags, NO_MAGICLINKS)", "flags, 0)", ("tests/sandbox/test_supervisor.py",)),
    Wall("supervisor: processes of its own only", "sandbox/warden/supervisor.py", "elif self._is_ours(_named_process(call)):", "elif True:", ("tests/sandbox/test_supervisor.py",)),
    mounts("what is hidden", "    for path in (Path(\"/run\"), *policy.hidden):\n        mounts.hide(path)\n"),
    mounts("protected paths read-only", "        mounts.keep(protected, (*policy.workspace, *policy.git_directories))\n", "        pass\n"),
    mounts("what is denied, and sockets of others", "    for path in (*denied_paths(policy), *sockets_outside(policy)):\n        mounts.deny(path)\n"),
    mounts("network namespace", '([] if kind == "network" else ["net"])', "[]"),
    mounts("other places of /proc", "(Path(\"/proc\"), *places)", "(Path(\"/proc\"),)", *APART),
    mounts("process namespace", '"user", "pid", "ipc"', '"user", "ipc"'),
    mounts("looking only is without writing", 'mounts.bind(root, writable=kind != "reading")', "mounts.bind(root, writable=True)"),
    Wall("absent protected paths blocked", "sandbox/plans.py", "blocked = placeholders.hold(protected.absent)", "blocked = ()", KERNEL),
    Wall("protected paths put back where no kernel keeps them", "sandbox/watch.py", "                    _restore(path.name, parent, before)\n", "                    pass\n", ("tests/sandbox/test_watch.py",)),
    Wall("a tier that does not prove itself is not used", "sandbox/probe.py", "    def failures(self, tier: Tier) -> list[str]:\n", "    def failures(self, tier: Tier) -> list[str]:\n        return []\n", KERNEL),
    Wall("environment: list of names", "sandbox/environment.py", "return bool(_ALLOWED.match(name)) and not", "return not", ("tests/sandbox/test_environment.py",)),
    Wall("environment: what looks secret", "sandbox/environment.py", " and not _looks_secret(name, value)", "", ("tests/sandbox/test_environment.py",)),
    Wall("keys leave the environment", "held_keys.py", "(value := os.environ.pop(name, None))", "(value := os.environ.get(name))", ("tests/test_held_keys.py", "tests/sandbox/test_environment.py")),
    Wall("keys leave /proc", "held_keys.py", "                os.pwrite(memory, b\"\\0\" * length, at)", "                pass", ("tests/test_held_keys.py",)),
    Wall("keys are taken out of what is kept and sent", "agent/tape.py", "clean = msgspec.convert(redact(msgspec.to_builtins(record), tokens=tokens), type(record))", "clean = record", ("tests/agent/test_redaction.py",)),
    Wall("files: links on the way", "sandbox/beneath.py", "_RULES = BENEATH | NO_SYMLINKS | NO_MAGICLINKS", "_RULES = 0", FILES[::-1]),
    Wall("files: links on the way, without openat2", "sandbox/beneath.py", "_ON_THE_WAY = getattr(os, \"O_PATH\", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC", "_ON_THE_WAY = getattr(os, \"O_PATH\", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC", FILES[1:]),
    Wall("files: leave is for one place", "tools/leave.py", "    if need != context.leave:", "    if False:", FILES),
    Wall("files: what is protected", "tools/leave.py", "protected=writing and place.protected", "protected=False", FILES),
    Wall("files: what is hidden", "tools/leave.py", "hidden=place.hidden)", "hidden=False)", FILES),
    Wall("files: hard links to keys", "tools/files.py", "if found.st_nlink < 2 or self.policy.is_hidden(path):", "if True:", FILES),
    Wall("files: only regular ones", "tools/files.py", "    if not stat.S_ISREG(found.st_mode):", "    if False:", FILES),
    Wall("files: no more than fits", "tools/files.py", "data = b\"\" if size > limit else _all(handle, limit + 1)", "data = _all(handle, 1 << 31)", FILES),
    Wall("permissions: outside asks", "agent/permissions.py", "within = not (need.outside or need.protected or need.hidden)", "within = True", ("tests/agent/test_permissions.py", f"{ATTACKS} -k files-write")),
    Wall("rules: a denial wins", "agent/rules.py", '        if denied:\n            return _judgement(denied[0], "matches a part of this command")\n', "", ("tests/agent/test_rules.py", f"{ATTACKS} -k rules-touch")),
    Wall("rules: too long is denied", "agent/rules.py", "        if denying and parsed.too_long:", "        if False:", ("tests/agent/test_rules.py", f"{ATTACKS} -k rules-touch")),
    Wall("git: fsmonitor", "agent/own_git.py", '"core.fsmonitor=false", ', "", GIT),
    Wall("git: hooks", "agent/own_git.py", '"core.hooksPath=/dev/null", ', "", GIT),
    Wall("git: no program of the workspace", "program.py", "        if entry in first or not any(", "        if True or not any(", GIT),
    Wall("trust: exactly this text", "trust.py", "trusted = not found.problem and pinned.sha256 == found.sha256", "trusted = True", ("tests/test_trust.py",)),
    Wall("a project sets harmless things only", "config.py", "        _refuse_in_project(key, str(project))\n", "", ("tests/test_config.py", "tests/hostile/test_repository.py -k settings")),
    Wall("a key goes to its own server", "backend/providers.py", "        _refuse_key_of_another(settings.api_key_env, url)\n", "", ("tests/backend/test_key_binding.py",)),
    Wall("hidden characters are shown to the model", "agent/shown.py", "            text, found = revealed(block.text)\n", "            text, found = block.text, Found()\n", ("tests/hostile/test_answers.py -k hides",)),
)  # fmt: skip


def copied(to: Path) -> Path:
    """A copy of what the tests need."""
    for name in ("laguna_agent", "tests", "benchmarks", "scripts", "docs"):
        if (ROOT / name).exists():
            shutil.copytree(ROOT / name, to / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, to / name)
    return to


def notice(wall: Wall, copy: Path) -> str:
    """The first test that fails without a wall. Raises Unnoticed."""
    for selection in wall.tests:
        if failed := with_all_walls(copy, selection):
            raise Unnoticed(f"{failed} fails with this wall too")
    module = copy / "laguna_agent" / wall.module
    whole = module.read_text()
    if whole.count(wall.old) < 1:
        raise Unnoticed(f"laguna_agent/{wall.module} does not hold the text of this wall any more: {wall.old!r}")
    module.write_text(whole.replace(wall.old, wall.new))
    try:
        for selection in wall.tests:
            if failed := first_failure(copy, selection):
                return failed
    finally:
        module.write_text(whole)
    raise Unnoticed(f"no test of {', '.join(wall.tests)} fails without it")


@cache
def with_all_walls(copy: Path, selection: str) -> str:
    """The first test that fails though nothing was taken away."""
    return first_failure(copy, selection)


def first_failure(copy: Path, selection: str) -> str:
    """The first test that fails, "" where none does."""
    name, _, words = selection.partition(" -k ")
    options = ["-x", "-q", "--no-header", "-p", "no:cacheprovider", "-n", "0"] + (["-k", words] if words else [])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, name],
        cwd=copy,
        env=os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    found = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    if done.returncode not in (0, 1, 2, 5) or (done.returncode and not found):
        raise Unnoticed(f"the tests cannot be run: {done.stdout[-2000:]}{done.stderr[-1000:]}")
    return found[1] if found else ""


def main(wanted: list[str]) -> int:
    """Try all walls whose name holds one of the words."""
    unnoticed = 0
    with tempfile.TemporaryDirectory(prefix="walls-") as folder:
        copy = copied(Path(folder))
        for wall in WALLS:
            if wanted and not any(word in wall.name for word in wanted):
                continue
            try:
                print(f"{wall.name} | {notice(wall, copy)}", flush=True)
            except Unnoticed as nobody:
                unnoticed += 1
                print(f"{wall.name} | NOBODY: {nobody}", flush=True)
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
