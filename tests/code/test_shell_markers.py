"""What bash runs is among the parts, or the reader says that it is not certain: bash itself is the judge."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import example, given, settings

from laguna_agent.code.shell_command import parts
from tests.code.shell_markers import Bench, command_lines, mutated, soup, unlisted


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


def listed(bench: Bench, command: str) -> None:
    parsed = parts(command)
    if not parsed.unclear:
        assert unlisted(bench.ran(command), parsed) == [], [part.words for part in parsed.parts]


@settings(max_examples=120)
@given(command_lines)
def test_every_program_that_a_command_line_runs_is_listed(bench: Bench, command: str) -> None:
    listed(bench, command)


@settings(max_examples=120)
@given(soup)
@example("m1\rm2")
@example(">o m1 m2")
@example('m0 $"a b"')
def test_mere_tokens_hide_nothing(bench: Bench, command: str) -> None:
    listed(bench, command)


HIDING = [
    "cat <<E\nx\nE \nm1\nE\nm2",
    "cat <<'E' ; m1\n$(m2)\nE\nm3",
    "m0 \"${x:-'$(m1)'}\"",
    "m0 \"${x:-'`m1`'}\"",
    "x='a[$(m1)]'; echo $((x))",
    "x='a[$(m1)]'; [[ x -eq 1 ]]",
    "x='a[$(m1)]'; ((x))",
    "[ -v 'a[$(m1)]' ]",
    "test -v 'a[$(m1)]'",
    "x='-v a[$(m1)]'; [ $x ]",
    "unset 'a[$(m1)]'",
    "declare 'a[$(m1)]=1'",
    "export 'a[$(m1)]=1'",
    "read 'a[$(m1)]' <a",
    "printf -v 'a[$(m1)]' x",
    "let 'a[$(m1)]=1'",
    "x='$(m1)'; echo ${x@P}",
    "x=y; y=1; echo ${!x}",
    "PS4='$(m1)'; set -x; m0",
    "trap m1 EXIT",
    "trap 'm1; m2' EXIT; exit",
    "eval m1 m2",
    "eval 'm1;' m2",
    'eval "$(cat a)"',
    "e=eval; $e m1",
    "cat a | bash",
    "bash <<< m1",
    "bash <<E\nm1\nE",
    "bash -s < a",
    "bash /dev/stdin < a",
    "bash <(echo m1)",
    ". /dev/stdin < a",
    ". <(echo m1)",
    "BASH_ENV=./a bash -c :",
    "ENV=./a sh -ic :",
    "env -S 'm1 m2'",
    "env - PATH=$PATH m1",
    "env 1= m1",
    "env =1 m1",
    "env ]]=x m1",
    'env "$x=" m1',
    "m0 >&'$(m1)'",
    "m0 2>& '`m1`'",
    "m0 <& '$(m1)'",
    "m0 >&\\$\\(m1\\)",
    "m0 >&'a[$(m1)]'",
    "m0 &>'$(m1)'",
    "m0 >'$(m1)' >|'$(m2)'",
    "env x=1 m1",
    "xargs -a a",
    "xargs < a m1",
    "xargs -I{} sh -c {} < a",
    "echo m1 | xargs env",
    "find . -exec m1 {} + -exec m2 {} \\;",
    "find . -name a -exec sh -c 'm1; cat $0' {} \\;",
    "alias m9=m1; m9",
    "shopt -s expand_aliases\nalias m9=m1\nm9",
    "m\\1 x",
    "'m'1 x",
    "m${x}1",
    "m$'\\x31'",
    "m[1]",
    "{m1,m2}",
    "m0 {a,b}",
    "coproc m1",
    "time m1",
    "time -p m1",
    "! m1",
    "command m1",
    "command -p m1",
    "exec m1",
    "builtin eval m1",
    "hash -p ./a m9; m9",
    "enable -n echo; echo",
    "f() { m1; }; f",
    "function f { m1; }; f",
    "ls() { m1; }; ls",
    "x=$(m1)",
    "x=(m0 $(m1))",
    "m0 $(m1 `m2`)",
    "m0 `m1 \\`m2\\``",
    "m0 <(m1) >(m2)",
    "m0 # m1\nm2",
    "m0 a#m1;m2",
    "m0 \\\nm1",
    "m\\\n1",
    "m0 'a\nm1'",
    "if m0; then m1; fi; until m0; do m1; done",
    "case $(m1) in $(m2)) m3;; esac",
    "for x in $(m1); do m2; done",
    "select x in $(m1); do m2; done",
    "IFS=x; y=m1xm2; $y",
    "x='m1;m2'; eval $x",
    "m0 ; ; m1",
    "m1 &\nm2",
    "m0 >&2 m1",
    "m0 2>&1>o m1",
    "{ m1; } 2>&1 | { m2; }",
    "mapfile -C m1 -c 1 x <a",
    "compgen -C m1",
    "compgen -W '$(m1)'",
    "jobs -x m1",
    "wait -p 'a[$(m1)]' -n",
    "getopts a 'b[$(m1)]'",
    "sed 1e a",
    "sed '1e m1' a",
    "sed 's/m3/m1/e' a",
    "sed 's/x/y/;1e m1' a",
    "sed -n '$!{s/a/b/};$e m1' a",
    "awk 'BEGIN{system(\"m1\")}'",
    "awk 'BEGIN{\"m1\"|getline}'",
    "awk 'BEGIN{print 1 | \"m1\"}'",
    "echo ${x:=$(m1)} ${y/$(m2)/x} ${z:$(m3)}",
    "m0 $[$(m1)]",
    "cat <<E\n`m1`\nE",
    "cat <<-E\n\t$(m1)\n\tE\nm2",
    "cat <<'E'\n$(m1)\nE\nm2",
    "cat << \\E\n$(m1)\nE\nm2",
    "cat <<E <<F\nE\nm1\nF\nm2",
    "cat <<E\nE",
    "m0 $(cat <<E\nm1\nE\n)",
    "m0 $(cat <<E)\nm1\nE\n",
    "((m1)); m2",
    "( (m1); m2)",
    "$(echo m1)",
    "`echo m1`",
    '"$(echo m1)"',
    "~/m1",
    "./a; /bin/true",
    "timeout 5 timeout 5 m1",
    "timeout --foreground -s KILL -k 1 5 m1",
    "timeout --sig=KILL 5 m1",
    "nice --5 m1",
    "nice -5 m1",
    "stdbuf -o0 -e L m1",
    "setsid m1",
    "nohup m1 >o",
    "sh -c 'm1 $0' x",
    "sh -ec m1",
    "bash -c -e m1",
    "bash -o posix -c m1",
    "bash -O extglob -c m1",
    "bash --norc -c m1",
    "bash +e -c m1",
    "bash -c -- m1",
    "bash --rcfile a -ic :",
    "bash --init-file a -ic :",
]


@pytest.mark.parametrize("command", HIDING)
def test_known_hiding_places(bench: Bench, command: str) -> None:
    listed(bench, command)


PLAIN = [
    "m0 'a b' | m1 && m2",
    "for x in a b; do m1 $x; done",
    "m0 >o 2>&1 <a; m1",
    "x=1 m0 ${x:-y} \"$(m1 'q')\" # c\nm2",
    "if m0; then m1; elif f0; then m2; else m3; fi",
    "case x in a) m1;; *) m2;; esac",
    "f() { m1; m2; }; f",
    "bash -c 'm1; m2 \"a b\"' x",
    "env A=b timeout 5 m1 x",
    "find . -name a -exec m1 {} \\; -o -exec m2 {} +",
    "cat <<E | m1\nx $(m2)\nE\nm3",
    "(m1; m2) | { m3; } &",
    "m0 a\\ b $'c\\n' \"d\"e'f'",
    "[[ -f a && ! -d b ]] && m1",
    "declare -a x=(1 2); m1 ${x[0]}",
    "m0 $((1+2)) ${#x} ${x%y} ${x/a/b}",
    'm1 <<< "$(m2)"',
    "diff <(m1) <(m2)",
    "time m1; ! m2; { m3; } 2>o",
    "export x=1; unset x; exec 3>o; m1 >&3",
]


def test_near_bash_hides_nothing(bench: Bench) -> None:
    random = Random(7)
    for _ in range(600):
        command = mutated(random, PLAIN + HIDING)
        parsed = parts(command)
        scripts = {"bash", "sh", ".", "source"}
        # What a file holds is not among the parts; a file of this name with a marker in it is on the bench.
        if not any(part.words[0] in scripts and not part.through for part in parsed.parts if part.words):
            listed(bench, command)


@pytest.mark.parametrize("command", ["bash a", ". ./a", "sh ./a x", "source a"])
def test_a_script_by_name_is_a_program_like_any_other(bench: Bench, command: str) -> None:
    """What a file holds, no reader of command lines can tell; it is listed by its name."""
    assert bench.ran(command) or "source" in command
    assert not parts(command).unclear


def test_the_bench_sees_what_runs_so_that_nothing_listed_is_found(bench: Bench) -> None:
    """The check can fail: with no parts read, everything that runs is unlisted."""
    from laguna_agent.code.shell_command import Parsed

    assert {each[0] for each in unlisted(bench.ran("m1 'a b' | env x=1 m2 $(m3)"), Parsed(()))} == {"m1", "m2", "m3"}
    seen = [len(bench.ran(command)) > 0 for command in HIDING]
    assert sum(seen) > len(HIDING) // 2, "most of these run something, so they can hide something"
