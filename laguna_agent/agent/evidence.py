"""What stands behind "done": whether a test ran after the last edit, and what came of it.

Judged by results: a command that ran something counts by its exit code, behind a pipe, which hides that, by what test
programs print. Which edits and commands there were is in the log, so a replay says the same. Knows calls and results;
must not know the model's words: what it claims is no evidence.
"""

from __future__ import annotations

import re
import shlex
from typing import Literal

from laguna_agent.agent.events import CheckRun
from laguna_agent.messages import ToolCall
from laguna_agent.tools.base import ToolResult

Evidence = Literal["", "verified", "unverified", "none_needed"]

# Commands that show or arrange; everything else runs something, which says whether it works.
_NO_TEST = frozenset(
    """
    cat ls head tail grep egrep rg find fd wc diff git gh echo printf pwd which type file stat du df ps env
    date sed awk sort uniq cut tr tree less more cd export source . set true false : mkdir rmdir cp mv rm
    touch chmod chown ln tee kill pkill killall sleep wait pip pip3 apt apt-get brew curl wget tar unzip zip
    xargs jq read cmp test [ clear history man hexdump xxd od
    """.split()  # noqa: SIM905 - a list of words reads better as words
)
_INSTALLS = frozenset({"install", "i", "ci", "add", "remove", "update", "upgrade", "init", "fetch", "--version", "-V"})
_MASKS = frozenset({"|", "|&", "||", "&"})
_ENDS = frozenset({";", "&&", *_MASKS})
_NAMED = re.compile(
    r"(?:^|[\s;&|/])(?:py\.?test|unittest|tox|nox|ctest|jest|vitest|mocha|rspec|phpunit|test|check)(?=$|[\s;&|:])"
)
_HEREDOC = re.compile(r"<<-?[ \t]*(['\"]?)(\w+)\1([^\n]*)\n.*?^\t*\2$", re.DOTALL | re.MULTILINE)
_KEYWORDS = frozenset(
    ["if", "then", "elif", "else", "fi", "while", "until", "do", "done", "esac", "in", "time", "!", "{", "}", "(", ")"]
)
_REDIRECTION = re.compile(r"\d?>&\d?|&>>?")
_ASSIGNMENT = re.compile(r"\w+=")
_FAILED = re.compile(
    r"\b[1-9]\d* (?:failed|failures?|errors?|failing)\b|^FAILED|^--- FAIL|test result: FAILED|^Traceback \(most recent|"
    r"failures=[1-9]|errors=[1-9]|BUILD FAIL|\berror(?:\[\w+\])?: ",
    re.MULTILINE,
)
_PASSED = re.compile(
    r"\b[1-9]\d* (?:passed|passing)\b|^OK\b|test result: ok|^ok\s+\S|BUILD SUCCESS|All checks passed|no issues found|"
    r"^PASS\b|100% tests passed",
    re.MULTILINE,
)


class EditsAndTests:
    """The edits and tests of one prompt, in their order. `edits` counts the calls that changed something."""

    def __init__(self) -> None:
        self.edits = 0
        self._passed: bool | None = None
        self._name = "test run"
        self._earlier = self._moving = False

    def ran(self, call: ToolCall, result: ToolResult) -> None:
        """A call was executed."""
        passed = outcome_of_test(call, result)
        touched = call.name == "shell" and bool(result.locations or result.diffs)
        if touched and not _is_named_test(call, result):
            # A program that changes files is no test of them.
            passed = None
        # A test leaves reports behind; of files that nobody has looked at that is all that is known.
        if result.diffs or (touched and passed is None):
            self.edits += 1
            self._earlier = self._earlier or self._passed is not None
            self._passed, self._moving = None, False
        if passed is not None:
            self._passed, self._name, self._moving = passed, "test run", False

    def checked(self, run: CheckRun, *, moving: bool) -> None:
        """The check ran; `moving` says that files changed meanwhile."""
        if run.when == "after":
            self._passed, self._name, self._moving = run.exit_code == 0, "check", moving

    def verdict(self, *, changed: bool) -> tuple[Evidence, str]:
        """The evidence, and in a few words what it is; `changed` says that files differ, whoever changed them."""
        if not (self.edits or changed):
            return "none_needed", ""
        if self._passed and not self._moving:
            return "verified", f"the last {self._name} passed, after the last edit"
        if self._passed:
            return "unverified", f"files changed while the last {self._name} ran"
        if self._passed is False:
            return "unverified", f"the last {self._name} failed"
        return (
            "unverified",
            "the last test run predates the last edit" if self._earlier else "no test ran after the edits",
        )


def outcome_of_test(call: ToolCall, result: ToolResult) -> bool | None:
    """Whether the call's command, which tested something, passed; None where it tested nothing or nobody can tell."""
    if call.name != "shell" or result.exit_code is None:
        return None
    command = call.arguments.get("command")
    if isinstance(command, str) and command:
        known = _exit_code_tells(command)
        if known is None:
            return None
        if known:
            return result.exit_code == 0
    if _FAILED.search(result.text):
        return False
    return True if result.exit_code == 0 and _PASSED.search(result.text) else None


def _exit_code_tells(command: str) -> bool | None:
    """Whether the exit code is that of something that was run; None where nothing was."""
    try:
        text = _HEREDOC.sub(r"\3", command)
        words = shlex.shlex(_REDIRECTION.sub(" ", text).replace("\n", " ; "), posix=True, punctuation_chars=";&|")
        words.whitespace_split = True
        commands, ends = _split(list(words))
    except ValueError:
        return False
    tests = [at for at, each in enumerate(commands) if _tests(each)]
    if not tests:
        return None
    after = ends[tests[-1] :]
    if "pipefail" in command:
        after = [end for end in after if end not in {"|", "|&"}]
    last = tests[-1] == len(commands) - 1
    # Behind `;` the exit code is that of a later command; behind `&&` a failure stops the rest.
    return not (_MASKS & set(after)) and (last or ";" not in after[: len(commands) - 1 - tests[-1]])


def _split(words: list[str]) -> tuple[list[list[str]], list[str]]:
    """The simple commands, and the operator behind each ("" behind the last)."""
    commands: list[list[str]] = [[]]
    ends: list[str] = []
    for word in words:
        if word in _ENDS:
            if commands[-1]:
                ends.append(word)
                commands.append([])
        else:
            commands[-1].append(word)
    if not commands[-1]:
        commands.pop()
    return commands, [*ends, ""][: len(commands)]


def _tests(words: list[str]) -> bool:
    if words[:1] in (["for"], ["case"]):
        return False
    words = [word for word in words if not _ASSIGNMENT.match(word)]
    while words and words[0] in _KEYWORDS:
        words = words[1:]
    if not words or words[0].rpartition("/")[2] in _NO_TEST:
        return False
    return not (_INSTALLS & set(words[1:3])) and words[1:3] != ["-m", "pip"]


def _is_named_test(call: ToolCall, result: ToolResult) -> bool:
    """Whether the command calls itself a test, or prints what tests print."""
    command = _HEREDOC.sub(r"\3", str(call.arguments.get("command", "")))
    return _NAMED.search(command) is not None or _PASSED.search(result.text) is not None
