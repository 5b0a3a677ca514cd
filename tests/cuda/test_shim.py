"""The shim itself: what is wrong with a kernel of a few lines it notices, and what is right it lets pass.

A fault that ends the process is planted in a child of this one.
"""

from __future__ import annotations

import faulthandler
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from laguna_agent.backend.kernels.cuda.launch import Kernel
from tests.cuda.emulator import CompileError, Emulator, fenced
from tests.cuda.samples import SOURCE, THREADS, run, sample, sources

SEEDS = range(1, 6)


RIGHT: dict[str, Callable[[Tensor], Tensor]] = {
    "reversed<true>": lambda x: x.flip(0),
    "thrice<true>": lambda x: 6 * x.flip(0),
    "neighbours<true>": lambda x: x.view(-1, 2).flip(1).flatten(),
    "warp_sums": lambda x: x.view(-1, 32).sum(1, keepdim=True).expand(-1, 32).flatten(),
    "halves_apart": lambda x: torch.cat([x[at : at + 1].expand(16) for at in (3, 20, 35, 52)]),
    "votes": lambda x: 1000 + (x.view(-1, 32) > 7).sum(1, keepdim=True).expand(-1, 32).flatten(),
    "shared_overrun<0>": lambda x: x,
    "misaligned<4>": lambda x: x[4:5].expand(THREADS),
}
RACES = {"reversed<false>": "reversed<true>", "thrice<false>": "thrice<true>", "neighbours<false>": "neighbours<true>"}
DEADLY = {
    "two_barriers": "threads wait at different barriers",
    "half_a_barrier": "threads wait for others that do not come",
    "narrow_mask": "a lane takes part whom the mask does not name",
    "wide_mask": "a lane of the mask is gone",
    "absent_lane": "a value is taken from a lane that takes no part",
    "two_shuffles": "lanes of one mask are not together",
    "shared_overrun<-1>": "something was written before the block's shared memory",
    "misaligned<1>": "16 bytes are read or written at a place that is not a multiple of 16",
    # The fences: no word of the shim.
    "shared_overrun<1>": "",
    "global_overrun<1>": "",
}
ORDERS = (sample("arrivals", kind="int"), sample("block_arrivals", grid=(4, 3, 1), kind="int"))


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Emulator:
    """All samples, compiled once."""
    made = Emulator(sources(tmp_path_factory.mktemp("native")))
    made.prepare([*(sample(name) for name in (*RIGHT, *RACES, *DEADLY, "global_overrun<-1>")), *ORDERS])
    return made


def last_words(emulator: Emulator, kernel: Kernel, seed: int, path: Path) -> tuple[int, str]:
    """The signal that ends a child which runs the kernel, 0 for none, and what it says."""
    child = os.fork()
    if child == 0:
        faulthandler.disable()
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), 2)
        try:
            run(emulator, kernel, seed)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return (os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0), path.read_text()


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_is_right_in_every_order(emulator, name):
    x = torch.arange(THREADS).float()
    for seed in SEEDS:
        assert torch.equal(run(emulator, sample(name), seed), RIGHT[name](x)), seed


@pytest.mark.parametrize("name", RACES)
def test_a_race_is_seen_in_every_order(emulator, name):
    wanted = RIGHT[RACES[name]](torch.arange(THREADS).float())
    for seed in SEEDS:
        assert not torch.equal(run(emulator, sample(name), seed), wanted), seed


@pytest.mark.parametrize("name", DEADLY)
def test_what_no_block_may_do_ends_the_process(emulator, name, tmp_path):
    ended, said = last_words(emulator, sample(name), 1, tmp_path / "said")
    assert ended == (signal.SIGABRT if DEADLY[name] else signal.SIGSEGV), said
    assert DEADLY[name] in said
    # The child itself is sound: it ends well where the kernel does.
    assert last_words(emulator, sample("warp_sums"), 1, tmp_path / "said")[0] == 0


def test_what_lies_before_a_tensor_is_no_number(emulator):
    assert run(emulator, sample("global_overrun<-1>"), 1)[0].isnan()


def test_the_seed_decides_the_order_of_threads_and_blocks(emulator):
    for kernel in ORDERS:
        count = THREADS if kernel.grid == (1, 1, 1) else 12
        seen = [run(emulator, kernel, seed)[:count].tolist() for seed in SEEDS]
        again = [run(emulator, kernel, seed)[:count].tolist() for seed in SEEDS]
        assert seen == again and len(set(map(tuple, seen))) == len(SEEDS)
        assert all(sorted(each) == list(range(count)) for each in seen)


def test_a_program_that_does_not_compile_says_why(tmp_path):
    (tmp_path / SOURCE).write_text("namespace samples { nonsense }\n")
    with pytest.raises(CompileError, match="nonsense"):
        Emulator(tmp_path).prepare([sample("warp_sums")])


def test_fenced_memory_is_aligned_and_ends_at_a_fence():
    for count, dtype in ((1, torch.float32), (5, torch.uint8), (1024, torch.float32), (33, torch.int64)):
        tensor = fenced(count, dtype=dtype)
        end = tensor.data_ptr() + tensor.nbytes
        assert tensor.data_ptr() % 16 == 0 and -end % 4096 < 16 and not tensor.any()
