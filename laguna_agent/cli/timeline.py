"""`sessions show --timeline`: a session's time and tokens as a picture that fits 80 columns.

Per prompt one axis from its beginning to its end, per request one line on it: waiting for the first token, the answer,
the calls. Colours only on a terminal that has them; without, the shapes say the same.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from laguna_agent.agent.timeline import Asked, Timeline, Worked
from laguna_agent.cli.printing import show
from laguna_agent.event_lines import one_line

AXIS, CALLS = 24, 15
"""Columns of the time axis, and of the names of the calls."""
Part = tuple[str, str]
"""Text and the style that it has in colour."""
SHAPES = {"waiting": ("\u2591", "yellow"), "answer": ("\u2588", "cyan"), "tools": ("\u2593", "green")}
PLAIN = {"waiting": ".", "answer": "#", "tools": "="}


def show_timeline(timeline: Timeline) -> None:
    """Print the picture."""
    if _coloured():
        from rich.console import Console
        from rich.text import Text

        console = Console(highlight=False, soft_wrap=True)
        for line in _lines(timeline):
            console.print(Text.assemble(*line))
        return
    for line in _lines(timeline):
        text = "".join(text for text, _ in line).rstrip()
        show(text if _unicode() else text.encode("ascii", "replace").decode())


def _coloured() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"


def _unicode() -> bool:
    try:
        "\u2591\u2588\u2593".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _shape(kind: str, width: int) -> Part:
    shape, style = SHAPES[kind]
    return (shape if _unicode() else PLAIN[kind]) * width, style


def _lines(timeline: Timeline) -> Iterator[list[Part]]:
    yield [(one_line(f"session {timeline.id}, {timeline.model or 'no model'}, {timeline.created}", 80), "bold")]
    yield [(one_line(f"in {timeline.cwd}", 80), "dim")]
    yield [
        _shape("waiting", 1), (" first token  ", ""), _shape("answer", 1), (" answer  ", ""),
        _shape("tools", 1), (" tools", ""),
    ]  # fmt: skip
    for prompt in timeline.prompts:
        yield [("", "")]
        yield from _prompt_lines(prompt)
    if timeline.prompts:
        yield [("", "")]
        yield [(_totals([request for each in timeline.prompts for request in each.requests]), "bold")]


def _prompt_lines(prompt: Worked) -> Iterator[list[Part]]:
    facts = [prompt.outcome, *([prompt.evidence] if prompt.evidence in {"verified", "unverified"} else [])]
    facts += ["taken back"] if prompt.taken_back else []
    facts += [_time(prompt.seconds)] if prompt.seconds is not None else []
    end = f"  ({', '.join(facts)})"
    yield [(f"{prompt.number}. {one_line(prompt.title, 76 - len(end))}", "bold"), (end, "dim")]
    if not prompt.requests:
        return
    yield [(f"    {'':{AXIS}}  {'model':>6} {'tools':>6} {'in':>7} {'hit':>4} {'out':>6}  calls", "dim")]
    busy = prompt.model_seconds + prompt.tool_seconds
    scale, at = AXIS / busy if busy else 0.0, 0.0
    for number, request in enumerate(prompt.requests, 1):
        yield _request_line(number, request, at, scale)
        at += request.seconds + request.tool_seconds


def _request_line(number: int, request: Asked, start: float, scale: float) -> list[Part]:
    pieces = (
        ("waiting", min(request.first, request.seconds)),
        ("answer", max(request.seconds - request.first, 0.0)),
        ("tools", request.tool_seconds),
    )
    column = round(start * scale)
    axis: list[Part] = [(" " * min(column, AXIS), "")]
    at, used = start, min(column, AXIS)
    for kind, seconds in pieces:
        at += seconds
        width = max(min(round(at * scale), AXIS) - used, 0)
        axis.append(_shape(kind, width))
        used += width
    usage = request.usage
    hit = f"{100 * usage.cached_tokens // usage.input_tokens} %" if usage.input_tokens else ""
    numbers = (
        f"  {_time(request.seconds):>6} {_time(request.tool_seconds):>6} {_short(usage.input_tokens):>7} {hit:>4} "
        f"{_short(usage.output_tokens):>6}  "
    )
    said = [call.name + ("!" if call.failed else "") for call in request.calls]
    said += [f"{request.attempts} attempts"] if request.attempts > 1 else []
    said += [*request.notes, *([request.error] if request.error else [])]
    rest = (" " * (AXIS - used) + numbers, "")
    return [(f"{number:>3} ", "dim"), *axis, rest, (one_line(" ".join(said), CALLS), "dim")]


def _time(seconds: float) -> str:
    """At most six characters."""
    if seconds < 1_000:
        return f"{seconds:.1f}s"
    return f"{seconds / 60:.0f}m" if seconds < 60_000 else f"{seconds / 3600:.0f}h"


def _short(number: int) -> str:
    return f"{number:,}" if number < 100_000 else f"{number // 1_000:,}k"


def _totals(requests: list[Asked]) -> str:
    given = sum(each.usage.input_tokens for each in requests)
    cached = sum(each.usage.cached_tokens for each in requests)
    made = sum(each.usage.output_tokens for each in requests)
    share = f" ({100 * cached // given} % cached)" if given else ""
    model, tools = sum(each.seconds for each in requests), sum(each.tool_seconds for each in requests)
    return (
        f"{len(requests)} requests: model {_time(model)}, tools {_time(tools)}; "
        f"tokens: {_short(given)} in{share}, {_short(made)} out"
    )
