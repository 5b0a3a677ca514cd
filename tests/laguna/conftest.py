"""One thread for torch: the tests run side by side, and threads of the same machine would only wait for one another.

The benchmarks are scripts, not a package; what they know of llama.cpp's server is tested with here. Their folder goes
to the end of the path, where it hides nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

torch.set_num_threads(1)
sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
