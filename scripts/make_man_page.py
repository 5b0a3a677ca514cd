"""Write man/laguna-agent.1 from the commands themselves.

python scripts/make_man_page.py          writes it
python scripts/make_man_page.py --check  says whether it is up to date (exit 1 where it is not)
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from typer.main import get_command

from laguna_agent import __version__
from laguna_agent.cli.app import PROGRAM, app

PAGE = Path(__file__).resolve().parent.parent / "man" / f"{PROGRAM}.1"
DESCRIPTION = f"""\
.PP
.B {PROGRAM}
reads, changes and runs code in the directory that it is started in, with the help of a language model on this machine
or on a server. Without a command it chats on the terminal; options of
.B chat
may then stand for themselves. What may be done unasked depends on the mode
.RB ( --approve ),
what commands can reach on the sandbox
.RB ( --sandbox )."""
EXIT_CODES = (
    ("0", "finished, and the check passed where one was given"),
    ("1", "a bug"),
    ("2", "the command line or the configuration is wrong"),
    ("3", "the model's server failed"),
    ("4", "the model could not finish"),
    ("5", "a budget was spent"),
    ("6", "stopped as a loop"),
    ("7", "something it needed was denied"),
    ("8", "finished, but the check failed"),
    ("130, 143", "ended by SIGINT, by SIGTERM"),
)
FILES = (
    ("~/.config/laguna-agent/config.toml", "settings; `laguna-agent config show` lists them all"),
    ("AGENTS.md", "instructions of a workspace, once `laguna-agent trust` has trusted them"),
    ("~/.local/state/laguna-agent/", "sessions, logs, the history of the input line"),
)


def page() -> str:
    """The whole page."""
    root = get_command(app)
    parts = [
        f'.TH {PROGRAM.upper()} 1 "" "{PROGRAM} {__version__}" "User Commands"',
        ".SH NAME",
        f"{PROGRAM} \\- a coding agent for open mixture-of-experts models",
        ".SH SYNOPSIS",
        f".B {PROGRAM}\n.RI [ OPTIONS ]",
        ".br",
        f".B {PROGRAM}\n.I COMMAND\n.RI [ OPTIONS ]",
        ".SH DESCRIPTION",
        DESCRIPTION,
        ".SH OPTIONS",
        *_options(root),
        ".SH COMMANDS",
        *_commands(root, ()),
        ".SH EXIT STATUS",
        *_table(EXIT_CODES),
        ".SH ENVIRONMENT",
        *_table((("LAGUNA_NAME", "each setting, in upper case"), ("NO_COLOR", "where it is set, no colours"))),
        ".SH FILES",
        *_table(FILES),
    ]
    return "\n".join(parts) + "\n"


def _commands(group: Any, above: tuple[str, ...]) -> list[str]:
    out: list[str] = []
    for name, command in sorted(group.commands.items()):
        if command.hidden:
            continue
        path = (*above, name)
        arguments = " ".join(
            p.make_metavar(_context(command)) for p in command.params if p.param_type_name == "argument"
        )
        out.append(f".SS {_plain(' '.join(path) + ' ' + arguments).rstrip()}")
        out.append(_text(command.help or command.short_help or ""))
        out += _options(command)
        if getattr(command, "commands", None):
            out += _commands(command, path)
    return out


def _context(command: Any) -> Any:
    return command.context_class(command)


def _options(command: Any) -> list[str]:
    out = []
    for option in command.params:
        if option.param_type_name != "option" or option.hidden:
            continue
        names = ", ".join(rf"\fB{_plain(name)}\fR" for name in (*option.opts, *option.secondary_opts))
        value = "" if option.is_flag or option.count else rf" \fI{_plain(option.make_metavar(_context(command)))}\fR"
        out.append(f".TP\n{names}{value}\n{_text(option.help or '')}")
    return out


def _table(rows: tuple[tuple[str, str], ...]) -> list[str]:
    return [rf".TP{chr(10)}\fB{_plain(name)}\fR{chr(10)}{_text(about)}" for name, about in rows]


def _text(words: str) -> str:
    """Words as a paragraph: a line that begins with a dot or a quote would be an order to troff."""
    lines = [_plain(line.strip()) for line in words.strip().splitlines()]
    return "\n".join(rf"\&{line}" if line[:1] in (".", "'") else line or ".PP" for line in lines) or r"\&"


def _plain(words: str) -> str:
    return words.replace("\\", r"\e").replace("-", r"\-")


def main() -> int:
    wanted = page()
    if "--check" in sys.argv[1:]:
        current = PAGE.exists() and PAGE.read_text(encoding="utf-8") == wanted
        found = "is up to date" if current else "is old: python scripts/make_man_page.py"
        sys.stdout.write(f"{PAGE.name} {found}\n")
        return 0 if current else 1
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
