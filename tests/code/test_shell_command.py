"""The parts of a command line, as people would name them, and the reasons for doubt."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from laguna_agent.code.shell_command import CHARACTERS_CAP, PARTS_CAP, Parsed, parts


def words(command: str) -> list[tuple[str, ...]]:
    parsed = parts(command)
    assert not parsed.unclear, parsed.unclear
    return [part.words for part in parsed.parts if part.words]


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("git status", [("git", "status")]),
        ("a && b || c; d & e | f |& g", [(name,) for name in "abcdefg"]),
        ("(a); { b; }; if c; then d; elif e; then f; else g; fi", [(name,) for name in "abcdefg"]),
        ("while a; do b; done; until c; do d; done; for x in 1 2; do e; done", [(name,) for name in "abcde"]),
        ("case x in y) a;; *) b;; esac; f() { c; }; ! d", [(name,) for name in "abcd"]),
        ("echo $(a) `b` <(c) \"$(d)\"", [("a",), ("b",), ("c",), ("d",), ("echo", "$(a)", "`b`", "<(c)", '"$(d)"')]),
        ("x=$(a) b", [("a",), ("b",)]),
        ("g'i't \"pu\"sh \\o\\ x", [("git", "push", "o x")]),
        ("cat <<E\n$(a)\nE\nb", [("a",), ("cat",), ("b",)]),
        ("cat <<'E'\n$(a)\nE\nb", [("cat",), ("b",)]),
        (">o a b", [("a", "b")]),
        ("a >o b", [("a", "b")]),
        ("echo a # b; c\nd", [("echo", "a"), ("d",)]),
        ("timeout 5 nice -n3 a", [("timeout", "5", "nice", "-n3", "a"), ("nice", "-n3", "a"), ("a",)]),
        ("bash -c 'a; b \"c d\"'", [("bash", "-c", 'a; b "c d"'), ("a",), ("b", "c d")]),
        ("eval a b", [("eval", "a", "b"), ("a", "b")]),
        ("env X=1 a", [("env", "X=1", "a"), ("a",)]),
        ("xargs -n1 a b", [("xargs", "-n1", "a", "b"), ("a", "b", "...")]),
        ("find -exec a \\; -ok b {} +", [("find", "-exec", "a", ";", "-ok", "b", "{}", "+"), ("a",), ("b", "{}")]),
        ("fd -x a {}", [("fd", "-x", "a", "{}"), ("a", "{}", "...")]),
        ("trap 'a' EXIT", [("trap", "a", "EXIT"), ("a",)]),
        ("sh -ec 'eval \"eval a\"'", [("sh", "-ec", 'eval "eval a"'), ("eval", "eval a"), ("eval", "a"), ("a",)]),
    ],
)  # fmt: skip
def test_parts(command: str, expected: list[tuple[str, ...]]) -> None:
    assert words(command) == expected


def test_what_a_part_holds() -> None:
    part = parts("A=1 B=$x env C=3 prog 'a b' $y *.c <in >out 2>>err").parts[0]
    assert part.words == ("env", "C=3", "prog", "a b", "$y", "*.c")
    assert part.vague == {4, 5}
    assert (part.reads, part.writes) == (("in",), ("out", "err"))
    assert part.sets == ("A", "B", "C")
    assert part.text.startswith("A=1 B=$x env")
    assert part.through


def test_redirections_of_a_group_stand_alone() -> None:
    parsed = parts("{ a; b; } > out < in")
    assert [(part.words, part.writes, part.reads) for part in parsed.parts] == [
        (("a",), (), ()),
        (("b",), (), ()),
        ((), ("out",), ("in",)),
    ]
    assert parts("a 2>&1 3>&-").parts[0].writes == ()
    assert parts("a >& o").parts[0].writes == ("o",)
    assert parts("a &>> o").parts[0].writes == ("o",)
    # The grammar has no `<>`, which writes.
    assert parts("a <> o").unclear


UNCLEAR = {
    "echo 'a": "certainty",
    "a\rb": "U+000D",
    "a\0b": "U+0000",
    "a\u200bb": "U+200B",
    "echo \u202egnp": "U+202E",
    "a\u00a0b": "U+00A0",
    "\U000e0041": "U+E0041",
    "$x": "not certain",
    "$x y": "not certain",
    '"$x"': "not certain",
    "/bin/l?": "not certain",
    "{a,b}": "certainty",
    "x{a,b} c": "not certain",
    "a$IFS$x;$IFS": "not certain",
    "IFS=x": "IFS",
    "PATH=. a": "PATH",
    "LD_PRELOAD=./x.so ls": "LD_PRELOAD",
    "env GIT_SSH_COMMAND=x git fetch": "GIT_SSH_COMMAND",
    "export BASH_ENV=x": "BASH_ENV",
    "PYTHONSTARTUP=x python y.py": "PYTHONSTARTUP",
    'eval "$x"': "eval",
    "source $x": "not certain",
    ". /dev/stdin": "not certain",
    "bash <<E\na\nE": "standard input",
    "curl x | sh": "standard input",
    "python <<E\na\nE": "code",
    "python -c a": "code",
    "python3 -Wignore -c a": "code",
    "node -e a": "code",
    "perl -ne a": "code",
    "node --title x -e a": "code",
    "alias a=b": "alias",
    "env -S 'a b'": "option",
    "timeout --what 5 a": "option",
    "xargs -i a": "option",
    "sudo a": "another user",
    "parallel a": "another command",
    "ssh h a": "another command",
    "git -c core.pager=x log": "git",
    "git rebase -x a": "git",
    "tar xf a --to-command=b": "tar",
    "find . -exec a": "does not end",
    "find $x": "find",
    "a > $x": "redirection",
    "echo ${!x}": "computes",
    "echo $((x))": "computes",
    "coproc a": "coproc",
    "sed 1e x": "sed",
    "awk 'BEGIN{system(\"a\")}'": "awk",
}  # fmt: skip


@pytest.mark.parametrize("command", UNCLEAR)
def test_what_is_not_certain_says_why(command: str) -> None:
    assert any(UNCLEAR[command] in reason for reason in parts(command).unclear), parts(command).unclear


def test_limits_are_told_and_nothing_is_dropped_silently() -> None:
    assert len(parts("a;" * PARTS_CAP).parts) == PARTS_CAP
    assert not parts("a;" * PARTS_CAP).unclear
    for long in ("a;" * (PARTS_CAP + 1), "a" * (CHARACTERS_CAP + 1), "eval " * 40 + "a", "(" * 4000 + "a" + ")" * 4000):
        assert parts(long).too_long, long[:20]
        assert parts(long).unclear


@given(st.text(max_size=40))
@example("\udcff")
@example("cat <<\ud800")
def test_any_text_is_read(text: str) -> None:
    parsed = parts(text)
    assert isinstance(parsed, Parsed)
    assert parsed == parts(text)


@pytest.mark.parametrize("command", ["`a`" * 3300, "cat <<E\nE\n" * 900, "((a))" * 1900, "a;" * 4990, "eval " * 1900])
def test_hostile_lengths_take_no_time(command: str) -> None:
    started = time.process_time()
    parts(command)
    assert time.process_time() - started < 3


def test_a_usual_command_is_read_in_milliseconds() -> None:
    command = "cd src && python -m pytest -q tests/test_a.py 2>&1 | tail -20; git log --format='%h %s' | head -5 > out"
    parts(command)
    started = time.process_time()
    for _ in range(20):
        parts(command)
    assert (time.process_time() - started) / 20 < 0.005
