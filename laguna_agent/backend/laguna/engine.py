"""The engine: one thread that owns a model and its caches, and answers requests with it.

Whoever asks gives a `Job` and hears of it through a callback from the engine's thread; nothing here waits for anybody.
Several answers are made together, a token of each in one pass, and a prompt is read a chunk at a time between them, so
no request waits for another's end. A cancelled job is dropped at the next pass, and a pass that nobody waits for any
more ends early. Knows jobs and threads; must not know
sessions, faces or event loops.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from laguna_agent.backend.base import Delta, ProgressDelta
from laguna_agent.backend.kernels.cpu.layers import PassCancelled
from laguna_agent.backend.laguna.conversations import Conversations
from laguna_agent.backend.laguna.decoding import step
from laguna_agent.backend.laguna.job import Job
from laguna_agent.backend.laguna.local_model import LocalModel, ModelPlan, load_model
from laguna_agent.backend.laguna.weights.progress import Stage
from laguna_agent.errors import ProviderUnavailable

R = TypeVar("R")

PARALLEL = 4
"""Answers made at the same time; further requests wait in the order in which they came."""
CHUNK = 512
"""Prompt tokens read in a pass: experts are read once for all of them, so more make a prompt faster. Fixed, because the
last bits of the logits may depend on it."""
DRAFT = 8
"""Tokens looked up in what was read, and tried in one pass."""
IDLE = 1_800.0
"""Seconds without a request after which the weights and caches are given back."""
_STAGES: dict[Stage, str] = {"reading": "loading", "packing": "packing", "waiting": "waiting"}


class _Abandoned(BaseException):
    """Nobody waits for the load any more."""


class Engine:
    """See the module. The model is loaded when it is first needed. `close` it, or leave it to the process's end.

    `idle`: seconds until it gives its memory back; `parallel`: answers made at a time; `threads`: for the arithmetic,
    0 for torch's own choice; `draft`: the longest draft that answers try (`DecodingOptions`).
    """

    def __init__(
        self, plan: ModelPlan, *, idle: float = IDLE, parallel: int = PARALLEL, threads: int = 0, draft: int = DRAFT
    ) -> None:
        self.plan, self.idle, self.parallel, self.threads, self.draft = plan, idle, parallel, threads, draft
        self.loads = 0
        """How often the model was loaded."""
        self._wake = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._tasks: deque[Callable[[], None]] = deque()
        self._active: list[Job] = []
        self._conversations: Conversations | None = None
        self._closing = False
        self._thread: threading.Thread | None = None

    # -- from any thread --------------------------------------------------------------------------------------------

    def submit(self, job: Job) -> None:
        """Queue a request. Its deltas, and at the end a Finished or an exception, go to `job.tell`."""
        with self._wake:
            self._waiting.append(job)
            self._start()

    def call(self, work: Callable[[Conversations | None], R]) -> Future[R]:
        """Let the engine's thread do `work` between two passes, with what is loaded; None where nothing is."""
        future: Future[R] = Future()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work(self._conversations))
                except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits for the future
                    future.set_exception(error)

        with self._wake:
            self._tasks.append(run)
            self._start()
        return future

    def warm(self) -> Future[None]:
        """Load the model now, before anybody asks for an answer."""

        def load(_: Conversations | None) -> None:
            self._load()

        return self.call(load)

    def wake(self) -> None:
        """Look at the jobs again: one was cancelled."""
        with self._wake:
            self._heed()
            self._wake.notify()

    def close(self, timeout: float | None = None) -> None:
        """Cancel everything and end the thread; returns when the pass under way is over."""
        with self._wake:
            self._closing = True
            self._heed()
            thread = self._thread
            self._wake.notify()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def _heed(self) -> None:
        """Let the model know whether anybody waits for a pass; to be called with the lock held."""
        conversations = self._conversations
        if conversations is not None:
            left = self._active and all(job.cancelled for job in self._active)
            unwanted = self._closing or bool(left)
            conversations.local.model.cancel(unwanted)

    def _start(self) -> None:
        if self._closing:
            raise ProviderUnavailable("the engine was closed")
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="laguna-engine", daemon=True)
            self._thread.start()
        self._wake.notify()

    # -- the engine's thread ----------------------------------------------------------------------------------------

    def _work(self) -> None:
        if self.threads:
            import torch

            torch.set_num_threads(self.threads)
        while self._wait():
            self._drop_cancelled()
            self._do_tasks()
            try:
                self._admit()
                self._pass()
            except _Abandoned:
                continue
            except BaseException as error:  # noqa: BLE001 - whatever it is, those who wait must hear of it
                self._fail(error)
        self._fail(ProviderUnavailable("the engine was closed"))
        self._conversations = None

    def _wait(self) -> bool:
        """Wait for work; False when the engine closes."""
        with self._wake:
            while not (self._closing or self._tasks or self._waiting or self._active):
                if not self._wake.wait(self.idle if self._conversations is not None else None):
                    self._conversations = None
            return not self._closing

    def _do_tasks(self) -> None:
        while self._tasks:
            self._tasks.popleft()()

    def _drop_cancelled(self) -> None:
        with self._wake:
            self._waiting = deque(job for job in self._waiting if not job.cancelled)
        for job in [job for job in self._active if job.cancelled]:
            self._leave(job)
        with self._wake:
            self._heed()

    def _admit(self) -> None:
        while self._waiting and len(self._active) < self.parallel:
            conversations = self._load()
            with self._wake:
                if not self._waiting:
                    return
                job = self._waiting.popleft()
            try:
                job.begin(conversations, self.draft)
            except Exception as error:  # noqa: BLE001 - it ends this request, not the others
                job.tell(error)
            else:
                self._active.append(job)

    def _pass(self) -> None:
        if not self._active or self._conversations is None:
            return
        with self._wake:
            self._heed()
        decodings, masks = [job.decoding for job in self._active], self._conversations.masks
        try:
            step(self._conversations.local.model, decodings, chunk=CHUNK, masks=masks)
        except PassCancelled:
            return
        for job in list(self._active):
            if job.passed():
                self._leave(job)

    def _leave(self, job: Job) -> None:
        self._active.remove(job)
        if self._conversations is not None:
            job.end(self._conversations)

    def _fail(self, error: BaseException) -> None:
        with self._wake:
            jobs = [*self._active, *self._waiting]
            self._active, self._waiting = [], deque()
            tasks, self._tasks = self._tasks, deque()
        for job in jobs:
            # Its cache may be in the middle of a pass, so it is not kept.
            job.tell(error)
        for task in tasks:
            task()

    def _load(self) -> Conversations:
        if self._conversations is None:
            local: LocalModel = load_model(self.plan, self._progress)
            self.loads += 1
            self._conversations = Conversations(local)
        return self._conversations

    def _progress(self, stage: Stage, done: int, total: int) -> None:
        with self._wake:
            jobs = [job for job in self._waiting if not job.cancelled]
            if self._closing or (self._waiting and not jobs):
                raise _Abandoned
        said: Delta = ProgressDelta(_STAGES[stage], done, total)  # type: ignore[arg-type]
        for job in jobs:
            job.tell(said)
