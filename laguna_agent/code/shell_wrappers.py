"""Commands that run other commands: what they run, as far as their words tell.

Knows the options of the usual wrappers (`env`, `timeout`, `xargs`, `find -exec`, `bash -c`, ...) and names those whose
doing cannot be read from their words; must not know syntax trees or rules. An option that is not known here makes the
command unclear, never harmless.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from laguna_agent.code.shell_builtins import BUILTINS, NOTHING, Unwrapped, script
from laguna_agent.code.shell_names import assignment, name_of
from laguna_agent.code.shell_scripts import awk_is_plain, sed_is_plain
from laguna_agent.code.shell_words import Word

SHELLS = frozenset({"bash", "sh", "dash"})
"""Shells whose -c is read as bash: what dash reads in another way, it runs less of."""
_OTHER_SHELLS = frozenset({"zsh", "fish", "ksh", "mksh", "ash", "csh", "tcsh", "busybox", "toybox", "rbash", "pwsh"})
_RUNNERS = frozenset(
    {
        "parallel", "watch", "flock", "chroot", "unshare", "nsenter", "taskset", "chrt", "prlimit", "script", "strace",
        "ltrace", "gdb", "lldb", "valgrind", "perf", "ssh", "su", "runuser", "pkexec", "systemd-run", "at", "batch",
        "crontab", "screen", "tmux", "xvfb-run", "entr", "fakeroot", "proot", "firejail", "bwrap", "expect", "socat",
        "start-stop-daemon", "run-parts", "coproc", "setpriv", "capsh", "unbuffer", "direnv", "rlwrap", "nc", "ncat",
        "dbus-run-session", "xdg-open", "nix-shell", "doas", "catchsegv", "linux32",
        "linux64", "setarch", "choom", "uclampset", "sg", "newgrp", "vim", "vi", "nvim", "ed", "ex", "emacs", "less",
        "more", "man", "m4", "dc", "installwatch", "checkinstall",
    }
)  # fmt: skip
_RUNNING_OPTIONS = {
    "tar": r"--to-c|--checkpoint-a|--use-c|--rsh|--rmt|--info-s|--new-v|-\w*[IF]",
    "rsync": r"--rsh|--rsync-p|-\w*e",
    "sort": r"--comp",
    "rg": r"--pre|--hostname-bin",
    "zip": r"--unzip-command|-\w*T",
    "make": r"SHELL=|\.?SHELLFLAGS=|--eval|-f-|-f$|-\w*E",
    "curl": r"-\w*K|--config|--engine",
    "scp": r"-\w*S|-\w*o", "sftp": r"-\w*S|-\w*o",
    "go": r"-exec|--exec|-toolexec|--toolexec|-vettool",
}  # fmt: skip
"""Options with which these run what the command line names."""
_RESERVED = frozenset(
    {
        "if", "then", "elif", "else", "fi", "while", "until", "for", "in", "do", "done", "case", "esac",
        "select", "function", "{", "}", "!", "[[", "]]", "coproc", "time",
    }
)  # fmt: skip
_CODE = re.compile(
    r"(python|pypy|perl|ruby|node|nodejs|deno|bun|php|lua|luajit|Rscript|tclsh|wish|osascript|guile)[\d.]*"
)


class _Options(msgspec.Struct, frozen=True):
    """Options of a wrapper: `flags` and `valued` are letters, `words` and `valued_words` long names; `operands` stand
    between the options and the command."""

    flags: str = ""
    valued: str = ""
    words: tuple[str, ...] = ()
    valued_words: tuple[str, ...] = ()
    operands: int = 0


_WRAPPERS = {
    "timeout": _Options("v", "ks", ("preserve-status", "foreground", "verbose"), ("kill-after", "signal"), 1),
    "nice": _Options("", "n", (), ("adjustment",)),
    "nohup": _Options(),
    "stdbuf": _Options("", "ioe", (), ("input", "output", "error")),
    "ionice": _Options("t", "cn", ("ignore",), ("class", "classdata")),
    "setsid": _Options("cfw", "", ("ctty", "fork", "wait")),
    "time": _Options("p"),
    "command": _Options("p"),
    "builtin": _Options(),
    "exec": _Options("cl", "a"),
    "sudo": _Options("AbEHnPS", "Cghprtu", ("preserve-env", "non-interactive"), ("user", "group")),
    "env": _Options("i0v", "uC", ("ignore-environment", "null", "debug"), ("unset", "chdir")),
    "xargs": _Options(
        "0prtxo",
        "adEILnPs",
        ("null", "no-run-if-empty", "verbose", "exit", "interactive", "open-tty"),
        ("arg-file", "delimiter", "max-args", "max-procs", "max-chars"),
    ),
}


def unwrap(words: tuple[Word, ...]) -> Unwrapped:
    """What a command of these words runs; `words` is not empty."""
    first = words[0]
    if first.vague:
        return Unwrapped(reasons=(f"what it runs is not certain: {first.text}",))
    name = name_of(first)
    if name in _RESERVED - {"time"} or not name:
        return Unwrapped(reasons=(f"{name or 'an empty word'} stands where a command does",))
    reader = _READERS.get(name)
    if reader is not None:
        return reader(words)
    if name in _WRAPPERS:
        return _wrapped(name, words)
    if name in _OTHER_SHELLS | _RUNNERS or name.startswith("ld-linux"):
        return Unwrapped(reasons=(f"{name} runs another command",))
    if _CODE.fullmatch(name):
        return _interpreted(name, words)
    if name in _RUNNING_OPTIONS and any(re.match(_RUNNING_OPTIONS[name], word.text) for word in words[1:]):
        return Unwrapped(reasons=(f"{name} may run another command",))
    return NOTHING


def _wrapped(name: str, words: tuple[Word, ...]) -> Unwrapped:
    options = _WRAPPERS[name]
    if name == "command" and len(words) > 1 and words[1].text in {"-v", "-V"}:
        return NOTHING
    at = _after_options(words, options)
    if at is None:
        return Unwrapped(reasons=(f"{name} has an option that is not known here",))
    at += options.operands
    at += name == "env" and at < len(words) and words[at].text == "-"
    sets = []
    if name in {"env", "sudo"}:
        # For these, whatever holds a `=` is a variable.
        while at < len(words) and "=" in words[at].text:
            if words[at].vague and not words[at].quoted:
                return Unwrapped(reasons=(f"what {name} runs is not certain: {words[at].text}",))
            sets.append(words[at].text.partition("=")[0])
            at += 1
    inner = words[at:]
    if not inner:
        return Unwrapped(sets=tuple(sets))
    reasons = [f"{each.text} may stand for any options of {name}" for each in words[1:at] if each.vague]
    reasons += ["it runs as another user"] if name == "sudo" else []
    if name == "time" and (assignment(inner[0]) or inner[0].text in {"-", "--"}):
        reasons.append("what is timed is not certain")
    if name == "xargs":
        inner = _given_more(inner, words[1:at])
    return Unwrapped((inner,), reasons=tuple(reasons), sets=tuple(sets), through=not reasons)


def _given_more(inner: tuple[Word, ...], options: tuple[Word, ...]) -> tuple[Word, ...]:
    """What xargs runs: with -I, words are filled in, else they follow."""
    marks = [
        (each.text[2:] or options[at + 1].text)
        for at, each in enumerate(options)
        if each.text.startswith("-I") and (len(each.text) > 2 or at + 1 < len(options))
    ]
    if not marks:
        return (*inner, Word("...", vague=True))
    return tuple(
        Word(word.text, vague=True, quoted=True) if any(mark in word.text for mark in marks) else word for word in inner
    )


def _after_options(words: tuple[Word, ...], options: _Options) -> int | None:
    """Where the first word stands that is no option; None where an option is not known."""
    at = 1
    while at < len(words):
        word = words[at]
        if word.vague or not word.text.startswith("-") or word.text == "-":
            return at
        at += 1
        if word.text == "--":
            return at
        if word.text.startswith("--"):
            name, given, _ = word.text[2:].partition("=")
            if name in options.valued_words:
                at += 0 if given else 1
            elif name not in options.words or (given and name != "preserve-env"):
                return None
            continue
        if options.valued == "n" and re.fullmatch(r"-\d+", word.text):
            continue
        for place, letter in enumerate(word.text[1:], 1):
            if letter in options.valued:
                at += 0 if word.text[place + 1 :] else 1
                break
            if letter not in options.flags:
                return None
    return at


def _shell(words: tuple[Word, ...]) -> Unwrapped:
    """A shell: the text after -c, or a script that must be a file by name."""
    name = name_of(words[0])
    at, has_code = 1, False
    while at < len(words) and not words[at].vague and words[at].text[:1] in {"-", "+"}:
        option = words[at].text
        at += 1
        if option in {"--norc", "--noprofile", "--posix", "--login", "--verbose"}:
            continue
        if option in {"--", "-"}:
            break
        if not re.fullmatch(r"[-+][abcefhklmnpruvxoBCHPT]+", option) or option.count("o") + option.count("c") > 2:
            return Unwrapped(reasons=(f"{name} has an option that is not known here",))
        has_code = has_code or "c" in option
        at += option.count("o")
    if at >= len(words):
        return Unwrapped(reasons=(f"{name} runs what it is given on its standard input",))
    operand = words[at]
    if operand.vague:
        return Unwrapped(reasons=(f"what {name} runs is not certain: {operand.text}",))
    if has_code:
        return Unwrapped(codes=(operand.text,), through=True)
    # A script that is not in the working directory is looked for where programs are.
    unsure = script(name, operand)
    return unsure if unsure.reasons else Unwrapped((words[at:],))


def _find(words: tuple[Word, ...]) -> Unwrapped:
    """`find`: what stands between an -exec and its end."""
    commands, reasons = [], []
    at = 1
    while at < len(words):
        word = words[at]
        at += 1
        if word.vague and not word.quoted and not re.fullmatch(r"[\w./*?\[\]~-]+", word.text):
            reasons.append(f"{word.text} may stand for any action of find")
        if word.text not in {"-exec", "-execdir", "-ok", "-okdir"}:
            continue
        inner: list[Word] = []
        while at < len(words) and not _ends_exec(words, at):
            filled = "{}" in words[at].text
            inner.append(Word(words[at].text, vague=True, quoted=True) if filled else words[at])
            at += 1
        if at >= len(words) or not inner:
            reasons.append(f"what {word.text} runs does not end")
        else:
            commands.append(tuple(inner))
    return Unwrapped(tuple(commands), reasons=tuple(reasons))


def _ends_exec(words: tuple[Word, ...], at: int) -> bool:
    word = words[at]
    return not word.vague and (word.text == ";" or (word.text == "+" and words[at - 1].text == "{}"))


def _fd(words: tuple[Word, ...]) -> Unwrapped:
    for at, word in enumerate(words[1:], 1):
        if word.text in {"-x", "-X", "--exec", "--exec-batch"}:
            inner = [Word(each.text, vague=True, quoted=True) if "{" in each.text else each for each in words[at + 1 :]]
            if not inner or any(each.text == ";" for each in inner):
                return Unwrapped(reasons=("what fd runs is not certain",))
            return Unwrapped(((*inner, Word("...", vague=True)),))
        if (word.vague and not word.quoted) or re.match(r"-\w*[xX]|--exec", word.text):
            return Unwrapped(reasons=("what fd runs is not certain",))
    return NOTHING


def _interpreted(name: str, words: tuple[Word, ...]) -> Unwrapped:
    """An interpreter: a script by name is a program like any other; code among the words, or on stdin, is not read."""
    rest = words[1:]
    if all(not word.vague and word.text in {"--version", "-V", "-v", "--help", "-h"} for word in rest) and rest:
        return NOTHING
    for word in rest:
        if word.vague and not word.quoted:
            return Unwrapped(reasons=(f"what {name} runs is not certain: {word.text}",))
        if word.text == "-m" and name.startswith(("python", "pypy")):
            return NOTHING
        if not word.text.startswith("-") or word.vague:
            if name in {"deno", "bun"} and word.text in {"eval", "repl", "x", "-"}:
                break
            return script(name, word)
        known = r"-[uBsSIEOPbqdtv]+" if name.startswith(("python", "pypy")) else r"-w|--test"
        if not re.fullmatch(known, word.text):
            break
    return Unwrapped(reasons=(f"{name} runs code that is not read here",))


def _git(words: tuple[Word, ...]) -> Unwrapped:
    texts = [word.text for word in words[1:]]
    odd = any(
        re.match(r"-c|--exec-path|--config-env|--ext-diff|--textconv|-O|--open-files", text) for text in texts[:1]
    )
    runs = {
        "bisect",
        "rebase",
        "submodule",
        "filter-branch",
        "difftool",
        "mergetool",
        "config",
        "for-each-repo",
        "alias",
    }
    verb = next((text for text in texts if not text.startswith("-")), "")
    risky = verb in runs and any(
        re.match(r"run$|foreach$|-x|--exec|-t|--extcmd|alias\.|core\.|.*(cmd|program|command|driver)$|!", text)
        for text in texts
    )
    odd = odd or any(
        re.match(r"--upload-p|--receive-p|--exec|--open-files|--ext-diff|ext::|-O", text) for text in texts
    )
    if odd or risky or verb == "filter-branch":
        return Unwrapped(reasons=("git may run another command",))
    return NOTHING


def _sed(words: tuple[Word, ...]) -> Unwrapped:
    """`sed`: scripts of deleting, printing and substituting only; `e` runs commands, and `w` writes files."""
    return NOTHING if sed_is_plain(words) else Unwrapped(reasons=("sed may run or write more than is listed",))


def _awk(words: tuple[Word, ...]) -> Unwrapped:
    return NOTHING if awk_is_plain(words) else Unwrapped(reasons=("awk may run or write more than is listed",))


_READERS: dict[str, Callable[[tuple[Word, ...]], Unwrapped]] = {
    **BUILTINS,
    **dict.fromkeys(SHELLS, _shell),
    **dict.fromkeys(("fd", "fdfind"), _fd),
    **dict.fromkeys(("awk", "gawk", "mawk", "nawk"), _awk),
    "find": _find,
    "git": _git,
    "sed": _sed,
}
