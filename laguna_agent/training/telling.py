"""What a run tells: its log on disk, the screen, TensorBoard, and a plot at its end; rank 0 tells, the others do not.

Knows who is told what; must not know how anything is computed.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from laguna_agent.training.dashboard import Dashboard
from laguna_agent.training.plots import plot_run
from laguna_agent.training.run_file import RunFile
from laguna_agent.training.run_log import RunLog
from laguna_agent.training.tensorboard import TensorBoard

PLOT = "plot.svg"


class Telling:
    """Everybody who is told how a run goes; nobody where `first` is false. To be used as a context."""

    def __init__(self, run: RunFile, folder: Path, *, first: bool) -> None:
        self._run, self._folder, self._first = run, folder, first
        self._log: RunLog | None = None
        self._screen: Dashboard | None = None
        self._board: TensorBoard | None = None

    def __enter__(self) -> Telling:
        if self._first:
            self._log = RunLog(self._folder)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._log is not None and error is not None:
            # The log may be what failed; the error says more than its line would.
            self._log.close()
            self._log = None
        for each in (self._screen, self._board, self._log):
            if each is not None:
                each.close()

    def begun(self, ranks: int) -> None:
        """A run begins."""
        self._event("begun", ranks=ranks)
        self._open(0, [])

    def resumed(self, step: int, before: int, ranks: int, other_code: bool) -> None:
        """A run goes on from the checkpoint of `step`, which was written by `before` processes."""
        if self._log is None:
            return
        earlier = self._log.keep_until(step)
        self._event("resumed", step=step, ranks=ranks)
        self._open(step, earlier)
        self._say(f"resumed after step {step}")
        if before != ranks:
            self._say(
                f"{ranks} processes go on with what {before} began: no bit-for-bit repetition, sums differ in order"
            )
        if other_code:
            self._say("the program has changed since: no bit-for-bit repetition")

    def step(self, values: Mapping[str, Any]) -> None:
        """A step was applied."""
        for each in (self._log, self._screen, self._board):
            if each is not None:
                each.step(values)

    def saved(self, step: int, path: Path) -> None:
        """A checkpoint is there."""
        self._event("checkpoint", step=step, path=path.name)

    def bad_step(self, step: int, objection: str, back_to: int, packs: Sequence[tuple[str, int, int]]) -> None:
        """A step was not applied, and why; `packs` are those that it read."""
        self._event("bad_step", step=step, objection=objection, back_to=back_to, packs=list(packs))
        if self._screen is not None:
            text = f"step {step} was not applied: {objection}; back to step {back_to}, past the data since"
            self._screen.notice(text, state=f"rolled back at step {step}")

    def keep_until(self, step: int) -> None:
        """Steps behind this one will be taken again."""
        if self._log is not None:
            self._log.keep_until(step)
        if self._screen is not None:
            self._screen.rolled_back(step)

    def ended(self, step: int, stopped: int) -> None:
        """The run is at its end, or was stopped by a signal."""
        if self._log is None:
            return
        if stopped:
            self._event("stopped", step=step, signal=signal.Signals(stopped).name)
            self._say(f"stopped after step {step}; the same command goes on from there")
            return
        self._event("finished", step=step)
        plot_run(self._folder, self._folder / PLOT)
        self._say(f"finished after step {step}; {self._folder / PLOT} shows the run")

    def _open(self, step: int, earlier: list[dict[str, Any]]) -> None:
        if self._first:
            self._screen = Dashboard(self._run.run.name, self._run.run.steps, sys.stdout, earlier=earlier)
            self._board = TensorBoard(self._folder, step + 1) if self._run.tensorboard else None

    def _event(self, kind: str, **values: Any) -> None:
        if self._log is not None:
            self._log.event(kind, **values)

    def _say(self, text: str) -> None:
        if self._screen is not None:
            self._screen.notice(text)
