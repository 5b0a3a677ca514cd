"""The choice among the variants of the compiled kernels: by what the processor has, or as it is told."""

from __future__ import annotations

import ctypes

import torch

from laguna_agent.backend.kernels.cpu.library import library
from tests.laguna.processor import variants_here


def offered(opened: ctypes.CDLL) -> list[str]:
    """The variants that the library was built with, the best first."""
    names = []
    while name := opened.laguna_variant_name(len(names)):
        names.append(name.decode())
    return names


def test_the_best_that_the_processor_has_is_chosen_and_no_other_is_entered():
    opened = library().opened
    assert opened is not None, library().says
    assert opened.laguna_variant().decode() == variants_here()[0]
    for name in [*offered(opened), "nonsense"]:
        refused = opened.laguna_choose_variant(name.encode())
        assert (refused == 0) == (name in variants_here()), name
        if not refused:
            assert opened.laguna_variant().decode() == name
    assert opened.laguna_choose_variant(variants_here()[0].encode()) == 0


def test_every_variant_computes_the_functions_of_torch(variant):
    opened = library().opened
    assert opened.laguna_variant().decode() == variant
    x = torch.cat([torch.linspace(-100, 100, 40001), torch.tensor([0.0, -0.0, 1e-30, torch.inf, torch.nan])])
    y = torch.empty_like(x)
    wide = x.double()
    for which, true in enumerate([wide.exp(), wide.sigmoid(), torch.nn.functional.silu(wide)]):
        assert opened.laguna_function(which, x.data_ptr(), y.data_ptr(), len(x)) == 0
        torch.testing.assert_close(y, true.float(), rtol=6e-7, atol=1e-36, equal_nan=True)
    assert opened.laguna_function(4, x.data_ptr(), y.data_ptr(), len(x)) == 2
