"""Experts in host memory: moved there and back without being held twice, and computed there like everywhere else."""

from __future__ import annotations

import gc

import pytest
import torch
import torch.nn.functional as F

from laguna_agent.backend.kernels import dispatch
from laguna_agent.backend.kernels.cpu import products
from laguna_agent.backend.kernels.cuda import moving, offload
from laguna_agent.backend.kernels.cuda.matrices import placed
from laguna_agent.backend.kernels.cuda.moving import moved, on_device, read_in_place
from laguna_agent.backend.kernels.cuda.offload import Desk, HostExperts, Staged
from laguna_agent.backend.kernels.cuda.page_locked import PageLocked, is_page_locked
from laguna_agent.backend.kernels.formats import Fp8, Ggml, GroupInt, Nvfp4, PackedTensor, Plain, Tiled
from laguna_agent.backend.kernels.quantise import quantise
from laguna_agent.backend.kernels.reference import dequantise
from laguna_agent.backend.kernels.tiles import tile
from tests.cuda.emulator import fenced
from tests.cuda.held_bytes import HeldBytes

CPU = torch.device("cpu")
FORMATS = [
    Tiled(GroupInt(4, 32)),
    Tiled(GroupInt(8, 64, torch.float16, minimums=True)),
    GroupInt(4, 32, torch.float32),
    Plain(torch.bfloat16),
    Fp8(64),
    Nvfp4(),
]


def random_weight(format, *shape, seed=1):
    """Parts of random bytes and sane scales; of group integers, what rounding random numbers gives."""
    source = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=source) * shape[-1] ** -0.5
    base = format.base if isinstance(format, Tiled) else format
    if isinstance(base, Plain):
        return values.to(base.dtype)
    if isinstance(base, GroupInt):
        packed = quantise(values, base)
        return tile(packed) if isinstance(format, Tiled) else packed
    parts = {}
    for part in base.parts(shape[-1]):
        made = torch.randint(0, 120, (*shape[:-1], part.columns), generator=source, dtype=torch.uint8)
        parts[part.name] = made.view(part.dtype) if part.dtype.itemsize == 1 else (made / 99 + 0.1).to(part.dtype)
    return PackedTensor(base, shape, parts)


@pytest.fixture
def page_locked():
    """Page-locked memory as the driver would give it: between protected pages. Freed addresses are in `freed`."""
    tensors, freed = {}, []

    def allocate(size):
        made = fenced(size, dtype=torch.uint8)
        tensors[made.data_ptr()] = made
        return made.data_ptr()

    def free(address):
        del tensors[address]
        freed.append(address)

    memory = PageLocked(allocate, free)
    memory.freed = freed
    return memory


@pytest.mark.parametrize("format", FORMATS, ids=lambda format: format.spelling)
@pytest.mark.parametrize("shape", [(5, 32, 64), (48, 128)])
def test_what_was_moved_has_the_same_numbers(format, shape, monkeypatch, page_locked):
    monkeypatch.setattr(moving, "SLICE", 2048)
    weight = random_weight(format, *shape)
    for empty, locked in ((on_device(CPU), False), (page_locked.empty, True)):
        copy = moved(weight, empty)
        assert torch.equal(dequantise(copy), dequantise(weight)) and copy.shape == weight.shape
        assert is_page_locked(copy) == locked
        assert not isinstance(getattr(copy, "format", None), Tiled)
    if len(shape) == 3:
        only = torch.tensor([4, 0, 3])
        assert torch.equal(dequantise(moved(weight, on_device(CPU), only)), dequantise(weight)[only])


def test_page_locked_memory_is_given_back_with_its_last_tensor(page_locked):
    weight = random_weight(GroupInt(4, 32), 3, 32, 64)
    copy = moved(weight, page_locked.empty)
    assert page_locked.bytes == page_locked.most == copy.nbytes == weight.nbytes
    row = copy.parts["codes"][1, 2]
    del copy
    gc.collect()
    assert len(page_locked.freed) == 1 and page_locked.bytes == weight.parts["codes"].nbytes
    assert torch.equal(row, weight.parts["codes"][1, 2])
    del row
    gc.collect()
    assert len(page_locked.freed) == 2 and page_locked.bytes == 0
    assert page_locked.empty((0, 4), torch.float32).numel() == 0


@pytest.mark.parametrize("format", FORMATS, ids=lambda format: format.spelling)
def test_kernels_are_given_page_locked_memory_itself(format, page_locked):
    """Also where the step computes elsewhere: "meta" would lose every number."""
    copy = moved(random_weight(format, 3, 32, 256), page_locked.empty)
    assert read_in_place(format, (3, 32, 256))
    matrix = placed(copy, torch.device("meta"))
    for part in (matrix.codes, matrix.scales, matrix.extra):
        assert part is None or is_page_locked(part)


def test_what_needs_padding_is_not_read_in_place(page_locked):
    odd = moved(random_weight(GroupInt(4, 32), 2, 5, 33), page_locked.empty)
    assert placed(odd, CPU) is None and placed(moved(odd, on_device(CPU)), CPU) is not None
    assert not read_in_place(GroupInt(4, 32), (2, 5, 33)) and not read_in_place(Plain(torch.float32), (2, 5, 33))
    assert not read_in_place(Ggml("Q6_K"), (4, 256)) and read_in_place(Tiled(GroupInt(4, 32)), (2, 16, 64))


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS[:4], ids=lambda format: format.spelling)
def test_never_more_than_a_slice_is_held_beside_the_copy(format, monkeypatch):
    monkeypatch.setattr(moving, "SLICE", 1 << 14)
    weight = random_weight(format, 64, 64, 256)
    with HeldBytes() as held:
        copy = moved(weight, on_device(CPU))
    size = copy.nbytes
    assert size > 20 * moving.SLICE and held.now == size
    assert size <= held.most <= size + 8 * moving.SLICE


def expected_sum(x, picked, share, gate_up, down, scale):
    """fp64, straight from the specification (section 2i)."""
    wide_up, wide_down, out = dequantise(gate_up).double(), dequantise(down).double(), []
    for row, experts, shares in zip(x.double(), picked.tolist(), share.double(), strict=True):
        each = []
        for expert in experts:
            gate, up = (wide_up[expert] @ row).chunk(2)
            each.append(wide_down[expert] @ (F.silu(gate) * up))
        out.append(scale * (torch.stack(each) * shares[:, None]).sum(0))
    return torch.stack(out)


@pytest.mark.parametrize("format", FORMATS, ids=lambda format: format.spelling)
def test_the_host_computes_experts_like_the_kernels(format, page_locked):
    products.use()
    hidden, inner, count, per_token = 128, 64, 6, 3
    gate_up = random_weight(format, count, 2 * inner, hidden)
    down = random_weight(format, count, hidden, inner, seed=2)
    desk = Desk(hidden, per_token, CPU, page_locked.empty)
    experts = HostExperts(gate_up, down, 2.5, desk)
    for tokens in (1, 8, 3):
        x, h = torch.randn(tokens, hidden), torch.randn(tokens, hidden)
        picked = torch.stack([torch.randperm(count)[:per_token] for _ in range(tokens)]).int()
        share = torch.rand(tokens, per_token)
        added = expected_sum(x, picked, share, gate_up, down, 2.5)
        before = h.double()
        experts(x, picked, share, h)
        # The sum h + y is rounded once more, so what was added is looked at on its own.
        alone = torch.zeros_like(h)
        experts(x, picked, share, alone)
        assert (alone - added).norm() <= 1e-6 * added.norm()
        assert (h - (before + added)).norm() <= 1e-6 * (before + added).norm()


@pytest.mark.parametrize("rows", [3, 40])
def test_a_prompt_takes_the_weights_to_its_device(rows):
    """Few rows take the experts that they picked, many take all."""
    taken = []

    def staging(device):
        def empty(shape, dtype):
            taken.append(shape)
            return torch.empty(shape, dtype=dtype, device=device)

        return empty

    weight, x = random_weight(Tiled(GroupInt(4, 32)), 9, 32, 64), torch.randn(rows, 64)
    experts = torch.arange(rows) % 9 if rows > 9 else torch.tensor([7, 2, 7])
    found = Staged(staging).expert_linear(x, weight, experts)
    wanted = torch.einsum("nrc,nc->nr", dequantise(weight)[experts], x)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    assert taken[0][0] == (9 if rows > 9 else 2)
    taken.clear()
    down, share = random_weight(Tiled(GroupInt(8, 32)), 9, 64, 16 * 2, seed=2), torch.rand(rows, 1)
    gate_up = random_weight(Tiled(GroupInt(4, 32)), 9, 64, 64)
    found = Staged(staging).experts(x, gate_up, down, experts[:, None], share)
    assert (found - expected_sum(x, experts[:, None], share, gate_up, down, 1.0)).norm() <= 1e-5 * found.norm()
    assert {shape[0] for shape in taken} == {9 if rows > 9 else 2}
    matrix, bias = random_weight(Plain(torch.bfloat16), 32, 64), torch.randn(32)
    torch.testing.assert_close(Staged().linear(x, matrix, bias), F.linear(x, matrix.float(), bias))
    assert torch.equal(Staged().embedding(torch.tensor([3, 1]), matrix, torch.float32), matrix[[3, 1]].float())


def test_activations_elsewhere_choose_the_staged_products(monkeypatch):
    for name in ("_registered", "_fused"):
        monkeypatch.setattr(dispatch, name, dict(getattr(dispatch, name)))
    offload.use()
    for format in FORMATS:
        weight = random_weight(format, 2, 32, 64)
        assert isinstance(dispatch.kernels_for(torch.empty(2, 64, device="meta"), weight), Staged)
        assert not isinstance(dispatch.kernels_for(torch.empty(2, 64), weight), Staged)
        assert (type(getattr(weight, "format", Plain(torch.float32))), dispatch.APART) in dispatch._fused
