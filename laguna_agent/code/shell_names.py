"""Names in a bash command line: of programs, and of variables that change what programs do.

Must not know commands, syntax trees or rules.
"""

from __future__ import annotations

import re

from laguna_agent.code.shell_words import Word

STANDARD_DIRECTORIES = ("/bin/", "/usr/bin/", "/usr/local/bin/", "/sbin/", "/usr/sbin/", "/usr/local/sbin/",
                        "/opt/homebrew/bin/")  # fmt: skip
"""A program in one of these is what its name says; one of the same name elsewhere is not."""
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)(\[[^=]*\])?\+?=", re.DOTALL)


def name_of(word: Word) -> str:
    """A program's name: that of a standard directory without it."""
    for directory in STANDARD_DIRECTORIES:
        rest = word.text.removeprefix(directory)
        if rest != word.text and "/" not in rest:
            return rest
    return word.text


def sets_much(name: str) -> bool:
    """Whether a variable changes what programs run, or how bash reads: to set it makes a command unclear."""
    return (
        name.startswith(("LD_", "DYLD_", "GIT_", "BASH", "PYTHON", "PERL", "RUBY", "NODE_", "JAVA_", "LESS", "GCONV_"))
        and name not in {"PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "PYTHONHASHSEED", "NODE_ENV", "PYTHONUTF8"}
    ) or name in {
        "PATH", "IFS", "ENV", "HOME", "SHELL", "SHELLOPTS", "PS0", "PS1", "PS2", "PS3", "PS4", "PROMPT_COMMAND",
        "CDPATH", "GLOBIGNORE", "EDITOR", "VISUAL", "PAGER", "MANPAGER", "BROWSER", "FCEDIT", "POSIXLY_CORRECT",
        "TMPDIR", "TERMINFO", "LOCPATH", "NLSPATH", "MAKEFLAGS", "MFLAGS", "GNUMAKEFLAGS", "SSH_ASKPASS", "EXECIGNORE",
        "_", "OPTIND", "HISTFILE", "INPUTRC", "FIGNORE", "TAR_OPTIONS", "RSYNC_RSH", "CVS_RSH",
    }  # fmt: skip


def assignment(word: Word) -> str | None:
    """The variable that a word of the form NAME=VALUE sets."""
    match = _ASSIGNMENT.match(word.text)
    return match[1] if match else None
