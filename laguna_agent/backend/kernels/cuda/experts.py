"""The experts of 1 to 8 tokens: who is picked, and their gate, up and down matrices (`native/router.cuh`,
`native/experts.cuh`; section 2i of the specification).

Chooses the constants of a kernel from its sizes alone. `picked` always holds experts of the stack, for dead rows too:
`pick` writes no other, and nothing checks it afterwards. Knows matrices and counts; must not know where they lie.
"""

from __future__ import annotations

from collections.abc import Iterator

from laguna_agent.backend.kernels.cuda.cases import Case
from laguna_agent.backend.kernels.cuda.geometry import Geometry
from laguna_agent.backend.kernels.cuda.launch import Kernel, Pointer, Value
from laguna_agent.backend.kernels.cuda.matrices import LOAD, MatrixKind

WARP, WARPS = 32, 4
"""Lanes of a warp; warps of a block that multiplies."""
STAGED, MOST = 24 << 10, 48 << 10
"""Bytes of activations that a block holds: so many experts' as fit the first, or one's that fit the second."""
ENOUGH_GATE_UP, ENOUGH_DOWN = 512, 256
"""Blocks: with fewer, a block takes fewer rows, so that no multiprocessor idles; with more rows what is read of the
activations meets more weights."""


def pick(tokens: int, experts: int, per_token: int, *, normalize: bool) -> Kernel:
    """logits fp32 [tokens, experts] -> picked int, share fp32 [tokens, per_token], the best first.

    The best of sigmoid(logit) + bias, of equal ones the lowest expert, no number before all; shares are the plain
    scores, which `normalize` makes sum to 1. softcap 0: none. Raises ValueError for more than 32 of the experts.
    """
    if not 1 <= per_token <= min(WARP, experts):
        raise ValueError(f"{per_token} of {experts} experts cannot be picked; 1 to {min(WARP, experts)} can")
    flag = "true" if normalize else "false"
    return Kernel(
        "pick",
        "router.cuh",
        f"laguna::pick<{experts}, {per_token}, {flag}>",
        (
            Pointer("logits", "float", tokens * experts),
            Pointer("bias", "float", experts),
            Value("softcap", "float"),
            Pointer("picked", "int", tokens * per_token, "write"),
            Pointer("share", "float", tokens * per_token, "write"),
        ),
        (tokens, 1, 1),
        WARP,
    )


def expert_gate_up(tokens: int, per_token: int, weights: MatrixKind) -> Kernel:
    """silu(gate x) * (up x) for each token's experts: x fp32 [tokens, K], picked int [tokens, per_token], weights
    [E, 2I, K] with the gate's rows first -> out fp32 [tokens, per_token, I].

    Raises ValueError for weights that are no such stack, or have more than 10880 columns.
    """
    _check_stack(weights)
    if weights.rows % 2:
        raise ValueError(f"gate and up rows are {weights.rows} together, which is odd")
    inner, lanes, pairs = weights.rows // 2, _lanes(weights), tokens * per_token
    each = 2
    if pairs * -(-inner // (_groups(lanes) * each)) < ENOUGH_GATE_UP:
        each = 1
    sizes = f"{weights.columns}, {inner}, {per_token}, {each}, {lanes}"
    return Kernel(
        "expert_gate_up",
        "experts.cuh",
        f"laguna::expert_gate_up<{weights.encoding.spelled}, {sizes}>",
        (
            Pointer("x", "float", tokens * weights.columns),
            Pointer("picked", "int", pairs),
            *weights.pointers("weights"),
            Pointer("out", "float", pairs * inner, "write"),
        ),
        (-(-inner // (_groups(lanes) * each)), pairs, 1),
        WARP * WARPS,
        _staged(weights.columns),
        5,
    )


def expert_down(tokens: int, per_token: int, weights: MatrixKind, shared: MatrixKind | None) -> Kernel:
    """out += scale * sum of share * (down act), and the shared expert's down: act fp32 [tokens, per_token, I], picked
    and share [tokens, per_token], weights [E, H, I], shared_act [tokens, IS], shared [H, IS] -> out fp32 [tokens, H].

    Raises ValueError for weights that do not fit together, or have more than 10880 columns.
    """
    _check_stack(weights)
    if not 1 <= per_token <= WARP:
        raise ValueError(f"a token has 1 to {WARP} experts, not {per_token}")
    if shared is not None and (shared.rows != weights.rows or shared.experts):
        raise ValueError(f"the experts have {weights.rows} rows, the shared one {shared.rows}")
    rows, inner, lanes = weights.rows, weights.columns, _lanes(weights)
    each = 2 if tokens * -(-rows // (_groups(lanes) * 2)) >= ENOUGH_DOWN else 1
    together = max(1, min(per_token, STAGED // _staged(inner)))
    sizes = f"{inner}, {rows}, {per_token}, {each}, {lanes}, {together}"
    entry, spelled, given = "expert_down", f"{weights.encoding.spelled}, {sizes}", list[Pointer]()
    if shared is not None:
        entry, spelled = "expert_down_shared", f"{spelled}, {shared.encoding.spelled}, {shared.columns}"
        given = [Pointer("shared_act", "float", tokens * shared.columns), *shared.pointers("shared")]
    return Kernel(
        "expert_down",
        "experts.cuh",
        f"laguna::{entry}<{spelled}>",
        (
            Pointer("act", "float", tokens * per_token * inner),
            Pointer("picked", "int", tokens * per_token),
            Pointer("share", "float", tokens * per_token),
            Value("scale", "float"),
            *weights.pointers("weights"),
            *given,
            Pointer("out", "float", tokens * rows, "update"),
        ),
        (-(-rows // (_groups(lanes) * each)), tokens, 1),
        WARP * WARPS,
        max(together * _staged(inner), _staged(shared.columns) if shared else 0),
        4,
    )


def _check_stack(weights: MatrixKind) -> None:
    if not weights.experts:
        raise ValueError("experts are a stack of matrices, one was given")


def _lanes(kind: MatrixKind) -> int:
    """Lanes that work on a row: as many as possible among those that idle least, but enough for whole cache lines."""
    loads = kind.row_bytes // LOAD
    return max(
        (32, 16, 8) if loads >= 8 else (4, 2, 1), key=lambda lanes: (loads / (-(-loads // lanes) * lanes), lanes)
    )


def _groups(lanes: int) -> int:
    """Groups of so many lanes in a block."""
    return WARP * WARPS // lanes


def _staged(columns: int) -> int:
    """Bytes of a vector in shared memory: whole 32s, and a gap of 4 behind each. Raises ValueError for too many."""
    size = -(-columns // 32) * 36 * 4
    if size > MOST:
        raise ValueError(f"{columns} columns of activations take {size} bytes of shared memory, {MOST} are to be had")
    return size


def cases(geometry: Geometry | None, seed: int = 0) -> Iterator[Case]:
    """Cases of every kernel here: a model's own sizes with as many experts as it takes, or small and odd ones."""
    from laguna_agent.backend.kernels.cuda import expert_cases

    yield from expert_cases.small(seed) if geometry is None else expert_cases.of_model(geometry, seed)
