"""What every model backend speaks: messages in, typed deltas out.

A backend turns one `Request` into a stream of `Delta`s and knows nothing else: no session, no tool, no face.
The types are wire-neutral; `openai_http` maps them to and from JSON, `replay` reads them from a session log, an
in-process engine produces them directly. A backend must end every stream with exactly one `Finished`, or raise a
`ProviderError`; a stream that merely stops is an error, never an answer.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import msgspec

from laguna_agent.messages import Message, ToolSpec

FinishReason = Literal["stop", "tool_calls", "length", "content_filter", "refusal"]


class Sampling(msgspec.Struct, frozen=True, omit_defaults=True):
    """Sampling parameters; None leaves the choice to the server. `max_tokens` counts output tokens.

    The penalties are those of OpenAI (`frequency`, `presence`: subtracted from a logit) and of llama.cpp
    (`repetition`: above 1 divides it). `reasoning_tokens` is how long a thought may get before it is closed.
    `logprobs` asks for `TokenDelta`s with the log-probability of each token and of that many likeliest ones.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    max_tokens: int | None = None
    reasoning_tokens: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    reasoning_effort: Literal["off", "low", "medium", "high"] | None = None
    logprobs: int | None = None


class Request(msgspec.Struct, frozen=True, omit_defaults=True):
    """One model request. `response_schema` asks the server to constrain the answer to a JSON Schema."""

    model: str
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    sampling: Sampling = Sampling()
    response_schema: dict[str, Any] | None = None


class Usage(msgspec.Struct, frozen=True, omit_defaults=True):
    """Tokens of one request, as the server counts them, and the cost in US dollars (None: price unknown).

    `cached_tokens` is the part of `input_tokens` that was read from a cache, `reasoning_tokens` the part of
    `output_tokens` that was thought.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cost: float | None = None


class TextDelta(msgspec.Struct, frozen=True, tag="text"):
    """A piece of the answer."""

    text: str


class ReasoningDelta(msgspec.Struct, frozen=True, omit_defaults=True, tag="reasoning"):
    """A piece of thought; `details` are opaque items to be sent back unchanged."""

    text: str = ""
    details: tuple[dict[str, Any], ...] = ()


class ToolCallDelta(msgspec.Struct, frozen=True, omit_defaults=True, tag="tool_call"):
    """A piece of the call at `index`: the id and name come once, `arguments` in fragments of JSON text."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


class TokenDelta(msgspec.Struct, frozen=True, omit_defaults=True, tag="token"):
    """One token of the output, where `Sampling.logprobs` asked for them; it comes before the text that it completes.

    `token` is its text (U+FFFD for half characters), `bytes` what it stands for, `top` the likeliest tokens in its
    place as (text, log-probability), the likeliest first.
    """

    token: str
    logprob: float
    bytes: tuple[int, ...] = ()
    top: tuple[tuple[str, float], ...] = ()


class ProgressDelta(msgspec.Struct, frozen=True, omit_defaults=True, tag="progress"):
    """How far the work before the first token is: `done` of `total` bytes ("loading", "packing"), of tokens ("reading"
    the prompt), or of seconds until the next attempt ("retrying"). "waiting" stands in a queue and has no measure. For
    people: it is no part of the answer."""

    stage: Literal["waiting", "loading", "packing", "reading", "retrying"]
    done: int = 0
    total: int = 0


class NoticeDelta(msgspec.Struct, frozen=True, tag="notice"):
    """Something that the person should know of how the answer is made; no part of it."""

    text: str


class RetryDelta(msgspec.Struct, frozen=True, tag="retry"):
    """The attempt failed before its end; what it had sent so far is void. The next one starts after `delay` s, which
    ProgressDeltas may count down."""

    attempt: int
    delay: float
    reason: str


class UsageDelta(msgspec.Struct, frozen=True, tag="usage"):
    """What the request has cost; at most one a stream."""

    usage: Usage


class Finished(msgspec.Struct, frozen=True, tag="finished"):
    """The stream is complete."""

    reason: FinishReason


Delta = (
    TextDelta
    | ReasoningDelta
    | ToolCallDelta
    | TokenDelta
    | ProgressDelta
    | NoticeDelta
    | RetryDelta
    | UsageDelta
    | Finished
)


class ModelInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the server says of a model; None where it does not say. Prices are US dollars per token."""

    id: str
    context_length: int | None = None
    max_output_tokens: int | None = None
    input_price: float | None = None
    output_price: float | None = None
    cached_price: float | None = None
    supports_schema: bool = False
    supports_tools: bool = True


class Backend(Protocol):
    """A source of answers. `name` is the provider's ("openrouter", "replay"), `target` says where it is (a URL)."""

    name: str
    target: str

    async def describe(self, model: str) -> ModelInfo:
        """What is known of the model. Never fails for want of the information; raises ProviderError when the
        server cannot be reached or refuses the key."""
        ...

    async def models(self) -> list[ModelInfo]:
        """Every model the server offers."""
        ...

    def stream(self, request: Request) -> AsyncGenerator[Delta]:
        """Answer one request; see the module's contract. Closing it early ends the request."""
        ...

    async def aclose(self) -> None:
        """Release connections and processes."""
        ...


@runtime_checkable
class Remembering(Protocol):
    """A backend that keeps state beside a session (what it has read of the conversation, say), so that a later run of
    the session, or a copy of it, need not compute it again.

    What is kept is never trusted to fit: the conversation may have been taken back or gone on without it, and another
    model may read it. Both methods may be cancelled when they take too long, and must then leave things as before.
    """

    async def remember(self, folder: Path) -> None:
        """Keep in `folder`, which need not exist and may hold what was kept before, what a later run can use. Called
        once, when a session that has prompted closes, before `aclose`."""
        ...

    async def recall(self, folder: Path) -> None:
        """Take back what was kept in `folder`, before the first request; a missing folder is nothing to recall. The
        folder may belong to a session that still runs, even in another process, so it must only be read."""
        ...
