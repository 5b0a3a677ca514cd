"""Seccomp: which system calls this process and all its descendants may make, from now on.

A filter sees numbers, never paths. Knows the calls by architecture and what each network reach needs; must not know
files. The caller has set no_new_privs.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import struct
from typing import Literal

from .kernel import MACHINE, syscall

Reach = Literal["nothing", "namespace", "world"]
"""What the process may talk to: nothing but what it inherits and its own pairs of sockets (the network and the files of
the machine are visible, so any socket could leave); whatever is in its own empty network namespace; the network of the
machine, but no local socket."""
Instruction = tuple[int, int, int, int]
"""Code, jump if true, jump if false, operand; see bpf(4)."""

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_SET_MODE_FILTER, _SPEC_ALLOW, _NEW_LISTENER = 1, 1 << 2, 1 << 3
_X32 = 0x40000000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_NR, _ARCH, _ARGUMENTS = 0, 4, 16
ALLOW, KILL = 0x7FFF0000, 0x80000000
HAND_OVER = 0x7FC00000
"""To the supervisor (`supervisor.py`), which makes the call or has it go on."""
REFUSE, ABSENT, UNSUPPORTED = (0x00050000 | number for number in (errno.EPERM, errno.ENOSYS, errno.ENOTSUP))

# name: (x86_64, aarch64); None where the architecture lacks the call.
_DENIED: dict[str, tuple[int | None, int | None]] = {
    # A second way to do everything, unseen by any filter.
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    # Other processes' memory and descriptors.
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    # Changing what the mounts show.
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "move_mount": (429, 429),
    "open_tree": (428, 428), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "mount_setattr": (442, 442), "open_tree_attr": (467, 467), "chroot": (161, 51), "setns": (308, 268),
    # The kernel itself: its programs, keys, modules, clocks, quotas.
    "bpf": (321, 280), "perf_event_open": (298, 241), "add_key": (248, 217), "request_key": (249, 218),
    "keyctl": (250, 219), "kexec_load": (246, 104), "kexec_file_load": (320, 294), "init_module": (175, 105),
    "delete_module": (176, 106), "finit_module": (313, 273), "userfaultfd": (323, 282), "swapon": (167, 224),
    "swapoff": (168, 225), "reboot": (169, 142), "settimeofday": (164, 170), "clock_settime": (227, 112),
    "clock_adjtime": (305, 266), "adjtimex": (159, 171), "quotactl": (179, 60), "quotactl_fd": (443, 443),
    "acct": (163, 89), "iopl": (172, None), "ioperm": (173, None), "syslog": (103, 116), "vhangup": (153, 58),
    "open_by_handle_at": (304, 265), "fanotify_init": (300, 262),
}  # fmt: skip
# System V and POSIX queues: shared with every process of the user unless there is an IPC namespace.
_SHARED_MEMORY: dict[str, tuple[int | None, int | None]] = {
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "semget": (64, 190), "semop": (65, 193),
    "semctl": (66, 191), "semtimedop": (220, 192), "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188),
    "msgctl": (71, 187), "mq_open": (240, 180), "mq_unlink": (241, 181),
}  # fmt: skip
# Attributes of any file that is readable and the person's own: where no mount forbids it, nothing else does. The answer
# is that of a file system that has none, which programs that copy files expect.
_ATTRIBUTES: dict[str, tuple[int | None, int | None]] = {
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "removexattr": (197, 14),
    "lremovexattr": (198, 15), "fremovexattr": (199, 16), "setxattrat": (463, 463), "removexattrat": (466, 466),
    "file_setattr": (469, 469),
}  # fmt: skip
# Modes, owners and times of any file that is the person's own, for which there is no Landlock right either.
_OF_FILES: dict[str, tuple[int | None, int | None]] = {
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None),
    "lchown": (94, None), "fchown": (93, 55), "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None),
    "futimesat": (261, None), "utimensat": (280, 88),
}  # fmt: skip
# How much of the machine any process of the person may take; 0 is the caller itself.
_OF_PROCESSES: dict[str, tuple[int | None, int | None]] = {
    "setpriority": (141, 140), "ioprio_set": (251, 30), "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119), "sched_setaffinity": (203, 122), "sched_setattr": (314, 274),
}  # fmt: skip
_WITH_ARGUMENTS: dict[str, tuple[int | None, int | None]] = {
    "clone": (56, 220), "clone3": (435, 435), "unshare": (272, 97), "ioctl": (16, 29), "mknod": (133, None),
    "mknodat": (259, 33), "personality": (135, 92), "socket": (41, 198), "socketpair": (53, 199),
    "prlimit64": (302, 261),
}  # fmt: skip

_NAMESPACES = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_NEW_TIME = 0x80
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
# FS_IOC_SETFLAGS, its 32-bit form, FS_IOC_FSSETXATTR.
_SET_FLAGS = (0x40086602, 0x40046602, 0x401C5820)
_TYPE_OF_FILE, _CHARACTER_DEVICE, _BLOCK_DEVICE = 0xF000, 0x2000, 0x6000
# The usual one, asking, 32 bit, an old version number, and no randomised addresses, which sanitizers ask for.
_PERSONALITIES = (0, 0xFFFFFFFF, 8, 0x20000, 0x20008, 0x40000)
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK, _NETLINK_ROUTE = 1, 2, 10, 16, 0
_SOCKET_KIND, _DATAGRAM = 0xF, 2


def install(reach: Reach, *, own_ipc: bool, own_pids: bool = False) -> int | None:
    """Filter this process. Without mounts of its own (which come with `own_ipc`) some calls are handed over: then it
    gives the descriptor that a `Supervisor` listens to; until one does they wait. `own_pids` says that no process but
    its own has a number. Raises OSError, also where the processor is one that there is no table for."""
    if not MACHINE:
        raise OSError(errno.ENOSYS, "no table of system calls for this processor")
    if not own_ipc:
        with contextlib.suppress(_Supervised):
            return _install(program(MACHINE, reach, own_ipc=False, own_pids=own_pids), _NEW_LISTENER)
    _install(program(MACHINE, reach, own_ipc=own_ipc, own_pids=own_pids, supervised=False), 0)
    return None


class _Supervised(Exception):
    """A filter around this one has a supervisor already, which hears of the same calls; there is at most one."""


def _install(filter_: list[Instruction], flags: int) -> int:
    code = b"".join(struct.pack("=HBBI", *each) for each in filter_)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    try:
        # Without SPEC_ALLOW older kernels slow every filtered process down for the sake of another attack.
        return syscall(
            _SECCOMP[MACHINE], _SET_MODE_FILTER, _SPEC_ALLOW | flags, ctypes.create_string_buffer(header, len(header))
        )
    except OSError as error:
        if flags & _NEW_LISTENER and error.errno == errno.EBUSY:
            raise _Supervised from error
        raise


def handed_over(machine: str) -> dict[int, str]:
    """The names of the calls that are handed over, by their numbers."""
    column = 0 if machine == "x86_64" else 1
    return {each: name for name, pair in (_OF_FILES | _OF_PROCESSES).items() if (each := pair[column]) is not None}


def program(
    machine: str, reach: Reach, *, own_ipc: bool, own_pids: bool = False, supervised: bool = True
) -> list[Instruction]:
    """The filter. What it does not name is allowed."""
    column = 0 if machine == "x86_64" else 1
    denied = dict.fromkeys(_DENIED.values() if own_ipc else (*_DENIED.values(), *_SHARED_MEMORY.values()), REFUSE)
    if not own_ipc:
        denied |= dict.fromkeys(_ATTRIBUTES.values(), UNSUPPORTED)
        denied |= dict.fromkeys(_OF_FILES.values(), HAND_OVER) if supervised else {}
    code: list[Instruction] = [
        (_LOAD, 0, 0, _ARCH), (_EQUAL, 1, 0, _AUDIT_ARCH[machine]), (_RETURN, 0, 0, KILL), (_LOAD, 0, 0, _NR),
    ]  # fmt: skip
    if machine == "x86_64":
        code += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, REFUSE)]
    for numbers, answer in denied.items():
        if (number := numbers[column]) is not None:
            code += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, answer)]
    blocks = _judged_by_arguments(reach, own_ipc=own_ipc)
    if not (own_ipc or own_pids):
        blocks |= _about_others(supervised=supervised)
    for name, block in blocks.items():
        if (number := (_WITH_ARGUMENTS | _OF_PROCESSES)[name][column]) is not None:
            code += [(_EQUAL, 0, len(block), number), *block]
    return [*code, (_RETURN, 0, 0, ALLOW)]


def _judged_by_arguments(reach: Reach, *, own_ipc: bool) -> dict[str, list[Instruction]]:
    """For each call the instructions that decide it; every block ends in a decision."""
    devices = (_CHARACTER_DEVICE, _BLOCK_DEVICE)
    return {
        "clone": [*_argument(0), *_refuse_bits(_NAMESPACES), _ALLOWED],
        # Its flags lie in memory, where no filter sees them. ENOSYS makes libc fall back on clone.
        "clone3": [(_RETURN, 0, 0, ABSENT)],
        "unshare": [*_argument(0), *_refuse_bits(_NAMESPACES | _NEW_TIME), _ALLOWED],
        "ioctl": [
            *_argument(1), *_refuse_values(_TIOCSTI, _TIOCLINUX, *(() if own_ipc else _SET_FLAGS)), _ALLOWED,
        ],
        "mknod": [*_argument(1), (_AND, 0, 0, _TYPE_OF_FILE), *_refuse_values(*devices), _ALLOWED],
        "mknodat": [*_argument(2), (_AND, 0, 0, _TYPE_OF_FILE), *_refuse_values(*devices), _ALLOWED],
        "personality": [*_argument(0), *_only(_PERSONALITIES)],
        "socket": _sockets(reach),
        # A datagram socket of a pair can still send to any name.
        "socketpair": [*_argument(0), *_refuse_unless(_AF_UNIX), _ALLOWED]
        if reach == "namespace"
        else [
            *_argument(0), *_refuse_unless(_AF_UNIX),
            *_argument(1), (_AND, 0, 0, _SOCKET_KIND), *_refuse_values(_DATAGRAM), _ALLOWED,
        ],
    }  # fmt: skip


def _about_others(*, supervised: bool) -> dict[str, list[Instruction]]:
    """Calls that take a process: about itself is allowed, about another handed over, about all of a user not."""
    other = (_RETURN, 0, 0, HAND_OVER if supervised else ALLOW)
    one = [*_argument(0), (_EQUAL, 0, 1, 0), _ALLOWED, other]
    return dict.fromkeys(_OF_PROCESSES, one) | {
        # CPU time 0 would end the agent.
        "prlimit64": [*_argument(0), *_only((0,))],
    } | {
        name: [*_argument(1), (_EQUAL, 0, 3, 0), *_argument(0), (_EQUAL, 1, 0, user), _ALLOWED,
               *_argument(0), *_refuse_unless(process), other]
        for name, process, user in (("setpriority", 0, 2), ("ioprio_set", 1, 3))
    }  # fmt: skip


def _sockets(reach: Reach) -> list[Instruction]:
    if reach == "nothing":
        return [(_RETURN, 0, 0, REFUSE)]
    families = (_AF_UNIX, _AF_INET, _AF_INET6) if reach == "namespace" else (_AF_INET, _AF_INET6)
    # Netlink is how programs ask for the addresses of the machine; its other protocols reach into the kernel.
    netlink = [*_argument(2), *_only((_NETLINK_ROUTE,))]
    return [*_argument(0), (_EQUAL, 0, len(netlink), _AF_NETLINK), *netlink, *_only(families)]


_ALLOWED: Instruction = (_RETURN, 0, 0, ALLOW)


def _argument(index: int) -> list[Instruction]:
    """Load the low half of an argument: each that is looked at is an int to the kernel. (Both are little-endian.)"""
    return [(_LOAD, 0, 0, _ARGUMENTS + 8 * index)]


def _refuse_bits(mask: int) -> list[Instruction]:
    return [(_ANY_BIT, 0, 1, mask), (_RETURN, 0, 0, REFUSE)]


def _refuse_values(*values: int) -> list[Instruction]:
    return [step for value in values for step in ((_EQUAL, 0, 1, value), (_RETURN, 0, 0, REFUSE))]


def _refuse_unless(value: int) -> list[Instruction]:
    return [(_EQUAL, 1, 0, value), (_RETURN, 0, 0, REFUSE)]


def _only(values: tuple[int, ...]) -> list[Instruction]:
    return [*(step for value in values for step in ((_EQUAL, 0, 1, value), _ALLOWED)), (_RETURN, 0, 0, REFUSE)]
