"""From logits to the next token: penalties, then greedy or seeded sampling; and log-probabilities.

Knows one row of logits and the ids before it; must not know the model, grammars, text or who asked.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import torch
from torch import Tensor

from laguna_agent.errors import ProviderError, UsageError

LOWEST_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON cannot say; clients of OpenAI know this number."""
_NUCLEUS = 1024
"""So many likeliest tokens are looked at for top-p before the whole vocabulary is sorted."""


class SamplingOptions(msgspec.Struct, frozen=True):
    """How the next token is drawn.

    First the penalties, in greedy mode too. `repetition_penalty` divides the positive logits and multiplies the
    negative ones of every token that the prompt or the answer holds, all of both as in Hugging Face and vLLM (llama.cpp
    looks at the last 64); `frequency_penalty` is subtracted for each time that the answer has the token, and
    `presence_penalty` once where it has it, as OpenAI defines them.

    `temperature` 0 is greedy, and then nothing else counts. `top_k` 0, `top_p` 1 and `min_p` 0 keep all tokens. The
    order is temperature, top-k, top-p, min-p, each over what the one before left. A `seed` makes the draws repeatable.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise UsageError(f"temperature is {self.temperature}, expected 0 (greedy) or a positive number")
        if self.top_k < 0:
            raise UsageError(f"top_k is {self.top_k}, expected 0 (all tokens) or a positive number")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p is {self.top_p}, expected a number above 0 and at most 1")
        if not 0 <= self.min_p <= 1:
            raise UsageError(f"min_p is {self.min_p}, expected a number from 0 to 1")
        if self.seed is not None and not 0 <= self.seed < 1 << 63:
            raise UsageError(f"seed is {self.seed}, expected an integer from 0 to 2^63 - 1")
        for name in ("frequency_penalty", "presence_penalty"):
            if not math.isfinite(getattr(self, name)):
                raise UsageError(f"{name} is {getattr(self, name)}, expected a finite number")
        if not (math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0):
            raise UsageError(f"repetition_penalty is {self.repetition_penalty}, expected a positive number (1: none)")


class Choice(NamedTuple):
    """How one token is drawn, for somebody who draws it where the logits are: the options' numbers, and the random
    number that decides, 0 <= uniform < 1."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    uniform: float


class Sampler:
    """Draws the tokens of one sequence that starts with `prompt`, from a vocabulary of `vocab_size`.

    Token i of the answer is decided by the i-th random number of the seed, whoever chooses the tokens between: so
    neither a batch around the sequence nor a draft or a forced token changes a draw.
    """

    def __init__(self, options: SamplingOptions, prompt: Sequence[int] = (), vocab_size: int = 0) -> None:
        self.options = options
        self._random = random.Random(options.seed)
        self._uniform = self._random.random()
        self._seen: Tensor | None = None
        self._counts: Tensor | None = None
        if options.repetition_penalty != 1:
            self._seen = torch.zeros(vocab_size, dtype=torch.bool)
            self._seen[torch.tensor(list(prompt), dtype=torch.int64)] = True
        if options.frequency_penalty or options.presence_penalty:
            self._counts = torch.zeros(vocab_size)

    @property
    def choice(self) -> Choice | None:
        """How the next token is drawn from logits as they are; None where there are penalties."""
        if self._seen is not None or self._counts is not None:
            return None
        options = self.options
        return Choice(options.temperature, options.top_k, options.top_p, options.min_p, self._uniform)

    def penalise(self, logits: Tensor) -> None:
        """Apply the penalties in place to fp32 logits [vocab] on the CPU."""
        if self._seen is not None:
            factor = self.options.repetition_penalty
            logits.copy_(torch.where(self._seen, torch.where(logits > 0, logits / factor, logits * factor), logits))
        if self._counts is not None:
            logits.sub_(self._counts, alpha=self.options.frequency_penalty)
            logits.sub_((self._counts > 0).float(), alpha=self.options.presence_penalty)

    def choose(self, logits: Tensor) -> int:
        """The next token for fp32 logits [vocab] on the CPU; -inf forbids one. Raises ProviderError where the logits
        are not numbers or forbid everything."""
        if not math.isfinite(logits.max().item()):
            raise not_numbers()
        if not self.options.temperature:
            return int(logits.argmax())
        # By inverse distribution in the order of ids: one random number, and small differences change few draws.
        ids, share = _candidates(logits, self.options)
        mass = share.double().cumsum(0)
        at = torch.searchsorted(mass, self._uniform * mass[-1], right=True)
        return int(ids[min(int(at), int(torch.searchsorted(mass, mass[-1])))])

    def made(self, token: int) -> None:
        """The sequence goes on with `token`, drawn or not."""
        self._uniform = self._random.random()
        if self._seen is not None:
            self._seen[token] = True
        if self._counts is not None:
            self._counts[token] += 1


def probabilities(logits: Tensor, options: SamplingOptions) -> Tensor:
    """The distribution that a token is drawn from: fp32 [vocab] for fp32 logits [vocab]; temperature must not be 0."""
    ids, share = _candidates(logits, options)
    return torch.zeros_like(logits).index_copy(0, ids, share / share.sum())


def _candidates(logits: Tensor, options: SamplingOptions) -> tuple[Tensor, Tensor]:
    """(ids in ascending order, their shares, which need not sum to 1) of the tokens that may be drawn."""
    scaled = (logits - logits.max()) / options.temperature
    ids: Tensor | None = None
    if 0 < options.top_k < len(scaled):
        scaled, ids = torch.topk(scaled, options.top_k)
    share = torch.softmax(scaled, dim=-1)
    if options.top_p < 1:
        if ids is None:
            share, ids = torch.topk(share, min(_NUCLEUS, len(share)))
            if share.sum() < options.top_p:
                share, ids = torch.softmax(scaled, dim=-1).sort(descending=True, stable=True)
        # A token stays while those before it have not reached top_p; so the likeliest always stays.
        kept = share.cumsum(0) - share < options.top_p
        share, ids = share[kept], ids[kept]
    if options.min_p:
        share = torch.where(share < options.min_p * share.max(), 0, share)
    if ids is None:
        return torch.arange(len(share)), share
    order = ids.argsort()
    return ids[order], share[order]


def log_probabilities(logits: Tensor, token: int, likeliest: int) -> tuple[float, tuple[tuple[int, float], ...]]:
    """(log-probability of `token`, the `likeliest` tokens with theirs, the likeliest first) for fp32 logits [vocab].

    They are the model's own, before penalties, grammar and temperature: what clients of OpenAI's API expect.
    """
    scores = torch.log_softmax(logits, dim=-1).clamp_min(LOWEST_LOGPROB)
    best = torch.topk(scores, min(likeliest, len(scores)))
    top = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return float(scores[token]), tuple(top)


def not_numbers() -> ProviderError:
    """The error of logits that are NaN or infinite."""
    return ProviderError("the model computed logits that are not finite numbers; its weights may be damaged")
