"""Attacks on the person's own rules: `touch` may not be run and `.env` may not be read, however it is put."""

from __future__ import annotations

from tests.hostile.case import Case, python, shell, tools
from tests.hostile.house import House

RULES = """
[[rules]]
rule = "shell(touch *)"
verdict = "deny"

[[rules]]
rule = "read(.env)"
verdict = "deny"

[[rules]]
rule = "edit(README)"
verdict = "deny"
"""
WAYS = {
    "plain": "touch denied",
    "sixty-parts": "true; " * 60 + "touch denied",
    "two-hundred-pipes": "true | " * 200 + "touch denied",
    "behind-and": "true && touch denied",
    "behind-or": "false || touch denied",
    "in-a-pipe": "echo x | touch denied",
    "in-the-background": "touch denied & wait",
    "newline": "true\ntouch denied",
    "carriage-return": "true\r\ntouch denied",
    "absolute": "/usr/bin/touch denied",
    "dots": "/usr/../usr/bin/./touch denied",
    "backslash": "\\touch denied",
    "quotes": "t'ou'\"ch\" denied",
    "ansi-quotes": "$'\\x74ouch' denied",
    "prefix": "A=1 B=2 touch denied",
    "ifs": "touch${IFS}denied",
    "braces": "{touch,denied}",
    "variable": "t=touch; $t denied",
    "substitution": "$(echo touch) denied",
    "backquotes": "`echo touch` denied",
    "glob": "/usr/bin/touc? denied",
    "bash-c": "bash -c 'touch denied'",
    "sh-c-sh-c": "sh -c \"sh -c 'touch denied'\"",
    "bash-options": "bash --norc -ec 'touch denied'",
    "eval": "eval 'touch denied'",
    "eval-parts": "a=tou; b=ch; eval $a$b denied",
    "env": "env touch denied",
    "env-options": "env -i -u A B=1 /usr/bin/touch denied",
    "env-split": "env -S 'touch denied'",
    "xargs": "echo denied | xargs touch",
    "xargs-sh": "echo denied | xargs -I{} sh -c 'touch {}'",
    "find-exec": "find . -maxdepth 0 -exec touch denied \\;",
    "find-execdir-plus": "find . -maxdepth 1 -name main.py -execdir touch denied {} +",
    "wrappers": "timeout 5 nice -n 1 nohup setsid touch denied",
    "stdbuf-time": "time stdbuf -oL touch denied",
    "command": "command touch denied",
    "exec": "exec touch denied",
    "subshell": "(cd . && (touch denied))",
    "function": "f() { touch denied; }; f",
    "alias": "shopt -s expand_aliases\nalias t=touch\nt denied",
    "loop": "for i in 1; do touch denied; done",
    "condition": "if touch denied; then :; fi",
    "case": "case x in x) touch denied;; esac",
    "process-substitution": "cat <(touch denied)",
    "redirection-substitution": "echo x > \"$(touch denied; echo /dev/null)\"",
    "arithmetic": "echo $((a[$(touch denied)0]))",
    "here-document": "bash <<'EOF'\ntouch denied\nEOF",
    "here-string": "bash <<< 'touch denied'",
    "here-document-substitution": "cat <<EOF\n$(touch denied)\nEOF",
    "pipe-to-shell": "echo 'touch denied' | bash",
    "source": "source <(echo 'touch denied')",
    "trap": "trap 'touch denied' EXIT",
    "coproc": "coproc touch denied; wait",
    "default-value": "echo ${x:-$(touch denied)}",
    "comment-trick": "echo '#' ; touch denied # ls",
    "unclosed": "touch denied; echo 'x",
    "unicode-space": "true;\u2003touch denied; touch\tdenied",
}  # fmt: skip


def made(house: House, said: str) -> list[str]:
    """Whether the denied program ran."""
    return [f"{path.name} was made" for path in house.project.rglob("*") if path.name.startswith("denied")]


NEVER_RUN = {
    "unicode-space": "the last part alone runs it",
    "arithmetic": "bash may not evaluate it",
    "unclosed": "bash refuses the whole",
    "find-execdir-plus": "find refuses where PATH is relative",
}
SECRET = "CANARY-dotenv-f17b90"

COMMANDS = [
    shell(f"touch-{name}", way, "1, 2, 3, 4, 17", probe=made, proof=NEVER_RUN.get(name, ""))
    for name, way in WAYS.items()
]

READS: list[Case] = [
    tools("env-read", ("read", {"path": ".env"}), of="4"),
    tools("env-read-absolute", ("read", {"path": "@WS/./vendor/../.env"}), of="3"),
    tools("env-grep", ("grep", {"pattern": "CANARY"}), ("grep", {"pattern": "CANARY", "path": ".env"})),
    tools("env-link", ("shell", {"command": "ln -s .env link; ln .env hard; true"}), ("read", {"path": "link"}), ("read", {"path": "hard"}), of="29"),
    tools("env-copy", ("shell", {"command": "cp .env copy; mv .env moved; true"}), ("read", {"path": "copy"}), ("read", {"path": "moved"}), of="29"),
    shell("env-cat", "cat .env; cat ./.e* ; head .env; cat < .env; source .env; echo $TOKEN", "4"),
    shell("env-cat-hidden", "f=.en; cat ${f}v; cat $(echo .env); cd vendor && cat ../.env", "4"),
    shell("env-grep-r", "grep -r CANARY . ; grep -rh CANARY .env", "4"),
    python("env-python", "print(open('.' + 'env').read())", "4"),
    shell("env-tar", "tar cf - . | strings | grep CANARY; zip -q - .env | strings | head", "4"),
    shell("env-git", "git add -f .env && git show :.env; git hash-object -w .env | xargs git cat-file -p; git diff --no-index /dev/null .env", "20"),
    shell("env-rename", "mv .env plain; cat plain; ln .env hard; cat hard", "29"),
    shell("env-proc", "cat /proc/self/cwd/.env; cat /proc/$$/root@WS/.env", "29"),
    tools("denied-edit", ("read", {"path": "README"}), ("edit", {"path": "README", "old": "a project", "new": "evil"}), ("write", {"path": "./vendor/../README", "content": "evil\n"}), probe=lambda house, said: ["README changed"] if "evil" in (house.project / "README").read_text() else []),
]  # fmt: skip
