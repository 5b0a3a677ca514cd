"""From logits to tokens: greedy or seeded sampling, and the loop that generates.

The loop feeds a prompt in chunks, reusing what the cache already holds, then one token after another. Knows token ids;
must not know text, tools or who asked. Whoever iterates may stop between any two tokens or, while the prompt is read,
in `on_chunk`; the cache then holds what was read so far.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence

import msgspec
import torch
from torch import Tensor

from laguna_agent.backend.laguna.cache import KVCache
from laguna_agent.backend.laguna.model import CausalLM, Piece
from laguna_agent.errors import ContextTooLong, ProviderError, UsageError

CHUNK = 512
"""Prompt tokens read at a time: few enough that a cancel is heard soon, enough that weights are read seldom."""


class SamplingOptions(msgspec.Struct, frozen=True):
    """How the next token is drawn.

    `temperature` 0 is greedy, and then nothing else counts. `top_k` 0, `top_p` 1 and `min_p` 0 keep all tokens. The
    order is temperature, top-k, top-p, min-p, each over what the one before left. A `seed` makes the draws repeatable.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None

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


class Sampler:
    """Draws tokens for one sequence. Its random state is its own, so a batch around it changes no draw."""

    def __init__(self, options: SamplingOptions) -> None:
        self.options = options
        self._random = torch.Generator()
        if options.seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(options.seed)

    def choose(self, logits: Tensor) -> int:
        """The next token for logits [vocab] of any float dtype; -inf forbids a token. Raises ProviderError where the
        logits are not numbers or forbid everything."""
        logits = logits.detach().float().cpu()
        if not math.isfinite(logits.max().item()):
            raise ProviderError("the model computed logits that are not finite numbers; its weights may be damaged")
        if not self.options.temperature:
            return int(logits.argmax())
        return int(torch.multinomial(probabilities(logits, self.options), 1, generator=self._random))


def probabilities(logits: Tensor, options: SamplingOptions) -> Tensor:
    """The distribution that a token is drawn from: fp32 [vocab] for fp32 logits [vocab]; temperature must not be 0."""
    scaled = (logits - logits.max()) / options.temperature
    if 0 < options.top_k < len(scaled):
        kept = torch.topk(scaled, options.top_k).indices
        scaled = torch.full_like(scaled, float("-inf")).index_copy(0, kept, scaled[kept])
    share = torch.softmax(scaled, dim=-1)
    if options.top_p < 1:
        ordered, order = share.sort(descending=True, stable=True)
        # A token stays while those before it have not reached top_p; so the likeliest always stays.
        share[order[ordered.cumsum(0) - ordered >= options.top_p]] = 0
    if options.min_p:
        share[share < options.min_p * share.max()] = 0
    return share / share.sum()


def prefill(
    model: CausalLM,
    ids: Sequence[int],
    cache: KVCache,
    *,
    chunk: int = CHUNK,
    on_chunk: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Bring `cache` to hold exactly `ids` and return the logits after the last, [vocab].

    Only tokens that the cache does not hold are computed. `on_chunk(done, all)` hears of the prompt's tokens after each
    chunk; what it raises ends the prefill. Raises UsageError for an empty prompt or unknown ids, ContextTooLong.
    """
    if not ids:
        raise UsageError("the prompt has no tokens, expected at least one")
    if len(ids) > model.config.context_length:
        raise ContextTooLong(f"the prompt has {len(ids)} tokens, the model reads at most {model.config.context_length}")
    done = cache.reuse(ids)
    logits = torch.empty(0)
    while done < len(ids):
        part = torch.tensor(ids[done : done + chunk], dtype=torch.int64)
        logits = model([Piece(part, cache)], last_only=True)[0]
        done += len(part)
        if on_chunk is not None:
            on_chunk(done, len(ids))
    return logits


def generate(
    model: CausalLM,
    ids: Sequence[int],
    cache: KVCache,
    options: SamplingOptions,
    *,
    max_tokens: int,
    stop: Collection[int] = (),
    chunk: int = CHUNK,
    on_chunk: Callable[[int, int], None] | None = None,
) -> Iterator[int]:
    """Yield tokens that follow `ids`, at most `max_tokens`, until one of `stop` was yielded or the context is full.

    When it ends, `cache` holds the prompt and every yielded token but the last, ready for the next turn. Raises as
    `prefill` and `Sampler.choose` do.
    """
    sampler = Sampler(options)
    if max_tokens < 1:
        return
    logits = prefill(model, ids, cache, chunk=chunk, on_chunk=on_chunk)
    for made in range(1, max_tokens + 1):
        token = sampler.choose(logits)
        yield token
        if token in stop or made == max_tokens or cache.length >= model.config.context_length:
            return
        logits = model([Piece(torch.tensor([token]), cache)], last_only=True)[0]
