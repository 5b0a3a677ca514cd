"""Sharded training with real processes over gloo, two and then three: gradients, distributed Muon, state, replicas.

The processes run `sharded_ranks.py` and write down what they found; the three read the checkpoint of the two, who read
one that this process wrote alone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st

from laguna_agent.errors import UsageError
from laguna_agent.training.optim.distributed import DistributedMuon
from laguna_agent.training.optim.owners import Shape, plan, rows_held
from laguna_agent.training.optim.parameters import split_parameters
from laguna_agent.training.optim.replicas import replica_hash
from laguna_agent.training.sharding import joined_group, shard
from tests.conftest import ROOT
from tests.training.sharded_ranks import learning_model, load, loss_of, pieces_of, save

# All ranks share what cores there are, with whatever else runs.
pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning"),
]

Found = dict[int, list[dict[str, Any]]]
"""For each number of ranks what each found."""


def trained_alone() -> tuple[Any, DistributedMuon]:
    """One process, no group: the same calls as with several."""
    model = learning_model()
    shard(model)
    optimizer = DistributedMuon(split_parameters(model)[0], lr=0.02)
    loss_of(model, pieces_of(0, 8), False).backward()
    optimizer.step()
    return model, optimizer


def run_ranks(folder: Path, *sizes: int) -> Found:
    """Start so many processes, one number after another, and wait for them; what each wrote down."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.training.sharded_ranks", str(folder), *map(str, sizes)]
    log = folder / f"log-{sizes[0]}"
    with log.open("wb") as output:
        # A group of its own, so that nothing is left over where a rank hangs.
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        try:
            code = process.wait(timeout=200)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert code == 0, log.read_text()[-5000:]
    return {
        size: [json.loads((folder / f"found-{size}-{rank}.json").read_text()) for rank in range(size)] for size in sizes
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def alone_hash(folder: Path) -> str:
    """Of the checkpoint that one process saves."""
    model, optimizer = trained_alone()
    save(folder / "one", model, optimizer)
    return replica_hash(model, [optimizer])


@pytest.fixture(scope="module")
def found(folder: Path, alone_hash: str) -> Found:
    return run_ranks(folder, 2, 3)


@pytest.mark.parametrize("size", [2, 3])
def test_the_ranks_come_together_and_part_even_after_an_error(found: Found, size: int) -> None:
    assert [rank["world"] for rank in found[size]] == [[rank, size, "gloo"] for rank in range(size)]
    assert all(rank["parted"] for rank in found[size])


@pytest.mark.parametrize("size", [2, 3])
def test_gradients_are_the_sum_over_the_ranks(found: Found, size: int) -> None:
    """From all logits and with the head in chunks, tied and not, summed over two backward passes."""
    for rank in found[size]:
        assert len(rank["gradients"]) == (2 if size == 2 else 1)
        # The order of the sum differs, nothing else; a mean would be off by half.
        assert all(worst < 1e-4 for worst in rank["gradients"].values()), rank["gradients"]


def test_weights_that_travel_in_bf16_give_the_logits_of_the_whole_model(found: Found) -> None:
    assert [rank["mixed"] for rank in found[2]] == [True, True]


@pytest.mark.parametrize(("size", "coefficients"), [(2, "kj5"), (2, "polar5"), (3, "polar5")])
def test_a_sharded_run_is_bit_equal_to_one_process(found: Found, size: int, coefficients: str) -> None:
    for rank in found[size]:
        assert rank["training"][coefficients] == {"weights": True, "momentum": True, "several buckets": True}


@pytest.mark.slow
def test_two_replicas_of_two_shards_are_bit_equal_to_one_process(tmp_path: Path) -> None:
    for rank in run_ranks(tmp_path, 4)[4]:
        assert rank["training"]["polar5"] == {"weights": True, "momentum": True, "several buckets": True}


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("arm", ["small buckets", "one bucket", "bf16", "naive"])
def test_odd_shapes_are_bit_equal(found: Found, size: int, arm: str) -> None:
    """Fewer rows or experts than ranks, fused matrices, one without a gradient; the naive arm agrees, too."""
    for rank in found[size]:
        assert rank["odd"][arm]["weights"] and rank["odd"][arm]["momentum"]


def test_what_travels_is_counted(found: Found) -> None:
    for size in (2, 3):
        one, small = ([rank["odd"][arm]["stats"] for rank in found[size]] for arm in ("one bucket", "small buckets"))
        assert [stats["buckets"] for stats in one] == [1] * size
        assert [stats["buckets"] for stats in small] == [-(-7 // size)] * size
        assert {stats["travelled"] for stats in one} == {7} and sum(stats["owned"] for stats in one) == 7
        # Each row that is not its owner's own travels there and back, 4 bytes a number: every rank sends its own, and
        # the results of the others.
        total = sum(rows * columns for rows, columns in ((1, 7), (2, 5), (3, 3), (7, 19), (19, 7), (7, 19), (10, 6)))
        assert sum(stats["bytes_sent"] for stats in one) == sum(stats["bytes_sent"] for stats in small)
        assert 0 < sum(stats["bytes_sent"] for stats in one) <= 2 * 4 * total
        # Computed in bf16, a result travels home in 2 bytes.
        narrow = sum(rank["odd"]["bf16"]["stats"]["bytes_sent"] for rank in found[size])
        assert narrow == sum(stats["bytes_sent"] for stats in one) * 3 // 4
        # Naively every number goes to all others, those of the experts too.
        experts = 1 * 4 * 3 + 5 * 6 * 4 + 4 * 6 * 5
        assert sum(rank["odd"]["naive"]["stats"] for rank in found[size]) == 4 * (size - 1) * (total + experts)


def test_the_state_has_the_same_keys_on_every_rank_before_the_first_step(found: Found) -> None:
    alone = trained_alone()[1]
    for size in (2, 3):
        assert len({tuple(rank["checkpoint"]["keys"]) for rank in found[size]}) == 1
        assert all(rank["checkpoint"]["placed"] for rank in found[size])
        assert len(found[size][0]["checkpoint"]["keys"]) == sum(len(group["params"]) for group in alone.param_groups)


def test_a_checkpoint_is_loaded_by_another_number_of_ranks(found: Found, folder: Path, alone_hash: str) -> None:
    """One process's by two, theirs by three and by one again: every tensor whole and equal."""
    assert {rank["checkpoint"]["loaded"] for rank in found[2]} == {alone_hash}
    (left,) = {rank["checkpoint"]["left"] for rank in found[2]}
    assert left != alone_hash
    assert {rank["checkpoint"]["loaded"] for rank in found[3]} == {left}
    model, optimizer = trained_alone()
    load(folder / "two", model, optimizer)
    assert replica_hash(model, [optimizer]) == left


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("kind", ["plain", "hsdp"])
def test_a_flipped_bit_is_caught_and_named(found: Found, size: int, kind: str) -> None:
    who = "one of ranks 0, 1 holds" if size == 2 else "rank 2 holds"
    for rank in found[size]:
        said = rank["replicas"][kind]
        assert said["healthy"] == ""
        for key, name in (
            ("embedding", "model.embed_tokens.weight"),
            ("weight", "model.layers.1.mlp.experts.down_proj"),
            ("buffer", "model.layers.2.mlp.experts.e_score_correction_bias"),
            ("momentum", "model.layers.1.mlp.experts.down_proj (momentum_buffer of optimizer 0)"),
            ("setting", "lr (group 0 of optimizer 0)"),
        ):
            assert said[key].startswith(f"step 12: {who} other bytes of {name} than its replicas;"), said[key]


def test_the_hash_is_the_same_for_whole_and_repeated_shards_and_feels_a_bit(found: Found) -> None:
    for size in (2, 3):
        said = [rank["replicas"] for rank in found[size]]
        # One gradient in each replica: plain ones keep it, those of a mesh sum it, so the states differ; ranks do not.
        assert len({one["plain"]["hash"] for one in said}) == len({one["hsdp"]["hash"] for one in said}) == 1
        hashes = [one["plain"]["weight hash"] for one in said]
        assert len(set(hashes[:-1])) == 1 and hashes[-1] != hashes[0]


@pytest.mark.parametrize("size", [2, 3])
def test_shards_that_live_once_are_not_compared(found: Found, size: int) -> None:
    assert [rank["replicas"]["cut"] for rank in found[size]] == [""] * size


@pytest.mark.parametrize("size", [2, 3])
def test_a_rank_that_computes_otherwise_is_caught(found: Found, size: int) -> None:
    who = "one of ranks 0, 1 " if size == 2 else "rank 2 "
    for rank in found[size]:
        healthy, given_other, computed_other = rank["replicas"]["newton_schulz"]
        assert healthy == ""
        assert given_other.startswith(who + "was given another matrix")
        assert computed_other.startswith(who + "made other bits")


def test_one_process_needs_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined_group() as ranks:
        assert (ranks.rank, ranks.size, ranks.first) == (0, 1, True) and not dist.is_initialized()


def test_mixed_precision_must_be_what_the_model_computes_in() -> None:
    with pytest.raises(UsageError, match="computes in torch"):
        shard(learning_model(), mixed=torch.bfloat16)


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK is 2 of WORLD_SIZE 2"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "rank 0 of 2 could not join"),
        ({"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "localhost"}, "rank 1 of 2 could not join"),
    ],
)
def test_who_cannot_join_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, environment: dict[str, str], said: str
) -> None:
    for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    meeting = None if "MASTER_ADDR" in environment else tmp_path / "meeting"
    with (
        pytest.raises(UsageError, match=said),
        joined_group(meeting_file=meeting, patience=timedelta(seconds=0.2)),
    ):
        pass
    assert not dist.is_initialized()


SHAPES = st.lists(st.builds(Shape, st.integers(1, 60), st.integers(1, 60), st.just(1)), min_size=1, max_size=30)


@settings(max_examples=40)
@given(SHAPES, st.integers(1, 5), st.integers(1, 5000))
def test_every_parameter_has_one_owner_and_the_work_is_shared(shapes: list[Shape], ranks: int, least: int) -> None:
    buckets = plan(shapes, [0] * ranks, least)
    owned = [one for bucket in buckets for one in bucket]
    assert sorted(one.place for one in owned) == list(range(len(shapes)))
    assert all(one.shape == shapes[one.place] for one in owned)
    loads = [sum(one.shape.work for one in owned if one.owner == rank) for rank in range(ranks)]
    # Graham's bound, against the least that any sharing can reach.
    least_possible = max(max(shape.work for shape in shapes), sum(loads) / ranks)
    assert max(loads) <= 2 * least_possible
    for bucket in buckets[:-1]:
        assert len(bucket) >= ranks and sum(one.shape.elements for one in bucket) >= least


def test_who_has_more_experts_owns_fewer_matrices() -> None:
    shape = Shape(8, 8)
    buckets = plan([shape] * 4, [3 * shape.work, 0], 1)
    owners = [one.owner for bucket in buckets for one in bucket]
    assert owners.count(0) == 1


@settings(max_examples=40)
@given(st.integers(0, 40), st.integers(1, 7))
def test_rows_are_cut_as_torch_cuts_them(rows: int, ranks: int) -> None:
    cut = [len(chunk) for chunk in torch.zeros(rows, 1).chunk(ranks)] if rows else []
    assert rows_held(rows, ranks) == (cut + [0] * ranks)[:ranks]
