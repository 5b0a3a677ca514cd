"""Someone who puts the terminal right when the program could not: after SIGKILL, a crash of the interpreter, no memory.

A process that is killed leaves its terminal in raw mode, perhaps with a hidden cursor and with keys that arrive as
escape sequences. So a shell of a megabyte waits at the other end of a pipe. Where the pipe ends without a goodbye, it
gives back what was found. It is /bin/sh and not a fork of ours, which would keep every page that this process had.
Knows terminals; must not know the face that draws on one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# In order: whole cells again (an open frame, margins without the cursor going home, style), modes that change what keys
# send, then the cursor.
_MODES = (
    "\x1b[?2026l\x1b7\x1b[r\x1b8\x1b[?7h\x1b[0m"
    "\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?1004l\x1b[?1l\x1b>\x1b[<u\x1b[>4;0m"
    "\x1b[0 q\x1b[?25h"
)
_WORDS = {
    3: {"echo": termios.ECHO, "icanon": termios.ICANON, "iexten": termios.IEXTEN, "isig": termios.ISIG},
    0: {
        "brkint": termios.BRKINT,
        "icrnl": termios.ICRNL,
        "ignbrk": termios.IGNBRK,
        "igncr": termios.IGNCR,
        "inlcr": termios.INLCR,
        "inpck": termios.INPCK,
        "istrip": termios.ISTRIP,
        "ixoff": termios.IXOFF,
        "ixon": termios.IXON,
        "parmrk": termios.PARMRK,
    },
    1: {"opost": termios.OPOST},
}
"""What raw mode changes: `stty`'s names, by their place in what tcgetattr gives."""

# A shell that has the terminal back has set it up for itself, and draws its own prompt: then only what it does not know
# of is undone. It is given the time to take it, for whoever came between would leave its input line without raw mode.
# $1: words for stty, $2: modes, $3: the group of processes that had the terminal, which nobody has any more (-1) where
# we were the first process on it.
_SCRIPT = r"""
trap '' INT QUIT TSTP TTIN TTOU TERM HUP
read -r word
[ "$word" = bye ] && exit 0
sleep 0.2 || sleep 1
if [ -r /proc/self/stat ]; then
    read -r _ _ _ _ _ _ _ holder _ </proc/self/stat
else
    holder=$(ps -o tpgid= -p $$ | tr -d ' ')
fi
case $holder in
    "$3" | -1 | 0)
        stty $1 <&1
        printf '%s\033[?2004l\r\n\033[J' "$2" ;;
    *) printf '%s' "$2" ;;
esac
"""


@contextmanager
def guarded_terminal(descriptor: int | None = None) -> Iterator[None]:
    """Whatever ends the program inside, the terminal is as it was before: its modes by us, or by the guardian where
    we are killed. `descriptor` is the terminal's, standard output's where it is None. Without a terminal there, or
    where no process can be started, the program goes on unguarded.
    """
    descriptor = sys.stdout.fileno() if descriptor is None else descriptor
    try:
        found = termios.tcgetattr(descriptor)
    except termios.error:
        yield
        return
    guardian = _start(descriptor, found)
    try:
        yield
    finally:
        # The terminal may be gone: that is often why we end.
        with suppress(termios.error):
            termios.tcsetattr(descriptor, termios.TCSADRAIN, found)
        if guardian is not None:
            _dismiss(guardian)


def _start(descriptor: int, found: list[object]) -> subprocess.Popen[bytes] | None:
    arguments = [" ".join(_stty_words(found)), _MODES, str(os.getpgrp())]
    try:
        return subprocess.Popen(
            ["/bin/sh", "-c", _SCRIPT, "laguna-agent-guardian", *arguments],
            stdin=subprocess.PIPE,
            stdout=descriptor,
            stderr=subprocess.DEVNULL,
            # Not the workspace, whose programs might stand in PATH, and no key of ours.
            cwd="/",
            env={"PATH": f"/usr/bin:/bin:{os.environ.get('PATH', '')}"},
            # Whoever kills our whole group must not kill the guardian.
            process_group=0,
        )
    except OSError:
        return None


def _dismiss(guardian: subprocess.Popen[bytes]) -> None:
    # It may have been killed by somebody: then nobody listens.
    with suppress(OSError, subprocess.TimeoutExpired):
        guardian.communicate(b"bye\n", timeout=2)


def _stty_words(found: list[object]) -> list[str]:
    """What `stty` must be told so that the modes are again as tcgetattr has `found` them."""
    words = []
    for place, flags in _WORDS.items():
        value = found[place]
        assert isinstance(value, int)
        words += [name if value & flag else f"-{name}" for name, flag in flags.items()]
    return words
