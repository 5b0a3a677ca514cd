"""Whole runs: killed, stopped, rolled back and refused, against the same run that nothing happens to."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from laguna_agent.errors import ConfigError, TrainingDiverged
from laguna_agent.training.batch import Pack
from laguna_agent.training.loss import token_loss
from laguna_agent.training.provenance import Lineage, code
from laguna_agent.training.run_file import read_run_file
from laguna_agent.training.run_log import read_lines
from laguna_agent.training.sharding import Ranks
from laguna_agent.training.step import held_out_part, work_of
from laguna_agent.training.trainer import Trainer
from tests.conftest import ROOT
from tests.training.tiny_run import Counting, train, trainer, write_run

STEPS = 10
CLOCK = {"seconds", "tokens_per_second"}
RUN_AT_REST = """
[run]
name = "rest"
directory = "run"
steps = {steps}
packs_per_step = 4
micro_packs = 4
{more}
[data]
datasets = {{ counting = 1.0 }}
[optimizer]
lr = 1e-9
adamw_lr = 1e-9
[checkpoints]
every = 10
"""


def metrics(folder: Path) -> list[dict[str, Any]]:
    """A run's lines but for what a clock says."""
    lines = read_lines(folder / "run" / "metrics.jsonl")
    return [{key: value for key, value in line.items() if key not in CLOCK} for line in lines]


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [line for line in read_lines(folder / "run" / "events.jsonl") if line["event"] == kind]


def numbers(made: Trainer) -> dict[str, torch.Tensor]:
    """Weights, biases of routers and both optimizers' states."""
    return {name: tensor.clone() for name, tensor in made._tensors().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def start(path: Path, *arguments: str) -> subprocess.Popen[str]:
    """The run in a process of its own, which leads a group."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.training.tiny_run", str(path), *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for_lines(folder: Path, count: int, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 90
    path = folder / "run" / "metrics.jsonl"
    while not path.exists() or len(read_lines(path)) < count:
        assert time.monotonic() < until, "the run takes no steps"
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """A run that nothing happens to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    result, made = train(write_run(folder, STEPS))
    assert result.step == STEPS
    return folder, numbers(made)


def test_a_run_writes_what_it_did(undisturbed: tuple[Path, dict[str, torch.Tensor]]) -> None:
    lines = metrics(undisturbed[0])
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert [line["step"] for line in lines if "val_loss" in line] == [4, 8, 10]
    assert lines[-1]["val_loss"] < lines[3]["val_loss"] < 4.1
    assert all(line["tokens"] == 4 * 26 and line["max_vio"] >= 0 for line in lines)
    assert {path.name for path in (undisturbed[0] / "run" / "checkpoints").iterdir()} == {
        "step-00000009",
        "step-00000010",
    }
    assert (undisturbed[0] / "run" / "plot.svg").read_text().startswith("<?xml")


def test_a_killed_run_goes_on_bit_for_bit(tmp_path: Path, undisturbed: tuple[Path, dict[str, torch.Tensor]]) -> None:
    path = write_run(tmp_path, STEPS)
    # It hangs at the eighth step: the last checkpoint is of the sixth, a line of the seventh is there.
    process = start(path, "1", str(4 * 7))
    wait_for_lines(tmp_path, 7, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    # What a kill in the middle of a write leaves: half a line, and a checkpoint that is none yet.
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step":8,"lo')
    half = tmp_path / "run" / "checkpoints" / ".step-00000007.partial"
    half.mkdir()
    (half / "__0_0.distcp").write_bytes(b"half")
    result, made = train(path)
    assert result.step == STEPS and not half.exists()
    assert events(tmp_path, "resumed") == [{"event": "resumed", "step": 6, "ranks": 1}]
    assert same(numbers(made), undisturbed[1])
    assert metrics(tmp_path) == metrics(undisturbed[0])


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, undisturbed: tuple[Path, dict[str, torch.Tensor]]) -> None:
    shutil.copytree(undisturbed[0], tmp_path, dirs_exist_ok=True)
    (newest,) = (tmp_path / "run" / "checkpoints" / "step-00000010").glob("*.distcp")
    newest.write_bytes(newest.read_bytes()[:-1])
    result, made = train(write_run(tmp_path, STEPS))
    assert events(tmp_path, "resumed")[-1]["step"] == 9
    assert result.step == STEPS and same(numbers(made), undisturbed[1])
    assert metrics(tmp_path) == metrics(undisturbed[0])


def test_two_processes_stop_at_a_signal_and_one_goes_on(
    tmp_path: Path, undisturbed: tuple[Path, dict[str, torch.Tensor]]
) -> None:
    path = write_run(tmp_path, STEPS)
    # From the fifth step on each takes a second, so that the signal comes before the end.
    process = start(path, "2", str(4 * 4), "1.0")
    wait_for_lines(tmp_path, 4, process)
    os.kill(process.pid, signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130, output
    stopped = events(tmp_path, "stopped")[0]["step"]
    assert 4 <= stopped < STEPS
    assert output.count(f"stopped after step {stopped};") == 1, output
    # Two ranks give the steps of one, up to the order of sums.
    before = metrics(undisturbed[0])
    for line, expected in zip(metrics(tmp_path), before, strict=False):
        assert line["loss"] == pytest.approx(expected["loss"], rel=1e-4)
        assert line["gradient_norm"] == pytest.approx(expected["gradient_norm"], rel=1e-3)
    result, made = train(path)
    assert events(tmp_path, "resumed") == [{"event": "resumed", "step": stopped, "ranks": 1}]
    assert [line["step"] for line in metrics(tmp_path)] == list(range(1, STEPS + 1))
    assert result.loss == pytest.approx(before[-1]["loss"], rel=1e-3)
    found = numbers(made)
    assert all(
        torch.allclose(found[name], tensor, atol=2e-3) for name, tensor in undisturbed[1].items() if "proj" in name
    )


def test_a_step_that_is_no_number_is_not_applied(tmp_path: Path) -> None:
    stream = Counting({18: float("nan")})  # in the fifth step; the last checkpoint is of the third
    result, made = train(write_run(tmp_path, STEPS), stream=stream)
    assert (result.step, result.rolled_back) == (STEPS, 1)
    assert [line["step"] for line in metrics(tmp_path)] == list(range(1, STEPS + 1))
    (bad,) = events(tmp_path, "bad_step")
    assert (bad["step"], bad["back_to"]) == (5, 3) and ["d_counting", 0, 18] in bad["packs"]
    # Two steps' packs were read in vain, and the bad step's; none of them came again.
    assert stream.at == 4 * (STEPS + 2)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in numbers(made).values())

    # A run that ends between the roll-back and the next checkpoint comes to the same.
    class Cut(Counting):
        def take(self, count: int) -> list[Pack]:
            if self.at == 4 * 6:
                raise InterruptedError
            return super().take(count)

    again = write_run(tmp_path / "again", STEPS)
    with pytest.raises(InterruptedError):
        train(again, stream=Cut({18: float("nan")}))
    assert [line["step"] for line in metrics(tmp_path / "again")] == [1, 2, 3, 4]
    result, other = train(again, stream=Counting({18: float("nan")}))
    assert result.rolled_back == 1 and same(numbers(made), numbers(other))
    assert metrics(tmp_path / "again") == metrics(tmp_path)


def test_a_spike_is_not_applied(tmp_path: Path) -> None:
    # A step whose weights nearly cancel has the differences between its tokens blown up.
    assert train(write_run(tmp_path, 11, text=RUN_AT_REST), stream=Counting({41: -94.99}))[0].rolled_back == 1
    (bad,) = events(tmp_path, "bad_step")
    assert bad["step"] == 11 and "the median of the last 10 steps" in bad["objection"]


def test_a_run_that_stays_bad_ends_with_exit_code_4(tmp_path: Path) -> None:
    stream = Counting({18: float("nan"), 26: float("nan")})
    with pytest.raises(TrainingDiverged, match=r"step 5: .* 1 roll-backs were made") as caught:
        train(write_run(tmp_path, STEPS), stream=stream)
    assert caught.value.exit_code == 4


def test_another_run_or_other_data_is_refused_by_what_differs(
    tmp_path: Path, undisturbed: tuple[Path, dict[str, torch.Tensor]]
) -> None:
    shutil.copytree(undisturbed[0], tmp_path, dirs_exist_ok=True)
    path = write_run(tmp_path, STEPS)
    path.write_text(path.read_text().replace("lr = 0.01", "lr = 0.02"))
    with pytest.raises(ConfigError, match=r"is of another run: optimizer.lr is 0.02, was 0.01"):
        train(path)
    with pytest.raises(ConfigError, match=r"the version of counting is d_other, was d_counting"):
        train(write_run(tmp_path, STEPS), lineage=Lineage("tiny", {"counting": "d_other"}, code()))


def test_packs_that_ranks_cannot_share_are_refused() -> None:
    packs = Counting().take(4)
    with pytest.raises(ConfigError, match="4 packs cannot be shared by 3 processes"):
        work_of(packs, Ranks(0, 3, torch.device("cpu")), 1)
    parts = [work_of(packs, Ranks(rank, 2, torch.device("cpu")), 1) for rank in range(2)]
    assert {part.weight for part in parts} == {96.0} and {part.tokens for part in parts} == {104}
    assert sorted(batch.origin[2] for part in parts for batch in part.batches) == [0, 1, 2, 3]
    counted = [pack for rank in range(3) for pack in held_out_part(packs, Ranks(rank, 3, torch.device("cpu")))]
    assert len(counted) == 6 and sum(float(pack.weights.sum()) for pack in counted) == 96.0


def test_only_what_the_assistant_wrote_is_learned(tmp_path: Path) -> None:
    model = trainer(read_run_file(write_run(tmp_path))).model
    pack = Counting().pack(0)
    answer = torch.zeros(26)
    answer[5:9] = 1

    def gradients(targets: torch.Tensor) -> tuple[float, list[torch.Tensor]]:
        model.zero_grad()
        asked = Pack(pack.ids, targets, answer, pack.lengths)
        loss = token_loss(model, asked, total_weight=4.0)
        loss.backward()
        return float(loss.detach()), [
            parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None
        ]

    loss, found = gradients(pack.targets)
    elsewhere = pack.targets.clone()
    elsewhere[answer == 0] = 7
    other_loss, other = gradients(elsewhere)
    assert loss == other_loss and all(torch.equal(one, two) for one, two in zip(found, other, strict=True))
    inside = pack.targets.clone()
    inside[5] = (inside[5] + 1) % 61
    assert gradients(inside)[0] != loss


@pytest.mark.slow
def test_kills_at_any_moment(tmp_path: Path, undisturbed: tuple[Path, dict[str, torch.Tensor]]) -> None:
    path = write_run(tmp_path, STEPS)
    source = random.Random(1)
    for _ in range(6):
        process = start(path, "1", "0", "0.05")
        before = len(metrics(tmp_path)) if (tmp_path / "run" / "metrics.jsonl").exists() else 0
        wait_for_lines(tmp_path, min(before + 1, STEPS), process)
        time.sleep(source.random() * 0.4)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    result, made = train(path)
    assert result.step == STEPS and same(numbers(made), undisturbed[1])
    assert metrics(tmp_path) == metrics(undisturbed[0])


@pytest.mark.slow
def test_processes_die_with_the_launcher_and_errors_come_back(tmp_path: Path) -> None:
    path = write_run(tmp_path, STEPS)
    process = start(path, "2", str(4 * 4))
    wait_for_lines(tmp_path, 4, process)
    # The launcher alone: its workers hang, and must not hold the run's folder any longer.
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    result, _ = train(path)
    assert result.step == STEPS
    # Six packs a step cannot be shared by four processes: one line, and the code of a wrong configuration.
    shutil.rmtree(tmp_path / "run")
    path.write_text(path.read_text().replace("packs_per_step = 4", "packs_per_step = 6"))
    process = start(path, "4")
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 2 and "6 packs cannot be shared by 4 processes" in output.splitlines()[-1]
    assert "Traceback" not in output
