"""Sequences on their way from a prompt to an answer, and the forward pass that takes a batch of them one step on.

A `Decoding` owns the state of one sequence; `step` makes one pass for many. A pass reads a chunk of a prompt, or the
last token and a draft of what may follow it: every token is then drawn from its own row of logits, exactly as it would
be without a draft, for as long as the draft was right. Forced tokens, and those that a grammar leaves no choice about,
are such drafts too. Knows models, caches and grammars; must not know text, tools or who asked.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import msgspec
import torch
from torch import Tensor

from laguna_agent.backend.kernels.cuda.graphs import MOST_ROWS
from laguna_agent.backend.laguna.cache import KVCache
from laguna_agent.backend.laguna.constraint import Constraint, ConstraintBroken, TokenMasks
from laguna_agent.backend.laguna.lookup import Drafter
from laguna_agent.backend.laguna.model import CausalLM, Piece
from laguna_agent.backend.laguna.sampling import Choice, Sampler, SamplingOptions, log_probabilities
from laguna_agent.backend.laguna.turn import Turn, grouped
from laguna_agent.errors import ContextTooLong, LagunaError, UsageError

CHUNK = 512
"""Prompt tokens read in one pass: few enough that a cancel is heard soon, enough that weights are read seldom."""


class Token(NamedTuple):
    """One token that was made.

    `logprob` and `top` ((id, log-probability), the likeliest first) are there where `DecodingOptions.logprobs` asked
    for them: natural logarithms of the model's own distribution, before penalties, grammar and temperature.
    """

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class DecodingOptions(msgspec.Struct, frozen=True):
    """How an answer is made.

    `max_tokens`: it is cut after so many; 0 only reads the prompt. `stop`: ids that end it; the one that did is its
    last token. `logprobs`: log-probabilities of each token and of that many likeliest. `draft`: the longest
    prompt-lookup draft, 0 for none; it changes the speed, never a token (given exact arithmetic: in a 16-bit dtype two
    logits that are equal but for rounding may change places).

    `close_after`: after so many tokens an answer under a constraint is brought to its end: whatever the grammar has
    open is closed as soon as it can be, so that a call that was begun becomes whole before `max_tokens` cuts it. What
    was being said is broken off, though it is well-formed: `Decoding.hurried` says so, and such a call must not be
    taken for the model's will.
    """

    sampling: SamplingOptions = SamplingOptions()
    max_tokens: int = 1 << 31
    stop: frozenset[int] = frozenset()
    logprobs: int | None = None
    draft: int = 0
    close_after: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_tokens", "draft", "logprobs", "close_after"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise UsageError(f"{name} is {value}, expected 0 or more")


class Decoding:
    """One sequence: its prompt, then the tokens made so far. Not thread-safe; the thread that owns the model owns it.

    `prompt_total`: tokens of the prompt; `reused`: how many of them the cache held at the start. `tokens`: those made,
    the stop token included. `finished` says why it ended: "stop" (a stop id, `end`, or a grammar with nothing more to
    say) or "length" (max_tokens, or the context is full); `failed` holds the error of one that cannot go on. Between
    two steps, and after the end, `cache` holds the prompt as far as it was read and every token but the last.

    `watch` hears of each token before the next is drawn; it may call `force` and `end`. A LagunaError that it raises
    becomes `failed`; any other exception passes through `step`, and the decoding may be given to it again.

    Raises UsageError for an empty prompt or an id that the model does not know, ContextTooLong for a prompt longer than
    the model reads; the cache is then untouched.
    """

    def __init__(
        self,
        ids: Sequence[int],
        cache: KVCache,
        options: DecodingOptions,
        *,
        constraint: Constraint | None = None,
        watch: Callable[[Token], None] | None = None,
    ) -> None:
        _check_prompt(ids, cache)
        self.cache, self.options, self.constraint = cache, options, constraint
        self.prompt_total = len(ids)
        self.tokens: list[int] = []
        self.finished: Literal["stop", "length"] | None = None
        self.failed: LagunaError | None = None
        self.hurried = False
        self._watch = watch
        self._ids = list(ids)
        self._forced: deque[int] = deque()
        self._closing = False  # what is forced only closes something, so it gives way to the caller's wish
        self._sampler = Sampler(options.sampling, ids, cache.config.vocab_size)
        self._drafter = Drafter(options.draft) if options.draft else None
        self.reused = cache.reuse(self._ids)

    @property
    def prompt_done(self) -> int:
        """How many tokens of the prompt the cache holds by now."""
        return min(self.cache.length, self.prompt_total)

    @property
    def done(self) -> bool:
        """Whether it has finished or failed."""
        return self.finished is not None or self.failed is not None

    def force(self, ids: Sequence[int]) -> None:
        """These tokens come next, after those forced before and before anything is drawn. A constraint must allow them,
        or the decoding fails."""
        if self._closing:
            self._forced.clear()
            self._closing = False
        self._forced.extend(ids)

    def end(self) -> None:
        """Stop here, as after a stop token."""
        if self.failed is None:
            self.finished = "stop"

    def to_read(self) -> int:
        """Tokens that the next pass must read before anything can be drawn."""
        return len(self._ids) - self.cache.length

    def turn(self, chunk: int, rows: int | None = None) -> Turn:
        """What this sequence gives to the next pass; `rows`: the most tokens with a draft, where that is limited."""
        self._settle()
        start = self.cache.length
        ids = self._ids[start : start + chunk]
        if start + len(ids) < len(self._ids):
            return Turn(self, ids)
        if not self.options.max_tokens:
            return Turn(self, ids)
        self._hurry()
        # A long rest of a prompt does not go through the device's step, whatever follows it.
        slack = self.cache.slack
        most = slack if rows is None or len(ids) > rows else min(slack, rows - len(ids))
        draft, guessed = self._draft(most)
        # What is forced needs no logits, unless somebody wants to know how likely it was.
        skipped = min(len(self._forced), len(draft) + 1) if self.options.logprobs is None else 0
        return Turn(self, ids, draft, guessed, wanted=len(draft) + 1 - skipped, skipped=skipped, draws=True)

    def _draft(self, most: int) -> tuple[list[int], int]:
        """Tokens to read along with the last one, at most so many, and how many of them are a guess."""
        room = min(
            most,
            self.cache.config.context_length - len(self._ids),
            self.options.max_tokens - len(self.tokens) - 1,
        )
        if self._forced or room <= 0:
            return list(self._forced)[: max(0, room)], 0
        if self.constraint is not None and (certain := self.constraint.forced()):
            return certain[:room], 0
        if self._drafter is None:
            return [], 0
        guess = self._drafter.propose(self._ids, room)
        if guess and self.constraint is not None:
            guess = guess[: self.constraint.accepted_prefix(guess)]
        return guess, len(guess)

    def next_forced(self) -> int | None:
        """The token that comes next without being drawn."""
        self._hurry()
        return self._forced[0] if self._forced else None

    def _hurry(self) -> None:
        """Once it is time to end, force what closes something, where anything can be closed here."""
        limit = self.options.close_after
        if self._forced or self.constraint is None or limit is None or len(self.tokens) < limit:
            return
        self.hurried = self._closing = True
        self._forced.extend(self.constraint.forced() or self.constraint.ending())

    def choice(self) -> Choice | None:
        """How the next token is drawn, where nothing but the logits decides on it and nobody asks for them."""
        free = self.constraint is None and self.options.logprobs is None and not self._forced
        return self._sampler.choice if free else None

    def penalise(self, logits: Tensor) -> None:
        """Apply the penalties to a row of fp32 logits [vocab], in place."""
        self._sampler.penalise(logits)

    def draw(self, logits: Tensor) -> int:
        """The next token for a row of logits that was penalised and masked."""
        if self.constraint is not None and logits.max() == float("-inf"):
            raise ConstraintBroken("the tools' grammar allows no token that the model can say here")
        return self._sampler.choose(logits)

    def made(self, index: int, raw: Tensor | None) -> None:
        """The sequence goes on with token `index`; `raw`: its row of logits, where there is one."""
        if self.constraint is not None:
            self.constraint.accept(index)
        token = Token(index)
        if raw is not None and self.options.logprobs is not None:
            token = Token(index, *log_probabilities(raw, index, self.options.logprobs))
        if self._forced:
            self._forced.popleft()
        self._ids.append(token.id)
        self.tokens.append(token.id)
        self._sampler.made(token.id)
        if token.id in self.options.stop or (self.constraint is not None and self.constraint.ended):
            self.finished = "stop"
        elif self._late and self.constraint is not None and self.constraint.complete:
            self.finished, self.hurried = "stop", True
        elif len(self.tokens) >= self.options.max_tokens or len(self._ids) > self.cache.config.context_length:
            self.finished = "length"
        if self._watch is not None:
            self._watch(token)

    @property
    def _late(self) -> bool:
        return self.options.close_after is not None and len(self.tokens) >= self.options.close_after

    def passed(self, turn: Turn, seconds: float | None) -> None:
        """A pass with `turn` is over; `seconds`: what it took, None where it also read prompts."""
        # Drafts that a grammar or the caller makes certain say nothing about guesses.
        if turn.draws and self._drafter is not None and seconds is not None and len(turn.draft) == turn.guessed:
            right = max(0, min(turn.guessed, turn.drawn - 1))
            self._drafter.learn(turn.guessed, right, seconds)
        if not self.options.max_tokens and not self.to_read():
            self.finished = "length"
        self._settle()

    def _settle(self) -> None:
        """Take what was drafted and not said back out of the cache."""
        kept = len(self._ids) - bool(self.options.max_tokens)
        if self.cache.length > kept:
            self.cache.rewind(kept)


def step(
    model: CausalLM, decodings: Sequence[Decoding], *, chunk: int = CHUNK, masks: TokenMasks | None = None
) -> None:
    """Take all that are not done one pass further: each reads a part of its prompt, or makes at least one token.

    At most `chunk` prompt tokens are read, by all together. `masks` is needed where a decoding has a constraint. One
    that cannot go on is marked `failed`; an error of the pass as a whole is raised and leaves all as they were.
    """
    going = [decoding for decoding in decodings if not decoding.done]
    if masks is None and any(decoding.constraint is not None for decoding in going):
        raise ValueError("a decoding has a constraint, so step needs masks")
    if not going:
        return
    began = time.perf_counter()
    reading = sum(decoding.to_read() > 1 for decoding in going)
    rows = None if model.stepped is None else max(1, MOST_ROWS // len(going))
    turns: list[Turn] = []
    for decoding in going:
        with _alone(decoding):
            turns.append(decoding.turn(max(1, chunk // max(1, reading)), rows))
    try:
        for group in [turns] if model.stepped is None else grouped(turns, MOST_ROWS):
            _pass(model, group, masks)
    finally:
        only_tokens = all(len(turn.ids) == 1 and turn.draws for turn in turns)
        seconds = time.perf_counter() - began
        for turn in turns:
            turn.decoding.passed(turn, seconds if only_tokens else None)


def _pass(model: CausalLM, turns: Sequence[Turn], masks: TokenMasks | None) -> None:
    """Read, then draw: the n-th token of every sequence together, so that masks are made for all of them at once."""
    pieces = [Piece(torch.tensor(turn.ids + turn.draft, dtype=torch.int64), turn.decoding.cache) for turn in turns]
    if model.stepped is not None and _drawn_there(model, turns, pieces):
        return
    logits = model(pieces, last=[turn.wanted for turn in turns]).float().cpu()
    row = 0
    for turn in turns:
        turn.row = row
        row += turn.wanted
    going = [turn for turn in turns if turn.draws]
    while going:
        going = _round(going, logits, masks)


def _drawn_there(model: CausalLM, turns: Sequence[Turn], pieces: Sequence[Piece]) -> bool:
    """Read, and let the device draw where it can for all sequences: whether it did. No logits come back then."""
    choices = [turn.choice() for turn in turns]
    if any(turn.draws and choice is None for turn, choice in zip(turns, choices, strict=True)):
        return False
    drawn = model.sampled(pieces, choices)
    if drawn is None:
        return False
    for turn, index in zip(turns, drawn, strict=True):
        if index is not None:
            with _alone(turn.decoding):
                turn.say_drawn(index)
    return True


def _round(turns: Sequence[Turn], logits: Tensor, masks: TokenMasks | None) -> list[Turn]:
    """One more token for each; those that go on in this pass."""
    drawn: list[tuple[Turn, Tensor]] = []
    chosen: list[tuple[Turn, int]] = []
    for turn in turns:
        with _alone(turn.decoding):
            forced = turn.decoding.next_forced()
            if forced is not None:
                chosen.append((turn, forced))
            elif (raw := turn.raw(logits)) is not None:
                row = raw.clone()
                turn.decoding.penalise(row)
                drawn.append((turn, row))
    for turn, row in _masked(drawn, masks):
        with _alone(turn.decoding):
            chosen.append((turn, turn.decoding.draw(row)))
    going = []
    for turn, index in chosen:
        with _alone(turn.decoding):
            if turn.say(index, logits):
                going.append(turn)
    return going


def _masked(drawn: list[tuple[Turn, Tensor]], masks: TokenMasks | None) -> list[tuple[Turn, Tensor]]:
    """The rows with -inf where a grammar forbids the token, less those whose grammar has failed."""
    bound = [(turn, row) for turn, row in drawn if turn.decoding.constraint is not None]
    if masks is None or not bound:
        return drawn
    rows = torch.stack([row for _, row in bound])
    constraints = [turn.decoding.constraint for turn, _ in bound]
    free = [(turn, row) for turn, row in drawn if turn.decoding.constraint is None]
    try:
        masks.apply(rows, constraints)
    except ConstraintBroken:
        # One of them: told apart, it fails alone.
        for at, (turn, _) in enumerate(bound):
            with _alone(turn.decoding):
                masks.apply(rows[at : at + 1], constraints[at : at + 1])
    return free + [(turn, rows[at]) for at, (turn, _) in enumerate(bound) if not turn.decoding.done]


@contextlib.contextmanager
def _alone(decoding: Decoding) -> Iterator[None]:
    """What fails for one sequence ends it and no other."""
    try:
        yield
    except LagunaError as error:
        decoding.failed, decoding.finished = error, None


def _check_prompt(ids: Sequence[int], cache: KVCache) -> None:
    config = cache.config
    if not ids:
        raise UsageError("the prompt has no tokens, expected at least one")
    if len(ids) > config.context_length:
        raise ContextTooLong(f"the prompt has {len(ids)} tokens, the model reads at most {config.context_length}")
    if min(ids) < 0 or max(ids) >= config.vocab_size:
        wrong = next(at for at, index in enumerate(ids) if not 0 <= index < config.vocab_size)
        raise UsageError(
            f"token id {ids[wrong]} at place {wrong}: the model knows ids 0 to {config.vocab_size - 1}; does the "
            "tokenizer belong to it?"
        )


def generate(
    model: CausalLM,
    ids: Sequence[int],
    cache: KVCache,
    options: DecodingOptions,
    *,
    constraint: Constraint | None = None,
    chunk: int = CHUNK,
) -> Iterator[int]:
    """The tokens of one answer as they are made, for tests and measurements; whoever iterates may stop at any time.

    Raises as `Decoding` does, and what made it fail.
    """
    decoding = Decoding(ids, cache, options, constraint=constraint)
    masks = None if constraint is None else TokenMasks(cache.config.vocab_size)
    given = 0
    while not decoding.done:
        step(model, [decoding], chunk=chunk, masks=masks)
        yield from decoding.tokens[given:]
        given = len(decoding.tokens)
    if decoding.failed is not None:
        raise decoding.failed
