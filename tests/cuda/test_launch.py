"""What a launch refuses when it is made, and the program text that kernels are compiled from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from laguna_agent.backend.kernels.cuda.launch import Kernel, Launch, Pointer, Value, program

KERNEL = Kernel(
    "sample",
    "a.cuh",
    "laguna::sample<4>",
    (
        Pointer("x", "float", 8),
        Pointer("codes", "unsigned char", 32),
        Pointer("scales", "unsigned char", 4, optional=True),
        Value("eps", "float"),
        Value("count", "int"),
        Pointer("out", "float", 8, "write"),
    ),
    (3, 2, 1),
    64,
)


def arguments(**changed):
    given = {
        "x": torch.zeros(8),
        "codes": torch.zeros(32, dtype=torch.uint8),
        "eps": 1.0,
        "count": 3,
        "out": torch.zeros(8),
    }
    return given | changed


def test_a_launch_that_fits_keeps_its_arguments_in_order():
    given = arguments()
    launch = Launch.of(KERNEL, **given)
    assert [type(argument) for argument in launch.arguments[2:5]] == [type(None), float, int]
    assert launch.arguments[0] is given["x"] and launch.arguments[5] is given["out"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"x": None}, "x is None"),
        ({"x": 3.0}, "x is 3.0, expected a tensor"),
        ({"x": torch.zeros(7)}, "x has 28 bytes, the kernel touches 32"),
        ({"x": torch.zeros(8, dtype=torch.float64)}, "x is torch.float64, expected torch.float32"),
        ({"x": torch.zeros(2, 16)[:, ::2]}, "x is not contiguous"),
        ({"x": torch.zeros(9)[1:]}, "x does not begin at a multiple of 16 bytes"),
        ({"codes": torch.zeros(31, dtype=torch.uint8)}, "codes has 31 bytes"),
        ({"scales": torch.zeros(1, dtype=torch.bfloat16)}, "scales has 2 bytes, the kernel touches 4"),
        ({"eps": "small"}, "eps is 'small', expected float"),
        ({"eps": None}, "eps is None, expected float"),
        ({"eps": torch.ones(1)}, "expected float"),
        ({"count": 1.5}, "count is 1.5, expected int"),
        ({"count": True}, "count is True, expected int"),
        ({"count": 1 << 31}, "count is 2147483648, which is no int"),
        ({"other": 1}, "has no parameter other"),
    ],
)
def test_a_launch_refuses_what_does_not_fit(changed, said):
    with pytest.raises(ValueError) as refused:
        Launch.of(KERNEL, **arguments(**changed))
    assert said in str(refused.value)


def test_a_launch_takes_each_argument_once():
    with pytest.raises(ValueError, match="takes 6 arguments, 1 were given"):
        Launch(KERNEL, (torch.zeros(8),))


def test_what_is_written_overlaps_with_nothing():
    room = torch.zeros(64)
    Launch.of(KERNEL, **arguments(x=room[:8], out=room[8:16]))
    # Two that are only read may be the same.
    Launch.of(KERNEL, **arguments(x=room[:8], codes=room[:8]))
    for x, out in ((room[:8], room[:8]), (room[:8], room[4:12]), (room[4:12], room[:8])):
        with pytest.raises(ValueError, match="x and out overlap, and one of them is written"):
            Launch.of(KERNEL, **arguments(x=x, out=out))
    # Only what the kernel touches counts.
    Launch.of(KERNEL, **arguments(x=room, out=room[8:]))


def test_a_pointer_of_bytes_takes_any_type():
    Launch.of(KERNEL, **arguments(codes=torch.zeros(16, dtype=torch.bfloat16)))


def test_names_follow_the_code_alone():
    assert KERNEL.name == replace(KERNEL, grid=(9, 1, 1), shared=64).name
    assert KERNEL.name.startswith("laguna_sample_")
    others = (
        replace(KERNEL, call="laguna::sample<5>"),
        replace(KERNEL, threads=32),
        replace(KERNEL, parameters=KERNEL.parameters[:-1]),
    )
    assert len({KERNEL.name, *(other.name for other in others)}) == 4


def test_a_program_has_each_source_and_kernel_once(tmp_path):
    (tmp_path / "base.cuh").write_text("#pragma once\n// base\n")
    (tmp_path / "a.cuh").write_text('#pragma once\n#include "base.cuh"\n// a\n')
    (tmp_path / "b.cuh").write_text('#pragma once\n#include "a.cuh"\n#include "base.cuh"\n// b\n')
    other = replace(KERNEL, source="b.cuh", call="laguna::other<1>")
    text = program([other, KERNEL, replace(KERNEL, grid=(1, 1, 1))], tmp_path)
    assert text == program([KERNEL, other], tmp_path)
    assert [text.count(f"// {name}\n") for name in ("base", "a", "b")] == [1, 1, 1]
    assert text.index("// base\n") < text.index("// a\n") < text.index("// b\n")
    assert text.count(f"{KERNEL.name}(const float *x, const unsigned char *codes") == 1
    assert "laguna::sample<4>(x, codes, scales, eps, count, out);" in text
    assert "#include" not in text and "pragma once" not in text
