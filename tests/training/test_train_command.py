"""`laguna-agent train` from packs to a checkpoint that the engine opens, and on to SFT."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from laguna_agent.backend.laguna.weights.opening import open_checkpoint, read_stored
from laguna_agent.cli.app import run_command
from laguna_agent.errors import ConfigError, DatasetError
from laguna_agent.training.checkpoints import Checkpoints, load_tensors
from laguna_agent.training.data import conversations
from laguna_agent.training.data.lineage import checkpoint_versions
from laguna_agent.training.data.pack_versions import PackTokens, pack
from laguna_agent.training.data.store import Store
from laguna_agent.training.data.token_versions import Tokenise, tokenise
from laguna_agent.training.run_log import read_lines
from tests.conftest import RunCli
from tests.training.token_corpora import TEMPLATES, TEXTS, keep_tokenizer, packed_version

SIZES = """\
[model]
hidden = 32
layers = 3
heads = 2
kv_heads = 1
head_dim = 16
experts = 4
expert_size = 16
shared_expert_size = 16
dense_size = 32
"""
PRETRAIN = f"""
tensorboard = true
[run]
name = "small"
directory = "small"
steps = 4
tokens_per_step = 256
micro_packs = 2
precision = "bf16"
{SIZES}context = 128
[data]
store = "store"
datasets = {{ learned = 1.0, more = 1.0 }}
validation = "held-out"
validation_packs = 3
[[data.change]]
at_step = 3
weights = {{ learned = 1.0, more = 0.0 }}
[checkpoints]
every = 2
"""
SFT = """
[run]
name = "chat"
kind = "sft"
directory = "chat"
steps = 2
packs_per_step = 1
[model]
from = "exported"
[data]
store = "store"
datasets = { chats = 1.0 }
[optimizer]
kind = "adamw"
"""
ADD = "def add(first, second):\n    return first + second\n"
LEARN = f"""
[run]
name = "small"
directory = "small"
steps = 60
packs_per_step = 1
{SIZES}context = 4096
[data]
store = "store"
datasets = {{ learned = 1.0 }}
[optimizer]
lr = 1e-2
[schedule]
warmup = 5
"""
TALK = [
    {"role": "user", "content": "Say it."},
    {"role": "assistant", "content": "It."},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store of packs, and run files beside it."""
    store = Store(tmp_path / "store")
    for name, texts in (("learned", TEXTS[:6]), ("more", TEXTS[6:9]), ("held-out", TEXTS[9:11])):
        store.name(name, packed_version(store, tmp_path / "words", texts).id)
    (tmp_path / "pretrain.toml").write_text(PRETRAIN)
    (tmp_path / "sft.toml").write_text(SFT)
    return tmp_path


def test_from_packs_to_a_model_that_chats(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["train", "pretrain", "--config", str(folder / "pretrain.toml")]) == 0
    assert "finished after step 4" in capsys.readouterr().out
    lines = read_lines(folder / "small" / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3, 4] and lines[-1]["val_loss"] > 0
    assert list((folder / "small" / "tensorboard").iterdir())
    store = Store(folder / "store")
    newest = Checkpoints(folder / "small" / "checkpoints", 1).latest()
    assert newest is not None
    names = ("learned", "more", "held-out")
    assert {version.id for version in checkpoint_versions(store, newest)} == {store.open(name).id for name in names}

    assert run_command(["train", "plot", str(folder / "small"), "--out", str(folder / "run.png")]) == 0
    assert (folder / "run.png").read_bytes().startswith(b"\x89PNG")
    assert run_command(["train", "plot", str(folder / "small"), "--out", str(folder / "again.png")]) == 0
    assert (folder / "run.png").read_bytes() == (folder / "again.png").read_bytes()
    assert run_command(["train", "export", str(folder / "small"), "--out", str(folder / "exported")]) == 0
    assert json.loads((folder / "exported" / "training.json").read_text())["step"] == 4
    # What was exported is what was learned, bit for bit.
    stored = read_stored(open_checkpoint(folder / "exported"))
    plain = {name: tensor for name, tensor in stored.items() if isinstance(tensor, Tensor)}
    learned = {name: torch.full_like(tensor, torch.nan) for name, tensor in plain.items()}
    load_tensors(newest, learned)
    assert len(learned) == len(stored) > 30
    assert all(torch.equal(tensor, plain[name]) for name, tensor in learned.items())

    chats = folder / "chats.jsonl"
    chats.write_text("".join(json.dumps({"messages": TALK}) + "\n" for _ in range(3)))
    told = conversations.ingest_conversations(store, [chats])
    tokens = tokenise(store, [told, keep_tokenizer(store, folder / "words")], Tokenise()).version
    store.name("chats", pack(store, [tokens], PackTokens(capacity=128)).version.id)
    assert run_command(["train", "sft", "--config", str(folder / "sft.toml")]) == 0
    assert run_command(["train", "export", str(folder / "chat"), "--out", str(folder / "chatting")]) == 0
    settings = json.loads((folder / "chatting" / "tokenizer_config.json").read_text())
    assert settings["chat_template"] == (TEMPLATES / "compact.jinja").read_text()


@pytest.mark.slow
def test_what_was_learned_is_what_run_completes(tmp_path: Path, run_cli: RunCli) -> None:
    store = Store(tmp_path / "store")
    store.name("learned", packed_version(store, tmp_path / "words", [ADD] * 2).id)
    (tmp_path / "run.toml").write_text(LEARN)
    assert run_command(["train", "pretrain", "--config", str(tmp_path / "run.toml")]) == 0
    assert run_command(["train", "export", str(tmp_path / "small"), "--out", str(tmp_path / "exported")]) == 0
    begun = ADD[: ADD.index("):") + 2]
    done = run_cli("run", "--model", f"local/{tmp_path / 'exported'}", "--temperature", "0", begun, timeout=110)
    # It ends where the document does, so the run is completed.
    assert (done.returncode, done.stdout.strip("\n")) == (0, ADD[len(begun) :].strip("\n")), done.stderr


def test_what_does_not_fit_is_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    path = folder / "pretrain.toml"

    def refused(old: str, new: str) -> str:
        path.write_text(PRETRAIN.replace(old, new))
        with pytest.raises(ConfigError) as caught:
            run_command(["train", "pretrain", "--config", str(path)])
        return str(caught.value)

    assert "packs hold up to 128 tokens, the model reads 64" in refused("context = 128", "context = 64")
    assert "vocab_size is 300, the data's tokenizer has 700" in refused("hidden = 32", "hidden = 32\nvocab_size = 300")
    path.write_text(PRETRAIN.replace("learned", "absent"))
    with pytest.raises(DatasetError, match="there is no version 'absent'"):
        run_command(["train", "pretrain", "--config", str(path)])
    with pytest.raises(ConfigError, match="no run at"):
        run_command(["train", "export", str(tmp_path / "none"), "--out", str(tmp_path / "x")])
    with pytest.raises(ConfigError, match="the command is `train sft`"):
        run_command(["train", "pretrain", "--config", str(folder / "sft.toml")])


def test_without_the_extra_one_line_says_what_to_install(folder: Path) -> None:
    without = "import sys; sys.modules['torch'] = None; from laguna_agent.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", without, "train", "pretrain", "--config", str(folder / "pretrain.toml")],
        capture_output=True,
        text=True,
        check=False,
    )
    said = "laguna-agent: training needs torch, which is not installed: pip install 'laguna-agent[train]'\n"
    assert (done.returncode, done.stderr) == (2, said)
