"""Models that are on this machine already: our own store, Hugging Face's cache, Ollama's.

From a name to a path; looks at nothing but folders and the two small JSON files that lead to a model. What those say
is somebody else's text: a digest or a commit is used as a file name only where it looks like one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from laguna_agent.backend.laguna.config_fields import read_object
from laguna_agent.backend.weights.catalogue import CATALOGUE
from laguna_agent.backend.weights.store import Store
from laguna_agent.directories import home
from laguna_agent.errors import UsageError, WeightsError

WORD = r"[A-Za-z0-9][\w.-]{0,95}"
HUB_NAME = re.compile(rf"({WORD})/({WORD})")
OLLAMA_NAME = re.compile(rf"(?:ollama:)?((?:{WORD}/){{0,3}})({WORD})(?::([\w.-]{{1,128}}))?")
COMMIT = re.compile(r"[A-Za-z0-9][\w.-]{0,127}")
DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
MODEL_LAYER = "application/vnd.ollama.image.model"


def find_model(name: str, store: Store | None = None) -> Path:
    """The file or folder of the model `name`.

    `name` is a path, a name of our store, `org/name` of the hub, or `name[:tag]` of Ollama, tried in this order;
    `ollama:` before a name asks Ollama's cache alone. Raises UsageError that says where it looked.
    """
    path = Path(name).expanduser()
    # A name may be no possible path (too long, a zero byte); then the system refuses to look.
    with suppress(OSError, ValueError):
        if name and path.exists():
            return path
    found = None if name.startswith("ollama:") else _in_store(name, store or Store()) or _in_hub_cache(name)
    found = found or _in_ollama(name)
    if found is None:
        places = [str((store or Store()).root), str(hub_cache()), *(str(root) for root in ollama_roots())]
        pull = f"; get it with `laguna-agent models pull {name}`" if name in CATALOGUE else ""
        raise UsageError(f"no model {name!r} on this machine: it is no path, and not in {', '.join(places)}{pull}")
    return found


def _in_store(name: str, store: Store) -> Path | None:
    try:
        model = store.find(name)
    except UsageError:
        # The store has rules for its names; a path or a hub name is none of its own.
        return None
    return None if model is None else store.blob_path(model.sha256)


def hub_cache() -> Path:
    """Hugging Face's cache: HF_HUB_CACHE, else `hub` in HF_HOME, else ~/.cache/huggingface/hub."""
    given = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    if given:
        return Path(given).expanduser()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or home() / ".cache").expanduser()
    return Path(os.environ.get("HF_HOME") or cache / "huggingface").expanduser() / "hub"


def _in_hub_cache(name: str) -> Path | None:
    match = HUB_NAME.fullmatch(name)
    if match is None:
        return None
    folder = hub_cache() / f"models--{match[1]}--{match[2]}"
    reference = folder / "refs" / "main"
    commit = reference.read_text(encoding="utf-8", errors="replace").strip() if reference.is_file() else ""
    if COMMIT.fullmatch(commit) and _holds_model(folder / "snapshots" / commit):
        return folder / "snapshots" / commit
    # A download of one revision leaves no reference; the newest one that holds a model is meant.
    others = [path for path in (folder / "snapshots").glob("*") if _holds_model(path)]
    return max(others, key=lambda path: path.stat().st_mtime, default=None)


def _holds_model(snapshot: Path) -> bool:
    return any(snapshot.glob("*.safetensors")) or any(snapshot.glob("*.gguf"))


def ollama_roots() -> Iterator[Path]:
    """Where Ollama keeps models: OLLAMA_MODELS, else the user's folder and the service's."""
    given = os.environ.get("OLLAMA_MODELS")
    if given:
        yield Path(given).expanduser()
        return
    yield home() / ".ollama" / "models"
    yield Path("/usr/share/ollama/.ollama/models")


def _in_ollama(name: str) -> Path | None:
    match = OLLAMA_NAME.fullmatch(name)
    if match is None or ".." in name:
        return None
    spaces, tag = match[1].split("/")[:-1], match[3] or "latest"
    # What is left out of `host/owner/name` is Ollama's registry and its own library.
    home = [*["registry.ollama.ai", "library"][: 2 - len(spaces)], *spaces] if len(spaces) < 3 else spaces
    for root in ollama_roots():
        manifest = root.joinpath("manifests", *home, match[2], tag)
        if manifest.is_file():
            return _ollama_blob(root, manifest)
    return None


def _ollama_blob(root: Path, manifest: Path) -> Path:
    layers = read_object(manifest).get("layers")
    for layer in layers if isinstance(layers, list) else []:
        if not isinstance(layer, dict) or layer.get("mediaType") != MODEL_LAYER:
            continue
        digest = DIGEST.fullmatch(str(layer.get("digest")))
        if digest is None:
            raise WeightsError(f"{manifest}: digest is {layer.get('digest')!r}, expected sha256: and 64 hex digits")
        blob = root / "blobs" / f"sha256-{digest[1]}"
        if not blob.is_file():
            raise WeightsError(f"{blob}: the file is missing; {manifest} says that it holds the model")
        return blob
    raise WeightsError(f"{manifest}: no layer is a model ({MODEL_LAYER})")
