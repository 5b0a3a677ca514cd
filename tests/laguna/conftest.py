"""One thread for torch: the tests run side by side, and threads of the same machine would only wait for one another."""

from __future__ import annotations

import os

import pytest
import torch

from laguna_agent.directories import cache_directory

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def compiled_once(isolated: None, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The compiled kernels of one run are shared: every test has a cache directory of its own."""
    root = tmp_path_factory.getbasetemp()
    shared = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "kernels"
    shared.mkdir(exist_ok=True)
    cache_directory().mkdir(parents=True)
    (cache_directory() / "kernels").symlink_to(shared)
