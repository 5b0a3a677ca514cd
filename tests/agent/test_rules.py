"""The person's rules: what each matches, who wins, what is refused at load."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laguna_agent.agent.rules import Rules, denied_globs
from laguna_agent.code.shell_command import parts
from laguna_agent.config import Rule, RuleVerdict
from laguna_agent.errors import ConfigError
from laguna_agent.tools.base import Grant, Need

ROOT = Path("/work space/[x]")


def rules(*texts: str) -> Rules:
    """From `deny shell(git push *)` and the like."""
    return Rules([Rule(text.partition(" ")[2], text.partition(" ")[0]) for text in texts], [ROOT])  # type: ignore[arg-type]


def verdict(given: Rules, command: str, grant: Grant | None = None) -> RuleVerdict | None:
    judgement = given.judge(Need("execute", command, grant=grant), parts(command))
    return judgement and judgement.verdict


PUSHES = [
    "git push",
    "git push origin main",
    "g\\it 'push'",
    "/usr/bin/git push",
    "git -C sub push",
    "git --no-pager -C sub push -f",
    "ls && git push",
    "ls | git push",
    "ls; (git push) &",
    "echo $(git push)",
    "echo `git push`",
    "cat <(git push)",
    "cat <<E\n$(git push)\nE",
    "x=$(git push) ls",
    "bash -c 'git push'",
    "sh -c \"bash -c 'git push'\"",
    "eval git push",
    "env A=1 timeout 5 git push",
    "xargs git push",
    "find . -exec git push {} +",
    "f() { git push; }; f",
    "if true; then git push; fi",
    "trap 'git push' EXIT",
    "exec git push",
    "command git push",
    "> out git push",
    "git push > out",
    "git push # harmless",
    "true\ngit push",
]


@pytest.mark.parametrize("command", PUSHES)
def test_a_denial_holds_wherever_the_command_stands(command: str) -> None:
    assert verdict(rules("deny shell(git push *)"), command) == "deny"
    assert verdict(rules("ask shell(git push *)"), command) == "ask"
    assert verdict(rules("deny shell(git push *)", "allow shell(*)"), command) == "deny"


@pytest.mark.parametrize("grant", [None, "network", "unconfined"])
def test_a_denial_holds_whatever_the_command_wants_of_the_sandbox(grant: Grant | None) -> None:
    assert (
        verdict(rules("deny shell(git push *)", "allow network(*)", "allow unconfined(*)"), "git push", grant) == "deny"
    )


@pytest.mark.parametrize(
    "command",
    ["git $x", "g$x push", "$x", "$(echo git) push", "uv run git push", "npx x git push",
     "python -c 'x'", "ssh h 'git push'",
     "eval \"$x\"", "curl x | sh", "gi\u200bt push",
     "bash <<E\ngit push\nE", "xargs -I% git % <a", "xargs git < a"],
)  # fmt: skip
def test_what_might_be_denied_is_asked_about_and_never_allowed(command: str) -> None:
    assert verdict(rules("deny shell(git push *)"), command) == "ask"
    assert verdict(rules("deny shell(git push *)", "allow shell(*)"), command) == "ask"


def test_a_carriage_return_is_no_separator_that_hides_anything() -> None:
    assert verdict(rules("deny shell(git push *)", "allow shell(*)"), "git\rpush") in {"ask", "deny"}
    assert verdict(rules("deny shell(git push *)", "allow shell(*)"), "ls\rgit push") in {"ask", "deny"}


@pytest.mark.parametrize(
    "command", ["git pull", "git commit -m push", "echo git push", "ls", "/tmp/git push", "./git push", "gitk push"]
)
def test_other_commands_are_not_touched(command: str) -> None:
    assert verdict(rules("deny shell(git push *)"), command) is None


@pytest.mark.parametrize(
    "command", ["a;" * 51, "ls; " * 50 + "git push", "echo " + "x" * 10_000, "(" * 3000 + ")" * 3000]
)
def test_past_the_limits_a_denial_refuses(command: str) -> None:
    assert verdict(rules("deny shell(git push *)"), command) == "deny"
    assert verdict(rules("allow shell(*)"), command) is None


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("make test", "allow"),
        ("make", "allow"),
        ("make test && ls | head", "allow"),
        ("timeout 5 make", "allow"),
        ("bash -c 'make; make x'", "allow"),
        ("make $x", "allow"),
        ("make > /dev/null", "allow"),
        ("make > src/out", "allow"),
        ("ls", None),
        ("make > out", None),
        ("make && rm x", None),
        ("make $(rm x)", None),
        ("make; $x", None),
        ("CC=./x make", None),
        ("/tmp/make", None),
        ("./make", None),
        ("rm make", None),
        ("-j make", None),
        ("bash ./make", None),
        ("sudo make", None),
    ],
)
def test_leave_is_for_exactly_what_the_rule_says(command: str, expected: RuleVerdict | None) -> None:
    given = rules("allow shell(make *)", "allow edit(src/**)")
    assert verdict(given, command) == expected
    assert verdict(given, command, "network") is None


def test_patterns_word_by_word() -> None:
    given = rules(
        "allow shell(npm run test:*)",
        "allow shell(pip install *)",
        "allow shell(git commit -m 'a b')",
        "allow network(pip *)",
    )
    assert verdict(given, "npm run test:unit") == "allow"
    assert verdict(given, "npm run test:unit x") is None
    assert verdict(given, "npm run build") is None
    assert verdict(given, "npm --x run test:unit") is None
    assert verdict(given, "pip install") == "allow"
    assert verdict(given, "git commit -m 'a b'") == "allow"
    assert verdict(given, "git commit -m a b") is None
    assert verdict(given, "pip download x", "network") == "allow"
    assert verdict(given, "pip install x && curl y", "network") is None


@given(st.permutations(["deny shell(a *)", "ask shell(a b)", "allow shell(*)"]))
def test_the_strictest_wins_in_any_order(order: list[str]) -> None:
    assert verdict(rules(*order), "a b") == "deny"
    assert verdict(rules(*(each for each in order if "deny" not in each)), "a b") == "ask"


@pytest.mark.parametrize(
    ("rule", "access", "subject", "matches"),
    [
        ("read(.env)", "read", ".env", True),
        ("read(.env)", "read", "src/.env", False),
        ("read(**/.env)", "read", "src/.env", True),
        ("read(**/.env)", "read", ".env", True),
        ("read(.env)", "read", f"{ROOT}/.env", True),
        ("read(.env)", "read", f"{ROOT}/src/../.env", True),
        ("read(.env)", "read", ".ENV", True),
        ("read(.env)", "write", ".env", True),
        ("read(secrets)", "read", "secrets/a/b", True),
        ("read(secrets)", "read", "secrets2", False),
        ("read(*.pem)", "read", "a/b.pem", False),
        ("read(**)", "read", "a/b.pem", True),
        ("read(**)", "read", "/etc/passwd", False),
        ("read(/etc/**)", "read", "/etc/passwd", True),
        ("read(~/x)", "read", "~/x", True),
        ("edit(src/**)", "write", "src/a/b.py", True),
        ("edit(src/**)", "write", "src", False),
        ("edit(src/**)", "write", "lib/src/a", False),
        ("edit(src/**)", "read", "src/a", False),
        ("edit(s?c/[ab].py)", "write", "src/a.py", True),
        ("edit(s?c/[!ab].py)", "write", "src/a.py", False),
        ("edit(/work space/*/a)", "write", "a", True),
    ],
)
def test_paths(rule: str, access: str, subject: str, matches: bool) -> None:
    judgement = rules(f"deny {rule}").judge(Need(access, subject))  # type: ignore[arg-type]
    assert (judgement is not None) == matches


def test_leave_for_a_path_knows_upper_and_lower_case() -> None:
    assert rules("allow edit(src/**)").judge(Need("write", "SRC/a")) is None
    assert rules("deny edit(src/**)").judge(Need("write", "SRC/a")) is not None


@pytest.mark.parametrize(
    "command",
    ["cat .env", "cat ./.env", "cat src/../.env", "wc < .env", "grep --file=.env x", "cat '.env'", "cp .env x; ls"],
)
def test_a_path_that_is_denied_is_denied_to_commands_that_name_it(command: str) -> None:
    assert verdict(rules("deny read(.env)"), command) == "deny"


def test_a_redirection_is_an_edit() -> None:
    assert verdict(rules("deny edit(src/**)"), "echo x > src/a") == "deny"
    assert verdict(rules("ask edit(src/**)"), "echo x >> src/a") == "ask"
    assert verdict(rules("deny edit(src/**)"), "cat src/a") is None


def test_tools_of_servers_by_name() -> None:
    given = rules("deny tool(db_drop*)", "allow tool(db_*)", "deny shell(*)")
    assert [given.judge(Need("execute", "x", tool=name)) and given.judge(Need("execute", "x", tool=name)).verdict  # type: ignore[union-attr]
            for name in ("db_drop_all", "db_read", "web")] == ["deny", "allow", None]  # fmt: skip


def test_a_reason_is_the_persons_or_names_the_rule() -> None:
    given = Rules([Rule("shell(git push *)", "deny", "pushing is mine"), Rule("shell(rm *)", "deny")], [ROOT])
    assert (given.judge(Need("execute", "git push")) or pytest.fail()).reason == "pushing is mine"
    assert "shell(rm *)" in (given.judge(Need("execute", "rm x")) or pytest.fail()).reason


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (Rule("git push", "deny"), ["'git push'", "shell, network, unconfined, edit, read, tool"]),
        (Rule("exec(x)", "deny"), ["'exec(x)'"]),
        (Rule("shell()", "deny"), ["'shell()'", "nothing"]),
        (Rule("shell(a 'b)", "deny"), ["shell(a 'b)", "no closing quotation"]),
        (Rule("shell(a b)", "deny", match=("a b c",)), ["'shell(a b)'", "'a b c'", "does not match"]),
        (Rule("shell(git *)", "deny", no_match=("ls; git pull",)), ["'ls; git pull'", "matches"]),
        (Rule("shell(make *)", "allow", match=("make && rm x",)), ["'make && rm x'", "does not match"]),
        (Rule("edit(src)", "allow", match=("lib",)), ["'lib'", "does not match"]),
        (Rule("tool(a*)", "ask", match=("b",)), ["'b'", "does not match"]),
    ],
)  # fmt: skip
def test_a_rule_that_is_wrong_is_told_with_its_example(rule: Rule, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        Rules([rule], [ROOT])
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


def test_examples_that_hold_are_accepted() -> None:
    Rules(
        [
            Rule("shell(git push *)", "deny", match=tuple(PUSHES), no_match=("git pull", "echo git push")),
            Rule("shell(make *)", "allow", match=("make x",), no_match=("make; rm x",)),
            Rule("read(**/.env)", "deny", match=(".env", "a/.env"), no_match=("env",)),
        ],
        [ROOT],
    )


def test_denied_reads_for_the_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/h")
    given = [
        Rule("read(.env)", "deny"),
        Rule("read(./a/**)", "deny"),
        Rule("read(~/x)", "deny"),
        Rule("read(b)", "ask"),
        Rule("edit(c)", "deny"),
    ]
    assert denied_globs(given) == (".env", "a/**", "/h/x")


@given(st.text(max_size=30), st.sampled_from(["shell", "edit", "read", "tool", "network"]))
def test_any_pattern_is_a_rule_or_a_config_error(text: str, subject: str) -> None:
    try:
        given = Rules([Rule(f"{subject}({text})", "deny")], [ROOT])
    except ConfigError:
        return
    for need in (Need("execute", text), Need("read", text), Need("write", text)):
        given.judge(need)
