"""Drawing tokens on the device, its source run on a CPU under the shim, against the sampler of the engine."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from laguna_agent.backend.kernels.cuda.cases import Case, error_of
from laguna_agent.backend.kernels.cuda.geometry import XS_2
from laguna_agent.backend.kernels.cuda.launch import Launch
from laguna_agent.backend.kernels.cuda.sampling import cases, drawn, sample
from laguna_agent.backend.laguna.sampling import Sampler, SamplingOptions
from tests.cuda.emulator import Emulator, fence, fenced

MARGIN = 1e-6


def wrong(emulator: Emulator, some: list[Case]) -> dict[str, float]:
    """The errors of the cases that are not right."""
    emulator.prepare([case.kernel for case in some])
    errors = {case.label: error_of(case, emulator, fence) for case in some}
    return {case.label: errors[case.label] for case in some if not errors[case.label] <= case.tolerance}


def right_ones(logits: Tensor, options: SamplingOptions, uniform: float) -> set[int]:
    """What the engine's sampler draws with this number, and with others so near that roundings may decide."""
    found = set()
    for number in (uniform - MARGIN, uniform, uniform + MARGIN):
        for top_p in {options.top_p, min(1.0, options.top_p + MARGIN), options.top_p - MARGIN * (options.top_p < 1)}:
            changed = SamplingOptions(options.temperature, options.top_k, top_p, options.min_p)
            sampler = Sampler(changed)
            sampler._uniform = min(max(number, 0.0), 1 - 2**-53)
            found.add(sampler.choose(logits))
    return found


def random_options(rows: int, vocabulary: int, chance: torch.Generator) -> list[SamplingOptions]:
    """Every option in about half of the rows."""
    numbers = torch.rand(rows, 8, generator=chance).tolist()
    return [
        SamplingOptions(
            temperature=0.2 + 2 * a if b < 0.9 else 0.0,
            top_k=int(c * vocabulary / 4) if d < 0.5 else 0,
            top_p=0.05 + 0.95 * e if f < 0.6 else 1.0,
            min_p=0.3 * g if h < 0.5 else 0.0,
        )
        for a, b, c, d, e, f, g, h in numbers
    ]


def compare(vocabulary: int, rows: int, seed: int) -> None:
    """Rows of random logits and settings through the kernel, its meaning in torch and the engine's sampler."""
    chance = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(rows, vocabulary, generator=chance)
    options = random_options(rows, vocabulary, chance)
    uniform = torch.rand(rows, generator=chance)
    settings = torch.tensor([(one.temperature, one.top_p, one.min_p, 0.0) for one in options])
    settings[:, 3] = uniform
    counts = torch.tensor([one.top_k for one in options], dtype=torch.int32)
    kernel, emulator = sample(rows, vocabulary), Emulator(seed=seed)
    emulator.prepare([kernel])
    out = fenced(rows, dtype=torch.int32)
    emulator.run([Launch.of(kernel, logits=fence(logits), settings=fence(settings), top_k=fence(counts), out=out)])
    meant = drawn(logits, settings, counts)
    for row, one in enumerate(options):
        allowed = right_ones(logits[row], one, float(uniform[row]))
        assert int(out[row]) in allowed and int(meant[row]) in allowed, (row, one)


def test_a_few_small_cases_are_right():
    some = [case for case in cases(None, seed=3) if case.label.endswith(("ties", "no numbers", "then min-p"))]
    assert len(some) == 3 and wrong(Emulator(seed=3), some) == {}


def test_what_is_drawn_is_what_the_engine_draws():
    compare(500, 48, seed=1)


def test_the_last_token_is_drawn_by_a_number_that_was_rounded_to_one():
    logits = torch.full((1, 500), -math.inf)
    logits[0, :4] = torch.tensor([0.0, 1.0, -math.inf, 2.0])
    assert int(drawn(logits, torch.tensor([[1.0, 1.0, 0.0, 1.0]]), torch.zeros(1, dtype=torch.int32))) == 3
    kernel, emulator, out = sample(1, 500), Emulator(), fenced(1, dtype=torch.int32)
    emulator.prepare([kernel])
    for uniform, wanted in ((1.0, 3), (0.0, 0)):
        settings = fence(torch.tensor([[1.0, 1.0, 0.0, uniform]]))
        counts = fence(torch.zeros(1, dtype=torch.int32))
        emulator.run([Launch.of(kernel, logits=fence(logits), settings=settings, top_k=counts, out=out)])
        assert int(out) == wanted


def test_vocabularies_that_ids_cannot_count_are_refused():
    with pytest.raises(ValueError, match="vocabulary"):
        sample(1, (1 << 24) + 1)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", range(3))
def test_all_small_cases_are_right_whatever_the_order_of_threads(seed):
    assert wrong(Emulator(seed=30 + seed), list(cases(None, seed=seed))) == {}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_real_vocabulary():
    assert wrong(Emulator(), list(cases(XS_2))) == {}
    compare(XS_2.vocabulary, 40, seed=2)
