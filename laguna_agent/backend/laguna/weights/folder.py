"""A folder of safetensors files: one file, or shards that an index names. Names to tensors, nothing more.

The index is somebody else's text: it may only name files inside the folder. A file may be a symbolic link, because
that is how Hugging Face's cache keeps them.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from torch import Tensor

from laguna_agent.backend.laguna.config_fields import read_object
from laguna_agent.backend.laguna.weights.safetensors_file import MOST_TENSORS, Entry, SafetensorsFile
from laguna_agent.errors import ConfigError, WeightsError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
LARGEST_INDEX = 32 << 20
PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})
NO_PICKLES = (
    "is a pickle, which can run any program when it is read, and is never opened here; get the model as .safetensors "
    "or .gguf, or convert it on a machine that you would trust it with"
)


class SafetensorsFolder:
    """Every tensor of the folder's model by its name in the files. Raises WeightsError naming file and tensor."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index = folder / INDEX
        if self.index.is_file():
            self._home = self._read_index()
        elif (folder / SINGLE).is_file():
            single = SafetensorsFile(_kept_inside(folder, folder / SINGLE))
            self._home = dict.fromkeys(single.entries, single)
        elif pickles := sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES):
            raise WeightsError(f"{folder / pickles[0]}: {NO_PICKLES}")
        else:
            raise WeightsError(f"{folder}: no {SINGLE} and no {INDEX}")

    def names(self) -> list[str]:
        """The names of all tensors."""
        return list(self._home)

    def __contains__(self, name: str) -> bool:
        return name in self._home

    def entry(self, name: str) -> Entry:
        """Type and shape of a tensor that is there."""
        return self._home[name].entries[name]

    def where(self, name: str) -> str:
        """File and tensor, for errors."""
        return self._home[name].where(name)

    def tensor(self, name: str) -> Tensor:
        """A read-only view of a tensor that is there."""
        return self._home[name].tensor(name)

    def identity(self) -> str:
        """Changes whenever a file is replaced: name, size, time and header of each."""
        digest = sha256()
        for file in sorted({id(file): file for file in self._home.values()}.values(), key=lambda file: file.path):
            status = file.path.stat()
            digest.update(f"{file.path.name} {status.st_size} {status.st_mtime_ns} {file.digest}\n".encode())
        return digest.hexdigest()

    def _read_index(self) -> dict[str, SafetensorsFile]:
        weight_map = _read_large_object(self.index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise WeightsError(f"{self.index}: weight_map is missing, expected an object of tensor names to files")
        files: dict[str, SafetensorsFile] = {}
        for name, shard in weight_map.items():
            if not isinstance(shard, str) or shard not in files:
                files[shard] = self._open_shard(name, shard)
            if name not in files[shard].entries:
                raise WeightsError(f"{files[shard].path}: tensor {name!r} is missing, {INDEX} says it is there")
        return {name: files[shard] for name, shard in weight_map.items()}

    def _open_shard(self, name: str, shard: Any) -> SafetensorsFile:
        if isinstance(shard, str) and Path(shard).suffix in PICKLES:
            raise WeightsError(f"{self.index}: {name!r} is said to be in {shard!r}, which {NO_PICKLES}")
        inside = isinstance(shard, str) and _stays_inside(shard)
        if not inside:
            raise WeightsError(f"{self.index}: {name!r} is said to be in {shard!r}, expected a file inside the folder")
        path = self.folder / shard
        if not path.is_file():
            raise WeightsError(f"{path}: the file is missing; {INDEX} says that it holds {name!r}")
        return SafetensorsFile(_kept_inside(self.folder, path))


def _kept_inside(folder: Path, path: Path) -> Path:
    """The file, where a link on the way leads no further than to the folder's `blobs`, as in Hugging Face's cache."""
    real, home = path.resolve(), folder.resolve()
    if real.is_relative_to(home) or (home.parent.name == "snapshots" and real.parent == home.parent.parent / "blobs"):
        return path
    raise WeightsError(f"{path}: leads out of the folder, to {real}; put the file itself there")


def _stays_inside(shard: str) -> bool:
    for path in (PurePosixPath(shard), PureWindowsPath(shard)):
        if path.is_absolute() or path.drive or path.root or ".." in path.parts:
            return False
    return "\0" not in shard and shard.endswith(".safetensors")


def _read_large_object(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size <= LARGEST_INDEX and path.read_bytes().count(b'"') > 5 * MOST_TENSORS:
            raise WeightsError(f"{path}: names more than {MOST_TENSORS:,} tensors")
        return read_object(path, LARGEST_INDEX)
    except ConfigError as error:
        raise WeightsError(str(error)) from error
