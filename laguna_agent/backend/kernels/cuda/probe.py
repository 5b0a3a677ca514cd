"""Kernels that compare a GPU's own instructions with torch: what no test on a CPU can see of `platform.cuh`.

Conversions of all 65536 halves and of floats around every rounding, every code of every format (whose denormals some
compiler's flag would lose), sums over lanes, the few functions of mathematics, and shared memory. Knows what these
functions mean, and nothing of a model.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from laguna_agent.backend.kernels.cuda.cases import TOLERANCE, Case, Put
from laguna_agent.backend.kernels.cuda.geometry import Geometry
from laguna_agent.backend.kernels.cuda.launch import Argument, Kernel, Pointer

SOURCE = "probe.cuh"
HALVES = 1 << 16
_THREADS = 128
_LANES = (2, 4, 8, 16, 32)
_RANGES = ((-85.0, -20.0), (-20.0, -1.0), (-1.0, -1e-3), (1e-3, 1.0), (1.0, 20.0), (19.0, 21.0), (20.0, 85.0))
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def halves() -> Kernel:
    """out [65536]: every f16 number, by its bits, as fp32."""
    parameters = (Pointer("out", "float", HALVES, "write"),)
    return Kernel("probe", SOURCE, "laguna::probe_halves", parameters, (HALVES // 2 // _THREADS, 1, 1), _THREADS)


def half_of(count: int) -> Kernel:
    """out int [count]: the bits of the nearest f16 of x [count]; 0x7e00 of what is no number."""
    parameters = (Pointer("x", "float", count), Pointer("out", "int", count, "write"))
    return Kernel("probe", SOURCE, f"laguna::probe_half_of<{count}>", parameters, _grid(count), _THREADS)


def codes(spelled: str, columns: int, loads: int) -> Kernel:
    """out [loads * columns]: what `loads` times 16 bytes hold in the format that C++ calls `spelled`, unscaled."""
    parameters = (Pointer("codes", "unsigned char", loads * 16), Pointer("out", "float", loads * columns, "write"))
    return Kernel("probe", SOURCE, f"laguna::probe_codes<{spelled}, {loads}>", parameters, _grid(loads), _THREADS)


def lanes(count: int) -> Kernel:
    """out [7, count]: of x [count] the sums over 2 to 32 neighbours, and the largest of 4 and 32; whole blocks."""
    parameters = (Pointer("x", "float", count), Pointer("out", "float", 7 * count, "write"))
    return Kernel("probe", SOURCE, f"laguna::probe_lanes<{count}>", parameters, _grid(count), _THREADS)


def functions(count: int) -> Kernel:
    """out [3, count]: silu, softplus and 1 / sqrt(|x|) of x [count]."""
    parameters = (Pointer("x", "float", count), Pointer("out", "float", 3 * count, "write"))
    return Kernel("probe", SOURCE, f"laguna::probe_functions<{count}>", parameters, _grid(count), _THREADS)


def mirror(blocks: int) -> Kernel:
    """out [blocks, 512]: each row of x backwards, through shared memory."""
    count = blocks * 4 * _THREADS
    parameters = (Pointer("x", "float", count), Pointer("out", "float", count, "write"))
    call = f"laguna::probe_mirror<{count}, {_THREADS}>"
    return Kernel("probe", SOURCE, call, parameters, (blocks, 1, 1), _THREADS, shared=16 * _THREADS)


def _grid(threads: int) -> tuple[int, int, int]:
    return -(-threads // _THREADS), 1, 1


def cases(geometry: Geometry | None, seed: int = 0) -> Iterator[Case]:
    """The same for every geometry."""
    del geometry
    all_halves = torch.arange(HALVES).to(torch.int16).view(torch.float16)
    yield _case("every half as fp32", halves(), {}, all_halves.double(), 0.0)
    near = near_halves(seed)
    bits = near.half().view(torch.int16).int() & 0xFFFF
    bits = torch.where(near.isnan(), 0x7E00, bits)
    yield _case("the nearest half", half_of(near.numel()), {"x": near}, bits, 0.0)
    for spelled, stored, numbers in _codes(seed):
        kernel = codes(spelled, numbers.numel() // (stored.numel() // 16), stored.numel() // 16)
        yield _case(f"codes of {spelled}", kernel, {"codes": stored}, numbers, 0.0)
    chance = torch.Generator().manual_seed(seed)
    # Whole numbers: their sums are exact in any order.
    x = torch.randint(-1000, 1000, (2 * _THREADS,), generator=chance).float()
    yield _case("sums and the largest of lanes", lanes(x.numel()), {"x": x}, _of_lanes(x.double()), 0.0)
    for low, high in _RANGES:
        x = torch.empty(1000).uniform_(low, high, generator=chance)
        wide = x.double()
        wanted = (wide * torch.sigmoid(wide), torch.where(wide > 20, wide, wide.exp().log1p()), wide.abs().rsqrt())
        kernel = functions(x.numel())
        for at, name in enumerate(("silu", "softplus", "1 / sqrt")):
            # Each function for itself: the others' numbers may be larger by far.
            yield _case(f"{name} from {low} to {high}", kernel, {"x": x}, wanted[at], TOLERANCE, row=at)
    x = torch.randn(3, 4 * _THREADS, generator=chance)
    yield _case("through shared memory", mirror(3), {"x": x.reshape(-1)}, x.flip(1).double(), 0.0)


def near_halves(seed: int) -> Tensor:
    """Floats at, between and just beside every two neighbouring halves, beyond the largest, and of random bits."""
    numbers = torch.arange(0x7C00).to(torch.int16).view(torch.float16).double()
    # Where infinity begins is as far from the largest half as if there were one more.
    above = torch.cat((numbers[1:], torch.tensor([65536.0], dtype=torch.float64)))
    middle = ((numbers + above) / 2).float()
    sides = [middle, middle.nextafter(torch.tensor(torch.inf)), middle.nextafter(torch.tensor(-torch.inf))]
    chance = torch.Generator().manual_seed(seed)
    bits = torch.randint(-(1 << 31), 1 << 31, (5000,), generator=chance).int()
    found = torch.cat((numbers.float(), *sides, torch.tensor([torch.inf, 1e-45, 3.4e38, 65504.0, 65520.0])))
    return torch.cat((found, -found, bits.view(torch.float32)))


def _codes(seed: int) -> Iterator[tuple[str, Tensor, Tensor]]:
    """How C++ calls a format, 16-byte loads that have every code, and the numbers in them, unscaled."""
    every = torch.arange(256).to(torch.uint8)
    nibbles = torch.stack((every & 15, every >> 4), 1).flatten().double()
    for scale in ("F32", "F16", "Bf16"):
        yield f"laguna::Int4<32, laguna::{scale}, false>", every, nibbles - 8
        yield f"laguna::Int4<32, laguna::{scale}, true>", every, nibbles
        yield f"laguna::Int8<32, laguna::{scale}, false>", every, every.view(torch.int8).double()
    # 0x7f and 0xff are no numbers in e4m3, and nobody stores them.
    e4m3 = torch.where((every & 0x7F) == 0x7F, 0, every)
    yield "laguna::Fp8<128, laguna::F32>", e4m3, e4m3.view(torch.float8_e4m3fn).double()
    small = torch.tensor((*_E2M1, *(-number for number in _E2M1)), dtype=torch.float64)
    yield "laguna::Nvfp4", every, small[nibbles.long()]
    chance = torch.Generator().manual_seed(seed)
    bits = torch.randint(-(1 << 15), 1 << 15, (512,), generator=chance).to(torch.int16)
    for name, dtype in (("F16", torch.float16), ("Bf16", torch.bfloat16)):
        yield f"laguna::Plain<laguna::{name}>", bits.view(torch.uint8), bits.view(dtype).double()
    wide = torch.randn(64, generator=chance)
    yield "laguna::Plain<laguna::F32>", wide.view(torch.uint8), wide.double()


def _of_lanes(x: Tensor) -> Tensor:
    sums = [x.view(-1, many).sum(1, keepdim=True).expand(-1, many).reshape(-1) for many in _LANES]
    largest = [x.view(-1, many).amax(1, keepdim=True).expand(-1, many).reshape(-1) for many in (4, 32)]
    return torch.stack(sums + largest)


def _case(
    label: str, kernel: Kernel, given: dict[str, Tensor], wanted: Tensor, tolerance: float, *, row: int | None = None
) -> Case:
    """A case whose one output is called `out`; of `row` only that row is looked at."""
    written = next(each for each in kernel.parameters if isinstance(each, Pointer) and each.name == "out")
    whole = written.type == "int"
    poison = torch.full((written.elements,), -1 if whole else torch.nan, dtype=torch.int32 if whole else torch.float32)

    def bind(put: Put) -> dict[str, Argument]:
        return {name: put(value) for name, value in (given | {"out": poison}).items()}

    if row is None:
        return Case(label, kernel, bind, {"out": wanted}, tolerance)
    return Case(
        label, kernel, bind, {"row": wanted}, tolerance, lambda given: {"row": _row(given["out"], row, wanted.numel())}
    )


def _row(out: object, row: int, count: int) -> Tensor:
    assert isinstance(out, Tensor)
    return out[row * count : (row + 1) * count]
