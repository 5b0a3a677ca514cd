"""The program with a `local/` model: a random one, so that what it says is nothing and how the run ends is all."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import RunCli, StartCli
from tests.laguna.whole_checkpoint import whole_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whole_checkpoint(tmp_path_factory.mktemp("models") / "laguna-tiny", context=32_768)


def local(checkpoint: Path, tokens: int) -> dict[str, str]:
    return {"LAGUNA_MODEL": f"local/{checkpoint}", "LAGUNA_MAX_OUTPUT_TOKENS": str(tokens), "LAGUNA_SEED": "1"}


def test_a_run_ends_by_name_and_the_next_one_goes_on_from_its_cache(run_cli: RunCli, checkpoint: Path) -> None:
    done = run_cli("run", "Say hello.", "--output", "json", env=local(checkpoint, 24))
    first = json.loads(done.stdout)
    # A random model is cut, which is never called success, or it happens to end its answer.
    assert done.returncode == first["exit_code"] == (0 if first["outcome"] == "completed" else 4), done.stderr
    assert 0 < first["output_tokens"] <= 24 * first["turns"]
    assert (first["cached_tokens"] > 400) == (first["turns"] > 1)
    done = run_cli("run", "Go on.", "--continue", "--output", "json", env=local(checkpoint, 24))
    second = json.loads(done.stdout)
    # In a new process the whole conversation so far is there, but for its last token and what ends it.
    fresh = second["input_tokens"] - second["cached_tokens"]
    assert fresh < 400 < second["cached_tokens"], second


def test_a_model_that_is_not_there_is_named_with_the_way_to_get_it(run_cli: RunCli) -> None:
    done = run_cli("run", "x", "--model", "local/qwen2.5-coder-1.5b")
    assert done.returncode == 2
    assert "laguna-agent models pull qwen2.5-coder-1.5b" in done.stderr
    done = run_cli("run", "x", "--model", "local/no/such/model")
    assert done.returncode == 2
    assert "no model 'no/such/model' on this machine" in done.stderr


@pytest.mark.parametrize("arguments", (["run", "x", "--model", "local/x"], ["bench", "roofline"]))
def test_without_the_engines_packages_the_way_to_install_them_is_said(workspace: Path, arguments: list[str]) -> None:
    program = (
        f"import sys; sys.modules['torch'] = None; sys.argv[1:] = {arguments!r};"
        "from laguna_agent.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=workspace)
    assert done.returncode == 2
    assert "models in this process need torch: type `pip install 'laguna-agent[local]'`" in done.stderr


def test_sigterm_ends_a_run_that_is_writing(start_cli: StartCli, checkpoint: Path) -> None:
    process = start_cli("run", "Write.", "--output", "stream-json", env=local(checkpoint, 20_000))
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["type"] == "text_delta":
            break
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    process.communicate(timeout=30)
    assert process.returncode == 143
    assert time.monotonic() - began < 10


def test_bench_engine_prints_what_it_measured(run_cli: RunCli, checkpoint: Path) -> None:
    arguments = ("--model", f"local/{checkpoint}", "--prompt-tokens", "64", "--output-tokens", "8", "--json")
    done = run_cli("bench", "engine", *arguments)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["prompt_tokens"] > 64
    assert 0 < figures["new_tokens"] < figures["prompt_tokens"]
    assert figures["decode"] > 0
    assert figures["share"] > 0 and figures["device"] == "cpu"
    # Of a GPU that is not there no figure is printed.
    done = run_cli("bench", "engine", *arguments, "--device", "cuda", env={"CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 2 and done.stdout == "" and "device is cuda, but" in done.stderr
    done = run_cli("bench", "engine", "--model", "ollama/x")
    assert done.returncode == 2
    assert "name one on this machine with --model local/NAME" in done.stderr
