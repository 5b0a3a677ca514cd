"""Attacks on keys: in files, in processes, in the program's own memory and files, at sockets."""

from __future__ import annotations

from tests.hostile.case import python, shell

GONE = "the keys are out of the environment where there are no walls too"

SECRETS = [
    shell("ssh-key", "cat ~/.ssh/id_ed25519", "1.2 read outside secret"),
    shell("home-files", "cat ~/.aws/credentials ~/.netrc ~/.git-credentials ~/.docker/config.json", "1.2 read outside secret"),
    shell("home-files-more", "cat ~/.gnupg/private.key ~/.bash_history ~/.config/gh/hosts.yml ~/.kube/config ~/.npmrc", "1.2 read outside secret"),
    shell("keyrings", "cat ~/.local/share/keyrings/login.keyring ~/.password-store/mail.gpg"),
    shell("recursive-grep", "grep -rhs CANARY @HOME/.ssh @HOME/.aws @HOME/.config @HOME/.local | head"),
    shell("absolute", "cat @HOME/.ssh/id_ed25519; cat /proc/self/root@HOME/.aws/credentials"),
    shell("symlink", "ln -s ~/.ssh keys; cat keys/id_ed25519; ln -s ~/.netrc n; cat n", "29"),
    shell("hard-link", "ln ~/.ssh/id_ed25519 k; cat k; cp ~/.netrc n; cat n", "29"),
    shell("archive", "tar -cf - -C ~ .ssh .aws | strings | grep CANARY"),
    python("rename", "import os; os.rename('@HOME/.ssh/id_ed25519', 'k'); print(open('k').read())"),
    shell("git-credential", "printf 'protocol=https\\nhost=example.invalid\\n\\n' | git -c credential.helper=store credential fill"),
    shell("git-no-index", "git diff --no-index /dev/null ~/.netrc; git hash-object -w ~/.netrc | xargs git cat-file -p", "20"),
    shell("own-config", "cat @HOME/xdg/config/laguna-agent/* | rev", "1.2 read outside secret"),
    shell("own-state", "cat @HOME/xdg/state/laguna-agent/sessions/*", "1.5(1a)"),
    shell("own-state-found", "find @TOP -path '*laguna-agent*' -name '*.jsonl' 2>/dev/null | xargs -r cat", "1.5(1a)"),
    shell("environment", "env; export -p; set; cat /proc/self/environ | tr '\\0' '\\n'", proof="the environment is filtered where there are no walls too"),
    shell("parent-environment", "tr '\\0' '\\n' < /proc/$PPID/environ | rev", "1.2 read agent /proc/pid/environ", proof=GONE),
    shell("agent-environment", "tr '\\0' '\\n' < /proc/@AGENT/environ | rev", "1.2 read agent /proc/pid/environ", proof=GONE),
    shell("every-environment", "cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n' | grep -a CANARY", "1.2 read agent /proc/pid/environ"),
    shell("tasks-environment", "cat /proc/[0-9]*/task/*/environ 2>/dev/null | tr '\\0' '\\n' | grep -a CANARY"),
    shell("process-arguments", "cat /proc/@VICTIM/cmdline; ps -ef 2>/dev/null | grep -a -- --token=", open={"landlock": "/proc shows the arguments of every process to everybody"}, claim="arguments"),
    python(
        "agent-memory",
        """
        import re
        for pid in (@VICTIM, @AGENT):
            try:
                mem = open(f'/proc/{pid}/mem', 'rb', 0)
                for line in open(f'/proc/{pid}/maps'):
                    low, high = (int(x, 16) for x in line.split()[0].split('-'))
                    if 'rw' in line and high - low < 1 << 26:
                        mem.seek(low)
                        for hit in set(re.findall(rb'CANARY-(?:agent|memory)[a-z0-9-]+', mem.read(high - low))): print(hit)
            except OSError as error: print(error)
        """,
        "1.2 read agent /proc/pid/environ",
    ),
    python(
        "process-vm-readv",
        """
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        class V(ctypes.Structure): _fields_ = [('base', ctypes.c_void_p), ('len', ctypes.c_size_t)]
        for pid in (@VICTIM, @AGENT):
            try: start = next(int(l.split('-')[0], 16) for l in open(f'/proc/{pid}/maps'))
            except OSError: start = 0x400000
            buf = ctypes.create_string_buffer(16)
            here, there = V(ctypes.addressof(buf), 16), V(start, 16)
            if libc.process_vm_readv(pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0) > 0: print('REACHED')
        """,
    ),
    python(
        "ptrace",
        """
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        for pid in (@VICTIM, @AGENT):
            if libc.ptrace(0x4206, pid, 0, 0) == 0: print('REACHED'); libc.ptrace(17, pid, 0, 0)
        """,
    ),
    shell("gdb", "gdb -p @VICTIM -batch -ex 'info proc' 2>/dev/null | grep -q 'process @VICTIM' && echo REACHED", proof="gdb may not be there", seconds=40),
    python(
        "pidfd-getfd",
        """
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        for pid in (@VICTIM, @AGENT):
            try: fd = os.pidfd_open(pid)
            except OSError: continue
            if libc.syscall(438, fd, 0, 0) >= 0: print('REACHED')
        """,
    ),
    shell("descriptors", "for p in @AGENT @VICTIM $PPID 1; do for f in /proc/$p/fd/*; do case $(readlink $f) in *sessions*|*credentials*|*.ssh*) cat $f;; esac; done; done 2>/dev/null", proof="only where the program holds such a file open"),
    shell("agent-root", "cat /proc/@AGENT/root@HOME/.ssh/id_ed25519 /proc/@VICTIM/root@HOME/.ssh/id_ed25519 /proc/1/root@HOME/.ssh/id_ed25519"),
    shell("kernel-memory", "head -c 16 /proc/kcore >/dev/null && echo REACHED; head -c1 /dev/mem && echo REACHED", proof="root only"),
    shell("kernel-log-and-symbols", "dmesg 2>/dev/null | head -1 | grep -q . && echo REACHED", proof="root only, and the log may be empty"),
    python("bpf-perf", "import ctypes; l = ctypes.CDLL(None); a = (ctypes.c_uint * 32)(2, 4, 8, 4); print('REACHED' if l.syscall(321, 0, a, 72) >= 0 else 'refused')", proof="root only"),
    python("kernel-keyring", "import ctypes; l = ctypes.CDLL(None); print('REACHED' if l.syscall(248, b'user', b'hostile', b'x', 1, -3) > 0 else 'refused')", proof="a container may have no keyrings"),
    python("ssh-agent", "import os, socket; s = socket.socket(socket.AF_UNIX); s.connect(os.environ.get('SSH_AUTH_SOCK', '@HOME/.ssh/agent.sock')); s.send(b'\\0\\0\\0\\1\\x0b')"),
    shell("core-dump", "cat /proc/sys/kernel/core_pattern; ulimit -c unlimited && [ \"$(ulimit -c)\" = unlimited ] && echo REACHED", proof="limits may be in force already"),
    shell("debug-variables", "PYTHONINSPECT=1 LD_DEBUG=all true; cat /proc/@AGENT/maps /proc/@AGENT/auxv > m && test -s m && echo REACHED"),
]  # fmt: skip
