"""One thread for torch: the tests run side by side, and threads of the same machine would only wait for one another.

A test that asks for `variant` runs once for every variant of the compiled kernels that this machine's processor has.

The benchmarks are scripts, not a package; what they know of llama.cpp's server is tested with here. Their folder goes
to the end of the path, where it hides nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from laguna_agent.backend.kernels.cpu import library
from laguna_agent.directories import cache_directory
from tests.laguna.kernel_variants import using
from tests.laguna.processor import variants_here

torch.set_num_threads(1)
sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

# Another build of the same sources, as the run with sanitizers has it.
if other := os.environ.get("KERNELS_UNDER_TEST"):
    library.INSTALLED = Path(other)


def share_kernels(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> None:
    """Let a cache directory that does not exist yet have the compiled kernels of the whole test run."""
    root = tmp_path_factory.getbasetemp()
    shared = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "kernels"
    shared.mkdir(exist_ok=True)
    cache.mkdir(parents=True)
    (cache / "kernels").symlink_to(shared)


@pytest.fixture(autouse=True)
def compiled_once(isolated: None, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The compiled kernels of one run are shared: every test has a cache directory of its own."""
    share_kernels(tmp_path_factory, cache_directory())


@pytest.fixture(params=variants_here())
def variant(request: pytest.FixtureRequest, compiled_once: None) -> Iterator[str]:
    """The name of the variant that the kernels run in for this test; afterwards the one before does again."""
    name: str = request.param
    with using(name):
        yield name
