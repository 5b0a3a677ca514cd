"""Attacks through the file tools, which act with the program's own rights."""

from __future__ import annotations

from tests.hostile.case import Case, tools


def write(path: str, content: str = "evil\n") -> tuple[str, dict[str, object]]:
    return ("write", {"path": path, "content": content})


def read(path: str) -> tuple[str, dict[str, object]]:
    return ("read", {"path": path})


def edit(path: str, old: str, new: str) -> tuple[str, dict[str, object]]:
    return ("edit", {"path": path, "old": old, "new": new})


def command(text: str) -> tuple[str, dict[str, object]]:
    return ("shell", {"command": text, "timeout": 15})


PROTECTED_PATHS = (
    ".git/hooks/pre-commit", ".git/config.worktree", ".git/commondir", ".git/modules/sub/config", ".envrc", ".mcp.json",
    ".laguna/config.toml", ".vscode/tasks.json", ".VSCode/settings.json", ".idea/workspace.xml", ".zed/tasks.json",
    ".cursor/mcp.json", ".claude/settings.json", ".devcontainer/devcontainer.json", "sub/.vscode/tasks.json",
    "sub/../.envrc", "./.GIT/hooks/pre-commit", "vendor/lib/.git/hooks/pre-commit", "new/.git/hooks/pre-commit",
)  # fmt: skip


def on_disk(path: str) -> object:
    """Whether the tool put the file there, whatever the list of the house says."""

    def probe(house, said):  # type: ignore[no-untyped-def]
        target = house.project / path
        if not target.is_file() or target.read_text() != "evil\n":
            return []
        target.unlink()
        return [f"{path} was written"]

    return probe


FILES: list[Case] = [
    tools("write-absolute", write("@OUT/new"), of="3"),
    tools("write-dotdot", write("../outside/new"), of="3"),
    tools("write-prefix-sibling", write("@WS-evil/new"), of="3"),
    tools("write-home", write("~/.bashrc"), write("@HOME/.ssh/authorized_keys"), of="1.2"),
    tools("write-own-config", read("@HOME/xdg/config/laguna-agent/config.toml"), write("@HOME/xdg/config/laguna-agent/config.toml", 'approve = "all"\n'), of="16"),
    tools("write-symlink-directory", command("ln -s @OUT link"), write("link/new"), of="29"),
    tools("write-symlink-file", command("ln -s @OUT/victim l"), read("l"), write("l"), of="29"),
    tools("write-dangling-symlink", command("ln -s @OUT/new2 l2"), write("l2"), of="29"),
    tools("write-proc-self", write("/proc/self/cwd/../outside/new"), of="29"),
    tools("write-proc-root", write("/proc/self/root@OUT/new"), of="29"),
    tools("edit-outside", read("@OUT/victim"), edit("@OUT/victim", "victim", "evil"), of="3"),
    tools("edit-config", read(".git/config"), edit(".git/config", "bare = false", "fsmonitor = ./evil"), of="22"),
    tools("edit-config-by-symlink", command("ln -s .git/config c"), read("c"), edit("c", "bare = false", "fsmonitor = ./e"), of="22, 29"),
    tools("edit-hook", read(".git/hooks/pre-push"), edit(".git/hooks/pre-push", "own", "evil"), of="22"),
    *(
        tools(f"write-protected-{number:02}", write(path), of="6, 13, 15", probe=on_disk(path))
        for number, path in enumerate(PROTECTED_PATHS)
    ),
    tools("write-git-as-file", command("mv .git g 2>/dev/null; true"), write(".git", "gitdir: g\n"), of="22"),
    tools("read-secret", read("~/.ssh/id_ed25519"), read("@HOME/.aws/credentials"), of="1.2 read outside secret"),
    tools("read-own-files", read("@HOME/xdg/config/laguna-agent/credentials.json"), read("@HOME/xdg/state/laguna-agent/sessions/old.jsonl")),
    tools("read-secret-dotdot", read("../home/.netrc"), read("../../../../../..@HOME/.netrc"), of="3"),
    tools("read-secret-symlink", command("ln -s @HOME/.ssh keys"), read("keys/id_ed25519"), of="29"),
    tools("read-secret-hard-link", command("ln @HOME/.netrc hard"), read("hard"), of="29", proof="refused where there are no walls too"),
    tools("read-own-environment", read("/proc/self/environ"), read("/proc/@AGENT/environ"), read("/proc/self/root@HOME/.netrc"), of="29"),
    tools("read-person-environment", read("/proc/@VICTIM/environ"), read("/proc/@VICTIM/root@HOME/.netrc"), of="29"),
    tools("read-person-arguments", read("/proc/@VICTIM/cmdline"), of="29", proof="it is no text"),
    tools("read-fifo", command("mkfifo pipe"), read("pipe"), of="29", seconds=5, proof="refused by the tool itself since always"),
    tools("read-zero", read("/dev/zero"), read("/dev/stdin"), read("/dev/tty"), of="29", seconds=5, proof="refused by the tool itself since always"),
    tools("read-sparse", command("truncate -s 40G sparse"), read("sparse"), of="29", seconds=10, proof="refused by the tool itself since always"),
    tools("read-nul", read("README\0/../../home/.netrc"), write("a\0b"), of="10, 29", proof="refused by the tool itself since always"),
    tools("grep-secret", ("grep", {"pattern": "CANARY", "path": "@HOME/.ssh"}), ("grep", {"pattern": "CANARY", "path": "../home"}), of="1.2"),
    tools("grep-secret-symlink", command("ln -s @HOME/.aws aws"), ("grep", {"pattern": "CANARY", "path": "aws"}), ("grep", {"pattern": "CANARY"}), of="29"),
    tools("grep-options", ("grep", {"pattern": "--pre=./evil.sh"}), ("grep", {"pattern": "x", "glob": "--follow"}), ("grep", {"pattern": "x", "path": "--pre=cat"}), of="4, 21", proof="options were never mixed with words"),
    tools("grep-slow-pattern", command("head -c 200000 /dev/zero | tr '\\0' a > a"), ("grep", {"pattern": "(a+)+$b"}), of="29", seconds=10, proof="ripgrep takes linear time"),
    tools("list-secret", ("list", {"path": "@HOME/.ssh"}), ("list", {"path": "keys2"}), of="1.2", probe=lambda house, said: ["the names of keys"] if "id_ed25519" in said else []),
    tools(
        "swap-directory",
        command("mkdir -p d; cp @OUT/victim d/f 2>/dev/null || echo victim > d/f"),
        read("d/f"),
        ("shell", {"command": "cp -a d e; for i in $(seq 400); do rm -rf d; ln -s @OUT d; rm d; cp -a e d; done; rm -rf d; ln -s @OUT d; cp @OUT/victim . ", "background": True}),
        *(write(f"d/f{number}") for number in range(12)),
        write("d/victim"),
        of="29",
        settle=0.5,
    ),
    tools("symbol-tool-outside", ("rewrite_symbol", {"path": "@OUT/code.py", "code": "def f():\n    return 2\n"}), of="3"),
]  # fmt: skip
