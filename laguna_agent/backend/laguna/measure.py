"""How fast the engine is on this machine, and what it could be: what `laguna-agent bench engine` prints.

Every figure is taken through the engine's own door, with requests like those of an agent. Knows the engine; must not
know who prints.
"""

from __future__ import annotations

import queue
from time import perf_counter

import msgspec
import torch

from laguna_agent.backend.base import Delta, Finished, Request, Sampling, TokenDelta, Usage, UsageDelta
from laguna_agent.backend.kernels.formats import bytes_needed
from laguna_agent.backend.laguna.engine import Engine
from laguna_agent.backend.laguna.job import Job
from laguna_agent.backend.laguna.local_model import ModelPlan
from laguna_agent.backend.laguna.weights.canonical import expected_tensors
from laguna_agent.backend.laguna.weights.machine import read_speed
from laguna_agent.backend.laguna.weights.packing import pack_layout
from laguna_agent.messages import Message, text_message

READ_BYTES = 1 << 30
CODE = "def total_{0}(orders):\n    return sum(order.price * order.count for order in orders if order.day == {0})\n\n"
TASK = "Continue this module in the same way, with at least a hundred more functions:\n\n"


class EngineFigures(msgspec.Struct, frozen=True):
    """Seconds, tokens per second, bytes per second.

    The times to the first token: `cold` with the model still to be opened (its packed file is there), `warm` with
    nothing of the prompt read, `reused` when all but `new_tokens` were read before. `bytes_per_token` are those of the
    weights that one decoded token reads; `share` is what decoding uses of `bandwidth`. That is what this machine was
    just seen to read where the CPU computes, and what the card's memory can give at most on a GPU, 0 where nobody says;
    `bandwidth_source` has which.
    """

    quant: str
    threads: int
    prompt_tokens: int
    output_tokens: int
    new_tokens: int
    first_token_cold: float
    first_token_warm: float
    first_token_reused: float
    prefill: float
    decode: float
    bytes_per_token: int
    device: str
    bandwidth: float
    bandwidth_source: str

    @property
    def read(self) -> float:
        """Bytes of weights that decoding reads in a second."""
        return self.decode * self.bytes_per_token

    @property
    def share(self) -> float:
        """The part of the bandwidth that this is; 0 where the bandwidth is not known."""
        return self.read / self.bandwidth if self.bandwidth else 0.0


class _Run(msgspec.Struct, frozen=True):
    """One request: seconds to the first token, seconds from there to the last, and what it used."""

    first: float
    rest: float
    usage: Usage
    text: str


def measure_engine(plan: ModelPlan, *, prompt_tokens: int, output_tokens: int, threads: int) -> EngineFigures:
    """Open the planned model anew and time it; raises what the engine raises. Packs first, untimed, where needed."""
    _once(plan, threads, _request("Say hello.", 1))
    device, bandwidth, source = _memory_of(plan)
    # A text that repeats itself would flatter drafts.
    engine = Engine(plan, threads=threads, draft=0)
    try:
        cold = _ask(engine, _request("Say hello.", 1))
        warm = _ask(engine, _request(_prompt(prompt_tokens), output_tokens))
        again = (
            text_message("user", _prompt(prompt_tokens)),
            text_message("assistant", warm.text),
            text_message("user", "Now write one test for each."),
        )
        reused = _ask(engine, Request("bench", again, sampling=Sampling(temperature=0.0, max_tokens=1, logprobs=0)))
    finally:
        engine.close()
    made, read = warm.usage.output_tokens, warm.usage.input_tokens - warm.usage.cached_tokens
    return EngineFigures(
        plan.need.quant,
        threads,
        warm.usage.input_tokens,
        made,
        reused.usage.input_tokens - reused.usage.cached_tokens,
        cold.first,
        warm.first,
        reused.first,
        read / warm.first,
        (made - 1) / warm.rest if made > 1 else 0.0,
        bytes_per_token(plan),
        device,
        bandwidth,
        source,
    )


def _memory_of(plan: ModelPlan) -> tuple[str, float, str]:
    """Who computes, how many bytes per second its memory gives, and how that is known."""
    if plan.device == "cpu":
        return "cpu", read_speed(READ_BYTES, tries=3), "measured"
    from laguna_agent.backend.kernels.cuda.cards import peak_of
    from laguna_agent.backend.kernels.cuda.driver import CudaDevice

    device = CudaDevice(torch.cuda.current_device())
    peak = peak_of(device)
    return (device.name, peak.bandwidth, peak.source) if peak else (device.name, 0.0, "unknown")


def bytes_per_token(plan: ModelPlan) -> int:
    """Bytes of weights that decoding one token reads: everything once, of the experts those that are picked."""
    config = plan.config
    _, formats = pack_layout(plan.checkpoint, plan.need.quant)
    total = 0
    for name, shape, _ in expected_tensors(config):
        size = bytes_needed(formats[name], shape)
        if name == "model.embed_tokens.weight" and not config.tied:
            size //= shape[0]
        if ".mlp.experts." in name and len(shape) == 3:
            size = size * config.experts_per_token // config.experts
        total += size
    return total


def _prompt(tokens: int) -> str:
    """About so many tokens of code; one function has about 28."""
    return TASK + "".join(CODE.format(1000 + number) for number in range(max(1, tokens // 28)))


def _request(text: str, output_tokens: int) -> Request:
    messages: tuple[Message, ...] = (text_message("user", text),)
    return Request("bench", messages, sampling=Sampling(temperature=0.0, max_tokens=output_tokens, logprobs=0))


def _once(plan: ModelPlan, threads: int, request: Request) -> None:
    engine = Engine(plan, threads=threads)
    try:
        _ask(engine, request)
    finally:
        engine.close()


def _ask(engine: Engine, request: Request) -> _Run:
    told: queue.SimpleQueue[tuple[float, Delta | BaseException]] = queue.SimpleQueue()
    begun = perf_counter()
    engine.submit(Job(request, lambda said: told.put((perf_counter(), said))))
    times: list[float] = []
    usage, text = Usage(), ""
    while True:
        at, said = told.get()
        if isinstance(said, BaseException):
            raise said
        if isinstance(said, TokenDelta):
            times.append(at)
            text += said.token
        elif isinstance(said, UsageDelta):
            usage = said.usage
        elif isinstance(said, Finished):
            return _Run(times[0] - begun, times[-1] - times[0], usage, text)
