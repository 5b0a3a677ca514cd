"""How far one model's next-token distributions are from another's, measured position by position.

The reference is known by its most probable tokens only, so both sides put all other tokens into one bucket: the
divergence is that of the lumped distributions, which is never above the true one and, with thousands of tokens
listed, hardly below it. Knows numbers; no file and no server.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from llama_distributions import NextToken
from torch import Tensor

from laguna_agent.backend.laguna.model import CausalLM, Piece

SMALLEST = 1e-12
"""What is left for the bucket where rounding leaves nothing."""


@dataclass
class Agreement:
    """Sums over positions of one model against the reference."""

    name: str
    positions: int = 0
    equal: int = 0
    divergences: list[float] = field(default_factory=list)
    log_loss: float = 0.0

    def add(self, logits: Tensor, expected: Sequence[NextToken], came: Sequence[int]) -> None:
        """Logits [n, vocab] of ours, the reference's distributions and the tokens that came, at the same n places."""
        logprobs = logits.double().log_softmax(-1)
        best = logits.argmax(-1).tolist()
        for place, (reference, token) in enumerate(zip(expected, came, strict=True)):
            self.equal += best[place] == reference.ids[0]
            self.divergences.append(divergence(reference, logprobs[place]))
            self.log_loss -= logprobs[place, token].item()
        self.positions += len(best)

    @property
    def perplexity(self) -> float:
        """exp of the mean negative log-probability of the tokens that came."""
        return math.exp(self.log_loss / self.positions)

    def row(self) -> str:
        """One line of the table."""
        ordered = sorted(self.divergences)
        mean, high = math.fsum(ordered) / len(ordered), ordered[int(0.99 * (len(ordered) - 1))]
        return f"{self.name:<10} {100 * self.equal / self.positions:>7.2f} %  {mean:>10.6f}  {high:>10.6f}"


HEADER = f"{'':<10} {'top-1':>9}  {'mean KL':>10}  {'99 % KL':>10}"


def divergence(reference: NextToken, ours: Tensor) -> float:
    """KL(reference || ours) in nats; `ours` is fp64 log-probabilities [vocab]. Unlisted tokens are one bucket."""
    listed = torch.tensor(reference.logprobs, dtype=torch.float64)
    mine = ours[torch.tensor(reference.ids)]
    total = (listed.exp() * (listed - mine)).sum().item()
    if len(reference.ids) == len(ours):
        return total
    left, left_ours = max(SMALLEST, 1 - listed.exp().sum().item()), max(SMALLEST, 1 - mine.exp().sum().item())
    return total + left * math.log(left / left_ours)


def reference_perplexity(expected: Sequence[NextToken]) -> float:
    """The reference's own."""
    return math.exp(-math.fsum(one.came for one in expected) / len(expected))


@torch.inference_mode()
def compared(
    name: str, model: CausalLM, ids: Sequence[int], expected: Sequence[NextToken], chunk: int = 256
) -> Agreement:
    """`model` against the reference on `ids`, of which the last is only a token that came; read in chunks."""
    result, cache = Agreement(name), model.new_cache()
    for start in range(0, len(ids) - 1, chunk):
        stop = min(start + chunk, len(ids) - 1)
        logits = model([Piece(torch.tensor(ids[start:stop]), cache)])
        result.add(logits, expected[start:stop], ids[start + 1 : stop + 1])
    return result
