"""Attacks on processes, on time and memory, on the terminal, and on what stays when the run has ended."""

from __future__ import annotations

from tests.hostile.case import python, shell

BOUNDED = "bounded by the launcher where there are no walls too"
AT_END = "seen at the end of the run"

PROCESSES = [
    shell("signal-person", "kill -STOP @VICTIM; kill -9 @VICTIM", "1.2 signal agent", settle=0.2),
    shell("signal-agent-zero", "kill -0 @AGENT && echo REACHED", "1.2 signal agent"),
    python("signal-pidfd", "import os, signal; signal.pidfd_send_signal(os.pidfd_open(@VICTIM), 9)", "1.2 signal agent", settle=0.2),
    python("signal-queue", "import ctypes; ctypes.CDLL(None).sigqueue(@VICTIM, 9, 0)", "1.2 signal agent", settle=0.2),
    python("signal-owner-of-file", "import fcntl, os, socket; a, b = socket.socketpair(); fcntl.fcntl(a, 8, @VICTIM); fcntl.fcntl(a, 10, 9); fcntl.fcntl(a, 4, 0o20000); b.send(b'x')", settle=0.2),
    python("priority", "import os; os.setpriority(os.PRIO_PROCESS, @VICTIM, 19); print('REACHED')"),
    python("limits-of-others", "import resource; resource.prlimit(@VICTIM, resource.RLIMIT_NOFILE, (16, 4096)); print('REACHED')"),
    python("affinity", "import os; os.sched_setaffinity(@VICTIM, {0}); print('REACHED')"),
    shell("oom-score", "echo 1000 > /proc/@VICTIM/oom_score_adj && echo REACHED"),
    shell("pkill-by-name", "pkill -9 -f @ABSTRACT; for p in /proc/[0-9]*; do grep -qa @ABSTRACT $p/cmdline 2>/dev/null && [ ${p#/proc/} = @VICTIM ] && kill -9 @VICTIM; done", settle=0.2, alone=True),
    shell("stdin", "cat; read x; python3 -S -c 'input()'", seconds=8, proof=BOUNDED),
    shell("ignores-term", "trap '' TERM INT HUP; while :; do sleep 0.2; done", timeout=1, seconds=8, proof=BOUNDED),
    shell("long-output", "head -c 40000000 /dev/zero | tr '\\0' x", seconds=25, proof=BOUNDED),
    shell("endless-output", "yes", timeout=1, seconds=8, proof=BOUNDED),
    shell("output-held-open", "setsid -f sleep 300; sleep 300 & disown; echo started", seconds=25, proof=BOUNDED),
    shell("many-processes", "for i in $(seq 200); do sleep 300 & done; echo started", seconds=25, proof=BOUNDED),
    shell("double-fork", "(setsid sh -c 'trap \"\" TERM; sleep 300 & exec sleep 301' &) >/dev/null 2>&1", proof=AT_END),
    shell("nohup", "nohup sleep 300 >/dev/null 2>&1 & nohup setsid sleep 301 >/dev/null 2>&1 &", proof=AT_END),
    python("no-parent-no-mark", "import os\nif os.fork() == 0:\n os.setsid()\n if os.fork() == 0:\n  [os.close(fd) for fd in range(3)]\n  os.execve('/bin/sleep', ['sleep', '302'], {})\n os._exit(0)", proof=AT_END),
    shell("cron-at-systemd", "(echo '* * * * * evil' | crontab -) 2>/dev/null && echo REACHED && crontab -r; echo evil | at now+9hours 2>/dev/null && echo REACHED; systemd-run --user true 2>/dev/null && echo REACHED", proof="they may not be there"),
    python("memory", "x = []\ntry:\n  while len(x) < 2000: x.append(bytearray(b'x') * 1000)\nexcept MemoryError: pass", proof=BOUNDED),
    shell("tty", "python3 -S -c \"import fcntl; f = open('/dev/tty', 'w'); fcntl.ioctl(f, 0x5412, b'x'); print('REACHED')\"; for t in /dev/pts/[0-9]*; do python3 -S -c \"import fcntl, os; fcntl.ioctl(os.open('$t', os.O_RDWR | os.O_NOCTTY), 0x5412, b'')\"; done", "1.2", proof="needs a terminal"),
    shell("kills-its-parent", "kill -9 $PPID; kill -9 1; echo x > @OUT/new", "1.2 signal agent", alone=True),
    shell("stops-its-parent", "(sleep 1; kill -CONT $PPID) & kill -STOP $PPID; echo x > @OUT/new", alone=True, settle=1.2),
]  # fmt: skip

AFTER_THE_WARDEN = [
    shell("then-outside", "echo x > @OUT/new2; cat ~/.ssh/id_ed25519; echo x > /dev/tcp/127.0.0.1/@TCP", "a launcher that failed is never gone around"),
    shell("then-protected", "echo evil > .git/hooks/pre-commit", "a launcher that failed is never gone around"),
]  # fmt: skip
"""What follows an attack on the process that puts the walls up."""
