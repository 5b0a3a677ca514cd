"""One thread for torch: the tests run side by side, and threads of the same machine would only wait for one another."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
