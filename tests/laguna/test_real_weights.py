"""The real 1.5B coder model: every tensor of its GGUF file is read, packed to int4, and opened by mapping.

The file is the store's (`laguna-agent models pull qwen2.5-coder-1.5b`), or the one that LAGUNA_REAL_GGUF names.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from laguna_agent.backend.laguna.loading import build_model
from laguna_agent.backend.laguna.model import Piece
from laguna_agent.backend.laguna.weights import open_weights
from laguna_agent.backend.laguna.weights.opening import open_checkpoint, read_stored
from laguna_agent.backend.laguna.weights.pack_file import open_pack
from laguna_agent.backend.weights.store import Store, default_root

# Read when the module is loaded: the fixture that isolates a test moves the store and removes the variable.
REAL_ROOT, REAL_FILE = default_root(), os.environ.get("LAGUNA_REAL_GGUF")

OPENING = """
import json, pathlib, sys, time
import torch
from laguna_agent.backend.laguna.weights import open_weights
def status():
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith(("VmRSS", "RssAnon"))}
before, start = status(), time.perf_counter()
weights = open_weights(pathlib.Path(sys.argv[1]), "int4", folder=pathlib.Path(sys.argv[2]))
seconds, after = time.perf_counter() - start, status()
print(json.dumps({"seconds": seconds, **{name: after[name] - before[name] for name in after}}))
"""


def real_file() -> Path:
    if REAL_FILE:
        return Path(REAL_FILE)
    store = Store(REAL_ROOT)
    return store.blob_path(store.get("qwen2.5-coder-1.5b").sha256)


@pytest.mark.real_model
@pytest.mark.timeout(1200)
def test_the_real_model_is_packed_opened_by_mapping_and_computes_the_same(tmp_path, capsys):
    path = real_file()
    checkpoint = open_checkpoint(path)
    weights = open_weights(path, "int4", folder=tmp_path)
    open_pack(weights.pack).verify()
    assert len(weights.tensors) == len(checkpoint.tensors) == 339

    done = subprocess.run([sys.executable, "-c", OPENING, path, tmp_path], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout) | {"file": weights.pack.stat().st_size, "gguf": path.stat().st_size}
    assert figures["seconds"] < 5
    assert figures["RssAnon"] < 200 << 20, "opening must map the weights, not read them"
    assert figures["file"] < 1.1 * figures["gguf"]

    # `def f(n):` and a body, as token ids of Qwen2.
    ids = torch.tensor([750, 282, 1445, 982, 262, 421, 308, 366, 220, 17, 510])
    exact = build_model(checkpoint.config, read_stored(checkpoint), torch.float32)([Piece(ids)]).log_softmax(-1)
    packed = build_model(weights.config, weights.tensors, torch.float32)([Piece(ids)]).log_softmax(-1)
    divergence = (exact.exp() * (exact - packed)).sum(-1).mean().item()
    with capsys.disabled():
        print("\n" + json.dumps({**figures, "mean_kl": divergence}))
    assert divergence < 0.02
