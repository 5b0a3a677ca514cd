"""The person's own rules: `shell(git push *)`, `edit(src/**)`, `read(.env)`, `network(pip install *)`, `tool(db_*)`.

A rule is checked against its examples before it is used. Knows what a rule may say and what it matches; must not know
modes, grants or faces. For denials and questions a command matches as soon as one of its parts does, options skipped,
or might; for leave every part must be matched exactly, or only look.

    shell, network, unconfined   words of a command; `*` inside a word is any text, as the last word any rest
    edit, read                   a path below the workspace, or absolute, or `~/...`; `**` crosses directories
    tool                         the name of an MCP server's tool
"""

from __future__ import annotations

import fnmatch
import os
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, cast, get_args

import msgspec

from laguna_agent.agent.rule_paths import PathPattern, absolute
from laguna_agent.code.looking import NOWHERE, looks
from laguna_agent.code.shell_command import Parsed, Part, parts
from laguna_agent.code.shell_names import name_of
from laguna_agent.code.shell_words import Word
from laguna_agent.config import Rule, RuleVerdict
from laguna_agent.errors import ConfigError
from laguna_agent.tools.base import Need

Subject = Literal["shell", "network", "unconfined", "edit", "read", "tool"]
SUBJECTS: tuple[Subject, ...] = get_args(Subject)
COMMANDS = frozenset({"shell", "network", "unconfined"})
_FORM = re.compile(r"\s*([a-z]+)\((.*)\)\s*", re.DOTALL)
Match = Literal["no", "maybe", "yes"]


class Judgement(msgspec.Struct, frozen=True):
    """What the rules say of a need; `rule` is the one that decided, and `reason` why in words."""

    verdict: RuleVerdict
    rule: str
    reason: str


class CommandPattern:
    """The words of a command rule."""

    def __init__(self, text: str) -> None:
        words = shlex.split(text)
        self._rest = bool(words) and words[-1] == "*"
        names = words[:-1] if self._rest else words
        self._words = [re.compile(fnmatch.translate(word)) for word in names]

    def __bool__(self) -> bool:
        return bool(self._words) or self._rest

    def covers(self, part: Part) -> bool:
        """Whether a part is exactly what the rule says: each word certain, none skipped."""
        words, count = part.words, len(self._words)
        if len(words) < count or (len(words) > count and not self._rest) or not words:
            return False
        if any(at < count for at in part.vague):
            return False
        return all(pattern.match(_text(words, at)) for at, pattern in enumerate(self._words))

    def touches(self, part: Part) -> Match:
        """Whether a part is what the rule says, options and their values skipped where they stand in between. What is
        not certain, or might be run by a program that is not known, is "maybe"."""
        best: Match = "no"
        # Patterns matched so far, and whether that is certain; by the word that comes next.
        states: list[set[tuple[int, bool]]] = [set() for _ in range(len(part.words) + 3)]
        runs_others = not looks(part)
        states[0].add((0, True))
        for at in range(len(part.words) + 1):
            if runs_others and at:
                states[at].add((0, False))
            for matched, certain in states[at]:
                if matched == len(self._words) and (self._rest or at == len(part.words)):
                    if certain:
                        return "yes"
                    best = "maybe"
                elif at < len(part.words):
                    self._go_on(part, at, matched, certain, states)
        return best

    def _go_on(self, part: Part, at: int, matched: int, certain: bool, states: list[set[tuple[int, bool]]]) -> None:
        text = _text(part.words, at)
        if at in part.vague:
            states[at + 1].update((more, False) for more in range(matched, len(self._words) + 1))
            return
        if matched < len(self._words) and self._words[matched].match(text):
            states[at + 1].add((matched + 1, certain))
        if matched and text.startswith("-"):
            states[at + 1].add((matched, certain))
            states[at + 2].add((matched, certain))


def _text(words: tuple[str, ...], at: int) -> str:
    if at:
        return words[at]
    # `/usr/../usr/bin/./touch` is `touch` too.
    return name_of(Word(os.path.normpath(words[0]) if words[0].startswith("/") else words[0]))


class _Compiled(msgspec.Struct, frozen=True):
    """A rule with its pattern; exactly one of the two is there, but for tools."""

    rule: Rule
    subject: Subject
    text: str
    command: CommandPattern | None = None
    path: PathPattern | None = None


class Rules:
    """The rules in force in a workspace of these roots; raises ConfigError for a rule that cannot be understood or does
    not do what its examples say."""

    def __init__(self, rules: Iterable[Rule] = (), roots: Sequence[Path] = ()) -> None:
        self._roots = tuple(roots) or (Path("/"),)
        self._rules = [_compile(rule, self._roots) for rule in rules]
        for compiled in self._rules:
            self._check_examples(compiled)

    def judge(self, need: Need, parsed: Parsed | None = None) -> Judgement | None:
        """What the strictest of the matching rules says; None where none matches. `parsed` is the command of a need
        that has one."""
        if not self._rules:
            return None
        if need.tool:
            return self._strictest((rule for rule in self._of("tool") if _names(rule, need.tool)), need.tool)
        if need.access == "execute":
            return self._command(need, parsed or parts(need.subject))
        return self._file(need)

    def _of(self, *subjects: Subject) -> list[_Compiled]:
        return [rule for rule in self._rules if rule.subject in subjects]

    def _strictest(self, matching: Iterable[_Compiled], what: str) -> Judgement | None:
        order: dict[RuleVerdict, int] = {"deny": 0, "ask": 1, "allow": 2}
        first = min(matching, key=lambda each: order[each.rule.verdict], default=None)
        return None if first is None else _judgement(first, f"matches {what}")

    # -- files ------------------------------------------------------------------------------------------------------

    def _file(self, need: Need) -> Judgement | None:
        path = absolute(need.subject, self._roots[0])
        own = self._of("read" if need.access == "read" else "edit")
        # An edit shows what the file holds, so who may not read may not edit.
        unreadable = [rule for rule in self._of("read") if rule.rule.verdict == "deny"]
        return self._strictest((rule for rule in (*own, *unreadable) if _leads_to(rule, path)), need.subject)

    # -- commands ---------------------------------------------------------------------------------------------------

    def _command(self, need: Need, parsed: Parsed) -> Judgement | None:
        wanted: Subject = need.grant or "shell"
        strict = [rule for rule in self._of(*{"shell", wanted}) if rule.rule.verdict != "allow"]
        found: list[tuple[_Compiled, Match]] = [(rule, _touches(rule, parsed)) for rule in strict]
        found += [(rule, "yes") for rule in self._touched_files(parsed)]
        denied = [rule for rule, match in found if match == "yes" and rule.rule.verdict == "deny"]
        if denied:
            return _judgement(denied[0], "matches a part of this command")
        denying = [rule for rule in strict if rule.rule.verdict == "deny"]
        if denying and parsed.too_long:
            return Judgement("deny", denying[0].rule.rule, f"the rules cannot be held against it: {parsed.unclear[0]}")
        asked = [rule for rule, match in found if match == "yes"]
        if asked:
            return _judgement(asked[0], "matches a part of this command")
        unsure = [rule for rule, match in found if match == "maybe"] or (strict if parsed.unclear else [])
        if unsure:
            why = f": {parsed.unclear[0]}" if parsed.unclear else ""
            name = unsure[0].rule.rule
            return Judgement("ask", name, f"it is not certain whether the rule {name} matches{why}")
        return self._leave(wanted, parsed)

    def _leave(self, wanted: Subject, parsed: Parsed) -> Judgement | None:
        """Leave by rules: every part is covered by one, or only looks."""
        allowing = [rule for rule in self._of(wanted) if rule.rule.verdict == "allow"]
        if parsed.unclear or not allowing:
            return None
        used = None
        for part in parsed.parts:
            covering = next((rule for rule in allowing if rule.command and rule.command.covers(part)), None)
            if covering is not None and not part.sets and self._may_write(part.writes):
                used = used or covering
            elif not part.through and not looks(part):
                return None
        return None if used is None else _judgement(used, "matches this command")

    def _may_write(self, writes: tuple[str, ...]) -> bool:
        allowing = [rule for rule in self._of("edit") if rule.rule.verdict == "allow"]
        return all(
            target in NOWHERE or any(_leads_to(rule, absolute(target, self._roots[0])) for rule in allowing)
            for target in writes
        )

    def _touched_files(self, parsed: Parsed) -> Iterable[_Compiled]:
        """Path rules that a command touches by name; what it touches otherwise is the sandbox's affair."""
        unreadable = [rule for rule in self._of("read") if rule.rule.verdict == "deny"]
        guarded = [rule for rule in self._of("edit") if rule.rule.verdict != "allow"]
        for part in parsed.parts if unreadable or guarded else ():
            named = [word for at, word in enumerate(part.words) if at not in part.vague]
            named += [word.partition("=")[2] for word in named if "=" in word]
            for rules, texts in ((unreadable, (*named, *part.reads, *part.writes)), (guarded, part.writes)):
                paths = [absolute(text, self._roots[0]) for text in texts if text]
                yield from (rule for rule in rules if any(_leads_to(rule, path) for path in paths))

    # -- examples ---------------------------------------------------------------------------------------------------

    def _check_examples(self, compiled: _Compiled) -> None:
        rule = compiled.rule
        for wanted, examples in ((True, rule.match), (False, rule.no_match)):
            for example in examples:
                if self._matches(compiled, example) != wanted:
                    does = "does not match" if wanted else "matches"
                    name = "match" if wanted else "no_match"
                    raise ConfigError(f"the rule {rule.rule!r} {does} its example {example!r} ({name})")

    def _matches(self, compiled: _Compiled, example: str) -> bool:
        if compiled.subject == "tool":
            return _names(compiled, example)
        if compiled.path is not None:
            return compiled.path.matches(absolute(example, self._roots[0]))
        parsed = parts(example)
        if compiled.rule.verdict != "allow":
            return _touches(compiled, parsed) == "yes"
        assert compiled.command is not None
        return not parsed.unclear and all(part.through or compiled.command.covers(part) for part in parsed.parts)


def denied_globs(rules: Iterable[Rule]) -> tuple[str, ...]:
    """What read(...) rules deny, for the sandbox's policy: globs relative to a root, or absolute ones."""
    found = []
    for rule in rules:
        match = _FORM.fullmatch(rule.rule)
        if match and match[1] == "read" and rule.verdict == "deny":
            text = match[2].strip()
            found.append(str(Path(text).expanduser()) if text.startswith("~/") else text.removeprefix("./"))
    return tuple(found)


def _compile(rule: Rule, roots: Sequence[Path]) -> _Compiled:
    match = _FORM.fullmatch(rule.rule)
    if match is None or match[1] not in SUBJECTS:
        raise ConfigError(
            f"the rule {rule.rule!r} is none; write one of {', '.join(SUBJECTS)} with a pattern: shell(git push *)"
        )
    subject, text = cast(Subject, match[1]), match[2].strip()
    if not text:
        raise ConfigError(f"the rule {rule.rule!r} says nothing between the brackets; * stands for everything")
    if subject == "tool":
        return _Compiled(rule, subject, text)
    if subject not in COMMANDS:
        return _Compiled(rule, subject, text, path=PathPattern(text, roots))
    try:
        return _Compiled(rule, subject, text, command=CommandPattern(text))
    except ValueError as error:
        raise ConfigError(f"the rule {rule.rule!r} cannot be read: {str(error).lower()}") from None


def _judgement(compiled: _Compiled, how: str) -> Judgement:
    rule = compiled.rule
    return Judgement(rule.verdict, rule.rule, rule.reason or f"the rule {rule.rule} {how}")


def _names(compiled: _Compiled, tool: str) -> bool:
    return fnmatch.fnmatchcase(tool, compiled.text)


def _leads_to(compiled: _Compiled, path: str) -> bool:
    strict = compiled.rule.verdict != "allow"
    return compiled.path is not None and compiled.path.matches(path, strict=strict)


def _touches(compiled: _Compiled, parsed: Parsed) -> Match:
    assert compiled.command is not None
    found = {compiled.command.touches(part) for part in parsed.parts if part.words}
    return "yes" if "yes" in found else "maybe" if "maybe" in found else "no"
