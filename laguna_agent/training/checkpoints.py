"""Checkpoints of a run: everything that the next step depends on, whole or absent.

    checkpoints/step-00000100/
        *.distcp, .metadata   weights and optimizer states (torch.distributed.checkpoint; loads for any number of ranks)
        rng-0000.json         the random numbers of each rank
        lineage.json          the dataset versions and the code that it came from
        state.json            step, run file, data cursor, guard, and the sizes of the files above: written last

All is written into a folder with another name, made durable, and then renamed, so a kill at any moment leaves either
no checkpoint or a whole one. Knows tensors and plain data by name; must not know what they mean. The metadata of
torch's format is a pickle: a run's folder is one's own, and a stranger's must not be resumed; exports hold none.
"""

from __future__ import annotations

import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from laguna_agent.atomic import sync
from laguna_agent.errors import StorageError, WeightsError
from laguna_agent.training.rng import rng_state
from laguna_agent.training.sharding import has_group

STATE = "state.json"
LINEAGE = "lineage.json"
_NAME = re.compile(r"step-(\d{8,})")


class Checkpoints:
    """The checkpoints below `folder`; the newest `keep` of them stay. All ranks must call `save` together."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self._keep = folder, keep

    def save(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], lineage: Any) -> Path:
        """Write the checkpoint of `step` and forget old ones. Raises StorageError; then the older ones are still
        there."""
        final, partial = self.folder / f"step-{step:08}", self.folder / f".step-{step:08}.partial"
        try:
            if _rank() == 0:
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
            _meet()
            writer = FileSystemWriter(partial, single_file_per_rank=True, sync_files=True)
            with _unwarned():
                save(dict(tensors), storage_writer=writer, no_dist=not has_group())
            _write(partial / _rng_file(_rank()), rng_state())
            _meet()
            if _rank() == 0:
                _write(partial / LINEAGE, lineage)
                sizes = {path.name: path.stat().st_size for path in sorted(partial.iterdir())}
                _write(partial / STATE, {**state, "step": step, "ranks": _size(), "files": sizes})
                _finish(partial, final)
                self._forget()
            _meet()
        except (OSError, CheckpointException) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
            raise StorageError(f"cannot write the checkpoint {final}: {reason}; make room, then start again") from error
        return final

    def sweep(self) -> None:
        """Remove what killed processes left half-written; for the one process that holds the run."""
        for path in self.folder.glob(".step-*.partial"):
            shutil.rmtree(path, ignore_errors=True)

    def latest(self) -> Path | None:
        """The newest checkpoint that is whole; None where there is none."""
        return next((path for path in reversed(self.all()) if _whole(path)), None)

    def at(self, step: int) -> Path:
        """The checkpoint of that step. Raises WeightsError where there is no whole one."""
        path = self.folder / f"step-{step:08}"
        if not _whole(path):
            steps = ", ".join(str(step_of(each)) for each in self.all() if _whole(each)) or "none"
            raise WeightsError(f"{self.folder} has no whole checkpoint of step {step}; there are: {steps}")
        return path

    def all(self) -> list[Path]:
        """Every checkpoint, whole or damaged, the oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted((path for path in self.folder.iterdir() if _NAME.fullmatch(path.name)), key=step_of)

    def _forget(self) -> None:
        for path in self.all()[: -self._keep]:
            # First the file without which it does not count: the removal of a folder is not one act.
            (path / STATE).unlink(missing_ok=True)
            shutil.rmtree(path, ignore_errors=True)


def step_of(path: Path) -> int:
    """The step that a checkpoint's folder is of."""
    found = _NAME.fullmatch(path.name)
    assert found is not None
    return int(found[1])


def read_state(path: Path) -> dict[str, Any]:
    """What is in a checkpoint but tensors, with this rank's random numbers under "rng" where it had some. Raises
    WeightsError."""
    try:
        state: dict[str, Any] = msgspec.json.decode((path / STATE).read_bytes())
        rng = path / _rng_file(_rank())
        state["rng"] = msgspec.json.decode(rng.read_bytes()) if rng.is_file() else None
    except (OSError, msgspec.DecodeError) as error:
        raise WeightsError(
            f"the checkpoint {path} cannot be read: {error}; remove it to go on from an older one"
        ) from error
    return state


def load_tensors(path: Path, into: Mapping[str, Tensor]) -> None:
    """Read the tensors of those names, in place; shards of this number of ranks from those of any other. Raises
    WeightsError where one is missing or has another shape."""
    try:
        with _unwarned():
            load(dict(into), storage_reader=FileSystemReader(path), no_dist=not has_group())
    except (OSError, RuntimeError, ValueError, KeyError, CheckpointException) as error:
        said = " ".join(str(error).split())[:300]
        raise WeightsError(
            f"the checkpoint {path} does not fit: {said}; remove it to go on from an older one"
        ) from error


@contextmanager
def _unwarned() -> Iterator[None]:
    """One process alone is what torch warns of, and what we mean."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
        yield


def _whole(path: Path) -> bool:
    """Whether all of its files are there with the sizes that they were written with."""
    try:
        sizes: Mapping[str, int] = msgspec.json.decode((path / STATE).read_bytes())["files"]
        return all((path / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, msgspec.DecodeError, KeyError, TypeError):
        return False


def _finish(partial: Path, final: Path) -> None:
    """Make what was written durable, and give it its name."""
    sync(partial)
    if final.exists():
        # A damaged one, or one of a time before a roll-back: its place is taken only now.
        shutil.rmtree(final)
    partial.rename(final)
    sync(final.parent)


def _write(path: Path, values: Any) -> None:
    with path.open("wb") as file:
        file.write(msgspec.json.encode(values))
        file.flush()
        os.fsync(file.fileno())


def _rng_file(rank: int) -> str:
    return f"rng-{rank:04}.json"


def _rank() -> int:
    return dist.get_rank() if has_group() else 0


def _size() -> int:
    return dist.get_world_size() if has_group() else 1


def _meet() -> None:
    if has_group():
        dist.barrier()
