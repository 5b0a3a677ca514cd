"""Which commands only look. What is wrongly taken for it runs unasked, though where nothing can be written."""

from __future__ import annotations

import pytest

from laguna_agent.code.looking import only_looks
from laguna_agent.code.shell_command import parts

LOOKS = [
    "ls -la",
    "cat a.py | head -20",
    "grep -rn 'x' src/*.py 2>/dev/null",
    "rg -n TODO",
    "find . -name '*.py' -not -path './.venv/*'",
    "find . -name '*.py' | xargs wc -l | sort -n | tail",
    "git status && git diff HEAD~1 -- src",
    "git -C sub log --oneline -5",
    "git branch --list",
    "git branch",
    "git stash list",
    "git config --get user.name",
    "sed -n '1,40p' a.py",
    "sed -n -e '/^def/,/^$/p' a.py",
    "awk -F: '{print $1}' a",
    "for f in *.py; do echo \"$f\"; head -5 \"$f\"; done",
    "if [ -d .git ]; then pwd; fi",
    "python --version",
    "sort -u a | uniq -c",
    "x=$(git rev-parse HEAD); echo \"$x\"",
    "LC_ALL=C sort a",
    "timeout 5 cat a",
    "bash -c 'ls; cat a'",
    "command -v git",
    "true",
    "diff -u a b",
    "echo hi >&2",
    "date",
    "# nothing",
]  # fmt: skip

ACTS = [
    # attack 4: programs that "only read" and yet run or write
    "sed 's/x/id/e' a",
    "sed -n '1w /tmp/x' a",
    "sed -i s/a/b/ a",
    "sed --in-place s/a/b/ a",
    "sed -n '1r /etc/passwd' a",
    "sed -f script a",
    "sed --expr='1e id' a",
    "sort -o out a",
    "sort --outp=out a",
    "sort -uoout a",
    "sort --compress-program=./x a",
    "man --html=./x ls",
    "man ls",
    "cat$IFS/etc/passwd",
    "xargs -I{} sh -c {} < a",
    "xargs rm < a",
    "rg --pre ./x y",
    "rg --pre=./x y",
    "find . -delete",
    "find . -fprintf out x",
    "find . -exec rm {} +",
    "find . -okdir rm {} ;",
    "git grep -Ovi x",
    "git grep --open-files-in-pager=vi x",
    "git diff --output=x",
    "git diff --outpu=x",
    "git log --ext-diff",
    "git -c core.pager=x log",
    "git branch -D main",
    "git branch new",
    "git stash",
    "git config user.name x",
    "git remote add a b",
    "git tag v1",
    "git fetch",
    "git --exec-path=. status",
    "fd -x rm",
    "tree -o x",
    "uniq a b",
    "uniq - b",
    "uniq -- a b",
    "date -s 2020-01-01",
    "file -C -m x",
    "awk '{print > \"x\"}' a",
    "awk 'BEGIN{system(\"id\")}'",
    "awk -f script",
    "hostname evil",
    # attack 17: only the first command was looked at
    "ls && rm x",
    "ls; rm x",
    "ls | sh",
    "ls & rm x",
    "ls || rm x",
    "ls\nrm x",
    "ls > x",
    "ls >> x",
    "ls &> x",
    "echo $(rm x)",
    "echo `rm x`",
    "cat <(rm x)",
    "cat <<E\n$(rm x)\nE",
    "ls >(rm x)",
    # attack 2: the reader and bash disagree
    "ls\rrm x",
    "ls \\\rrm x",
    "ls#\nrm x",
    "echo \"${x:-'$(rm x)'}\"",
    # names that are not what they seem
    "./ls",
    "/tmp/ls",
    "PATH=. ls",
    "LD_PRELOAD=./x.so ls",
    "GIT_EXTERNAL_DIFF=./x git diff",
    "PAGER=./x git log",
    "FOO=1 git log",
    "$x",
    "l?",
    "ls() { rm x; }; ls",
    "alias ls=rm; ls x",
    "nohup ls",
    "setsid ls",
    "sudo ls",
    "python x.py",
    "python -c 1",
    "printf -v x y",
    "sort $x",
    "git log $x",
    "curl http://x",
    "ping x",
    "nslookup x",
]


@pytest.mark.parametrize("command", LOOKS)
def test_looking(command: str) -> None:
    assert only_looks(parts(command)), parts(command).unclear


@pytest.mark.parametrize("command", ACTS)
def test_doing_more_than_looking(command: str) -> None:
    assert not only_looks(parts(command))


@pytest.mark.parametrize("act", ["rm x", "x > y", "sort -o y x", "find . -delete"])
@pytest.mark.parametrize(
    "around", ["{}", "ls; {}", "{} | cat", "echo $({})", "bash -c '{}'", "timeout 9 {}", "if true; then {}; fi"]
)
def test_no_wrapping_makes_an_act_a_look(act: str, around: str) -> None:
    assert not only_looks(parts(around.format(act)))
