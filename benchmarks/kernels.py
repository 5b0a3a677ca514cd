"""How fast are the CPU kernels? Products with stored weights, against torch's own and against the memory.

usage: python benchmarks/kernels.py [--threads N] [--seconds S] [--many ROWS]

One row of x (decoding): each weight is one of several copies in turn, so that it comes from memory as it does in a
model, where the next use of a weight is a whole model away. Printed: microseconds, the ratio to torch's F.linear over
the same weight in fp32 and in bf16, and the share of the bandwidth that a sum over 512 MB reaches here. Many rows (a
prompt): milliseconds and the ratio to F.linear. Each product twice where the weight is packed: with the numbers of x as
they are, and with x in 8 bits. The first quartile of the runs counts; run it on a quiet machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from itertools import cycle
from time import perf_counter

import torch
from torch import Tensor

from laguna_agent.backend.kernels import dispatch, reference
from laguna_agent.backend.kernels.cpu import library, products
from laguna_agent.backend.kernels.cpu.layers import Product
from laguna_agent.backend.kernels.formats import GroupInt, PackedTensor, Weight
from laguna_agent.backend.kernels.quantise import quantise
from laguna_agent.backend.kernels.tiles import tile
from laguna_agent.backend.laguna.threads import physical_cores

SHAPES = {
    "q_proj": (8192, 2048),
    "expert gate_up": (1024, 2048),
    "expert down": (2048, 512),
    "head": (151936, 1536),
}
FORMATS = (GroupInt(8, 128), GroupInt(4, 32), GroupInt(4, 32, torch.float16, minimums=True), GroupInt(4, 128))
COPIES_BYTES = 400_000_000
"""More than any cache holds, so that a weight was pushed out before its turn comes again."""


def seconds_of(work: Callable[[], object], budget: float) -> float:
    """The first quartile of as many runs as fit into `budget` seconds, at least five."""
    work()
    times: list[float] = []
    until = perf_counter() + budget
    while len(times) < 5 or perf_counter() < until:
        begun = perf_counter()
        work()
        times.append(perf_counter() - begun)
    return sorted(times)[len(times) // 4]


Multiply = Callable[[], object]


def ways(weights: list[Weight], x: Tensor) -> dict[str, list[Multiply]]:
    """How x is multiplied with each of the weights, which are of one format, by what the way is called."""
    first = weights[0]
    label = "bf16" if isinstance(first, Tensor) else first.format.spelling
    found: dict[str, list[Multiply]] = {label: [partial(dispatch.linear, x, weight) for weight in weights]}
    opened = library.library().opened
    if opened is not None and not isinstance(first, Tensor):
        found["  x in 8 bits"] = [partial(Product(opened, weight), x) for weight in weights]
    return found


def copies(weight: Weight) -> list[Weight]:
    """The weight and as many copies as it takes to fill `COPIES_BYTES`."""
    found = [weight]
    while sum(each.nbytes for each in found) < COPIES_BYTES:
        if isinstance(weight, Tensor):
            found.append(weight.clone())
        else:
            parts = {name: part.clone() for name, part in weight.parts.items()}
            found.append(PackedTensor(weight.format, weight.shape, parts))
    return found


def in_turn(calls: list[Multiply], budget: float) -> float:
    """Seconds of each of `calls` in turn."""
    turns = cycle(calls)
    return seconds_of(lambda: next(turns)(), budget)


def stored(raw: Tensor) -> list[Weight]:
    """fp32 [rows, columns] in every format that is timed."""
    return [raw.bfloat16(), *(tile(quantise(raw, format)) for format in FORMATS)]


def one_row(name: str, shape: tuple[int, int], bandwidth: float, budget: float) -> None:
    """Print how long a product with one row takes in each format."""
    raw, x = torch.randn(shape), torch.randn(1, shape[1])
    half = x.bfloat16()
    fp32 = in_turn([partial(reference.linear, x, weight) for weight in copies(raw)], budget)
    bf16 = in_turn([partial(reference.linear, half, weight) for weight in copies(raw.bfloat16())], budget)
    print(f"{name} {shape[0]} x {shape[1]}: F.linear fp32 {fp32 * 1e6:.0f} us, bf16 {bf16 * 1e6:.0f} us")
    for weight in stored(raw):
        for label, turns in ways(copies(weight), x).items():
            took = in_turn(turns, budget)
            share = weight.nbytes / took / bandwidth
            print(
                f"  {label:22} {took * 1e6:8.0f} us   {fp32 / took:5.2f} x fp32   {bf16 / took:5.2f} x bf16   "
                f"{share:4.0%} of the bandwidth",
                flush=True,
            )


def many_rows(rows: int, shape: tuple[int, int], budget: float) -> None:
    """Print how long a product with `rows` rows takes in each format."""
    raw, x = torch.randn(shape), torch.randn(rows, shape[1])
    fp32 = seconds_of(lambda: torch.nn.functional.linear(x, raw), budget)
    half, half_x = raw.bfloat16(), x.bfloat16()
    bf16 = seconds_of(lambda: torch.nn.functional.linear(half_x, half), budget)
    print(f"{rows} rows x {shape[0]} x {shape[1]}: F.linear fp32 {fp32 * 1e3:.1f} ms, bf16 {bf16 * 1e3:.1f} ms")
    for weight in stored(raw):
        for label, turns in ways([weight], x).items():
            took = in_turn(turns, budget)
            print(
                f"  {label:22} {took * 1e3:8.1f} ms   {fp32 / took:5.2f} x fp32   {bf16 / took:5.2f} x bf16", flush=True
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=physical_cores(), help="default: the machine's cores")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each figure")
    parser.add_argument("--many", type=int, default=512, help="rows of the long product")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.set_grad_enabled(False)
    products.use()
    block = torch.ones(1 << 27)
    bandwidth = block.nbytes / seconds_of(block.sum, given.seconds)
    del block
    print(f"{library.status()}\n{given.threads} threads; a sum reads {bandwidth / 1e9:.1f} GB/s\n")
    for name, shape in SHAPES.items():
        one_row(name, shape, bandwidth, given.seconds)
    print()
    many_rows(given.many, (8960, 1536), given.seconds)


if __name__ == "__main__":
    main()
