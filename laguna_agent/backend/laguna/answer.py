"""One answer, from the tokens that are made to the deltas that the asker gets.

Knows text, stop strings, thoughts and calls; must not know logits, caches or threads. `watch` sees each token before
the next one is drawn, so that a stop string or a spent reasoning budget takes effect at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from laguna_agent.backend.base import Delta, Finished, FinishReason, Request, TokenDelta, Usage, UsageDelta
from laguna_agent.backend.laguna.answer_stream import THINK_END, AnswerStream
from laguna_agent.backend.laguna.call_bodies import held_back
from laguna_agent.backend.laguna.decoding import Token
from laguna_agent.backend.laguna.local_model import LocalModel
from laguna_agent.backend.laguna.prompt import Prompt
from laguna_agent.backend.laguna.tokenizer import Detokenizer

THOUGHT_TOKENS = {"low": 1_024, "medium": 4_096}
"""How long a thought may get for each reasoning effort; "high" leaves it free."""


class Answer:
    """Reads tokens, gathers deltas. `end` and `force` are what it asks of the decoding (see `Decoding`)."""

    def __init__(self, model: LocalModel, prompt: Prompt, request: Request) -> None:
        self.model, self.prompt, self.sampling = model, prompt, request.sampling
        self.end: Callable[[], None]
        self.force: Callable[[Sequence[int]], None]
        self._detokenizer = Detokenizer(model.tokenizer)
        self._stream = AnswerStream(request.tools, in_thought=prompt.in_thought, padded=model.template.family.line_tags)
        self._stops = tuple(stop for stop in self.sampling.stop if stop)
        self._held = ""
        self._stopped = False
        self._thought_tokens = 0
        self._thought_room = self._thought_limit()
        self._deltas: list[Delta] = []

    def watch(self, token: Token) -> None:
        """Take the next token of the output."""
        if token.logprob is not None:
            self._deltas.append(self._told(token))
        if token.id in self.model.stop or self._stopped:
            return
        thinking = self._stream.in_thought
        self._show(self._detokenizer.feed(token.id))
        if thinking:
            self._thought_tokens += 1
            if self._thought_tokens == self._thought_room and self._stream.in_thought:
                self.force(self._closing_of_thought())

    def taken(self) -> list[Delta]:
        """The deltas since the last time."""
        deltas, self._deltas = self._deltas, []
        return deltas

    def finish(self, reason: str, usage: Usage) -> list[Delta]:
        """The rest of the deltas; `reason` is the decoding's, `usage` lacks only the thought."""
        if not self._stopped:
            self._deltas += self._stream.feed(self._held + self._detokenizer.finish())
            self._deltas += self._stream.finish()
        why: FinishReason = "length" if reason == "length" else "tool_calls" if self._stream.calls else "stop"
        spent = Usage(usage.input_tokens, usage.output_tokens, usage.cached_tokens, self._thought_tokens, 0.0)
        return [*self.taken(), UsageDelta(spent), Finished(why)]

    def _show(self, text: str) -> None:
        """Pass text on, up to a stop string; a stop string counts in what is answered, not in what is thought."""
        text, self._held = self._held + text, ""
        if not self._stops or self._stream.in_thought:
            self._deltas += self._stream.feed(text)
            return
        at = min((found for stop in self._stops if (found := text.find(stop)) >= 0), default=-1)
        if at >= 0:
            self._stopped = True
            self._deltas += [*self._stream.feed(text[:at]), *self._stream.finish()]
            self.end()
            return
        keep = held_back(text, self._stops)
        self._held = text[len(text) - keep :]
        self._deltas += self._stream.feed(text[: len(text) - keep])

    def _thought_limit(self) -> int | None:
        limits = (self.sampling.reasoning_tokens, THOUGHT_TOKENS.get(self.sampling.reasoning_effort or ""))
        given = [max(1, limit) for limit in limits if limit is not None]
        return min(given, default=None)

    def _closing_of_thought(self) -> list[int]:
        """The ids that end a thought in the style of the template."""
        tag = f"\n{THINK_END}\n" if self.model.template.family.line_tags else THINK_END
        return self.model.tokenizer.encode(tag)

    def _told(self, token: Token) -> TokenDelta:
        tokenizer = self.model.tokenizer
        assert token.logprob is not None
        top = tuple((tokenizer.decode([index]), logprob) for index, logprob in token.top)
        return TokenDelta(tokenizer.decode([token.id]), token.logprob, tuple(tokenizer.bytes_of([token.id])), top)
