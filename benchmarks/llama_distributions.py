"""What llama.cpp says comes next: next-token distributions, token ids and greedy answers, asked of its server.

Knows the server's own routes (`/tokenize`, `/completion`), not the OpenAI ones; must not know our engine. The server
gives log-probabilities of the plain softmax over the whole vocabulary, before any sampler, which `check_plain` checks.
"""

from __future__ import annotations

import json
import math
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple


class NextToken(NamedTuple):
    """The most probable next tokens, best first, and the log-probability of the one that really came."""

    ids: list[int]
    logprobs: list[float]
    came: float


class LlamaCpp:
    """A running server at `url`. Raises RuntimeError with the server's words where it refuses."""

    def __init__(self, url: str, timeout: float = 600.0) -> None:
        self.url, self.timeout = url, timeout
        # A sampled token whose text is empty or half a character brings no probabilities along, so none is left to
        # chance: what is sampled has nothing to do with the probabilities that are told.
        self._sampled = self.tokenize("a")[0]

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """One request; the answer as an object."""
        data = json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                found: dict[str, Any] = json.loads(answer.read())
                return found
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{self.url}{path}: {error.code} {error.read().decode(errors='replace')}") from error

    def tokenize(self, text: str) -> list[int]:
        """The ids of `text`; special tokens that it spells are read as such, none is added."""
        ids: list[int] = self.post("/tokenize", {"content": text, "add_special": False, "parse_special": True})[
            "tokens"
        ]
        return ids

    def top(self, ids: Sequence[int], count: int, bias: float = 1000.0) -> dict[int, float]:
        """Log-probabilities of the `count` most probable tokens after `ids`, best first.

        `bias` is added to the logit of the token that is sampled, which the log-probabilities must not show.
        """
        body = {
            "prompt": list(ids),
            "n_predict": 1,
            "n_probs": count,
            "post_sampling_probs": False,
            "cache_prompt": True,
            "samplers": [],
            "logit_bias": [[self._sampled, bias]],
        }
        (made,) = self.post("/completion", body)["completion_probabilities"]
        return {entry["id"]: entry["logprob"] for entry in made["top_logprobs"]}

    def distributions(self, ids: Sequence[int], count: int, vocabulary: int | None = None) -> Iterator[NextToken]:
        """After each prefix of `ids` but the whole: the `count` most probable tokens.

        One request a position; the server keeps the prefix, so each costs one token. Where the token that came is not
        among them, the position is asked again for a whole vocabulary of that size; without one, `came` is NaN there.
        """
        for length in range(1, len(ids)):
            found = self.top(ids[:length], count)
            came = ids[length]
            logprob = found.get(came, math.nan)
            if came not in found and vocabulary is not None:
                logprob = self.top(ids[:length], vocabulary)[came]
            yield NextToken(list(found), list(found.values()), logprob)

    def greedy(self, ids: Sequence[int], count: int) -> list[int]:
        """The `count` most probable tokens one after the other; stop tokens are tokens like others."""
        made: list[int] = []
        for _ in range(count):
            made.append(next(iter(self.top([*ids, *made], 1))))
        return made

    def check_plain(self, ids: Sequence[int], vocabulary: int) -> None:
        """Raise RuntimeError unless the numbers are a softmax over the whole vocabulary that no sampler touched."""
        self.top(ids, 1)  # the first answer comes of a batch, the later ones of one token: other kernels, other noise
        whole, other = self.top(ids, vocabulary), self.top(ids, vocabulary, bias=2000.0)
        total = math.fsum(map(math.exp, whole.values()))
        if len(whole) != vocabulary or abs(total - 1) > 1e-3:
            raise RuntimeError(f"{len(whole)} of {vocabulary} tokens have a probability and they sum to {total}")
        if whole[self._sampled] > -0.5 or whole != other:
            raise RuntimeError("log-probabilities follow what steers the sampler, so they are not plain")
