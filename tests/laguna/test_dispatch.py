"""The choice among the variants of the compiled kernels: by what the processor has, or as it is told."""

from __future__ import annotations

from tests.laguna.kernel_variants import opened
from tests.laguna.processor import variants_here


def test_the_best_that_the_processor_has_is_chosen_and_no_other_is_entered():
    library = opened()
    names = []
    while name := library.laguna_variant_name(len(names)):
        names.append(name.decode())
    assert library.laguna_variant().decode() == variants_here()[0]
    for name in [*names, "nonsense"]:
        refused = library.laguna_choose_variant(name.encode())
        assert (refused == 0) == (name in variants_here()), name
        if not refused:
            assert library.laguna_variant().decode() == name
    assert library.laguna_choose_variant(variants_here()[0].encode()) == 0
