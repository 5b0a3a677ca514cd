"""Each wall by itself, with the others away: what stands behind two would hide that one has fallen."""

from __future__ import annotations

import errno
import re
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laguna_agent.errors import SandboxError
from laguna_agent.sandbox import plans
from laguna_agent.sandbox.bubblewrap import view
from laguna_agent.sandbox.confinement import Tier
from laguna_agent.sandbox.placeholders import Placeholders
from laguna_agent.sandbox.policy import Policy
from laguna_agent.sandbox.programs import find_bubblewrap
from laguna_agent.sandbox.protected import find_protected
from laguna_agent.sandbox.warden import attributes, seccomp, walls
from tests.sandbox.conftest import Grounds
from tests.sandbox.filter_machine import decide

REFUSED, ABSENT = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
REACHES: tuple[seccomp.Reach, ...] = ("nothing", "namespace", "world")
MACHINES: tuple[Literal["x86_64", "aarch64"], ...] = ("x86_64", "aarch64")


def alone(code: str, *arguments: str, wrapper: tuple[str, ...] = ()) -> str:
    """Run Python with the package at hand, in a process that may confine itself; what it prints."""
    head = "import ctypes, os, socket, sys\nfrom laguna_agent.sandbox.warden import capabilities, landlock, seccomp\n"
    head += "from laguna_agent.sandbox.warden.kernel import prctl\nprctl(38, 1)\n"
    head += "def attempt(do, *a):\n try: do(*a); return 'done'\n except OSError as e: return str(e.errno)\n"
    command = [*wrapper, sys.executable, "-c", head + code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def calls(numbers: dict[str, tuple[int | None, int | None]], machine: str) -> dict[str, int]:
    found = {name: pair[MACHINES.index(machine)] for name, pair in numbers.items()}  # type: ignore[arg-type]
    return {name: number for name, number in found.items() if number is not None}


# Written out again: a rule that goes missing must be missed.
REFUSED_ALWAYS = [
    "io_uring_setup",
    "io_uring_enter",
    "io_uring_register",
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "pidfd_getfd",
    "kcmp",
    "mount",
    "umount2",
    "pivot_root",
    "move_mount",
    "open_tree",
    "fsopen",
    "fsconfig",
    "fsmount",
    "fspick",
    "mount_setattr",
    "open_tree_attr",
    "chroot",
    "setns",
    "bpf",
    "perf_event_open",
    "add_key",
    "request_key",
    "keyctl",
    "kexec_load",
    "kexec_file_load",
    "init_module",
    "delete_module",
    "finit_module",
    "userfaultfd",
    "swapon",
    "swapoff",
    "reboot",
    "settimeofday",
    "clock_settime",
    "clock_adjtime",
    "adjtimex",
    "quotactl",
    "quotactl_fd",
    "acct",
    "iopl",
    "ioperm",
    "syslog",
    "vhangup",
    "open_by_handle_at",
    "fanotify_init",
]
REFUSED_WITHOUT_NAMESPACE = [
    "shmget",
    "shmat",
    "shmctl",
    "semget",
    "semop",
    "semctl",
    "semtimedop",
    "msgget",
    "msgsnd",
    "msgrcv",
    "msgctl",
    "mq_open",
    "mq_unlink",
]
HANDED_OVER = [
    *("chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "lchown", "fchown", "fchownat"),
    *("utime", "utimes", "futimesat", "utimensat"),
]
ABOUT_OTHERS = [
    "sched_setparam",
    "sched_setscheduler",
    "sched_setaffinity",
    "sched_setattr",
    "setpriority",
    "ioprio_set",
]
TABLES = (
    seccomp._DENIED,
    seccomp._SHARED_MEMORY,
    seccomp._ATTRIBUTES,
    seccomp._OF_FILES,
    seccomp._OF_PROCESSES,
    seccomp._WITH_ARGUMENTS,
)


def test_no_rule_is_missing() -> None:
    assert set(seccomp._DENIED) == set(REFUSED_ALWAYS)
    assert set(seccomp._SHARED_MEMORY) == set(REFUSED_WITHOUT_NAMESPACE)
    assert set(seccomp._ATTRIBUTES) == {
        *(f"{letter}{verb}xattr" for letter in ("", "l", "f") for verb in ("set", "remove")),
        *("setxattrat", "removexattrat", "file_setattr"),
    }
    assert set(seccomp._OF_FILES) == set(HANDED_OVER) == attributes.CALLS
    assert set(seccomp._OF_PROCESSES) == set(ABOUT_OTHERS)
    for pairs in TABLES:
        assert all(len(set(calls(pairs, machine).values())) == len(calls(pairs, machine)) for machine in MACHINES)


@pytest.mark.skipif(not Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h").exists(), reason="no kernel headers")
def test_the_numbers_are_the_kernels() -> None:
    for machine, header in (
        ("x86_64", "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
        ("aarch64", "/usr/include/asm-generic/unistd.h"),
    ):
        found = re.findall(r"#define __NR(?:3264)?_(\w+) (\d+)", Path(header).read_text())
        known = {name: int(number) for name, number in found}
        for pairs in TABLES:
            for name, number in calls(pairs, machine).items():
                assert known.get(name, number) == number, (machine, name)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("reach", REACHES)
def test_calls_that_are_always_refused(machine: str, reach: seccomp.Reach) -> None:
    program = seccomp.program(machine, reach, own_ipc=True)
    assert len(program) < 4096
    denied = calls(seccomp._DENIED, machine)
    for name, number in denied.items():
        assert decide(program, machine, number) == REFUSED, name
    harmless = set(range(460)) - set(denied.values()) - set(calls(seccomp._WITH_ARGUMENTS, machine).values())
    assert all(decide(program, machine, number) == seccomp.ALLOW for number in harmless)
    assert decide(program, machine, 0, arch=0x40000003) == seccomp.KILL
    if machine == "x86_64":
        assert decide(program, machine, 0x40000000 + 2) == REFUSED


@pytest.mark.parametrize("machine", MACHINES)
def test_shared_memory_and_attributes_only_in_a_namespace(machine: str) -> None:
    refused = dict.fromkeys(calls(seccomp._SHARED_MEMORY, machine).items(), REFUSED)
    refused |= dict.fromkeys(calls(seccomp._ATTRIBUTES, machine).items(), seccomp.UNSUPPORTED)
    for (name, number), answer in refused.items():
        assert decide(seccomp.program(machine, "nothing", own_ipc=False), machine, number) == answer, name
        assert decide(seccomp.program(machine, "namespace", own_ipc=True), machine, number) == seccomp.ALLOW, name


@pytest.mark.parametrize("machine", MACHINES)
def test_what_is_handed_over_only_without_a_namespace(machine: str) -> None:
    alone_, within = (seccomp.program(machine, "nothing", own_ipc=each) for each in (False, True))
    unheard = seccomp.program(machine, "nothing", own_ipc=False, supervised=False)
    for name, number in calls(seccomp._OF_FILES, machine).items():
        assert decide(alone_, machine, number) == seccomp.HAND_OVER, name
        assert decide(within, machine, number) == decide(unheard, machine, number) == seccomp.ALLOW, name
    numbers = calls(seccomp._OF_PROCESSES, machine)
    for name in ABOUT_OTHERS[:4]:
        assert decide(alone_, machine, numbers[name], 0) == seccomp.ALLOW, name
        assert decide(alone_, machine, numbers[name], 4711) == seccomp.HAND_OVER, name
        assert decide(within, machine, numbers[name], 4711) == decide(unheard, machine, numbers[name], 4711)
    for name, (process, group, user) in (("setpriority", (0, 1, 2)), ("ioprio_set", (1, 2, 3))):
        answers = [
            decide(alone_, machine, numbers[name], what, who) for what in (process, group, user) for who in (0, 9)
        ]
        assert answers == [seccomp.ALLOW, seccomp.HAND_OVER, seccomp.ALLOW, *[REFUSED] * 3], name
        assert decide(within, machine, numbers[name], user, 0) == seccomp.ALLOW


JUDGED: dict[str, tuple[list[tuple[int, ...]], list[tuple[int, ...]]]] = {
    "clone": ([(0x10000011,), (0x20000,), (0x40000000,), (0x7E020000,)], [(0x11,), (0x1200011,), (0x3D0F00,)]),
    "unshare": ([(0x10000000,), (0x80,), (0x20000 | 0x400,)], [(0x400,), (0x200,)]),
    "ioctl": ([(0, 0x5412), (0, 0x541C), (0, (7 << 32) | 0x5412)], [(0, 0x5413), (0, 0x5401)]),
    "mknod": ([(0, 0o20600), (0, 0o60600)], [(0, 0o100600), (0, 0o10600), (0, 0o600), (0, 0o140600)]),
    "mknodat": ([(0, 0, 0o20600), (0, 0, 0o60600)], [(0, 0, 0o100600), (0, 0, 0o10600)]),
    "personality": ([(0x400000,), (1,), (0x0200000,)], [(0,), (0xFFFFFFFF,), (0x40000,)]),
}
SOCKETS = {
    "nothing": set[tuple[int, int, int]](),
    "namespace": {(1, 1, 0), (1, 2, 0), (2, 1, 0), (2, 2, 17), (10, 1, 0), (16, 3, 0)},
    "world": {(2, 1, 0), (2, 2, 17), (10, 1, 0), (16, 3, 0)},
}
EVERY_SOCKET = SOCKETS["namespace"] | {
    (16, 3, 9),
    (16, 3, 15),
    (17, 3, 0),
    (38, 5, 0),
    (40, 1, 0),
    (0, 0, 0),
    (31, 3, 1),
}


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("reach", REACHES)
def test_calls_that_are_judged_by_their_arguments(machine: str, reach: seccomp.Reach) -> None:
    program = seccomp.program(machine, reach, own_ipc=reach == "namespace")
    numbers = calls(seccomp._WITH_ARGUMENTS, machine)
    for name, (refused, allowed) in JUDGED.items():
        if name in numbers:
            for arguments in refused:
                assert decide(program, machine, numbers[name], *arguments) == REFUSED, (name, arguments)
            for arguments in allowed:
                assert decide(program, machine, numbers[name], *arguments) == seccomp.ALLOW, (name, arguments)
    flags = seccomp.ALLOW if reach == "namespace" else REFUSED
    assert {decide(program, machine, numbers["ioctl"], 3, each) for each in (0x40086602, 0x401C5820)} == {flags}
    assert decide(program, machine, numbers["clone3"]) == ABSENT
    open_ = {each for each in EVERY_SOCKET if decide(program, machine, numbers["socket"], *each) == seccomp.ALLOW}
    assert open_ == SOCKETS[reach]
    pair = numbers["socketpair"]
    assert decide(program, machine, pair, 1, 1 | 0o2000000, 0) == seccomp.ALLOW
    datagrams = seccomp.ALLOW if reach == "namespace" else REFUSED
    assert decide(program, machine, pair, 1, 2 | 0o2000000, 0) == datagrams
    assert decide(program, machine, pair, 30, 1, 0) == REFUSED
    limits = [decide(program, machine, numbers["prlimit64"], pid) for pid in (0, 4711)]
    assert limits == [seccomp.ALLOW, seccomp.ALLOW if reach == "namespace" else REFUSED]


@settings(max_examples=40)
@given(st.integers(0, 600), st.lists(st.integers(0, 2**64 - 1), min_size=6, max_size=6))
def test_every_call_has_an_answer(number: int, arguments: list[int]) -> None:
    for machine in MACHINES:
        for reach in REACHES:
            program = seccomp.program(machine, reach, own_ipc=False)
            answers = (seccomp.ALLOW, REFUSED, ABSENT, seccomp.UNSUPPORTED, seccomp.HAND_OVER)
            assert decide(program, machine, number, *arguments) in answers


def test_the_kernel_takes_the_filter(bubblewrap: Tier) -> None:
    names = ["io_uring_setup", "ptrace", "mount", "bpf", "keyctl", "userfaultfd", "open_by_handle_at", "chroot"]
    code = "seccomp.install('nothing', own_ipc=False)\nlibc = ctypes.CDLL(None, use_errno=True)\n"
    code += f"for name in {names}:\n number = seccomp._DENIED[name][seccomp.MACHINE != 'x86_64']\n"
    code += " print(name, libc.syscall(number, 0, 0, 0, 0, 0), ctypes.get_errno())\n"
    code += "print(attempt(socket.socket), attempt(socket.socketpair))"
    *lines, sockets = alone(code).splitlines()
    assert lines == [f"{name} -1 {errno.EPERM}" for name in names]
    assert sockets == f"{errno.EPERM} done"


def test_landlock_alone(tmp_path: Path) -> None:
    for name in ("in", "out", "hidden", "shown"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("as it was")
    code = """
inside, outside, hidden, shown = sys.argv[1:]
version = landlock.restrict([inside, '/dev/null'], [shown], tcp=False)
write = lambda p: open(p, 'a').close()
print(version)
print(attempt(write, inside + '/new'), attempt(os.rename, inside + '/new', inside + '/other'))
file = outside + '/file'
print(attempt(write, outside + '/new'), attempt(os.truncate, file, 0), attempt(os.unlink, file))
print(attempt(os.mkdir, outside + '/d'), attempt(os.symlink, 'x', outside + '/l'), attempt(os.mkfifo, outside + '/f'))
print(attempt(os.rename, inside + '/other', outside + '/o'), attempt(os.link, outside + '/file', inside + '/l'))
print(attempt(open, hidden + '/file'), attempt(open, shown + '/file'), attempt(os.listdir, hidden))
s = socket.socket()
print(attempt(s.connect, ('127.0.0.1', 9)), attempt(s.bind, ('127.0.0.1', 0)), attempt(os.kill, os.getppid(), 0))
"""
    paths = [str(tmp_path / name) for name in ("in", "out", "hidden", "shown")]
    version, *lines = alone(code, *paths).splitlines()
    if int(version) < 6:
        pytest.skip(f"Landlock {version} knows neither signals nor TCP")
    refused, moved = str(errno.EACCES), str(errno.EXDEV)
    answers = [line.split() for line in lines]
    assert answers[0] == ["done", "done"]
    assert answers[1] == answers[2] == [refused] * 3
    assert set(answers[3]) <= {refused, moved}
    assert answers[4] == [refused, "done", "done"]
    assert answers[5] == [refused, refused, str(errno.EPERM)]


def test_capabilities_alone() -> None:
    status = alone("capabilities.drop_all()\nprint(os.popen('grep ^Cap /proc/self/status').read())").split()
    sets = dict(zip(status[::2], status[1::2], strict=True))
    for name in ("CapInh:", "CapPrm:", "CapEff:", "CapAmb:"):
        assert int(sets[name], 16) == 0, name


MOUNTED = """
umount .git/hooks; mount -o remount,bind,rw .git/hooks; mount -o remount,bind,rw /; mount -t tmpfs none .git/hooks
touch .git/hooks/new .git/new ../outside/new; echo x >> .git/config; mv .git moved; rmdir .envrc; touch .envrc
unshare -Urm umount .git/hooks; hostname changed; touch ~/.ssh/new && echo wrote into nothing
chmod 777 ../outside/file; cat ~/.ssh/id; ls /run /proc | head -400; id -u; ls -l /dev; cat /proc/net/dev
grep ^Cap /proc/self/status
"""


def test_mounts_and_namespaces_alone(bubblewrap: Tier, make_ground: Grounds) -> None:
    """Bubblewrap's words without a warden behind them: no Landlock, no seccomp, no capabilities dropped by us."""
    ground = make_ground(bubblewrap)
    home = Path.home()
    (home / ".ssh").mkdir()
    (home / ".ssh" / "id").write_text("very secret")
    policy = Policy(root=ground.workspace, hidden=(home / ".ssh",), temporary=ground.temporary)
    protected = find_protected(policy)
    placeholders = Placeholders(ground.workspace)
    placeholders.hold(protected.absent)
    program = find_bubblewrap()
    assert program is not None
    words = view(program, policy, "workspace", protected).words
    before = (ground.workspace / ".git" / "config").read_bytes(), (ground.outside / "file").stat()
    command = f"cd {ground.workspace}\n{MOUNTED}"
    done = subprocess.run([*words, "/bin/sh", "-c", command], capture_output=True, text=True, check=False)
    assert (ground.workspace / ".git" / "new").exists(), "the repository itself is writable"
    assert not (ground.workspace / ".git" / "hooks" / "new").exists()
    assert not (ground.outside / "new").exists()
    assert (ground.workspace / ".envrc").is_dir()
    assert before == ((ground.workspace / ".git" / "config").read_bytes(), (ground.outside / "file").stat())
    assert "very secret" not in done.stdout
    assert "wrote into nothing" not in done.stdout
    processes = [line for line in done.stdout.splitlines() if line.isdigit()]
    assert len(processes) < 10, "it sees the processes of others"
    devices = [line.split(":")[0].strip() for line in done.stdout.splitlines() if ":" in line and "|" not in line]
    assert "lo" in devices and not any(each.startswith(("eth", "en", "wl")) for each in devices)
    assert all(line.split()[1] == "0" * 16 for line in done.stdout.splitlines() if line.startswith("Cap"))
    placeholders.release()
    assert not (ground.workspace / ".envrc").exists()


def test_what_was_exchanged_is_not_served(tmp_path: Path) -> None:
    """Between looking and mounting a link was put in the place of a directory."""
    (tmp_path / "real").mkdir()
    at = (tmp_path / "real").lstat()
    walls._verify([(str(tmp_path / "real"), at.st_dev, at.st_ino)])
    (tmp_path / "real").rename(tmp_path / "old")
    (tmp_path / "real").symlink_to(tmp_path / "old")
    with pytest.raises(OSError, match="exchanged"):
        walls._verify([(str(tmp_path / "real"), at.st_dev, at.st_ino)])


def test_an_exchange_stops_the_warden(make_ground: Grounds, bubblewrap: Tier, monkeypatch: pytest.MonkeyPatch) -> None:
    real = plans.view

    def exchanged(*arguments: object) -> object:
        seen = real(*arguments)  # type: ignore[arg-type]
        path, device, inode = seen.identities[0]
        return type(seen)(seen.words, seen.writable, ((path, device, inode + 1), *seen.identities[1:]))

    monkeypatch.setattr(plans, "view", exchanged)
    with pytest.raises(SandboxError, match="exchanged"):
        make_ground(bubblewrap).run("true")
