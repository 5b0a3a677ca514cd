"""Triton's kernels without a GPU: under its interpreter, and compiled for the GPUs that the kernels are meant for.

Triton must know that it is interpreted before it is imported, so everything runs in processes of its own. It is in the
extra `cuda-check`, which `make test-all` installs; without it these tests fail.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from laguna_agent.backend.kernels.cuda.geometry import PUBLISHED
from tests.cuda.mutants import Mutant
from tests.cuda.mutants.prefill import MUTANTS
from tests.cuda.prefill_battery import WRONG
from tests.cuda.triton_offline import ARCHITECTURES, FORMATS, ROOM

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
KERNELS = Path(__file__).parents[2] / "laguna_agent" / "backend" / "kernels" / "cuda" / "triton_kernels.py"

LIMIT = 1800
"""Seconds after which a fault that never ends counts as noticed; the slowest of these take five minutes."""
MOST = {
    ("gate_up", 16): (168, 57),
    ("gate_up", 64): (152, 90),
    ("down", 16): (136, 33),
    ("down", 64): (152, 90),
    ("linear", 16): (128, 33),
    ("linear", 64): (144, 90),
}
"""Registers of a thread and KiB of shared memory that a program may take, by kernel and rows, on any GPU."""


def ran(*arguments: str, interpreted: bool = True) -> subprocess.CompletedProcess[str]:
    """Python with these arguments, under the interpreter or without."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    if interpreted:
        environment["TRITON_INTERPRET"] = "1"
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
    )


def test_all_formats_and_odd_sizes():
    done = ran("-m", "tests.cuda.prefill_battery")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.mark.parametrize("geometry", [each.name for each in PUBLISHED])
def test_the_published_models_own_shapes(geometry):
    done = ran("-m", "tests.cuda.prefill_battery", "--geometry", geometry)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


WHOLE = """
import torch
from laguna_agent.backend.kernels import dispatch
from laguna_agent.backend.kernels.cuda import prefill, triton_kernels
from laguna_agent.backend.kernels.cuda.triton_products import TritonProducts
from laguna_agent.backend.kernels.formats import Plain

assert prefill.usable(torch.device("cpu")).triton
calls = []

class Counted(TritonProducts):
    def experts(self, *given):
        calls.append(len(given[0]))
        return super().experts(*given)

dispatch.register_experts(Plain, "cpu", prefill.PrefillKernels(Counted(triton_kernels)).experts)
from tests.laguna.test_against_transformers import compare

torch.set_num_threads(1)
for seed in (1, 2):
    with torch.no_grad():
        compare(seed, "laguna")
assert len(calls) > 10 and max(calls) > 8, calls
"""


def test_whole_models_give_what_transformers_gives():
    done = ran("-c", WHOLE)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


FAILING = """
import logging, sys, types
import torch
from laguna_agent.backend.kernels import reference
from laguna_agent.backend.kernels.cuda import prefill, prefill_cases, triton_kernels
from laguna_agent.backend.kernels.cuda.triton_products import TritonProducts
from laguna_agent.backend.kernels.formats import GroupInt
from triton.runtime.errors import PTXASError

class Refused:
    def __getitem__(self, grid):
        raise PTXASError("out of registers")

logging.basicConfig(stream=sys.stdout, format="%(message)s")
made = torch.Generator().manual_seed(1)
gate_up = prefill_cases.random_weight(GroupInt(4, 32), (3, 64, 32), made)
down = prefill_cases.random_weight(GroupInt(4, 32), (3, 32, 32), made)
x, picked, share = torch.randn(4, 32), torch.tensor([[0, 2]] * 4), torch.rand(4, 2)
kernels = prefill.PrefillKernels(TritonProducts(types.SimpleNamespace(linear=Refused(), gate_up=Refused())))
for _ in range(2):
    torch.testing.assert_close(kernels.linear(x, down[0]), reference.linear(x, down[0]))
    found = kernels.experts(x, gate_up, down, picked, share)
    torch.testing.assert_close(found, reference.experts(x, gate_up, down, picked, share))

class Doubled(TritonProducts):
    def linear(self, *given):
        return 2 * super().linear(*given)

prefill._products = lambda: Doubled(triton_kernels)
print(prefill.usable(torch.device("cpu")).says)
"""


def test_what_cannot_be_compiled_or_comes_out_wrong_is_computed_by_torch():
    done = ran("-c", FAILING)
    assert done.returncode == 0, done.stderr[-2000:]
    failed, wrong = done.stdout.splitlines()
    assert failed == "prompts are computed by torch from now on: Triton failed (PTXASError)"
    assert wrong == "prompts are computed by torch: Triton's kernels are off by 1 on this device"


def test_without_a_gpu_triton_is_tried_and_torch_computes():
    code = (
        "import torch; from laguna_agent.backend.kernels.cuda import prefill as p; print(p.use(torch.device('cuda')))"
    )
    done = ran("-c", code, interpreted=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "triton=False" in done.stdout and "prompts are computed by torch" in done.stdout


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_they_compile_without_spills(architecture):
    done = ran("-m", "tests.cuda.triton_offline", str(architecture), interpreted=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 6 * len(FORMATS) - 2 * sum(each in ("f32", "f16", "bf16") for each in FORMATS)
    for row in rows:
        registers, kilobytes = MOST[row["kernel"], row["rows"]]
        assert row["spills"] == row["stack"] == 0, row
        assert row["registers"] <= registers and row["shared"] <= min(kilobytes, ROOM[architecture]) * 1024, row
        # Weights come 16 bytes at a time, tensor cores multiply them, and no small number is taken for zero.
        assert row["wide_loads"] and row["tensor_steps"] and not row["flushes"], row


def test_a_spill_is_seen():
    code = (
        "import json; from tests.cuda import triton_offline as o; e = list(o.wanted('int4:32:bf16:min'))[3]; "
        "e.options.update(maxnreg=40); print(json.dumps(o.compiled(e, 80)))"
    )
    done = ran("-c", code, interpreted=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["spills"] > 0


def noticed(mutant: Mutant, folder: Path) -> bool:
    """Whether the battery fails with that fault: by a wrong number, or at a fence. Raises where it cannot be told."""
    text = KERNELS.read_text()
    assert text.count(mutant.old) == 1, mutant
    file = folder / "triton_kernels.py"
    folder.mkdir()
    file.write_text(text.replace(mutant.old, mutant.new))
    try:
        done = ran("-m", "tests.cuda.prefill_battery", "--kernels", str(file))
    except subprocess.TimeoutExpired:
        return True
    # 1 is a fault that Python sees: then nothing was computed wrong, and the list is.
    assert done.returncode in (0, WRONG) or done.returncode < 0, done.stderr[-2000:]
    return done.returncode != 0


def test_the_cases_notice_every_fault(tmp_path):
    assert len(MUTANTS) >= 8
    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        verdicts = pool.map(lambda each: noticed(each[1], tmp_path / str(each[0])), enumerate(MUTANTS))
        assert [mutant.fault for mutant, killed in zip(MUTANTS, verdicts, strict=True) if not killed] == []
