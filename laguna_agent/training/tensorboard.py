"""A run's metrics as TensorBoard reads them; needs the extra `tensorboard`.

Knows the values of a step's line; must not know the trainer. For rank 0 alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from laguna_agent.errors import UsageError

FOLDER = "tensorboard"
NAMES = {
    "loss": "loss/training",
    "val_loss": "loss/held_out",
    "lr": "rate/learning",
    "gradient_norm": "gradients/norm",
    "tokens_per_second": "speed/tokens_per_second",
    "max_vio": "experts/max_vio",
    "dead_experts": "experts/dead",
    "load_entropy": "experts/load_entropy",
}


class TensorBoard:
    """Writes steps behind `first` into the run's folder. Raises UsageError where the extra is not installed."""

    def __init__(self, folder: Path, first: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UsageError(
                "tensorboard = true needs TensorBoard: pip install 'laguna-agent[train,tensorboard]', or set it false"
            ) from error
        # Steps that were written and will be taken again are hidden by whoever shows them.
        self._writer = SummaryWriter(str(folder / FOLDER), purge_step=first)

    def step(self, values: Mapping[str, Any]) -> None:
        """Write the numbers of one step."""
        for key, name in NAMES.items():
            if key in values:
                self._writer.add_scalar(name, values[key], values["step"])

    def close(self) -> None:
        """Write out what is held back."""
        self._writer.close()
