"""The driver of the tests notices what it is there for: each of these launches is one that the host must never make."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor

from laguna_agent.backend.kernels.cuda.driver_api import DriverApi, Refusal
from laguna_agent.backend.kernels.cuda.launch import Kernel, Launch, Pointer, program
from tests.cuda.fake_driver import FakeCompiler, FakeDriver
from tests.cuda.launch_checks import BAD_HANDLE, ILLEGAL_ADDRESS, INVALID_VALUE

COPY = Kernel(
    "copy",
    "probe.cuh",
    "laguna::copy",
    (Pointer("x", "float", 10), Pointer("y", "float", 10), Pointer("out", "float", 10, "write")),
    (3, 1, 1),
    64,
)


class Raw:
    """The driver's functions, called by hand."""

    def __init__(self) -> None:
        self.fake = FakeDriver([COPY])
        self.api = DriverApi(self.fake)
        self.api.push(self.api.retain(0))
        self.module = self.api.load(FakeCompiler().compile(program([COPY]), "sm_90a"))
        self.function = self.api.function(self.module, COPY.name)
        self.stream = self.api.stream()

    def launch(
        self,
        x: int,
        y: int,
        out: int,
        grid: tuple[int, int, int] = COPY.grid,
        threads: int = COPY.threads,
        shared: int = 0,
        stream: int = 0,
    ) -> None:
        """Addresses as they are."""
        values = [ctypes.c_void_p(each) for each in (x, y, out)]
        given = (ctypes.c_void_p * 3)(*map(ctypes.addressof, values))
        self.api.launch(self.function, grid, threads, shared, stream, given)

    def refused(self, *given: int, **options: object) -> tuple[int, str]:
        """The driver's answer to such a launch, and what it found."""
        with pytest.raises(Refusal) as refusal:
            self.launch(*given, **options)  # type: ignore[arg-type]
        return refusal.value.code, self.fake.violations[-1].removeprefix(f"{COPY.name}: ")


@pytest.fixture
def raw() -> Raw:
    return Raw()


@pytest.fixture
def places(raw: Raw) -> tuple[Tensor, Tensor, Tensor]:
    x, y, out = (raw.fake.memory.allocate(12) for _ in range(3))
    return x, y, out


Places = tuple[Tensor, Tensor, Tensor]


def test_what_is_right_passes(raw: Raw, places: Places) -> None:
    x, y, out = (each.data_ptr() for each in places)
    raw.launch(x, y, out)
    # Two that are only read may be the same.
    raw.launch(x, x, out)
    assert raw.fake.executed == [COPY.name] * 2 and raw.fake.violations == []


def test_pointers_that_no_kernel_may_have(raw: Raw, places: Places) -> None:
    x, y, out = (each.data_ptr() for each in places)
    stranger = ctypes.create_string_buffer(200)
    for given, said in (
        ((x + 16, y, out), "x ends 8 bytes before what is touched"),
        ((x, y + 4, out), "y is not aligned"),
        ((x, 0, out), "y is no memory of the GPU"),
        ((x, -(-ctypes.addressof(stranger) // 16) * 16, out), "y is no memory of the GPU"),
        ((x, out, out), "y and out overlap, and one of them is written"),
        ((x, y & 0xFFFFFFF0 | 1 << 62, out), "y is no memory of the GPU"),
    ):
        raw.fake.broken = 0
        assert raw.refused(*given) == (ILLEGAL_ADDRESS, said)
    raw.fake.broken = 0
    raw.fake.memory.free(places[2])
    assert raw.refused(x, y, out) == (ILLEGAL_ADDRESS, "out is memory that was freed")
    # After such a thing nothing goes on.
    with pytest.raises(Refusal) as refusal:
        raw.api.memory()
    assert refusal.value.code == ILLEGAL_ADDRESS


def test_sizes_that_are_not_the_kernels(raw: Raw, places: Places) -> None:
    given = [each.data_ptr() for each in places]
    for options in ({"grid": (4, 1, 1)}, {"grid": (3, 1, 0)}, {"threads": 32}, {"shared": 16}):
        assert raw.refused(*given, **options)[0] == INVALID_VALUE
    wide = replace(COPY, grid=(1, 70000, 1))
    raw.fake.kernels[COPY.name] = wide
    assert raw.refused(*given, grid=wide.grid)[1].endswith("no GPU has a grid of (1, 70000, 1)")
    greedy = replace(COPY, shared=60 << 10)
    raw.fake.kernels[COPY.name] = greedy
    assert raw.refused(*given, shared=greedy.shared)[1].endswith("more shared memory than it asked for")
    many = replace(COPY, threads=128)
    raw.fake.kernels[COPY.name] = many
    assert raw.refused(*given, threads=128)[1].endswith("too many threads")


def test_handles_that_are_gone(raw: Raw, places: Places) -> None:
    given = [each.data_ptr() for each in places]
    raw.api.begin_capture(raw.stream)
    raw.launch(*given, stream=raw.stream)
    graph = raw.api.end_capture(raw.stream)
    ready = raw.api.instantiate(graph)
    raw.api.destroy_graph(graph)
    with pytest.raises(Refusal):
        raw.api.instantiate(graph)
    raw.api.run_graph(ready, raw.stream)
    raw.api.unload(raw.module)
    assert raw.refused(*given) == (BAD_HANDLE, f"{COPY.name} is launched after it was unloaded")
    with pytest.raises(Refusal):
        raw.api.run_graph(ready, 0)
    raw.api.destroy_ready(ready)
    with pytest.raises(Refusal):
        raw.api.run_graph(ready, 0)
    raw.api.close_stream(raw.stream)
    with pytest.raises(Refusal):
        raw.api.begin_capture(raw.stream)
    assert raw.fake.executed == [COPY.name]


def test_a_recording_keeps_its_own_copy_of_the_arguments(raw: Raw, places: Places) -> None:
    x, y, out = (each.data_ptr() for each in places)
    raw.api.begin_capture(raw.stream)
    raw.launch(x, y, out, stream=raw.stream)
    graph = raw.api.end_capture(raw.stream)
    raw.api.run_graph(raw.api.instantiate(graph), 0)
    assert [int.from_bytes(value, "little") for value in raw.fake.nodes[0].values] == [x, y, out]
    # The default stream records nothing, and what was not begun does not end.
    for wrong in (lambda: raw.api.begin_capture(0), lambda: raw.api.end_capture(raw.stream)):
        with pytest.raises(Refusal):
            wrong()


def test_a_call_outside_the_context_is_noticed(raw: Raw, tmp_path: Path, places: Places) -> None:
    raw.api.pop()
    with pytest.raises(Refusal):
        raw.launch(*(each.data_ptr() for each in places))
    assert raw.fake.violations == ["a call that needs the primary context is made in another"]


def test_memory_dies_with_the_last_that_refers_to_it() -> None:
    fake = FakeDriver([COPY])
    tensor = fake.memory.allocate(4, 5)
    row = tensor[2]
    at = tensor.data_ptr()
    del tensor
    assert fake.memory.problem(row.data_ptr(), 20) is None
    del row
    assert fake.memory.problem(at, 80) == "is memory that was freed"
    with pytest.raises(ValueError, match="takes 3 arguments"):
        Launch(COPY, ())
