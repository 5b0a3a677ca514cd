"""What a run was asked to do: the command line as data, and the checks that need no session."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from laguna_agent.errors import UsageError


@dataclass(frozen=True)
class Invocation:
    """The command line of `run`. Relative paths are relative to the process's directory, not to `cwd`.

    `prompt` is the argument ("-": read standard input to its end), `flags` are settings by their key.
    """

    prompt: str | None = None
    file: Path | None = None
    output: str = "text"
    output_schema: Path | None = None
    check: str | None = None
    patch_out: Path | None = None
    trajectory: Path | None = None
    resume: str | None = None
    continue_latest: bool = False
    rewind: str | None = None
    fork: bool = False
    replay: str | None = None
    cwd: Path | None = None
    trust: bool = False
    flags: Mapping[str, object] = field(default_factory=dict)


def read_schema(path: Path) -> dict[str, Any]:
    """The JSON Schema in a file; raises UsageError where it is not a JSON object."""
    try:
        schema = msgspec.json.decode(path.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read the schema {path}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise UsageError(f"the schema {path} is not valid JSON: {error}") from error
    if not isinstance(schema, dict):
        raise UsageError(f"the schema {path} must be a JSON object")
    return schema


def prompts_to_take_back(invocation: Invocation) -> int:
    """The number that --rewind gives, 0 without it. Raises UsageError where it is none, and where --rewind or --fork
    name no session to do it to."""
    resumes = invocation.resume is not None or invocation.continue_latest
    for name, asked_for in (("--rewind", invocation.rewind is not None), ("--fork", invocation.fork)):
        if asked_for and not resumes:
            raise UsageError(f"{name} needs a session: add --continue or --resume ID")
    number = invocation.rewind or "0"
    if not (number.isascii() and number.isdigit() and (int(number) or invocation.rewind is None)):
        raise UsageError(f"--rewind {number!r} is not valid; expected a number of prompts, at least 1")
    return int(number)


def refuse_beside_replay(invocation: Invocation) -> None:
    """Everything that a replay does is in the recording: raise UsageError where something else is asked for too."""
    options = {
        "a prompt": invocation.prompt,
        "--file": invocation.file,
        "--check": invocation.check,
        "--output-schema": invocation.output_schema,
        "--patch-out": invocation.patch_out,
        "--trajectory": invocation.trajectory,
        "--resume": invocation.resume,
        "--continue": invocation.continue_latest or None,
        "--rewind": invocation.rewind,
        "--fork": invocation.fork or None,
        "--trust": invocation.trust or None,
    }
    for name, value in options.items():
        if value is not None:
            raise UsageError(f"--replay runs a recording again as it was; leave out {name}")


def require_writable(path: Path | None, option: str) -> None:
    """Refuse a destination that cannot be written before anything is spent on the run."""
    if path is None:
        return
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError(f"{option} {path}: " + ("is a directory" if path.is_dir() else f"no directory {path.parent}"))
