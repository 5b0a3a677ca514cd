"""`laguna-agent train`: pretraining, SFT, and what becomes of a run. Needs the extra `train`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from laguna_agent.cli.options import path_option
from laguna_agent.cli.printing import show

app = typer.Typer(help="Train a model: pretraining, SFT, exports and plots.", rich_markup_mode=None)
EXTRA = frozenset({"torch", "numpy", "pyarrow", "matplotlib", "safetensors", "tokenizers", "datasketch", "jinja2"})

Config = Annotated[Path, path_option("--config", "-c", help="the run file (TOML)")]
Processes = Annotated[int, typer.Option("--nproc", metavar="N", min=1, help="processes on this machine, a GPU each")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="the directory of a run, or its name")]
Out = Annotated[Path, path_option("--out", "-o", metavar="PATH", help="where it is written")]
Step = Annotated[int | None, typer.Option(metavar="N", min=0, help="the checkpoint of step N; without it the newest")]
Dtype = Annotated[str | None, typer.Option(metavar="TYPE", help="of the weights: float32 | bfloat16 | float16")]


@contextmanager
def _extra() -> Iterator[None]:
    """Say what to install where something of the extra is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        from laguna_agent.errors import UsageError

        name = (error.name or "").partition(".")[0]
        if name not in EXTRA:
            raise
        raise UsageError(f"training needs {name}, which is not installed: pip install 'laguna-agent[train]'") from error


@app.command()
def pretrain(config: Config, nproc: Processes = 1) -> int:
    """Pretrain as the run file says; the same command goes on where a run was stopped or killed.

    Ctrl-C ends the step under way, writes a checkpoint and exits 130.
    """
    with _extra():
        from laguna_agent.training.running import train_file
    return train_file(config, "pretrain", nproc)


@app.command()
def sft(config: Config, nproc: Processes = 1) -> int:
    """Train a checkpoint on conversations: it learns what the assistant wrote, and nothing else."""
    with _extra():
        from laguna_agent.training.running import train_file
    return train_file(config, "sft", nproc)


@app.command()
def export(run: Run, out: Out, step: Step = None, dtype: Dtype = None) -> int:
    """Write a run's model as a checkpoint folder that `--model local/FOLDER` and transformers open."""
    with _extra():
        from laguna_agent.training.running import export_run
    checkpoint = export_run(run, out, step=step, dtype=dtype)
    show(f"{out}: the model of {checkpoint.name}")
    return 0


@app.command()
def plot(run: Run, out: Out) -> int:
    """Draw the loss and the other figures of a run over its steps, as .svg or .png."""
    with _extra():
        from laguna_agent.training.plots import plot_run
        from laguna_agent.training.run_file import run_directory
    plot_run(run_directory(run), out)
    show(str(out))
    return 0
