"""Experts and attention with gradients: fast, and the numbers of the plain ones, which autograd goes through."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from laguna_agent.backend.kernels import attention, dispatch, reference, training
from laguna_agent.backend.kernels.attention import KeyRun

EXPERTS, HIDDEN, INNER = 5, 6, 4


def drawn(seed: int, *shapes: tuple[int, ...]) -> list[Tensor]:
    source = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=source, dtype=torch.float64).requires_grad_() for shape in shapes]


def expert_inputs(tokens: int, per_token: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    x, gate_up, down, share, scores = drawn(
        seed,
        (tokens, HIDDEN),
        (EXPERTS, 2 * INNER, HIDDEN),
        (EXPERTS, HIDDEN, INNER),
        (tokens, per_token),
        (tokens, EXPERTS),
    )
    # The last expert is picked by nobody unless everybody must be.
    scores.data[:, -1] -= 100
    return x, gate_up, down, scores.topk(per_token).indices, share


def differentiated(out: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    factors = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    return [out.detach(), *torch.autograd.grad((out * factors).sum(), inputs)]


@pytest.mark.parametrize("per_token", [1, 2, EXPERTS])
@pytest.mark.parametrize("tokens", [1, 9])
def test_experts_equal_the_reference_with_gradients(tokens: int, per_token: int) -> None:
    x, gate_up, down, picked, share = expert_inputs(tokens, per_token, 10 * tokens + per_token)
    inputs = [x, gate_up, down, share]
    found = differentiated(dispatch.experts(x, gate_up, down, picked, share), inputs)
    expected = differentiated(reference.experts(x, gate_up, down, picked, share), inputs)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-10)


def test_the_experts_gradients_are_those_of_finite_differences() -> None:
    x, gate_up, down, picked, share = expert_inputs(4, 2, 1)
    assert torch.autograd.gradcheck(
        lambda *given: training.experts(*given[:3], picked, given[3]), (x, gate_up, down, share)
    )


@pytest.mark.parametrize("learns", [0, 1, 2, 3])
def test_only_what_learns_has_a_gradient(learns: int) -> None:
    x, gate_up, down, picked, share = expert_inputs(7, 2, 3)
    inputs = [x, gate_up, down, share]
    (expected,) = torch.autograd.grad(reference.experts(x, gate_up, down, picked, share).sum(), [inputs[learns]])
    frozen = [given if index == learns else given.detach() for index, given in enumerate(inputs)]
    out = training.experts(*frozen[:3], picked, frozen[3])
    (found,) = torch.autograd.grad(out.sum(), [frozen[learns]])
    torch.testing.assert_close(found, expected)


def test_weights_stay_wide_where_activations_are_narrow() -> None:
    given = [tensor.detach().float().requires_grad_() for tensor in expert_inputs(9, 2, 4)[:3]]
    picked, share = (tensor.detach() for tensor in expert_inputs(9, 2, 4)[3:])
    out = dispatch.experts(given[0].bfloat16(), given[1], given[2], picked, share.bfloat16())
    out.float().sum().backward()
    assert out.dtype == torch.bfloat16 and all(tensor.grad.dtype == torch.float32 for tensor in given)
    wide = torch.autograd.grad(reference.experts(*given, picked, share.float()).sum(), given)
    for tensor, expected in zip(given, wide, strict=True):
        assert (tensor.grad - expected).norm() < 0.05 * expected.norm()


def one_by_one(q: Tensor, k: Tensor, v: Tensor, lengths: list[int], window: int) -> Tensor:
    parts, at = [], 0
    for length in lengths:
        rows = slice(at, at + length)
        run = KeyRun(k[rows].transpose(0, 1), v[rows].transpose(0, 1))
        parts.append(attention.reference(q[rows], 0, [run], window))
        at += length
    return torch.cat(parts)


LENGTHS = st.one_of(
    st.lists(st.integers(1, 40), min_size=1, max_size=6),
    st.builds(lambda count, length: [length] * count, st.integers(1, 4), st.integers(1, 40)),
)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(lengths=LENGTHS, window=st.sampled_from([0, 1, 3, 8, 64]), seed=st.integers(0, 99))
def test_attention_equals_that_of_each_sequence_with_gradients(lengths: list[int], window: int, seed: int) -> None:
    tokens = sum(lengths)
    inputs = drawn(seed, (tokens, 6, 4), (tokens, 2, 4), (tokens, 2, 4))
    found = differentiated(training.attention(*inputs, tuple(lengths), window), inputs)
    expected = differentiated(one_by_one(*inputs, lengths, window), inputs)
    for ours, theirs in zip(found, expected, strict=True):
        # The reference's softmax is fp32.
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_sequences_of_like_length_share_a_call() -> None:
    layout = training._layout((500, 512, 449, 512, 3), 0, torch.device("cpu"))
    assert layout.groups == ((1, 3), (4, 512))
    assert training._layout((512,) * 16, 128, torch.device("cpu")) == training._Layout(((16, 512),))
    # Padding is at most a quarter.
    for length in range(1, 2000):
        assert length <= training._class(length, 0) < 1.25 * length + 1
