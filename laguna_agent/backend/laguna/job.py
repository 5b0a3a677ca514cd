"""One request on its way through the engine: admitted, read, answered, ended.

Its methods run on the engine's thread, but for `cancel`. Knows a request, its prompt and its decoding; must not know
threads, queues or who asked.
"""

from __future__ import annotations

from collections.abc import Callable

from laguna_agent.backend.base import Delta, NoticeDelta, ProgressDelta, Request, Sampling, Usage
from laguna_agent.backend.laguna.answer import Answer
from laguna_agent.backend.laguna.conversations import Conversations
from laguna_agent.backend.laguna.decoding import Decoding, DecodingOptions
from laguna_agent.backend.laguna.local_model import MOST_OUTPUT
from laguna_agent.backend.laguna.prompt import Prompt
from laguna_agent.backend.laguna.sampling import SamplingOptions

TEMPERATURE, MIN_P = 0.7, 0.05
"""How tokens are drawn where nobody said."""


class Job:
    """`tell` takes deltas, in order, from the engine's thread; the last is a Finished, or the exception that ended it.

    `prompt` is what was asked, with the answer once there is one.
    """

    def __init__(self, request: Request, tell: Callable[[Delta | BaseException], None]) -> None:
        self.request, self.tell = request, tell
        self.cancelled = False
        self.prompt: Prompt | None = None
        self.decoding: Decoding
        self._answer: Answer
        self._read = False

    def cancel(self) -> None:
        """Nobody wants the answer any more; may be called from any thread."""
        self.cancelled = True

    def begin(self, conversations: Conversations, draft: int) -> None:
        """Write the prompt and take a cache. Raises LagunaError where the request cannot be answered."""
        local = conversations.local
        self.prompt = prompt = conversations.prompt(self.request)
        if conversations.new_notice(prompt.changed):
            self.tell(NoticeDelta(prompt.changed))
        constraint = conversations.constraint(self.request, prompt)
        self._answer = answer = Answer(local, prompt, self.request)
        room = local.plan.context - len(prompt.ids)
        options = decoding_options(self.request.sampling, local.stop, room, draft)
        cache = conversations.taken(prompt)
        self.decoding = Decoding(prompt.ids, cache, options, constraint=constraint, watch=answer.watch)
        answer.end, answer.force = self.decoding.end, self.decoding.force

    def passed(self) -> bool:
        """Tell what the last pass brought; whether the job is over."""
        decoding = self.decoding
        if decoding.prompt_done < decoding.prompt_total:
            self._tell_progress()
        elif not self._read:
            # The conversation can be taken back to here, whatever the sliding layers forget later.
            self._read = True
            decoding.cache.snapshot()
        for delta in self._answer.taken():
            self.tell(delta)
        return decoding.done

    def end(self, conversations: Conversations) -> None:
        """Give back the cache, and tell the end where somebody still waits for it."""
        decoding = self.decoding
        assert self.prompt is not None
        self.prompt = conversations.done(self.prompt, decoding.tokens, decoding.cache)
        if self.cancelled:
            return
        if decoding.failed is not None:
            self.tell(decoding.failed)
            return
        usage = Usage(decoding.prompt_total, len(decoding.tokens), decoding.reused)
        for delta in self._answer.finish(decoding.finished or "stop", usage):
            self.tell(delta)

    def _tell_progress(self) -> None:
        done, total = self.decoding.prompt_done, self.decoding.prompt_total
        self.tell(ProgressDelta("reading", done - self.decoding.reused, total - self.decoding.reused))


def decoding_options(sampling: Sampling, stop: frozenset[int], room: int, draft: int) -> DecodingOptions:
    """A request's sampling as the engine's own, with the engine's word where the request is silent.

    `room` is how many tokens the context still has. Raises UsageError for a value that is out of range.
    """
    quiet = sampling.temperature is None and sampling.top_p is None and sampling.min_p is None
    drawn = SamplingOptions(
        temperature=TEMPERATURE if sampling.temperature is None else sampling.temperature,
        top_k=sampling.top_k or 0,
        top_p=1.0 if sampling.top_p is None else sampling.top_p,
        min_p=(MIN_P if quiet else 0.0) if sampling.min_p is None else sampling.min_p,
        frequency_penalty=sampling.frequency_penalty or 0.0,
        presence_penalty=sampling.presence_penalty or 0.0,
        repetition_penalty=1.0 if sampling.repetition_penalty is None else sampling.repetition_penalty,
        seed=sampling.seed,
    )
    wanted = min(MOST_OUTPUT, room) if sampling.max_tokens is None else min(sampling.max_tokens, room)
    return DecodingOptions(drawn, max_tokens=max(1, wanted), stop=stop, logprobs=sampling.logprobs, draft=draft)
