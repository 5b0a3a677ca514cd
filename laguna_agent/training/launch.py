"""Starting the processes of a run: this one alone, several on this machine, or one of those that torchrun started.

Started here, the processes meet over a file, stop together when one fails, and die with this one. Torch's own elastic
agent is not used for it: it kills a worker half a minute after a signal, in the middle of a checkpoint, and tells of
errors with tracebacks. Across machines torchrun starts them, and each finds its place in the environment. Knows
processes and signals; must not know what they compute.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import TypeVar

import torch
import torch.multiprocessing as mp

from laguna_agent import errors
from laguna_agent.backend.laguna.threads import physical_cores
from laguna_agent.errors import LagunaError, UsageError
from laguna_agent.training.sharding import Ranks, joined_group
from laguna_agent.training.stopping import noted_signals

Task = TypeVar("Task")
Work = Callable[[Ranks, Task], int]
"""What each process does with the same task: returns an exit code, and may raise LagunaError."""

STARTED_BY_TORCHRUN = "TORCHELASTIC_RUN_ID"
_PDEATHSIG = 1
_IMPATIENT = 1.0
"""Seconds after a first SIGINT from which on a second one is another wish, and not the same one on two ways."""


def launch(work: Work[Task], task: Task, nproc: int = 1) -> int:
    """Do `work` in `nproc` processes; returns rank 0's exit code. `work` is a function of a module and `task` can be
    pickled. Raises the first LagunaError that any of them raised."""
    if STARTED_BY_TORCHRUN in os.environ:
        if nproc > 1:
            raise UsageError("--nproc is torchrun's to say (--nproc-per-node) where it starts the processes")
        with joined_group() as ranks:
            return work(ranks, task)
    if nproc == 1:
        _share_cores(1)
        with joined_group() as ranks:
            return work(ranks, task)
    with tempfile.TemporaryDirectory(prefix="laguna-agent-train-") as folder:
        return _supervise(work, task, nproc, Path(folder) / "meeting")


def _supervise(work: Work[Task], task: Task, nproc: int, meeting: Path) -> int:
    context = mp.get_context("spawn")
    pipes = [context.Pipe(duplex=False) for _ in range(nproc)]
    workers = [
        context.Process(target=_worker, args=(work, task, rank, nproc, str(meeting), pipes[rank][1]), daemon=True)
        for rank in range(nproc)
    ]
    with _forwarded_signals(workers):
        try:
            for worker in workers:
                worker.start()
            for _, sender in pipes:
                # A worker that dies must be the only one who held its end.
                sender.close()
            return _await(workers, [receiver for receiver, _ in pipes])
        finally:
            for worker in workers:
                if worker.is_alive():
                    worker.kill()
            for worker in workers:
                if worker.pid is not None:
                    worker.join()


def _await(workers: Sequence[SpawnProcess], receivers: Sequence[Connection]) -> int:
    """Rank 0's exit code once all have ended; raises what the first that failed raised."""
    codes: dict[int, int] = {}
    waiting = dict(enumerate(receivers))
    while waiting:
        for ready in wait(list(waiting.values())):
            rank = next(rank for rank, receiver in waiting.items() if receiver is ready)
            del waiting[rank]
            codes[rank] = _outcome(rank, workers[rank], receivers[rank])
    return codes[0]


def _outcome(rank: int, worker: SpawnProcess, receiver: Connection) -> int:
    try:
        kind, value = receiver.recv()
    except EOFError:
        worker.join()
        code = worker.exitcode or 0
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        raise errors.StorageError(
            f"process {rank} of the run died ({how}), perhaps for want of memory; the same command goes on from the "
            "last checkpoint"
        ) from None
    if kind == "done":
        return int(value)
    error = getattr(errors, kind, None)
    if error is None:
        raise RuntimeError(f"process {rank} of the run failed:\n{value}")
    raise error(value)


def _worker(work: Work[Task], task: Task, rank: int, size: int, meeting: str, sender: Connection) -> None:
    _die_with_parent()
    if rank:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
    _share_cores(size)
    here = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    os.environ |= {name: str(value) for name, value in here.items()}
    try:
        # From here on: whoever stops the run while it is being made has its first step, and then stops it.
        with noted_signals(patient=True), joined_group(meeting_file=Path(meeting)) as ranks:
            sender.send(("done", work(ranks, task)))
    except LagunaError as error:
        sender.send((_plain_kind(error), str(error)))
    except Exception:  # noqa: BLE001 - whatever it is, the launcher must hear of it before this process ends
        sender.send(("bug", traceback.format_exc()))
    sys.stdout.flush()
    # Others may still wait for this one in a group that is no more: the launcher ends them.
    sender.close()


def _plain_kind(error: LagunaError) -> str:
    """The nearest class of the error that is made of a text alone."""
    return next(
        kind.__name__ for kind in type(error).__mro__ if issubclass(kind, LagunaError) and "__init__" not in vars(kind)
    )


def _share_cores(processes: int) -> None:
    """Divide the machine's cores, unless the environment says how many threads each has."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, physical_cores() // processes))


def _die_with_parent() -> None:
    """Where the system can: a launcher that is killed must not leave processes that go on training."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(_PDEATHSIG, signal.SIGKILL)


@contextmanager
def _forwarded_signals(workers: Sequence[SpawnProcess]) -> Iterator[None]:
    """Within the block SIGINT and SIGTERM are passed on; a second SIGINT some time after the first ends all at once."""
    first: list[float] = []

    def forward(number: int, _: object) -> None:
        if number == signal.SIGINT:
            if first and time.monotonic() - first[0] > _IMPATIENT:
                raise KeyboardInterrupt
            first.append(time.monotonic())
        for worker in workers:
            if worker.pid is not None and worker.is_alive():
                os.kill(worker.pid, number)

    before = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, forward)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
