"""The scripted face, `laguna-agent run`: one prompt in, one final record out.

A contract for scripts and CI: stdout carries the result and nothing else, the exit code is the record's, the record is
written however the run ends, and nothing ever waits for a person or a stream that is not there.
"""

from laguna_agent.headless.invocation import Invocation as Invocation
from laguna_agent.headless.run import run as run
from laguna_agent.headless.run import write_early_result as write_early_result

__all__ = ["Invocation", "run", "write_early_result"]
