"""A run as a picture: loss, learning rate, gradients and expert balance over its steps, as PNG or SVG.

The same metrics give the same bytes. Knows a run's metrics; must not know the trainer.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from laguna_agent.atomic import replace_file
from laguna_agent.errors import UsageError
from laguna_agent.training.run_log import METRICS, read_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = ("svg", "png")
PANELS = (
    ("learning rate", ("lr",), "linear"),
    ("gradient norm", ("gradient_norm",), "log"),
    ("expert balance", ("max_vio", "dead_experts"), "linear"),
)
LABELS = {"max_vio": "MaxVio", "dead_experts": "dead experts", "lr": "", "gradient_norm": ""}


def plot_run(folder: Path, out: Path) -> None:
    """Draw the metrics of the run in `folder` into `out`, whose suffix says how. Raises UsageError."""
    kind = out.suffix.removeprefix(".").lower()
    if kind not in FORMATS:
        raise UsageError(f"{out}: a plot is written as {' or '.join('.' + each for each in FORMATS)}")
    try:
        lines = read_lines(folder / METRICS)
    except OSError as error:
        raise UsageError(f"cannot read {folder / METRICS}: {error.strerror}; is {folder} a run?") from error
    if not lines:
        raise UsageError(f"{folder / METRICS} has no step yet; plot it once the run has taken one")
    try:
        replace_file(out, drawn(lines, kind, folder.name))
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror}") from error


def drawn(lines: Sequence[Mapping[str, Any]], kind: str, title: str) -> bytes:
    """The picture of these steps as a file of that kind ("svg" or "png")."""
    # Ids in an SVG are random and its date is now, unless one says otherwise.
    with mpl.rc_context({"svg.hashsalt": "laguna-agent", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(9, 6), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplot_mosaic([["loss"] * 3, [name for name, _, _ in PANELS]], height_ratios=[2, 1])
        _draw_loss(axes["loss"], lines)
        for name, keys, scale in PANELS:
            _draw_panel(axes[name], lines, name, keys, scale)
        figure.suptitle(title)
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else {"Software": None})
    return buffer.getvalue()


def _draw_loss(axes: Axes, lines: Sequence[Mapping[str, Any]]) -> None:
    steps, losses = [line["step"] for line in lines], [line["loss"] for line in lines]
    axes.plot(steps, losses, color="#9bbfe0", linewidth=0.8, label="training")
    if len(lines) >= 20:
        half = max(2, len(lines) // 50)
        smooth = [median(losses[max(0, at - half) : at + half + 1]) for at in range(len(losses))]
        axes.plot(steps, smooth, color="#1f5f99", linewidth=1.4, label="training, running median")
    held_out = [(line["step"], line["val_loss"]) for line in lines if "val_loss" in line]
    if held_out:
        axes.plot(*zip(*held_out, strict=True), color="#c0392b", marker="o", markersize=3, label="held out")
    axes.set_xlabel("step")
    axes.set_ylabel("nats per token")
    axes.grid(alpha=0.3)
    axes.legend()


def _draw_panel(axes: Axes, lines: Sequence[Mapping[str, Any]], name: str, keys: tuple[str, ...], scale: str) -> None:
    for key in keys:
        points = [(line["step"], line[key]) for line in lines if key in line]
        if points:
            axes.plot(*zip(*points, strict=True), linewidth=1.0, label=LABELS[key])
    if any(LABELS[key] for key in keys) and axes.lines:
        axes.legend(fontsize=7)
    axes.set_yscale(scale)
    axes.set_title(name, fontsize=9)
    axes.grid(alpha=0.3)
