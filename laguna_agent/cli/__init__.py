"""The command line's front door.

Knows only what must be decided before anything is imported: `--version` and `acp`, which editors spawn, have a path of
their own; everything else goes to `cli.app`. Whatever goes wrong behind the door ends here as one line on stderr and
the exit code of the contract (`laguna_agent.errors`).
"""

import sys

from laguna_agent import __version__


def main() -> None:
    """Run the program with `sys.argv`; always ends the process."""
    arguments = sys.argv[1:]
    try:
        code = _version() if arguments[:1] == ["--version"] else _dispatch(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        code = _quiet_broken_pipe()
    except KeyboardInterrupt:
        code = 130
    except Exception as error:  # noqa: BLE001 - the last resort: every bug must end as one line and exit 1
        code = _explain(error)
    sys.exit(code)


def _version() -> int:
    sys.stdout.write(f"laguna-agent {__version__}\n")
    return 0


def _dispatch(arguments: list[str]) -> int:
    from laguna_agent.held_keys import take_secrets

    take_secrets()
    if arguments == ["acp"]:
        from laguna_agent.acp import serve

        return serve() or 0
    from laguna_agent import early_signals

    if arguments[:1] == ["run"]:
        early_signals.note_signals()
    else:
        early_signals.unwind_on_signals()
    from laguna_agent.cli.app import run_command

    return run_command(arguments)


def _explain(error: Exception) -> int:
    from laguna_agent.crash import describe_crash
    from laguna_agent.errors import EXIT_INTERNAL, LagunaError

    if isinstance(error, LagunaError):
        line, code = " ".join(str(error).split()), error.exit_code
    else:
        line, code = describe_crash(error), EXIT_INTERNAL
    if sys.stderr is not None:
        from laguna_agent.redaction import without_keys
        from laguna_agent.visible import visible

        # Names of files, and what a server or a model said, may be in it.
        sys.stderr.write(f"laguna-agent: {visible(without_keys(line))}\n")
    return code


def _quiet_broken_pipe() -> int:
    """The reader is gone: say nothing, and keep the interpreter from flushing into the pipe again at exit."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141
