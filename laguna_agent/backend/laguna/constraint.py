"""Which tokens may come next in an answer that follows a grammar, and which would bring it to its end.

Knows llguidance and token ids; must not know tools, templates or the model. A mask for a batch is made in one call, in
several threads; what the masks cost is measured by `tests/laguna/test_constraint.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from laguna_agent.backend.laguna.tokenizer import Tokenizer
from laguna_agent.errors import LagunaError, UsageError

if TYPE_CHECKING:
    import numpy
    import torch


ENDINGS = ("</think>", '"', "</arg_value>", "}", "]", "</arg_key>", "</tool_call>")
"""Texts that close something in an answer; of two that fit equally well the first is taken."""
_ENDLESS = 40
_KEPT = 16
"""Grammars kept ready: a session has few, one for each choice of tools and of thinking."""


class ConstraintBroken(LagunaError):
    """A token was accepted that the grammar forbids, or the grammar grew too large to follow."""


class GrammarVocabulary:
    """A tokenizer as llguidance wants it; made once per model, in about a second for 100,000 tokens.

    `stop_ids` end an answer. `width` is the width of the model's logits, which may be larger than the vocabulary: what
    lies above is never allowed, as are special tokens that do not end the answer.
    """

    def __init__(
        self, tokenizer: Tokenizer, stop_ids: Sequence[int] | frozenset[int], width: int | None = None
    ) -> None:
        import llguidance

        self.width = max(width or 0, tokenizer.vocab_size)
        tokens = list(tokenizer.token_bytes) + [b""] * (self.width - tokenizer.vocab_size)
        unspoken = [index for index, text in enumerate(tokens) if not text]
        for index in unspoken:
            # An empty token would be allowed everywhere; llguidance knows special ones by this byte.
            tokens[index] = b"\xff<%d>" % index
        wrapper = _Wrapper(tokenizer, tokens, sorted({*tokenizer.special, *stop_ids, *unspoken}), min(stop_ids))
        self._endings = [tokenizer.encode(text) for text in ENDINGS]
        self._started: dict[str, Any] = {}
        self.library = llguidance.LLTokenizer(llguidance.TokenizerWrapper(wrapper), eos_token=sorted(stop_ids))

    def compiles(self, grammar: str) -> bool:
        """Whether llguidance takes `grammar`, with nothing left out."""
        import llguidance

        failed, words = llguidance.LLMatcher.validate_grammar_with_warnings(grammar, self.library)
        return not failed and not words

    def follow(self, grammar: str) -> Constraint:
        """A new answer under `grammar`. Raises UsageError where llguidance does not take it."""
        import llguidance

        first = self._started.get(grammar)
        if first is None:
            first = llguidance.LLMatcher(self.library, grammar, log_level=0)
            if first.is_error():
                raise UsageError(f"the tools' schemas make no usable grammar: {_reason(first)}")
            if len(self._started) >= _KEPT:
                self._started.pop(next(iter(self._started)))
            self._started[grammar] = first
        # Reading a grammar of many tools costs as much as some tokens do; a copy costs next to nothing.
        return Constraint(first.deep_copy(), self.width, self._endings)


class _Wrapper:
    """What llguidance.TokenizerWrapper reads from a tokenizer."""

    def __init__(self, tokenizer: Tokenizer, tokens: list[bytes], special: list[int], eos: int) -> None:
        self.tokens = tokens
        self.special_token_ids = special
        self.eos_token_id = eos
        self.bos_token_id = None
        self._tokenizer = tokenizer

    def __call__(self, text: Any) -> list[int]:
        return self._tokenizer.encode(text.decode() if isinstance(text, bytes) else text)


class Constraint:
    """One answer on its way through the grammar."""

    def __init__(self, matcher: Any, width: int, endings: Sequence[Sequence[int]] = ()) -> None:
        self.matcher = matcher
        self.width = width
        self.endings = endings

    def accept(self, index: int) -> None:
        """The answer goes on with this token. Raises ConstraintBroken where the grammar forbids it."""
        if not self.matcher.consume_token(index):
            raise ConstraintBroken(f"token {index} does not fit the tools' grammar: {_reason(self.matcher)}")

    def accepted_prefix(self, ids: Sequence[int]) -> int:
        """How many of `ids` could come next, one after the other; nothing is accepted (for drafts)."""
        return int(self.matcher.validate_tokens(list(ids)))

    def forced(self) -> list[int]:
        """The tokens that must come next, where the grammar leaves no choice and the spelling is certain."""
        return list(self.matcher.compute_ff_tokens())

    def roll_back(self, count: int) -> None:
        """Forget the last `count` tokens."""
        if not self.matcher.rollback(count):
            raise ConstraintBroken(f"{count} tokens cannot be taken back: {_reason(self.matcher)}")

    def copy(self) -> Constraint:
        """The same state, going its own way."""
        return Constraint(self.matcher.deep_copy(), self.width, self.endings)

    @property
    def complete(self) -> bool:
        """Whether the answer may end here."""
        return bool(self.matcher.is_accepting())

    @property
    def ended(self) -> bool:
        """Whether the answer has ended: a stop token was accepted, or nothing more can come."""
        return bool(self.matcher.is_stopped())

    def ending(self) -> list[int]:
        """Tokens that close what the grammar has open here, as near to its end as is known; none where something else
        must come first (the digits of a number, a key that is required), which is then the model's to say.

        Of the endings that fit, one is text and no end where it can be written again and again: in prose, or within a
        string that another ending closes.
        """
        best: list[int] = []
        least = _ENDLESS
        for ids in self.endings:
            if self.accepted_prefix(ids) < len(ids):
                continue
            behind = self.copy()
            behind.matcher.consume_tokens(list(ids))
            if behind.complete:
                return list(ids)
            again = behind.accepted_prefix(list(ids) * _ENDLESS) // len(ids)
            if again < least:
                best, least = list(ids), again
        return best


def _reason(matcher: Any) -> str:
    """Why a matcher failed, without the state that llguidance writes below it."""
    return str(matcher.get_error()).partition("\n")[0][:300]


class TokenMasks:
    """The masks of a batch, step after step. The memory is kept."""

    def __init__(self, width: int, threads: int = 0) -> None:
        import llguidance

        self.width = width
        self._executor = llguidance.LLExecutor(num_threads=threads) if threads else llguidance.LLExecutor()
        self._packed: numpy.ndarray[Any, Any] | None = None

    def allowed(self, constraints: Sequence[Constraint | None]) -> numpy.ndarray[Any, Any]:
        """Bool [batch, width]: True where the token may come next; all of a row where its constraint is None.

        Raises ConstraintBroken where a grammar has failed.
        """
        import numpy
        from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask_par

        if self._packed is None or len(self._packed) != len(constraints):
            self._packed = allocate_token_bitmask(len(constraints), self.width)
        self._packed.fill(-1)
        bound = [(constraint.matcher, row) for row, constraint in enumerate(constraints) if constraint is not None]
        if bound:
            fill_next_token_bitmask_par(self._executor, bound, self._packed)
        for matcher, _ in bound:
            if matcher.is_error():
                raise ConstraintBroken(f"the tools' grammar cannot be followed: {_reason(matcher)}")
        bits = numpy.unpackbits(self._packed.view(numpy.uint8), axis=1, bitorder="little")
        return bits[:, : self.width].view(numpy.bool_)

    def apply(self, logits: torch.Tensor, constraints: Sequence[Constraint | None]) -> None:
        """Put -inf where a token may not come next, in place. `logits`: floating [batch, width], on any device."""
        import torch

        if logits.ndim != 2 or logits.shape[0] != len(constraints) or logits.shape[1] != self.width:
            raise ValueError(f"logits are {list(logits.shape)}, expected [{len(constraints)}, {self.width}]")
        if all(constraint is None for constraint in constraints):
            return
        allowed = torch.from_numpy(self.allowed(constraints))
        logits.masked_fill_(~allowed.to(logits.device), float("-inf"))
