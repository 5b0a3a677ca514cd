"""Asking for permission during a run: on the terminal where a person sits at one, else denied at once."""

from __future__ import annotations

import os
import sys

import anyio

from laguna_agent.agent.events import PermissionRequested
from laguna_agent.agent.permissions import Approver, PermissionAnswer, deny_all
from laguna_agent.event_lines import answer_to, question_lines


def choose_approver() -> Approver:
    """A person is here only when both the question and the answer go through a terminal."""
    streams = (sys.stdin, sys.stderr)
    here = all(stream is not None and stream.isatty() for stream in streams)
    return ask_on_terminal if here else deny_all


async def ask_on_terminal(request: PermissionRequested) -> PermissionAnswer:
    """Put the question on stderr and wait for a line of the terminal; its end (Ctrl-D) denies."""
    sys.stderr.write("\n".join(question_lines(request)) + "\n")
    while True:
        sys.stderr.write("? ")
        sys.stderr.flush()
        await anyio.wait_readable(0)
        line = os.read(0, 4_096).decode(errors="replace")
        if not line:
            return PermissionAnswer(False, reason="the terminal was closed")
        answer = answer_to(line, request)
        if answer is not None:
            return answer
