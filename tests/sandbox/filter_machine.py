"""A second reader of seccomp filters: runs the program on the numbers of one system call, as the kernel would."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from laguna_agent.sandbox.warden.seccomp import Instruction

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def decide(program: Sequence[Instruction], machine: str, number: int, *arguments: int, arch: int | None = None) -> int:
    """What the filter answers. Raises AssertionError where it is no valid program."""
    words = [each & 0xFFFFFFFFFFFFFFFF for each in (*arguments, 0, 0, 0, 0, 0, 0)[:6]]
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, ARCHITECTURES[machine] if arch is None else arch, 0, *words)
    accumulator = at = 0
    while at < len(program):
        code, if_true, if_false, operand = program[at]
        at += 1
        match code:
            case 0x20:
                assert operand % 4 == 0 and operand + 4 <= len(data)
                accumulator = struct.unpack_from("<I", data, operand)[0]
            case 0x54:
                accumulator &= operand
            case 0x15:
                at += if_true if accumulator == operand else if_false
            case 0x35:
                at += if_true if accumulator >= operand else if_false
            case 0x45:
                at += if_true if accumulator & operand else if_false
            case 0x06:
                return operand
            case _:
                raise AssertionError(f"instruction {code:#x}")
    raise AssertionError("the end was passed")
