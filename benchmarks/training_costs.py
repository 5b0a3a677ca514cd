"""Claims on what the optimizer itself costs: share of a step, bytes of state, time and quality of Newton-Schulz.

All on the 8 M model, in one process, medians of interleaved rounds. Knows optimizers and timing; must not know runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median
from time import perf_counter, process_time

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim._muon import _zeropower_via_newtonschulz
from training_claims import Row, Settings, interleaved, milliseconds, ratios, spread
from training_corpus import packed
from training_runs import SMALL, TINY, model_of

from laguna_agent.backend.kernels.cuda.geometry import Geometry, LayerGeometry
from laguna_agent.backend.laguna.model import CausalLM
from laguna_agent.training.batch import Pack
from laguna_agent.training.loss import token_loss
from laguna_agent.training.optim.adamw import adamw
from laguna_agent.training.optim.coefficients import Coefficients
from laguna_agent.training.optim.muon import Muon
from laguna_agent.training.optim.newton_schulz import fastest_dtype, orthogonalise
from laguna_agent.training.optim.parameters import MatrixParameter, matrices, split_parameters
from laguna_agent.training.step_costs import crossing, newton_schulz_flops, training_flops

SEQUENCE = 512
AT_ONCE = 4096
SWEEP, BEYOND = (1024, 4096, 16384), (65536, 262144)
ONE_PERCENT = 0.01
FASTER = 1.7
TABLES: tuple[Coefficients, ...] = ("kj5", "polar5", "hybrid10")


def overhead_rows(settings: Settings) -> list[Row]:
    """Muon's extra time over fused AdamW's as a share of Muon's step, by tokens per step, and where it is 1 %."""
    sweep, rounds = ((512, 1024), 1) if settings.quick else (SWEEP, 3)
    most = min(AT_ONCE, sweep[-1])
    with threads(1):
        model, twin = (model_of(TINY if settings.quick else SMALL, 0) for _ in range(2))
        muon = Muon(split_parameters(model)[0], lr=1e-4)
        fused = adamw([(at.name, at.parameter) for at in split_parameters(twin)[0]], lr=1e-4)
        shares = {}
        for tokens in sweep:
            arms = {"muon": partial(_step, model, muon, tokens), "adamw": partial(_step, twin, fused, tokens)}
            taken = interleaved(arms, rounds, process_time)
            shares[tokens] = [100 - 100 / ratio for ratio in ratios(taken, "muon", "adamw")]
        _learn(model, most)
        _learn(twin, most)
        alone = {"muon": muon.step, "adamw": fused.step, "tokens": partial(_learn, model, most)}
        parts = interleaved(alone, rounds + 2, process_time)
    extra, token = median(parts["muon"]) - median(parts["adamw"]), median(parts["tokens"]) / most
    computed = ", ".join(f"{tokens:,}: {extra / (extra + token * tokens):.1%}" for tokens in BEYOND)
    flops = newton_schulz_flops(geometry_of(model)) / median(parts["muon"])
    speed = flops / (training_flops(geometry_of(model), SEQUENCE) / token)
    return [
        Row(
            "step overhead, measured",
            "AdamW fused",
            "; ".join(f"{tokens:,} tokens: {spread(share, '.0f')} %" for tokens, share in shares.items()),
        ),
        Row(
            "step overhead, computed from its parts",
            f"AdamW fused {milliseconds(parts['adamw'])}; forward and backward {1e3 * token:.3f} ms a token",
            f"Muon {milliseconds(parts['muon'])}; at {computed}; 1 % at {crossing(extra, token, ONE_PERCENT):,.0f} "
            f"tokens per step. Newton-Schulz runs at {speed:.1f}x the model's FLOP/s",
        ),
    ]


def geometry_of(model: CausalLM) -> Geometry:
    """The model's sizes, as the formulae of costs take them."""
    config = model.config
    layers = tuple(
        LayerGeometry(
            layer.heads,
            config.head_dim,
            config.sliding_window if layer.attention == "sliding_attention" else 0,
            layer.gate,
            config.dense_size if layer.mlp == "dense" else 0,
        )
        for layer in config.layers
    )
    sizes = (config.vocab_size, config.hidden_size, config.kv_heads, config.head_dim)
    experts = (config.experts, config.experts_per_token, config.expert_size, config.shared_expert_size)
    return Geometry("small", *sizes, layers, *experts)


def _step(model: CausalLM, optimizer: Optimizer, tokens: int) -> None:
    for _ in range(max(1, tokens // AT_ONCE)):
        _learn(model, min(tokens, AT_ONCE))
    optimizer.step()
    model.zero_grad()


def _learn(model: CausalLM, tokens: int) -> None:
    token_loss(model, _pack(tokens), total_weight=float(tokens)).backward()


def _pack(tokens: int) -> Pack:
    """Any ids do: what is timed does not look at them, but for which experts they go to."""
    ids = torch.randint(0, 2048, (tokens + 1,), generator=torch.Generator().manual_seed(tokens))
    return packed(ids.numpy().astype(np.uint16), list(range(0, tokens, SEQUENCE)), SEQUENCE)


def state_rows(settings: Settings) -> list[Row]:
    """Bytes that the optimizers keep for the matrices after a step."""
    model = model_of(TINY if settings.quick else SMALL, 0)
    found, _ = split_parameters(model)
    held = {}
    for name, optimizer in (
        ("muon", Muon(found, lr=1e-4)),
        ("adamw", adamw([(at.name, at.parameter) for at in found], lr=1e-4)),
    ):
        _gradients(found)
        optimizer.step()
        held[name] = sum(
            value.nbytes for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)
        )
    ratio = held["muon"] / held["adamw"]
    return [
        Row(
            "optimizer state on matrices",
            f"AdamW {held['adamw']:,} bytes",
            f"{ratio:.3f} (Muon {held['muon']:,} bytes)",
            "0.50",
            round(ratio, 2) == 0.5,
        )
    ]


def _gradients(found: list[MatrixParameter]) -> None:
    source = torch.Generator().manual_seed(1)
    for at in found:
        at.parameter.grad = torch.randn(at.parameter.shape, generator=source)


def orthogonalisation_rows(settings: Settings) -> list[Row]:
    """Our whole step against torch's over the same matrices, and how near to orthogonal each way ends."""
    model = model_of(TINY if settings.quick else SMALL, 0)
    found, _ = split_parameters(model)
    _gradients(found)
    apart = []
    for at in found:
        values = (matrices(tensor, at.parts) for tensor in (at.parameter.detach(), at.parameter.grad))
        for weight, gradient in zip(*values, strict=True):
            apart.append(nn.Parameter(weight.clone()))
            apart[-1].grad = gradient.clone()
    arms: dict[str, Optimizer] = {
        "torch": torch.optim.Muon(apart, lr=1e-4, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        "fp32": Muon(found, lr=1e-4, coefficients="kj5", dtype=torch.float32),
        "bf16": Muon(found, lr=1e-4, coefficients="kj5", dtype=torch.bfloat16),
    }
    fastest = "bf16" if fastest_dtype(torch.device("cpu")) == torch.bfloat16 else "fp32"
    rows = []
    for count in (1, 2):
        with threads(count):
            clock = process_time if count == 1 else perf_counter
            taken = interleaved({name: arm.step for name, arm in arms.items()}, 1 if settings.quick else 7, clock)
        faster = {name: ratios(taken, "torch", name) for name in ("fp32", "bf16")}
        rows.append(
            Row(
                f"orthogonalisation, {len(apart)} matrices, {count} thread{'s' * (count > 1)}",
                f"torch.optim.Muon {milliseconds(taken['torch'])}",
                "; ".join(f"{name} {spread(each)}x faster" for name, each in faster.items())
                + f" (`fastest_dtype` here: {fastest}, {milliseconds(taken[fastest])})",
                f">= {FASTER}x with `fastest_dtype`",
                median(faster[fastest]) >= FASTER,
            )
        )
    return [*rows, _singular_values(8 if settings.quick else 64)]


def _singular_values(count: int) -> Row:
    stack = torch.randn(count, 128, 192, generator=torch.Generator().manual_seed(0))
    ours = {name: orthogonalise(stack, name, dtype=torch.float32) for name in TABLES}
    torchs = torch.stack([_zeropower_via_newtonschulz(each, (3.4445, -4.7750, 2.0315), 5, 1e-7) for each in stack])
    return Row(
        "singular values of 128 x 192",
        f"torch's bf16 {_ends(torchs)}",
        ", ".join(f"{name} {_ends(found)}" for name, found in ours.items()),
    )


def _ends(stack: Tensor) -> str:
    values = torch.linalg.svdvals(stack.double())
    return f"{values.min():.3f}..{values.max():.3f}"


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads of torch."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
