"""The host's side of the GPU kernels against a driver that checks every launch and every handle."""

from __future__ import annotations

import gc
import struct
from collections.abc import Sequence
from pathlib import Path
from threading import Thread

import pytest
import torch
from torch import Tensor

from laguna_agent.backend.kernels.cuda import driver_api, probe
from laguna_agent.backend.kernels.cuda.cases import error_of
from laguna_agent.backend.kernels.cuda.cubins import Cubins
from laguna_agent.backend.kernels.cuda.driver import CudaDevice
from laguna_agent.backend.kernels.cuda.driver_api import DriverApi
from laguna_agent.backend.kernels.cuda.launch import Kernel, Launch, Pointer, Value
from laguna_agent.errors import KernelError
from tests.cuda.emulator import Emulator
from tests.cuda.fake_driver import (
    CAPTURE_UNSUPPORTED,
    ILLEGAL_ADDRESS,
    INVALID,
    LAUNCH_FAILED,
    NO_ROOM,
    Card,
    FakeCompiler,
    FakeDriver,
)


def kernel(name: str = "copy", *, threads: int = 64, shared: int = 0, grid: tuple[int, int, int] = (3, 2, 1)) -> Kernel:
    """A kernel that nobody can run: for what happens around one."""
    parameters = (
        Pointer("x", "float", 10),
        Value("scale", "float"),
        Value("count", "int"),
        Pointer("bias", "float", 4, optional=True),
        Pointer("out", "float", 10, "write"),
    )
    return Kernel(name, "probe.cuh", f"laguna::{name}", parameters, grid, threads, shared)


class Machine:
    """A device on a fake driver."""

    def __init__(
        self, folder: Path, *known: Kernel, card: Card | None = None, emulator: Emulator | None = None
    ) -> None:
        self.known = known
        self.fake = FakeDriver(known, card or Card(), emulator)
        self.compiler = FakeCompiler()
        self.cubins = Cubins(self.compiler, folder)
        self.stream = 0
        self.device = self.another()

    def another(self) -> CudaDevice:
        """A device as in a process of its own, on the same machine."""
        cpu = torch.device("cpu")
        return CudaDevice(api=DriverApi(self.fake), cubins=self.cubins, place=cpu, stream=lambda: self.stream)

    def launch(self, of: Kernel, x: Tensor | None = None, out: Tensor | None = None) -> Launch:
        """A launch of `kernel` on memory of the GPU."""
        x = self.fake.memory.allocate(10) if x is None else x
        out = self.fake.memory.allocate(10) if out is None else out
        return Launch.of(of, x=x, scale=0.25, count=-7, out=out)

    def right(self) -> None:
        """Nothing was wrong, and this thread has the context that it had."""
        assert self.fake.violations == []
        assert self.fake.contexts == []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path, kernel("one"), kernel("two"), kernel("three"))
    made.device.prepare(made.known)
    return made


def test_kernels_give_their_numbers_through_the_driver(tmp_path: Path) -> None:
    chosen = [case for case in probe.cases(None) if "memory" in case.label or "lanes" in case.label]
    machine = Machine(tmp_path, *(case.kernel for case in chosen), emulator=Emulator())
    for case in chosen:
        assert error_of(case, machine.device, machine.fake.memory.put) <= case.tolerance
    # The same as a graph, twice, on other numbers each time: it reads what lies there when it runs.
    mirror = next(case.kernel for case in chosen if "memory" in case.label)
    x, out = (machine.fake.memory.allocate(3, 512) for _ in range(2))
    play = machine.device.record([Launch.of(mirror, x=x, out=out)])
    assert machine.device.graph_problem is None
    for seed in range(2):
        x.copy_(torch.randn(3, 512, generator=torch.Generator().manual_seed(seed)))
        play()
        assert torch.equal(out, x.flip(1))
    machine.right()


def test_arguments_grid_and_stream_arrive_as_they_were_given(machine: Machine) -> None:
    one = machine.known[0]
    launch = machine.launch(one)
    machine.device.run([launch, launch])
    for node in machine.fake.nodes:
        x, scale, count, bias, out = node.values
        assert int.from_bytes(x, "little") == launch.arguments[0].data_ptr()
        assert (struct.unpack("f", scale)[0], struct.unpack("i", count)[0]) == (0.25, -7)
        assert int.from_bytes(bias, "little") == 0
        assert int.from_bytes(out, "little") == launch.arguments[4].data_ptr()
        assert (node.grid, node.block, node.shared) == ((3, 2, 1), (64, 1, 1), 0)
    assert len(machine.fake.nodes) == 2
    machine.right()


def test_what_a_device_says_of_its_gpu(machine: Machine) -> None:
    device = machine.device
    assert (device.name, device.capability, device.multiprocessors) == ("a GPU of the tests", (9, 0), 4)
    assert device.architecture == "sm_90a"
    assert device.memory() == (8 << 30, 16 << 30)
    assert device.driver_version == (13, 0)
    assert device.place == torch.device("cpu")
    machine.right()


def test_a_program_is_compiled_once_and_kept(machine: Machine) -> None:
    assert len(machine.compiler.compiled) == 1
    machine.device.prepare(machine.known)
    again = machine.another()
    again.prepare(machine.known[::-1])
    assert len(machine.compiler.compiled) == 1
    again.run([machine.launch(machine.known[1])])
    # What is new is a program of its own.
    again.prepare([*machine.known, kernel("four")])
    assert len(machine.compiler.compiled) == 2 and "laguna::one" not in machine.compiler.compiled[1][0]
    machine.right()


def test_a_recording_runs_only_when_it_is_played(machine: Machine) -> None:
    one, two, three = machine.known
    launches = [machine.launch(each) for each in (one, two, one, three)]
    play = machine.device.record(launches)
    assert machine.fake.executed == []
    assert machine.fake.recorded == [one.name, two.name, one.name, three.name]
    machine.fake.calls.clear()
    play()
    assert machine.fake.executed == [one.name, two.name, one.name, three.name]
    assert machine.fake.calls.count("cuGraphLaunch") == 1 and "cuLaunchKernel" not in machine.fake.calls
    # Launches beside it are launches: the stream that records is another than the one that runs.
    machine.device.run(launches[:1])
    assert len(machine.fake.executed) == 5 and len(machine.fake.recorded) == 4
    machine.device.record([])()
    machine.right()


def test_a_graph_keeps_its_tensors_and_gives_itself_back(machine: Machine) -> None:
    launch = machine.launch(machine.known[0])
    play = machine.device.record([launch])
    del launch
    gc.collect()
    play()
    assert machine.fake.left == ["Ready", "Stream", "dict", "str"]
    del play
    gc.collect()
    assert machine.fake.left == ["Stream", "dict", "str"]
    machine.device.close()
    assert machine.fake.left == []
    machine.right()


@pytest.mark.parametrize(
    ("function", "code"),
    [
        ("cuStreamCreate", NO_ROOM),
        ("cuStreamBeginCapture_v2", CAPTURE_UNSUPPORTED),
        ("cuLaunchKernel", INVALID),
        ("cuStreamEndCapture", INVALID),
        ("cuGraphInstantiateWithFlags", NO_ROOM),
    ],
)
def test_without_a_graph_the_launches_are_made_one_by_one(machine: Machine, function: str, code: int) -> None:
    launches = [machine.launch(each) for each in machine.known]
    machine.fake.fail(function, code, after=1 if function == "cuLaunchKernel" else 0)
    play = machine.device.record(launches)
    problem = machine.device.graph_problem
    assert problem is not None and function in problem and machine.known[0].name in problem
    machine.fake.forgive()
    play()
    assert machine.fake.executed == [each.name for each in machine.known]
    assert not {"Recorded", "Ready"} & set(machine.fake.left)
    if function != "cuStreamEndCapture":
        # The stream does not go on recording: the next graph is one.
        machine.device.record(launches)()
        assert machine.device.graph_problem is None
    machine.right()


def test_a_graph_of_memory_that_was_freed_is_noticed(machine: Machine) -> None:
    launch = machine.launch(machine.known[0])
    play = machine.device.record([launch, machine.launch(machine.known[1])])
    play()
    machine.fake.memory.free(launch.arguments[4])  # type: ignore[arg-type]
    with pytest.raises(KernelError, match=rf"the graph from {machine.known[0].name} to .*illegal memory access"):
        play()
    assert machine.fake.violations == [f"{machine.known[0].name}: out is memory that was freed"]


@pytest.mark.parametrize("code", [ILLEGAL_ADDRESS, LAUNCH_FAILED])
def test_what_breaks_the_gpu_is_said_again_by_every_later_call(machine: Machine, code: int) -> None:
    one, two, _ = machine.known
    play = machine.device.record([machine.launch(two)])
    machine.fake.fail("cuLaunchKernel", code, after=1)
    with pytest.raises(KernelError, match=rf"^{two.name}, or what was launched before it, broke on a GPU of the tests"):
        machine.device.run([machine.launch(one), machine.launch(two)])
    later: Sequence[object] = (
        play,
        lambda: machine.device.run([machine.launch(one)]),
        lambda: machine.device.record([machine.launch(one)]),
        lambda: machine.device.prepare([kernel("new")]),
        machine.device.memory,
    )
    for call in later:
        with pytest.raises(KernelError, match=rf"the GPU does nothing more for this process: {two.name}"):
            call()  # type: ignore[operator]
    machine.device.close()
    assert machine.fake.contexts == []


def test_a_launch_that_the_driver_refuses_names_its_kernel(machine: Machine) -> None:
    one, two, _ = machine.known
    machine.fake.fail("cuLaunchKernel", INVALID, after=1)
    said = rf"^{two.name} on a GPU of the tests \(driver of CUDA 13.0\): cuLaunchKernel: invalid argument"
    with pytest.raises(KernelError, match=said):
        machine.device.run([machine.launch(one), machine.launch(two)])
    machine.fake.forgive()
    machine.device.run([machine.launch(two)])
    machine.right()


def test_no_room_for_the_code_says_how_much_there_is(tmp_path: Path) -> None:
    machine = Machine(tmp_path, kernel("one"))
    machine.fake.fail("cuModuleLoadData", NO_ROOM)
    with pytest.raises(KernelError, match=r"out of memory .*8192 MiB of 16384 MiB are free"):
        machine.device.prepare(machine.known)
    machine.fake.forgive()
    machine.device.prepare(machine.known)
    machine.device.run([machine.launch(machine.known[0])])
    machine.right()


def test_a_kernel_that_does_not_compile_is_named_among_many(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.compiler.broken = "laguna::two"
    two = kernel("two")
    with pytest.raises(KernelError, match=rf"^{two.name} \(laguna::two\): .*error: laguna::two"):
        machine.device.prepare([kernel("one"), two, kernel("three")])
    # The others can still be had.
    machine.device.prepare([kernel("one"), kernel("three")])


@pytest.mark.parametrize(
    ("capability", "architectures", "wanted"),
    [
        ((8, 0), (80, 86, 90), "sm_80"),
        ((8, 9), (80, 86, 90), "sm_86"),
        ((9, 0), (80, 86, 90), "sm_90a"),
        ((10, 3), (90, 100, 101, 120), "sm_100"),
        ((12, 0), (80, 90), "compute_90"),
        ((13, 0), (100, 120), "compute_120"),
    ],
)
def test_code_is_made_for_the_gpu_that_is_there(
    tmp_path: Path, capability: tuple[int, int], architectures: tuple[int, ...], wanted: str
) -> None:
    fake = FakeDriver([kernel()], Card(capability=capability))
    compiler = FakeCompiler(architectures)
    device = CudaDevice(api=DriverApi(fake), cubins=Cubins(compiler, tmp_path), place=torch.device("cpu"))
    device.prepare([kernel()])
    assert [architecture for _, architecture in compiler.compiled] == [wanted]
    assert fake.violations == []


def test_a_gpu_that_is_too_old_and_code_for_another(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match=r"compute capability 7\.0"):
        Machine(tmp_path, card=Card(capability=(7, 0)))
    old = FakeDriver(card=Card(capability=(7, 0)))
    with pytest.raises(KernelError):
        CudaDevice(api=DriverApi(old), cubins=Cubins(FakeCompiler(), tmp_path))
    assert old.left == [] and old.violations == []
    machine = Machine(tmp_path, kernel())
    machine.fake.card.capability = (8, 0)
    with pytest.raises(KernelError, match="no kernel image is available"):
        machine.device.prepare(machine.known)


def test_a_kernel_that_the_gpu_has_no_room_for_is_refused_before_it_is_compiled(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    for bad, what in (
        (kernel(threads=2048), "2048 threads"),
        (kernel(shared=200 << 10), "204800 bytes of shared memory"),
        (kernel(grid=(1, 70000, 1)), "70000"),
        (kernel(grid=(0, 1, 1)), "a grid of"),
    ):
        with pytest.raises(KernelError, match=what):
            machine.device.prepare([bad])
    assert machine.compiler.compiled == []


def test_much_shared_memory_is_asked_for(tmp_path: Path) -> None:
    large = kernel(shared=64 << 10)
    machine = Machine(tmp_path, large)
    machine.device.prepare([large])
    machine.device.run([machine.launch(large)])
    machine.right()


def test_what_was_not_prepared_or_is_closed_does_not_run(machine: Machine) -> None:
    other = kernel("other")
    for call in (machine.device.run, machine.device.record):
        with pytest.raises(KernelError, match=f"{other.name} was not prepared"):
            call([machine.launch(other)])
    launch = machine.launch(machine.known[0])
    play = machine.device.record([launch])
    machine.device.close()
    machine.device.close()
    for again in (play, lambda: machine.device.run([launch]), machine.device.memory):
        with pytest.raises(KernelError, match="closed"):
            again()
    machine.right()


def test_a_tensor_of_another_device_is_a_bug(machine: Machine, tmp_path: Path) -> None:
    device = CudaDevice(api=DriverApi(machine.fake), cubins=Cubins(FakeCompiler(), tmp_path), stream=lambda: 0)
    device.prepare(machine.known)
    with pytest.raises(ValueError, match="x lies on cpu, the kernel runs on cuda:0"):
        device.run([machine.launch(machine.known[0])])


def test_other_contexts_and_threads_are_left_as_they_are(machine: Machine) -> None:
    api = DriverApi(machine.fake)
    other = machine.fake.context_of_another()
    api.push(other)
    launch = machine.launch(machine.known[0])
    done = []

    def work() -> None:
        machine.device.run([launch])
        machine.device.record([launch])()
        done.append(machine.device.memory())

    work()
    thread = Thread(target=work)
    thread.start()
    thread.join()
    assert machine.fake.contexts == [other] and len(done) == 2
    assert machine.fake.violations == []


def test_without_a_driver_or_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KernelError, match="finds no GPU that can be used: cuInit: no CUDA-capable device"):
        DriverApi(FakeDriver(card=Card(devices=0)))
    with pytest.raises(KernelError, match="GPU 3"):
        CudaDevice(3, api=DriverApi(FakeDriver()), cubins=Cubins(FakeCompiler()))
    monkeypatch.setattr(driver_api, "LIBRARY", "libnothing-of-the-kind.so.1")
    with pytest.raises(KernelError, match="NVIDIA's driver is not there"):
        DriverApi()
    with pytest.raises(KernelError, match="or too old"):
        DriverApi(object())
