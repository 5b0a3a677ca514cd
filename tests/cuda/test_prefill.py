"""Prompts on a GPU, as far as no Triton is needed: the choice, the sorting of pairs, the way through plain torch."""

from __future__ import annotations

import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from laguna_agent.backend.kernels import dispatch, reference
from laguna_agent.backend.kernels.cuda import prefill, triton_products
from laguna_agent.backend.kernels.cuda.prefill_cases import FORMATS, expected_of, random_weight
from laguna_agent.backend.kernels.cuda.triton_products import align, planes, reading_of
from laguna_agent.backend.kernels.formats import GroupInt, Plain, parse_format
from laguna_agent.config import NOT_SETTINGS
from tests.laguna.small_models import small_config, small_model


@pytest.fixture
def registered(monkeypatch):
    """Whoever registers does so for one test."""
    for name in ("_registered", "_fused"):
        monkeypatch.setattr(dispatch, name, dict(getattr(dispatch, name)))
    prefill._tried.cache_clear()
    prefill._say.cache_clear()


def stacks(spelling: str, made: torch.Generator) -> tuple[Tensor, ...]:
    """x, picked, share, and two stacks of 5 experts."""
    gate_up = random_weight(parse_format(spelling), (5, 2 * 32, 48), made)
    down = random_weight(parse_format(spelling), (5, 48, 32), made)
    picked = torch.rand(13, 5, generator=made).argsort(1)[:, :3]
    return torch.randn(13, 48, generator=made), gate_up, down, picked, torch.rand(13, 3, generator=made)  # type: ignore[return-value]


@pytest.mark.parametrize("spelling", FORMATS)
def test_experts_one_after_the_other_give_what_the_reference_gives(spelling, registered):
    given = stacks(spelling, torch.Generator().manual_seed(1))
    expected = expected_of(*given)
    kernels = prefill.PrefillKernels(None)
    format = type(given[1].format)  # type: ignore[attr-defined]
    for experts in (dispatch.experts, kernels.experts):
        torch.testing.assert_close(experts(*given).double(), expected, atol=1e-5, rtol=1e-5)
    dispatch.register_experts(format, "cpu", kernels.experts)
    assert torch.equal(dispatch.experts(*given), kernels.experts(*given))
    x, weight = given[0], given[1][0]
    torch.testing.assert_close(kernels.linear(x, weight), reference.linear(x, weight))


def test_no_tokens_and_experts_that_nobody_picked():
    x, gate_up, down, picked, share = stacks("int4:32:bf16", torch.Generator().manual_seed(2))
    kernels = prefill.PrefillKernels(None)
    assert kernels.experts(x[:0], gate_up, down, picked[:0], share[:0]).shape == (0, 48)
    alone = torch.full_like(picked, 4)
    torch.testing.assert_close(
        kernels.experts(x, gate_up, down, alone, share), reference.experts(x, gate_up, down, alone, share)
    )


def test_gradients_pass_where_they_are_asked_for(registered):
    x, gate_up, down, picked, share = stacks("f32", torch.Generator().manual_seed(3))
    dispatch.register_experts(Plain, "cpu", prefill.PrefillKernels(None).experts)
    values = [weight.parts["values"].clone().requires_grad_() for weight in (gate_up, down)]
    dispatch.experts(x, *values, picked, share).square().sum().backward()
    assert all(value.grad is not None and value.grad.abs().max() > 0 for value in values)


def test_a_whole_model_reads_its_prompt_through_them(registered):
    from laguna_agent.backend.laguna.model import Piece

    model = small_model(small_config())
    pieces = [Piece(torch.arange(40) % model.config.vocab_size)]
    with torch.no_grad():
        expected = model(pieces)
        dispatch.register_experts(Plain, "cpu", prefill.PrefillKernels(None).experts)
        torch.testing.assert_close(model(pieces), expected, atol=1e-4, rtol=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.sampled_from((1, 2, 4, 16)), st.integers(0, 1 << 30), st.booleans())
def test_every_pair_is_in_one_block_of_its_expert(tokens, experts, block, seed, skewed):
    made = torch.Generator().manual_seed(seed)
    per_token = min(experts, 3)
    picked = torch.rand(tokens, experts, generator=made).argsort(1)[:, :per_token]
    if skewed:
        picked = torch.full_like(picked, experts - 1)
    aligned = align(picked, experts, block)
    flat, seen = picked.flatten(), []
    blocks = zip(aligned.experts.tolist(), aligned.firsts.tolist(), aligned.ends.tolist(), strict=True)
    for expert, first, end in blocks:
        if expert < experts:
            pairs = aligned.order[first : min(end, first + block)].tolist()
            assert pairs
            assert all(flat[pair] == expert for pair in pairs)
            seen += pairs
    assert sorted(seen) == list(range(len(flat)))
    assert len(aligned.experts) <= min(len(flat), experts + len(flat) // block)


def test_sorting_asks_the_device_for_nothing():
    # A tensor without numbers cannot answer, so whoever asked would fail.
    aligned = align(torch.empty(100, 8, dtype=torch.int64, device="meta"), 256, 16)
    assert aligned.order.shape == (800,)
    assert {tensor.dtype for tensor in aligned} == {torch.int32}


def test_planes_hold_the_columns_of_a_word_one_after_the_other():
    reading = reading_of(GroupInt(4, 32), 40)
    assert reading is not None and (reading.per, reading.words, reading.groups) == (8, 8, 2)
    x = torch.arange(80.0).view(2, 40)
    found = planes(x, reading)
    assert found.shape == (2, 8, 8) and found.is_contiguous()
    for column in range(64):
        wanted = column if column < 40 else 0
        assert found[0, column % 8, column // 8] == wanted


def test_what_is_missing_is_said_in_one_line(monkeypatch, registered):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(prefill, "find_spec", lambda name: None)
    assert prefill.outlook() == (False, "prompts are computed by torch: Triton is not installed")
    monkeypatch.setattr(prefill, "find_spec", lambda name: object())
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "")
    assert "needs a C compiler" in prefill.outlook().says
    monkeypatch.setenv("CC", "/bin/sh")
    monkeypatch.setattr(prefill.sysconfig, "get_path", lambda name: "/nowhere")
    assert "headers" in prefill.outlook().says
    monkeypatch.setenv(prefill.OFF, "1")
    assert prefill.OFF in prefill.outlook().says and prefill.OFF in NOT_SETTINGS
    assert not prefill.usable(torch.device("cpu")).triton


def test_the_choice_is_logged_once(monkeypatch, caplog, registered):
    monkeypatch.setenv(prefill.OFF, "1")
    device = torch.device("cuda", 0)
    with caplog.at_level(logging.INFO, prefill.log.name):
        for _ in range(3):
            assert not prefill.use(device).triton
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert prefill.use(device, faulty=True).says.endswith("wrong")
    assert all((format, "cuda") in dispatch._fused for format in (*prefill.PACKED, Plain))
    assert (Plain, "cuda") not in dispatch._registered


def test_a_turn_holds_no_more_than_its_workspace():
    reading = reading_of(GroupInt(4, 32), 512)
    assert reading is not None
    assert triton_products.workspace_of(reading, 2048, torch.bfloat16) == (512 + 2048) * 2
