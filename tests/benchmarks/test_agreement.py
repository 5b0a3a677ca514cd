"""The figures of `quality.py` and `geometry.py` against the plain definitions."""

import math
import re

import pytest
import torch
from agreement import HEADER, Agreement, compared, divergence, reference_perplexity
from llama_distributions import NextToken

from tests.laguna.small_models import small_model

VOCABULARY = 50


def listed(logits: torch.Tensor, count: int, came: int) -> NextToken:
    logprobs, ids = logits.double().log_softmax(-1).sort(descending=True)
    return NextToken(ids[:count].tolist(), logprobs[:count].tolist(), logits.double().log_softmax(-1)[came].item())


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(2)
    theirs = torch.randn(7, VOCABULARY, generator=source) * 2
    return theirs, theirs + 0.3 * torch.randn(7, VOCABULARY, generator=source)


def test_the_divergence_of_a_whole_list_is_the_textbook_one(pair):
    theirs, ours = pair
    for one, other in zip(theirs, ours, strict=True):
        wanted = torch.nn.functional.kl_div(
            other.double().log_softmax(-1), one.double().log_softmax(-1), log_target=True, reduction="sum"
        )
        found = divergence(listed(one, VOCABULARY, 0), other.double().log_softmax(-1))
        assert found == pytest.approx(wanted.item(), rel=1e-9)


def test_a_bucket_never_adds_to_the_divergence_and_hides_little_of_it(pair):
    theirs, ours = pair
    for one, other in zip(theirs, ours, strict=True):
        logprobs = other.double().log_softmax(-1)
        found = [divergence(listed(one, count, 0), logprobs) for count in (1, 5, 20, 40, VOCABULARY)]
        assert found == sorted(found)
        assert found[0] >= 0
        assert found[-1] - found[-2] < 0.05 * found[-1] + 1e-3


def test_a_model_agrees_with_itself_and_not_with_another():
    model, other = small_model(seed=1).requires_grad_(False), small_model(seed=2).requires_grad_(False)
    ids = torch.randint(0, 41, (30,), generator=torch.Generator().manual_seed(1)).tolist()
    logits = compare_logits(model, ids)
    expected = [listed(row, 30, came) for row, came in zip(logits, ids[1:], strict=True)]
    same, wrong = (compared(name, one, ids, expected, chunk=7) for name, one in (("same", model), ("other", other)))
    assert (same.positions, same.equal) == (29, 29)
    assert max(same.divergences) < 1e-9
    assert same.perplexity == pytest.approx(reference_perplexity(expected), rel=1e-6)
    assert same.perplexity == pytest.approx(
        math.exp(torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:])).item()), rel=1e-5
    )
    assert wrong.equal < 20
    assert min(wrong.divergences) > 0.01
    assert re.fullmatch(r"same +100\.00 % +-?0\.000000 +-?0\.000000", same.row())
    assert len(HEADER) == len(same.row())


def compare_logits(model, ids: list[int]) -> torch.Tensor:
    from laguna_agent.backend.laguna.model import Piece

    return model([Piece(torch.tensor(ids[:-1]))])


def test_rows_count_what_differs():
    result = Agreement("x")
    reference = [NextToken([0, 1], [math.log(0.75), math.log(0.25)], math.log(0.75))] * 2
    logits = torch.tensor([[math.log(0.75), math.log(0.25)], [math.log(0.25), math.log(0.75)]])
    result.add(logits, reference, [0, 0])
    assert (result.positions, result.equal) == (2, 1)
    assert result.divergences == pytest.approx([0, 0.5 * math.log(3)], abs=1e-6)
    assert result.perplexity == pytest.approx((0.75 * 0.25) ** -0.5)
