"""An exported model, read back by transformers and by the engine; folders that are there whole or not at all."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from laguna_agent.agent.prompt import WHERE
from laguna_agent.backend.laguna.answer_stream import AnswerStream
from laguna_agent.backend.laguna.config_json import parse_config
from laguna_agent.backend.laguna.local_model import ModelOptions, plan_model
from laguna_agent.backend.laguna.model import CausalLM, Piece
from laguna_agent.backend.laguna.prompt import PromptWriter
from laguna_agent.backend.laguna.tokenizer import read_tokenizer, stop_ids
from laguna_agent.backend.laguna.weights.opening import open_checkpoint, read_stored
from laguna_agent.errors import ConfigError, UsageError, WeightsError
from laguna_agent.messages import text_message
from laguna_agent.training.export import LINEAGE, export_checkpoint
from laguna_agent.training.modelling import initialise, small_laguna
from tests.laguna.small_tokenizer import small_library

EOS = "〈|EOS|〉"


@pytest.fixture(scope="module")
def tokenizer_json(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "learned.json"
    small_library(600).save(str(path))
    return path


def made(vocab_size: int = 640, **more: Any) -> tuple[CausalLM, dict[str, Any]]:
    """A model whose every tensor counts, as if it had been trained."""
    values = small_laguna(
        vocab_size=vocab_size, hidden=32, layers=3, heads=4, kv_heads=2, head_dim=8, experts=4, expert_size=16,
        shared_expert_size=16, dense_size=32, window=5, context=512, eos=2, **more,
    )  # fmt: skip
    model = CausalLM(parse_config(values))
    initialise(model, 1)
    source = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor += 0.2 * torch.randn(tensor.shape, generator=source)
    return model, values


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder that holds nothing else."""
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


@pytest.mark.parametrize(("tied", "dtype"), [(False, None), (True, None), (False, "bfloat16")])
def test_transformers_and_the_engine_compute_what_was_trained(tmp_path: Path, tied: bool, dtype: str | None) -> None:
    import transformers

    model, values = made(tied=tied)
    export_checkpoint(model, values, tmp_path / "out", dtype=dtype)
    ids = torch.randint(640, (50,), generator=torch.Generator().manual_seed(1))
    if dtype is not None:
        # What is written is what is compared: the weights, rounded once.
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(parameter.bfloat16().float())
    expected = model([Piece(ids)]).detach()
    oracle = transformers.LagunaForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    torch.testing.assert_close(oracle(ids[None]).logits[0].detach(), expected, atol=1e-4, rtol=1e-4)
    checkpoint = open_checkpoint(tmp_path / "out")
    ours = CausalLM(checkpoint.config)
    ours.load_state_dict(read_stored(checkpoint))
    torch.testing.assert_close(ours([Piece(ids)]), expected, atol=1e-4, rtol=1e-4)
    for layer, kept in zip(ours.model.layers[1:], model.model.layers[1:], strict=True):
        assert torch.equal(layer.mlp.experts.e_score_correction_bias, kept.mlp.experts.e_score_correction_bias)
    assert (checkpoint.config.dtype, checkpoint.config.tied) == (dtype or "float32", tied)


def test_the_folder_is_a_local_model_that_goes_on_with_what_was_said(tmp_path: Path, tokenizer_json: Path) -> None:
    import transformers

    model, values = made()
    folder = tmp_path / "models" / "small"
    export_checkpoint(model, values, folder, tokenizer_json, {"datasets": ["d_1"], "step": 7})
    assert json.loads((folder / LINEAGE).read_text()) == {"datasets": ["d_1"], "step": 7}
    assert (folder / "tokenizer.json").read_bytes() == tokenizer_json.read_bytes()
    assert sorted(os.listdir(folder.parent)) == ["small"]
    local, tokenizer = plan_model(ModelOptions(str(folder), quant="bf16")), read_tokenizer(folder)
    assert EOS in tokenizer.decode(stop_ids(tokenizer, local.config.eos_token_ids))
    said = "def add(a, b):"
    messages = [
        text_message("system", "You are an agent."),
        text_message("user", "import os\n"),
        text_message("assistant", "x"),
        text_message("user", f"{said}\n\n{WHERE}/home/x\nIt holds: (nothing)"),
    ]
    prompt = PromptWriter(local.template, tokenizer).write(messages)
    assert list(prompt.ids) == tokenizer.encode(said) and not prompt.in_thought
    assert local.template.render([text_message("user", said)]) == said and local.template.render([]) == ""
    # What follows is shown as it was written: in Python the first spaces have a meaning.
    stream = AnswerStream((), in_thought=False, padded=local.template.family.line_tags)
    shown = [*stream.feed("\n    return a"), *stream.feed(" + b\n"), *stream.finish()]
    assert "".join(delta.text for delta in shown) == "\n    return a + b\n"
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert theirs.apply_chat_template([{"role": "user", "content": said}], tokenize=False) == said
    assert theirs.eos_token == theirs.bos_token == tokenizer.decode([2])


def test_another_template_may_be_given(place: Path, tokenizer_json: Path) -> None:
    model, values = made()
    template = "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}"
    export_checkpoint(model, values, place / "out", tokenizer_json, chat_template=template)
    local = plan_model(ModelOptions(str(place / "out"), quant="bf16"))
    assert local.template.render([text_message("user", "x")]) == "<user>x"
    with pytest.raises(ConfigError, match="the chat template to export: the chat template is not valid"):
        export_checkpoint(model, values, place / "bad", tokenizer_json, chat_template="{% for %}")
    assert os.listdir(place) == ["out"]


def test_what_does_not_fit_is_refused_and_nothing_is_left(place: Path, tokenizer_json: Path) -> None:
    model, values = made(vocab_size=300)
    folder = place / "out"
    with pytest.raises(ConfigError, match=r"its ids reach .*, the model knows 300"):
        export_checkpoint(model, values, folder, tokenizer_json)
    with pytest.raises(ConfigError, match="absent"):
        export_checkpoint(model, values, folder, place / "absent.json")
    with pytest.raises(WeightsError, match=r"'model.embed_tokens.weight' is \[301, 32\], the model has \[300, 32\]"):
        export_checkpoint(model, values | {"vocab_size": 301}, folder)
    with pytest.raises(WeightsError, match=r"the model has 'lm_head.weight', of which"):
        export_checkpoint(model, values | {"tie_word_embeddings": True}, folder)
    with pytest.raises(ConfigError, match="dtype is 'int4'"):
        export_checkpoint(model, values, folder, dtype="int4")
    assert os.listdir(place) == []


def test_a_folder_is_replaced_only_on_request_and_never_half(place: Path) -> None:
    model, values = made(vocab_size=300)
    folder = place / "out"
    # What a killed process left.
    (place / ".out.partial").mkdir()
    (place / ".out.partial" / "junk").write_text("x")
    export_checkpoint(model, values, folder, extra={"step": 1})
    assert os.listdir(place) == ["out"] and "junk" not in os.listdir(folder)
    with pytest.raises(UsageError, match="is there already"):
        export_checkpoint(model, values, folder, extra={"step": 2})
    assert json.loads((folder / LINEAGE).read_text()) == {"step": 1}
    export_checkpoint(model, values, folder, extra={"step": 2}, replace=True)
    assert json.loads((folder / LINEAGE).read_text()) == {"step": 2}
    (place / ".out.partial").mkdir()
    other = os.open(place / ".out.partial", os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(UsageError, match="another process is writing it"):
        export_checkpoint(model, values, folder, replace=True)
    os.close(other)
    (place / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        export_checkpoint(model, values, place / "file" / "out")


@pytest.mark.slow
def test_the_engine_opens_and_runs_it(tmp_path: Path, tokenizer_json: Path) -> None:
    """Slow because the engine compiles its kernels when it first opens a model."""
    from laguna_agent.backend.laguna.local_model import load_model

    model, values = made()
    export_checkpoint(model, values, tmp_path / "out", tokenizer_json)
    local = load_model(plan_model(ModelOptions(str(tmp_path / "out"), arithmetic="exact", quant="bf16")))
    ids = torch.tensor(local.tokenizer.encode("def add(a, b):"))
    found, expected = local.model([Piece(ids)]), model([Piece(ids)]).detach()
    assert (found - expected).norm() < 0.05 * expected.norm()
