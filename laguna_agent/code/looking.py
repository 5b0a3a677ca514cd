"""Whether a command only looks: it changes no file and sends nothing.

A short list of programs and of the options that let each do more. This is comfort, not a boundary: what it takes for
looking runs where the kernel forbids writing. Knows programs; must not know rules or permissions. What is not listed
does not look.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from laguna_agent.code.shell_command import Parsed, Part
from laguna_agent.code.shell_names import name_of
from laguna_agent.code.shell_scripts import awk_is_plain, sed_is_plain
from laguna_agent.code.shell_words import Word

NOWHERE = ("/dev/null", "/dev/stdout", "/dev/stderr")
_HARMLESS_VARIABLES = re.compile(r"LANG|LC_\w+|TZ|NO_COLOR|FORCE_COLOR|CLICOLOR|COLUMNS|LINES|CI|TERM|PYTHONUTF8")
_ANY_WORDS = frozenset(
    {
        "ls", "cat", "head", "tail", "wc", "pwd", "echo", "printf", "true", "false", ":", "test", "[", "stat",
        "basename", "dirname", "realpath", "readlink", "nl", "tac", "rev", "cut", "tr", "paste", "comm", "join",
        "fold", "expand", "unexpand", "column", "od", "hexdump", "strings", "cmp", "diff", "md5sum", "sha1sum",
        "sha224sum", "sha256sum", "sha384sum", "sha512sum", "b2sum", "cksum", "sum", "seq", "sleep", "id",
        "whoami", "groups", "uname", "nproc", "arch", "df", "du", "ps", "uptime", "free", "which", "type",
        "printenv", "grep", "egrep", "fgrep", "jq", "cd", "command", "exit", "return", "break", "continue", "shift",
        "wait", "set", "local", "export", "readonly", "unset", "read", "tsort", "numfmt",
    }
)  # fmt: skip
"""Programs and builtins of which no option writes, runs or sends anything, whatever words they get."""
_BARRED = {
    "sort": ("o", ("--output", "--compress-program", "--temporary-directory", "--files0-from")),
    "rg": ("z", ("--pre", "--pre-glob", "--hostname-bin", "--search-zip", "--config")),
    "tree": ("oR", ("--output",)),
    "file": ("Cmz", ("--compile", "--magic-file", "--uncompress", "--uncompress-noreport")),
    "date": ("s", ("--set",)),
    "env": ("SCu", ("--split-string",)),
    "fd": ("xX", ("--exec", "--exec-batch")),
    "fdfind": ("xX", ("--exec", "--exec-batch")),
}
"""Programs that look unless they have one of these letters or long options."""
_VERSIONS = frozenset(
    {
        "python", "python3", "node", "npm", "npx", "pip", "pip3", "cargo", "rustc", "go", "gcc", "g++", "clang",
        "make", "cmake", "java", "git", "ruby",
    }
)  # fmt: skip
_FIND_ACTS = frozenset({"-delete", "-exec", "-execdir", "-ok", "-okdir", "-fprint", "-fprint0", "-fprintf", "-fls"})
_GIT_LOOKS = frozenset(
    {
        "status", "log", "diff", "show", "blame", "rev-parse", "ls-files", "ls-tree", "cat-file", "describe",
        "shortlog", "merge-base", "rev-list", "name-rev", "grep", "check-ignore", "count-objects",
        "for-each-ref", "diff-tree", "diff-index", "diff-files", "show-ref", "var", "version", "whatchanged",
        "cherry", "range-diff",
    }
)  # fmt: skip
_GIT_LISTS = {
    "branch": r"(-[avrl]+|--list|--all|--remotes|--verbose|--show-current|--no-color|--contains|--merged|--no-merged)",
    "tag": r"(-l|--list|-n\d*|--sort=[\w:-]+)",
    "remote": r"(-v|--verbose)",
    "stash": r"(list|show|-p|--stat|stash@\{\d+\})",
    "worktree": r"(list|--porcelain)",
    "reflog": r"(show|-n|-?\d+|HEAD)",
    "config": r"(--get|--get-all|--list|-l|--show-origin|--local|--global|[a-z]+\.[\w.-]+)",
}
"""Sub-commands that only list as long as every word is one of these."""
_GIT_BARRED = ("--output", "--ext-diff", "--textconv", "--open-files-in-pager", "--exec-path", "--filters", "--exec")


def only_looks(parsed: Parsed) -> bool:
    """Whether everything that a command line runs only looks."""
    return not parsed.unclear and all(map(looks, parsed.parts))


def looks(part: Part) -> bool:
    """Whether one part only looks, its redirections included."""
    if any(target not in NOWHERE for target in part.writes):
        return False
    if any(not _HARMLESS_VARIABLES.fullmatch(name) for name in part.sets):
        return False
    if not part.words or part.through:
        return _wraps_harmlessly(part)
    words = tuple(Word(text, at in part.vague) for at, text in enumerate(part.words))
    name = name_of(words[0])
    if words[0].vague or "/" in name:
        return False
    if name in _ANY_WORDS:
        # These few set variables or change where the rest happens; they end with the shell.
        return not (name == "printf" and any(text.startswith("-v") for text in part.words[1:]))
    if part.vague:
        return False
    if name in _VERSIONS and part.words[1:] in {("--version",), ("-V",), ("version",)}:
        return True
    if name in _BARRED:
        return not any(_is_barred(text, *_BARRED[name]) for text in part.words[1:])
    return name in _JUDGES and _JUDGES[name](part.words, words)


def _wraps_harmlessly(part: Part) -> bool:
    return not part.words or part.words[0] not in {"sudo", "setsid", "nohup"}


def _is_barred(text: str, letters: str, names: tuple[str, ...]) -> bool:
    """Whether an option is one of those, abbreviated as getopt takes it or in a cluster of letters too."""
    if text.startswith("--"):
        given = text.partition("=")[0]
        return len(given) > 2 and any(name.startswith(given) or given == name for name in names)
    return text.startswith("-") and any(letter in text for letter in letters)


def _git(texts: tuple[str, ...], _: tuple[Word, ...]) -> bool:
    rest = list(texts[1:])
    while rest and rest[0] in {"--no-pager", "-P", "--no-optional-locks", "-C"}:
        del rest[: 2 if rest[0] == "-C" else 1]
    if not rest or any(_is_barred(text, "", _GIT_BARRED) for text in rest):
        return False
    verb, *words = rest
    if verb in _GIT_LISTS:
        if verb in {"config", "stash"} and not words:
            return False
        return all(re.fullmatch(_GIT_LISTS[verb], word) for word in words) and _reads_config(verb, words)
    return verb in _GIT_LOOKS and not (verb == "grep" and any(word.startswith("-O") for word in words))


def _reads_config(verb: str, words: list[str]) -> bool:
    return verb != "config" or any(word in {"--get", "--get-all", "--list", "-l"} for word in words)


def _find(texts: tuple[str, ...], _: tuple[Word, ...]) -> bool:
    return _FIND_ACTS.isdisjoint(texts)


def _uniq(texts: tuple[str, ...], _: tuple[Word, ...]) -> bool:
    """`uniq IN OUT` writes."""
    return sum(not text.startswith("-") or text == "-" for text in texts[1:]) <= 1


def _sed(_: tuple[str, ...], words: tuple[Word, ...]) -> bool:
    return sed_is_plain(words, reading=True)


def _awk(_: tuple[str, ...], words: tuple[Word, ...]) -> bool:
    return awk_is_plain(words)


def _without_words(texts: tuple[str, ...], _: tuple[Word, ...]) -> bool:
    return len(texts) == 1


_JUDGES: dict[str, Callable[[tuple[str, ...], tuple[Word, ...]], bool]] = {
    "git": _git,
    "find": _find,
    "uniq": _uniq,
    "sed": _sed,
    "hostname": _without_words,
    "locale": _without_words,
    "umask": _without_words,
    "dirs": _without_words,
    "jobs": _without_words,
    "times": _without_words,
    **dict.fromkeys(("awk", "gawk", "mawk", "nawk"), _awk),
}
