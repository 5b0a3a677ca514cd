"""bash as the oracle of the reader: marker programs that tell when they run, and generated command lines."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from random import Random

from hypothesis import strategies as st

from laguna_agent.code.shell_command import Parsed

MARKERS = ("m0", "m1", "m2", "m3", "f0", "f1")
"""Those that begin with f fail."""
REAL = ("bash", "sh", "env", "xargs", "timeout", "nice", "nohup", "stdbuf", "setsid", "find", "cat", "ls", "sed", "awk")


class Bench:
    """A directory with programs that log their names and arguments, and a bash that finds nothing else."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._programs = directory / "programs"
        self._programs.mkdir()
        for name in MARKERS:
            path = self._programs / name
            # The log lies in the working directory: nothing that outlives its command can write into another's.
            path.write_text(f'#!/bin/sh\nprintf \'%s\\0\' {name} "$#" "$@" >> ./log\nexit {int(name[0] == "f")}\n')
            path.chmod(0o755)
        for name in REAL:
            if found := shutil.which(name):
                (self._programs / name).symlink_to(found)

    def ran(self, command: str, shell: tuple[str, ...] = ("bash", "--norc", "-c")) -> list[tuple[str, ...]]:
        """The markers that ran, each with its arguments."""
        timeout = shutil.which("timeout")
        assert timeout is not None
        with tempfile.TemporaryDirectory(dir=self._directory, ignore_cleanup_errors=True) as place:
            Path(place, "a").write_text("m3\n")
            # Whoever still runs in the background holds the pipe, so the log is read when all have ended.
            subprocess.run(
                [timeout, "-s", "KILL", "5", *shell, command.encode("utf-8", "surrogatepass")],
                cwd=place,
                env={"PATH": str(self._programs), "HOME": place, "LC_ALL": "C.UTF-8"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
            )
            log = Path(place, "log")
            data = log.read_bytes() if log.exists() else b""
        fields = iter(os.fsdecode(data).split("\0")[:-1])
        return [(name, *(next(fields) for _ in range(int(next(fields))))) for name in fields]


def unlisted(ran: list[tuple[str, ...]], parsed: Parsed) -> list[tuple[str, ...]]:
    """What ran without being among the parts, argument by argument; nothing where the reader had doubts."""
    if parsed.unclear:
        return []
    return [each for each in ran if not any(_covers(part.words, part.vague, each) for part in parsed.parts)]


def _covers(words: tuple[str, ...], vague: frozenset[int], ran: tuple[str, ...]) -> bool:
    if not words or words[0].rpartition("/")[2] != ran[0]:
        return False
    first = min(vague, default=len(words))
    if len(ran) < first or (first == len(words) and len(ran) > first):
        return False
    return all(word == given or word[:1] == "~" for word, given in zip(words[1:first], ran[1:first], strict=True))


marker = st.sampled_from(MARKERS)
plain = st.sampled_from(
    [
        "x",
        "-n",
        "a/b",
        "1",
        "--y=z",
        "~",
        "#",
        "x#y",
        "!",
        "=",
        "a=b",
        "in",
        "do",
        "{",
        "}",
        "+",
        "{}",
    ]
)
variable = st.sampled_from(["$x", '"$x"', "${x:-m0}", "$@", '"$@"', "$?", "$1"])


@st.composite
def quoted(draw: st.DrawFn) -> str:
    """A word, quoted in some way, perhaps in pieces."""
    pieces = draw(
        st.lists(
            st.sampled_from(
                [
            "m1", "'m2 x'", '"m0"', "\\m1", "\\;", "$'m\\x31'", "$'a b'", "';'", '"a b"', "''", '""', "\\ ", "x",
            "*", "'#'", "\\\n", '"\\""', "'\"'", '"$(m2)"', "`m1`", "$(m3 y)", "<(m2)", "{m1,m2}", "[a]", "$((1+1))",
            '"${y:-`m0`}"', "\\\\", "'\\'", '"\\\\"', "#", "$",
        ]
            ),
            min_size=1,
            max_size=3,
        )
    )  # fmt: skip
    return "".join(pieces)


words = st.one_of(marker, plain, variable, quoted())


SHAPES = st.sampled_from(
    [
        "{} ; {}", "{} && {}", "{} || {}", "{} | {}", "{} & {}", "{}\n{}", "( {} ) ; {}", "{{ {} ; }} ; {}",
        "if {} ; then {} ; fi", "if {}; then :; else {}; fi", "for x in a m1; do {}; {}; done",
        "m0 \"$( {} )\" | {}", "case a in a) {} ;; *) {} ;; esac", "while f0; do {}; done; {}",
        "until m0; do {}; done; {}", "x=$({}) {}", "g() {{ {}; }}; {}; g m1", "m1 `{}` <({})", "{} |& {}",
        "! {} ; {}", "[[ -n \"$({})\" ]] && {}", "{} # {}", "cat <<E\n$({})\nE\n{}", "cat <<'E'\n$({})\nE\n{}",
        "cat <<E | {}\nm1\nE\n{}", "cat <<-E\n\tx\n\tE\n{}\n{}", "[ a = \"$({})\" ] || {}", "x=({} $({}))",
        "echo $(( 1 + $({}) )); {}", "trap '{}' EXIT; {}", "{}; #{}\nm1", "bash -c '{}'; {}", "sh -c \"{}\"; {}",
        "eval '{}' ; {}", "find . -name a -exec {} \\; ; {}", "echo a | xargs {} ; {}",
        "find . -exec sh -c '{}' \\; ; {}", "bash -ec '{}' x; {}", "{} \\\n {}", "{{\n{}\n}} >o\n{}",
        "({}) <<E\n$({})\nE\n", "function g {{ {}; }}; g; {}", "select x in a; do {}; done; {}", "coproc {}; {}",
        "echo ${{x:-$({})}} ; {}", "cat <<E && {}\nE\n{}", "cat <<E\nx\nE \n{}\nE\n{}", "echo {} > >({})",
        "cat <<E ; {}\n`{}`\nE", "<<E cat; {}\nE\n{}", "echo \"{}\" '{}' m2", "cat <<\"E\" >o\n{}\nE\n{}",
        "m0 'a\nb' ; {} ; {}", "cat <<E <<F\n{}\nE\n{}\nF\nm1",
    ]
)  # fmt: skip


def commands(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Command lines that hold command lines."""
    wrapper = st.sampled_from(
        [
            "env", "env -i x=1", "env -u y", "timeout 5", "timeout -k 1 3", "nice", "nice -n 3", "nohup",
            "stdbuf -oL", "command", "exec", "builtin", "xargs", "xargs -n1", "xargs -I{}", "time", "time -p", "!",
            "setsid -w", "x=1", "x=`m1` y=2", "eval", "command -v", "sh", "bash", ">o", "2>&1", "<a", "env -S",
            "env -", "\\command", "exec -a z",
        ]
    )  # fmt: skip
    redirection = st.sampled_from(
        [
            "",
            "",
            "",
            ">o",
            ">>o",
            "2>&1",
            "<a",
            "&>o",
            ">|o",
            ">& o",
            "<<< m1",
            "<<<m2",
            ">o m1",
            "3>&-",
            "< a m2",
            "2>o",
        ]
    )
    simple = st.builds(lambda *p: " ".join(p), marker, words, words, redirection)
    return st.one_of(
        simple,
        st.builds(lambda w, c: f"{w} {c}", wrapper, inner),
        st.builds(lambda s, a, b: s.format(a, b), SHAPES, inner, inner),
    )


command_lines = st.recursive(st.builds(lambda a, b: f"{a} {b}", marker, words), commands, max_leaves=5)
soup = st.lists(
    st.sampled_from(
        [
            "m0", "m1", "f0", " ", " ", " ", "\n", ";", "&", "|", "(", ")", "{", "}", "'", '"', "`", "$", "$(", "\\",
            "<", ">", "<<E", "\nE\n", "#", "!", "=", "x", "if", "then", "fi", "do", "done", "for", "in", "while",
            "case", "esac", "[[", "]]", "((", "))", "time", "eval", "${", "$((", "*", "?", "[", "]", ",", "~", "E",
            "1", "-", "\t", "&&", "||", ";;", "<(", "$'", "\\\n",
        ]
    ),
    max_size=14,
).map("".join)  # fmt: skip
"""Mere tokens: most of it is no bash at all, and what is, is odd."""

_TOKEN = re.compile(r"\s+|\w+|.", re.DOTALL)
_SPLICES = (
    "m0", "m1", " m2 ", " ", "\n", ";", "&", "|", "(", ")", "{", "}", "}", "'", '"', "`", "$", "$(", "\\", "<",
    ">", "<<E", "\nE\n", "#", "!", "=", "x", "${", "$((", "*", "~", "E", "&&", "||", ";;", "<(", "$'", "\\\n",
    "\t", ">o", "2>&1", " -c ", "eval ", "''", "$x", '"$x"', "<<<", ">&", "&>", "+=", "[", "]", "[[ ", "]]", "((",
    "))", "time ", "do", "done", "then", "fi", "in",
)  # fmt: skip


def mutated(random: Random, seeds: list[str]) -> str:
    """One of the command lines, perhaps two, with a few tokens changed: most of it is still nearly bash."""
    text = random.choice(seeds)
    if random.random() < 0.4:
        text += random.choice([" ", "; ", "\n", " | ", "", " && "]) + random.choice(seeds)
    tokens = _TOKEN.findall(text)
    for _ in range(random.choice([1, 1, 2, 3, 5])):
        at, other = random.randrange(len(tokens)), random.randrange(len(tokens))
        match random.randrange(5):
            case 0:
                tokens.insert(at, random.choice(_SPLICES))
            case 1 if len(tokens) > 1:
                del tokens[at]
            case 2:
                tokens[at] = random.choice(_SPLICES)
            case 3:
                tokens[at], tokens[other] = tokens[other], tokens[at]
            case _:
                tokens[at:at] = tokens[min(at, other) : max(at, other)][:6]
    return "".join(tokens)
