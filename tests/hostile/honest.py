"""Honest work: what must go on working behind the walls, as calls of the tools and what they must give."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from tests.hostile.case import Call

SERVER = """
import http.server, threading
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"page of the server")
    def log_message(self, *args): pass
http.server.HTTPServer(("127.0.0.1", 18431), Page).serve_forever()
"""
FETCH = """
import time, urllib.request
for _ in range(50):
    try: print(urllib.request.urlopen("http://127.0.0.1:18431/", timeout=2).read().decode()); break
    except OSError: time.sleep(0.1)
"""
POOL = """
import multiprocessing as m
def square(x): return x * x
if __name__ == "__main__":
    with m.Pool(2) as pool: print("squares", sum(pool.map(square, range(10))))
    lock, queue = m.Lock(), m.Queue()
    queue.put("through a queue"); print(queue.get())
"""
SOCKET = """
import os, socket, threading
server = socket.socket(socket.AF_UNIX); server.bind("service.sock"); server.listen()
client = socket.socket(socket.AF_UNIX); client.connect("service.sock")
server.accept()[0].send(b"over a socket"); print(client.recv(99).decode())
"""


@dataclass(frozen=True)
class Task:
    """A piece of work: `calls`, and what the results must hold and must not hold. `programs` must be installed;
    `network` says that it needs the network granted, by tier where it is not so for all."""

    id: str
    calls: tuple[Call, ...]
    gives: tuple[str, ...]
    never: tuple[str, ...] = ("Permission denied", "Read-only file system", "Operation not permitted")
    programs: tuple[str, ...] = ()
    network: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    """The tiers that cannot do it: there is no /tmp of its own in the Landlock tier, and no socket at all."""


def sh(command: str, **more: object) -> Call:
    return ("shell", {"command": textwrap.dedent(command).strip(), "timeout": 60, **more})


def write(path: str, content: str) -> Call:
    return ("write", {"path": path, "content": content})


TIERS = ("bubblewrap", "landlock", "seatbelt")
TASKS = [
    Task("git-commit", (sh("echo '# more' >> main.py; git add -A; git commit -qm second && git log --oneline"),), ("second",), programs=("git",)),
    Task("git-branch", (sh("git checkout -q -b feature && echo b > b && git add b && git commit -qm b && git checkout -q main && git merge -q feature && git branch"),), ("feature", "* main")),
    Task("git-stash", (sh("echo x >> main.py; git stash -q && git stash pop -q && git checkout -q main.py && git status --short && echo stashed"),), ("stashed",)),
    Task("git-worktree", (sh("git worktree add -q wt -b side && cd wt && echo w > w && git add w && git commit -qm in-wt && git log --oneline | head -1"),), ("in-wt",)),
    Task("git-init-below", (sh("mkdir -p new && cd new && git init -q -b main . && echo 1 > a && git add a && git commit -qm inner && git log --oneline"),), ("inner",)),
    Task("git-hook-runs", (sh("git config --get core.bare; test -x .git/hooks/pre-push && sh .git/hooks/pre-push && echo the hook is there"),), ("the hook is there",)),
    Task(
        "unit-tests",
        (
            write("test_sum.py", "import unittest\n\nclass T(unittest.TestCase):\n    def test(self):\n        self.assertEqual(1 + 1, 2)\n"),
            sh("python3 -m unittest -q test_sum 2>&1"),
        ),
        ("OK",),
    ),
    Task("pytest", (write("test_it.py", "def test_it(tmp_path):\n    (tmp_path / 'a').write_text('x')\n"), sh("python3 -m pytest -q -p no:xdist test_it.py")), ("1 passed",)),
    Task("makefile", (write("Makefile", "prog: prog.c\n\tcc -o prog prog.c\n"), write("prog.c", '#include <stdio.h>\nint main(void) { puts("compiled"); return 0; }\n'), sh("make && ./prog")), ("compiled",), programs=("make", "cc")),
    Task("node", (write("a.js", "const fs = require('fs'); fs.writeFileSync('o', 'from node'); console.log(fs.readFileSync('o', 'utf8'));\n"), sh("node a.js")), ("from node",), programs=("node",)),
    Task("edit-through-a-symlink", (sh("ln -s main.py alias.py"), ("read", {"path": "alias.py"}), ("edit", {"path": "alias.py", "old": "'hello'", "new": "'hello there'"}), sh("test -L alias.py && python3 main.py")), ("hello there",)),
    Task("temporary-files", (sh("echo kept > ${TMPDIR:-/tmp}/note; echo \"$(mktemp -d)\" > where; echo two > $(cat where)/f"), sh("cat ${TMPDIR:-/tmp}/note; cat $(cat where)/f; python3 -c 'import tempfile; print(tempfile.TemporaryFile())' > /dev/null && echo temporary")), ("kept", "two", "temporary")),
    Task("slash-tmp", (sh("echo kept > /tmp/laguna-hostile-note"), sh("cat /tmp/laguna-hostile-note")), ("kept",), without=("landlock",)),
    Task("database", (sh("python3 -c \"import sqlite3; d = sqlite3.connect('x.db'); d.execute('pragma journal_mode=wal'); d.execute('create table t(a)'); d.execute('insert into t values (41)'); d.commit(); print('rows', d.execute('select a+1 from t').fetchone()[0])\""),), ("rows 42",)),
    Task("script", (sh("cat > s.sh <<'EOF'\n#!/bin/bash\nset -euo pipefail\necho \"args: $*\"\nEOF\nchmod +x s.sh && ./s.sh a b"),), ("args: a b",)),
    Task("pipes", (sh("diff <(printf '1\\n2\\n') <(printf '1\\n3\\n') | grep -c '^[<>]'; echo one | tee >(cat > t) | sed s/one/two/; (cd vendor; ls) | sort"),), ("2\ntwo\nlib",)),
    Task("archives", (sh("mkdir d; echo in > d/f; tar czf a.tgz d; rm -r d; tar xzf a.tgz; cat d/f; python3 -m zipfile -c a.zip d/f; python3 -m zipfile -t a.zip"),), ("in\nDone testing",)),
    Task("long-output", (sh("seq 200000"),), ("1\n2\n3", "200000")),
    Task("unix-socket", (write("sock.py", SOCKET), sh("python3 sock.py")), ("over a socket",), without=("landlock",)),
    Task("background-server", (write("server.py", SERVER), sh("python3 server.py", background=True), write("fetch.py", FETCH), sh("python3 fetch.py")), ("page of the server",), network=("landlock",)),
    Task("sed-in-place", (sh("printf 'a=1\\n' > conf && sed -i s/1/2/ conf && cat conf"),), ("a=2",)),
    Task("multiprocessing", (write("pool.py", POOL), sh("python3 pool.py")), ("squares 285", "through a queue")),
    Task("reading-outside", (sh("head -c 20 /usr/include/stdio.h > /dev/null; cat /etc/hostname > /dev/null; python3 -c 'import json; print(json.__file__)'; ls /usr/bin | head -1 && echo read"),), ("read",)),
    Task("own-script", (sh("mkdir -p bin; printf '#!/usr/bin/env python3\\nprint(\"own script\")\\n' > bin/run; chmod 755 bin/run; nice ./bin/run; timeout 5 ./bin/run; printf 'bin/run\\n' | xargs -n1 env"),), ("own script\nown script\nown script",)),
    Task("background-job", (sh("for i in 1 2 3; do echo tick $i; sleep 0.1; done", background=True), sh("sleep 0.6; echo waited"), ("shell", {"job": "job-1"})), ("waited",)),
    Task("new-environment", (sh("python3 -m venv --without-pip venv && venv/bin/python -c 'import sys; print(sys.prefix != sys.base_prefix)'"),), ("True",)),
    Task("pip-install", (sh("python3 -m venv --without-pip env2 && python3 -m pip --disable-pip-version-check --no-cache-dir --python env2 install -q --index-url http://127.0.0.1:@INDEX/simple tiny-honest && env2/bin/python -c 'import tiny_honest; print(tiny_honest.WORD)'"),), ("installed from an index",), network=TIERS),
]  # fmt: skip
