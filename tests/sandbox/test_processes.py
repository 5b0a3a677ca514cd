"""Who belongs to a command is seen at every moment."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from laguna_agent.sandbox.processes import MARK, members

# Becomes another program a hundred times, in a session of its own.
CHAIN = 'case $1 in 0) ;; *) exec sh -c "$0" "$0" $(($1 - 1)) ;; esac'


@pytest.mark.skipif(sys.platform != "linux", reason="without /proc only groups are found")
def test_a_process_that_becomes_another_program_is_seen_all_the_while() -> None:
    environment = {**os.environ, MARK: "chained"}
    with subprocess.Popen(["sh", "-c", CHAIN, CHAIN, "120"], env=environment, start_new_session=True) as chain:
        looks = missed = 0
        while True:
            seen = members(-1, "chained")
            if chain.poll() is not None:
                break
            looks += 1
            missed += chain.pid not in seen
    assert chain.returncode == 0
    assert looks > 10
    # The last look may have come when it had ended and nobody had waited for it yet.
    assert missed <= 1
