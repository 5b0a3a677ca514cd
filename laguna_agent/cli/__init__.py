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
        code = _stopped(arguments, "interrupted", 130)
    except SystemExit as end:
        code = _stopped(arguments, "terminated", 143) if end.code == 143 else end.code  # type: ignore[assignment]
    except Exception as error:  # noqa: BLE001 - the last resort: every bug must end as one line and exit 1
        code = _explain(error)
    sys.exit(code)


def _version() -> int:
    sys.stdout.write(f"laguna-agent {__version__}\n")
    return 0


def _dispatch(arguments: list[str]) -> int:
    if arguments == ["acp"]:
        from laguna_agent.acp import serve

        return serve() or 0
    import signal

    # Until a face takes over, a signal must still end in the face's final record: it unwinds as an exception.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _terminate)
    from laguna_agent.cli.app import run_command

    return run_command(arguments)


def _terminate(number: int, frame: object) -> None:
    raise SystemExit(143)


def _stopped(arguments: list[str], outcome: str, code: int) -> int:
    """A signal came before a face was there to handle it; a script still gets its final record."""
    if arguments[:1] == ["run"]:
        import signal

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        from laguna_agent.cli.app import write_result

        write_result(arguments, outcome, code, f"{outcome} before the run began")
    return code


def _explain(error: Exception) -> int:
    from laguna_agent.crash import describe_crash
    from laguna_agent.errors import EXIT_INTERNAL, LagunaError

    if isinstance(error, LagunaError):
        line, code = " ".join(str(error).split()), error.exit_code
    else:
        line, code = describe_crash(error), EXIT_INTERNAL
    if sys.stderr is not None:
        sys.stderr.write(f"laguna-agent: {line}\n")
    return code


def _quiet_broken_pipe() -> int:
    """The reader is gone: say nothing, and keep the interpreter from flushing into the pipe again at exit."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141
