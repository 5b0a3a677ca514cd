"""bash's builtins: what they run, and when they do more than their words tell.

Knows which builtins take text for commands, and which compute an index in a variable's name, for that may run commands
too. Must not know syntax trees, programs or rules.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from laguna_agent.code.shell_names import sets_much
from laguna_agent.code.shell_words import Word

_BUILTINS = {
    "alias": "it defines an alias", "unalias": "it changes aliases", "shopt": "it changes how bash reads what follows",
    "enable": "it changes bash's builtins", "hash": "it changes where programs are found",
    "complete": "it defines completions", "compgen": "it runs completions", "bind": "it binds keys to commands",
    "fc": "it runs commands again", "let": "it computes with names", "mapfile": "it may run a callback",
    "readarray": "it may run a callback", "getopts": "it sets names", "history": "it runs the history's commands",
    "jobs": "it may run a command", "fg": "", "caller": "",
}  # fmt: skip
_NAME = re.compile(r"[A-Za-z_]\w*")


class Unwrapped(msgspec.Struct, frozen=True):
    """What a command runs besides itself. `commands` are words, `codes` bash text; `reasons` why more may run than is
    listed. `sets` are variables that it sets for them; `through` says that it does nothing else."""

    commands: tuple[tuple[Word, ...], ...] = ()
    codes: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()
    through: bool = False


NOTHING = Unwrapped()


def script(name: str, operand: Word) -> Unwrapped:
    if operand.vague or operand.text.startswith(("/dev/", "/proc/")) or operand.text == "-":
        return Unwrapped(reasons=(f"what {name} runs is not certain: {operand.text}",))
    return NOTHING


def _source(words: tuple[Word, ...]) -> Unwrapped:
    rest = words[1:]
    if rest and rest[0].text == "--":
        rest = rest[1:]
    return script(words[0].text, rest[0]) if rest else NOTHING


def _eval(words: tuple[Word, ...]) -> Unwrapped:
    rest = words[1:]
    if rest and rest[0].text == "--":
        rest = rest[1:]
    if any(word.vague for word in rest):
        return Unwrapped(reasons=("eval runs text that is not literal",))
    return Unwrapped(codes=(" ".join(word.text for word in rest),), through=True)


def _trap(words: tuple[Word, ...]) -> Unwrapped:
    rest = words[1:]
    if rest and rest[0].text == "--":
        rest = rest[1:]
    if not rest or rest[0].text in {"-", "-p", "-l"}:
        return NOTHING
    if any(word.vague for word in rest) or rest[0].text.startswith("-"):
        return Unwrapped(reasons=("trap runs text that is not literal",))
    return Unwrapped(codes=(rest[0].text,), through=True)


def _names(words: tuple[Word, ...]) -> Unwrapped:
    """Builtins whose operands are names of variables: bash computes an index in them, which may run commands."""
    name, takes_value = words[0].text, False
    for word in words[1:]:
        if takes_value:
            takes_value = False
        elif word.text.startswith("-") and not word.vague:
            takes_value = name == "read" and re.fullmatch(r"-\w*[pdnNtui]", word.text) is not None
            if not re.fullmatch(r"-[adeinNprstu]+" if name == "read" else r"-[aAfFgilprtuvx]+", word.text):
                return Unwrapped(reasons=(f"{name} has an option that is not known here",))
        elif word.vague or not _NAME.fullmatch(word.text) or sets_much(word.text):
            return Unwrapped(reasons=(f"{name} sets {word.text}",))
    return NOTHING


def _test(words: tuple[Word, ...]) -> Unwrapped:
    odd = any((word.vague and not word.quoted and word.text not in {"$?", "$#"}) for word in words[1:])
    if odd or any(word.text in {"-v", "-R"} for word in words):
        return Unwrapped(reasons=("it tests a variable by name",))
    return NOTHING


def _printf(words: tuple[Word, ...]) -> Unwrapped:
    if len(words) > 1 and (words[1].text.startswith("-v") or (words[1].vague and not words[1].quoted)):
        return Unwrapped(reasons=("printf sets a variable by name",))
    return NOTHING


def _set(words: tuple[Word, ...]) -> Unwrapped:
    known = all(
        not word.vague and re.fullmatch(r"[-+][euxo]+|pipefail|errexit|nounset|xtrace|--", word.text)
        for word in words[1:]
    )
    return NOTHING if known else Unwrapped(reasons=("it changes how bash reads what follows",))


def _wait(words: tuple[Word, ...]) -> Unwrapped:
    known = all(re.fullmatch(r"[\w%]+|\$!|-n", word.text) for word in words[1:])
    return NOTHING if known else Unwrapped(reasons=("wait sets a variable by name",))


def _doubtful(words: tuple[Word, ...]) -> Unwrapped:
    reason = _BUILTINS[words[0].text]
    return Unwrapped(reasons=(reason,)) if reason else NOTHING


BUILTINS: dict[str, Callable[[tuple[Word, ...]], Unwrapped]] = {
    **dict.fromkeys(_BUILTINS, _doubtful),
    **dict.fromkeys(("source", "."), _source),
    **dict.fromkeys(("read", "unset", "declare", "typeset", "local", "export", "readonly"), _names),
    **dict.fromkeys(("test", "["), _test),
    "eval": _eval,
    "trap": _trap,
    "printf": _printf,
    "set": _set,
    "wait": _wait,
}
"""What each of them runs, by its words."""
