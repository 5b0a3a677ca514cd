"""The small languages inside shell commands: whether a sed or awk script only edits text.

Both can run programs and write files. Knows just enough of their syntax to tell plain scripts; whatever else a script
holds makes it not plain. Must not know rules.
"""

from __future__ import annotations

import re

from laguna_agent.code.shell_words import Word

_ADDRESS = r"(?:\d+|\$|/(?:[^/\\\n]|\\.)+/I?)"
_SED_COMMAND = re.compile(
    rf"\s*(?:{_ADDRESS}(?:~\d+|,\s*(?:[+~]?\d+|{_ADDRESS}))?)?\s*!?\s*(?:(?P<simple>[pdPDgGhHnNxl=])|[qQ]\s*\d*|(?P<sub>[sy])|"
    r"(?P<text>[aic])(?:\\\n|\\?)[^\n]*|(?P<open>\{)|(?P<close>\}))"
)
_SED_READS = r"-[nErsuz]+|--quiet|--silent|--regexp-extended"
_SED_WRITES = r"|-[nErsuz]*i(?:\.\w+)?|--in-place(?:=\.\w+)?"
_SED_FLAGS = re.compile(r"[gpiImM\d]*\s*")


def sed_script_is_plain(script: str) -> bool:
    """Whether a sed script neither runs anything (`e`) nor names a file (`r`, `w`)."""
    at = 0
    while at < len(script):
        if script[at] in "; \t\n":
            at += 1
            continue
        match = _SED_COMMAND.match(script, at)
        if match is None:
            return False
        at = match.end()
        if match["sub"]:
            after = _after_substitution(script, at)
            if after is None:
                return False
            at = after
        if not match["open"] and at < len(script) and not re.match(r"[ \t]*([;\n}]|$)", script[at:]):
            return False
    return True


def _after_substitution(script: str, at: int) -> int | None:
    """Where what follows `s` or `y` ends, its flags too; None where it does not end, or a flag is more than plain."""
    delimiter = script[at : at + 1]
    if not delimiter or delimiter in "\\\n" or delimiter.isalnum() or delimiter.isspace():
        return None
    at += 1
    for _ in range(2):
        # A delimiter inside brackets ends the part for sed, whatever it means to a regular expression.
        part = re.compile(rf"(?:\\.|[^\\{re.escape(delimiter)}])*{re.escape(delimiter)}", re.DOTALL).match(script, at)
        if part is None:
            return None
        at = part.end()
    flags = _SED_FLAGS.match(script, at)
    return flags.end() if flags else at


def sed_is_plain(words: tuple[Word, ...], *, reading: bool = False) -> bool:
    """Whether a sed command only edits text; with `reading`, whether it moreover writes to its output alone."""
    scripts: list[str] = []
    operands: list[Word] = []
    rest = iter(words[1:])
    for word in rest:
        if word.vague and not word.quoted and not scripts and not operands:
            return False
        if not word.text.startswith("-") or word.vague or word.text == "-":
            operands.append(word)
        elif word.text in {"-e", "--expression"}:
            script = next(rest, None)
            if script is None or script.vague:
                return False
            scripts.append(script.text)
        elif not re.fullmatch(_SED_READS if reading else _SED_READS + _SED_WRITES, word.text):
            return False
    if not scripts:
        if not operands or operands[0].vague:
            return False
        scripts.append(operands.pop(0).text)
    return all(map(sed_script_is_plain, scripts)) and not any(_may_be_option(word) for word in operands)


def awk_is_plain(words: tuple[Word, ...]) -> bool:
    """Whether an awk command has its program as literal text that runs nothing and writes no file."""
    rest = iter(words[1:])
    for word in rest:
        if word.vague:
            return False
        if word.text in {"-F", "-v"}:
            if next(rest, None) is None:
                return False
        elif word.text == "--" or re.match(r"-[Fv].", word.text):
            continue
        elif word.text.startswith("-"):
            return False
        else:
            program = word.text.replace("||", "")
            writes = ">" in program and "print" in program
            runs = re.search(r"system|getline|\||@|\bclose\b|ENVIRON", program)
            return not writes and not runs and not any(_may_be_option(each) for each in rest)
    return False


def _may_be_option(word: Word) -> bool:
    return (word.vague and not word.quoted and word.text[:1] in "*?[$`{") or word.text.startswith("-")
