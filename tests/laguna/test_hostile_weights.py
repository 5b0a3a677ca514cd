"""A checkpoint is somebody's file: whatever is in it, it is refused in one line, at once, in little memory.

Each case runs under a limit of memory beyond what the process has, and of processor time.
"""

from __future__ import annotations

import ast
import functools
import json
import math
import os
import pickle
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from laguna_agent.backend.laguna.config_json import load_config
from laguna_agent.backend.laguna.weights.gguf_file import GgufFile
from laguna_agent.backend.laguna.weights.opening import open_checkpoint
from laguna_agent.backend.laguna.weights.safetensors_file import SafetensorsFile
from laguna_agent.errors import WeightsError
from tests.laguna.bounds import MEMORY, bounded, refused
from tests.laguna.weight_files import CONFIG, random_tensors, write_folder

PROGRAM = Path(__file__).parents[2] / "laguna_agent"


def test_the_limit_of_memory_holds() -> None:
    with pytest.raises(MemoryError), bounded():
        bytearray(MEMORY + (64 << 20))


# -- safetensors ----------------------------------------------------------------------------------------------------


def safetensors(header: bytes | dict[str, Any], data: bytes = bytes(8), length: int | None = None) -> bytes:
    body = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(body) if length is None else length) + body + data


def tensor(shape: Any = (2,), offsets: Any = (0, 8), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "a header of 2^63 bytes": (lambda: safetensors({}, length=1 << 63), "a header of 9223372036854775808 bytes"),
    "a header of 2^64 - 1 bytes": (lambda: safetensors({}, length=(1 << 64) - 1), "a header of"),
    "a header behind the end": (lambda: safetensors({}, length=1 << 20), "a header of 1048576 bytes"),
    "an empty file": (lambda: b"", "the file is empty"),
    "overlap": (lambda: safetensors({"a": tensor(), "b": tensor()}), "overlaps"),
    "a hole": (lambda: safetensors({"a": tensor(offsets=[4, 12])}, bytes(12)), "leaves a hole"),
    "offsets that overflow": (lambda: safetensors({"a": tensor(offsets=[(1 << 64) - 8, 1 << 64])}), "expected sizes"),
    "negative offsets": (lambda: safetensors({"a": tensor(offsets=[-8, 0])}), "expected sizes"),
    "offsets turned round": (lambda: safetensors({"a": tensor(offsets=[8, 0])}), "has -8 bytes"),
    "a shape that overflows": (lambda: safetensors({"a": tensor([1 << 32, 1 << 32])}), "has 8 bytes, expected"),
    "a shape that overflows to what is there": (
        lambda: safetensors({"a": tensor([(1 << 62) + 2])}),
        "expected sizes",
    ),
    "a shape of a million sizes": (lambda: safetensors({"a": tensor([1 << 61] * 1_000_000)}), "at most 8 of them"),
    "numbers of 4000 digits": (lambda: safetensors({"a": tensor([10**4000])}), "expected sizes"),
    "a number of 5000 digits": (
        lambda: safetensors(b'{"a":{"dtype":"F32","shape":[1' + b"0" * 5000 + b'],"data_offsets":[0,8]}}'),
        "not JSON",
    ),
    "duplicate names": (lambda: safetensors(b'{"a":{},"a":{}}'), "a name appears twice"),
    "deep nesting": (lambda: safetensors(b"[" * 300_000), "not JSON"),
    "deep nesting in metadata": (lambda: safetensors(b'{"__metadata__":' + b'{"a":' * 100_000), "not JSON"),
    "ten million lists": (lambda: safetensors(b"[" + b"[]," * 10_000_000 + b"[]]"), "more than 200,000 tensors need"),
    "a million tensors": (
        lambda: safetensors(b"{" + b",".join(b'"%d":{}' % number for number in range(1_000_000)) + b"}"),
        "more than 200,000 tensors need",
    ),
    "a header of 34 MB": (lambda: safetensors(b" " * (34 << 20)), "a header of 35651584 bytes"),
    "a name of 20 MB": (lambda: safetensors(b'{"%s":5}' % (b"x" * (20 << 20))), "has no dtype"),
    "no JSON": (lambda: safetensors(b"\x80\x04."), "not JSON"),
    "a header that is a list": (lambda: safetensors(b"[]"), "its header is a list"),
    "an unknown type": (lambda: safetensors({"a": tensor(dtype="OBJECT")}), "dtype 'OBJECT'"),
    "a type that is no text": (lambda: safetensors({"a": tensor(dtype={"a": 1})}), "dtype"),
    "truncated": (lambda: safetensors({"a": tensor([4], [0, 16])}), "truncated"),
    "something behind the tensors": (lambda: safetensors({"a": tensor()}, bytes(99)), "longer than its header says"),
    "a pickle in disguise": (lambda: pickle.dumps({"a": 1}), "not a sound safetensors file"),
}


@pytest.mark.parametrize(("make", "words"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_safetensors(tmp_path: Path, make: Callable[[], bytes], words: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(make())
    refused(lambda: SafetensorsFile(path), words)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=6), inner, max_size=5),
    max_leaves=12,
)
LINES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "U8", "BF16"]) | JSON_VALUES,
        "shape": st.lists(st.integers(-1, 4) | st.integers(), max_size=10) | JSON_VALUES,
        "data_offsets": st.lists(st.integers(-1, 40) | st.integers(), min_size=2, max_size=2) | JSON_VALUES,
    }
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text(max_size=4), LINES | JSON_VALUES, max_size=4), st.integers(0, 40))
def test_any_header_is_read_or_refused(tmp_path: Path, header: dict[str, Any], size: int) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors(header, bytes(size)))
    try:
        file = SafetensorsFile(path)
    except WeightsError as error:
        assert "\n" not in str(error)
        return
    for name, entry in file.entries.items():
        assert entry.begin <= entry.end <= path.stat().st_size
        assert file.tensor(name).numel() == math.prod(entry.shape)


# -- folders --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.pt", "model.pth", "model.ckpt", "weights.pkl"])
def test_a_pickle_is_refused_by_name_and_never_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / name).write_bytes(pickle.dumps(Trap(tmp_path / "PWNED")))
    refused(lambda: open_checkpoint(tmp_path), f"{name}: is a pickle")
    refused(lambda: open_checkpoint(tmp_path / name), "get the model as .safetensors or .gguf")
    index = {"weight_map": {"model.norm.weight": name}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(lambda: open_checkpoint(tmp_path), f"is said to be in '{name}', which is a pickle")
    assert not (tmp_path / "PWNED").exists()


class Trap:
    """What runs a program where somebody unpickles it."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


def test_the_program_imports_nothing_that_unpickles() -> None:
    unpickling = {"pickle", "dill", "shelve", "marshal", "cloudpickle", "joblib", "transformers"}
    assert not unpickling & {module.partition(".")[0] for module in _imported()}


def test_the_program_names_no_call_that_runs_a_checkpoints_code() -> None:
    words = {"trust_remote_code", "auto_map", "from_pretrained", "weights_only", "unpickle", "Unpickler"}
    for path, nodes in _program().items():
        for node in nodes:
            assert not (isinstance(node, ast.Attribute | ast.Name | ast.keyword) and _word(node) in words), path
            if isinstance(node, ast.Attribute) and node.attr == "load" and isinstance(node.value, ast.Name):
                assert node.value.id not in {"torch", "numpy", "np"}, path


@functools.cache
def _program() -> dict[Path, list[ast.AST]]:
    kinds = (ast.Import, ast.ImportFrom, ast.Attribute, ast.Name, ast.keyword)
    return {
        path: [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, kinds)]
        for path in PROGRAM.rglob("*.py")
    }


def _word(node: ast.Attribute | ast.Name | ast.keyword) -> str | None:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else node.arg


def _imported() -> Iterator[str]:
    for path, nodes in _program().items():
        # What is read there, this process wrote a moment ago.
        for node in nodes if path != PROGRAM / "sandbox" / "archive.py" else ():
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield node.module or ""


def test_code_that_a_checkpoint_brings_does_not_run(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", random_tensors())
    config = json.loads((folder / "config.json").read_text())
    config |= {"auto_map": {"AutoModel": "modeling_evil.Model", "AutoConfig": "modeling_evil.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling_evil.py").write_text(f"import os; os.mkdir({str(tmp_path / 'PWNED')!r})")
    open_checkpoint(folder)
    assert not (tmp_path / "PWNED").exists()


@pytest.mark.parametrize(
    "shard",
    [
        "../outside.safetensors",
        "/etc/passwd.safetensors",
        "a/../../outside.safetensors",
        "no\0.safetensors",
        "",
        ".",
        5,
    ],
)
def test_an_index_cannot_name_what_lies_elsewhere(tmp_path: Path, shard: Any) -> None:
    folder = write_folder(tmp_path / "model", random_tensors(), shards=2)
    save_file({"a": torch.zeros(1)}, tmp_path / "outside.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"model.norm.weight": shard}}))
    refused(lambda: open_checkpoint(folder), "expected a file inside the folder")


def test_a_shard_cannot_be_a_link_out_of_the_folder(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", random_tensors(), shards=2)
    shard = folder / "model-00001-of-00002.safetensors"
    shard.rename(tmp_path / "outside.safetensors")
    shard.symlink_to("../outside.safetensors")
    refused(lambda: open_checkpoint(folder), "leads out of the folder")
    shard.unlink()
    (folder / "deep").symlink_to(tmp_path)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    weight_map = dict.fromkeys(index["weight_map"], "deep/outside.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    refused(lambda: open_checkpoint(folder), "leads out of the folder")


def test_an_index_of_a_million_names(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map":{' + ",".join(f'"{number}":"a"' for number in range(1_000_000)) + "}}")
    refused(lambda: open_checkpoint(tmp_path), "names more than 200,000 tensors")
    index.write_bytes(b" " * (33 << 20))
    refused(lambda: open_checkpoint(tmp_path), "expected a JSON file of at most")


# -- config ---------------------------------------------------------------------------------------------------------

HUGE = (1 << 31) - 1


@pytest.mark.parametrize(
    "change",
    [
        {"vocab_size": HUGE},
        {"hidden_size": HUGE},
        {"head_dim": HUGE - 1},
        {"intermediate_size": HUGE},
        {"num_experts": HUGE},
        {"num_experts": HUGE, "num_experts_per_tok": HUGE},
        {"moe_intermediate_size": HUGE},
        {"num_key_value_heads": 1, "num_attention_heads_per_layer": [HUGE] * 3},
        {"num_hidden_layers": HUGE},
        {"num_hidden_layers": 10**400},
        {
            "num_hidden_layers": 4096,
            "layer_types": None,
            "mlp_layer_types": None,
            "num_attention_heads_per_layer": None,
        },
        {"vocab_size": 1e300},
        {"hidden_size": 0},
        {"num_experts": 0},
        {"rms_norm_eps": "1e-6"},
        {"layer_types": ["full_attention"] * 300_000},
        {"eos_token_id": [2] * 300_000 + [HUGE]},
        {"num_key_value_heads": 0},
    ],
)
def test_absurd_numbers_in_a_config(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = write_folder(tmp_path / "model", random_tensors())
    (folder / "config.json").write_text(json.dumps({**CONFIG, **change}))
    refused(lambda: open_checkpoint(folder), "model")


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, '{"a":1' + "0" * 5000 + "}", "[" + "[]," * 1_400_000]
)
def test_a_config_that_is_a_bomb(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    refused(lambda: load_config(tmp_path), "config.json")


# -- GGUF -----------------------------------------------------------------------------------------------------------


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def gguf(tensors: int = 0, keys: int = 0, body: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, keys) + body + bytes(400)


def sparse(head: bytes, size: int) -> Callable[[Path], None]:
    """A file that says nothing but zeros after `head`, and takes no room on the disk."""

    def write(path: Path) -> None:
        path.write_bytes(head)
        os.truncate(path, size)

    return write


ARRAY = string("a") + struct.pack("<I", 9)
LINE = string("t") + struct.pack("<I", 4)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (sparse(gguf(keys=1, body=ARRAY + struct.pack("<IQ", 0, 1 << 30)), 2 << 30), "1073741824 entries"),
        (sparse(gguf(keys=1, body=ARRAY + struct.pack("<IQ", 8, 100_000_000)), 2 << 30), "100000000 entries"),
        (sparse(gguf(keys=1, body=ARRAY + struct.pack("<IQ", 12, 1 << 61)), 2 << 30), "truncated"),
        (sparse(gguf(keys=1, body=string("a") + struct.pack("<IQ", 8, 1 << 30)), 2 << 30), "header is longer than"),
        (sparse(gguf(keys=1, body=struct.pack("<Q", 1 << 31)), 3 << 30), "header is longer than"),
        (sparse(gguf(keys=100_000_000), 2 << 30), "expected at most"),
        (sparse(gguf(tensors=10_000_000), 2 << 30), "expected at most"),
        (sparse(gguf(tensors=1 << 63), 1 << 20), "more than its"),
        (
            sparse(gguf(tensors=1, body=LINE + struct.pack("<QQQQIQ", *[1 << 47] * 4, 0, 0)), 1 << 20),
            "truncated: tensor 't'",
        ),
        (
            sparse(gguf(keys=1, tensors=0, body=string("general.alignment") + struct.pack("<II", 4, 1 << 31)), 1 << 20),
            "general.alignment is 2147483648",
        ),
        (
            sparse(gguf(keys=1, body=string("a") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 5)), 1 << 20),
            "unknown type",
        ),
    ],
)
def test_hostile_gguf(tmp_path: Path, write: Callable[[Path], None], words: str) -> None:
    path = tmp_path / "m.gguf"
    write(path)
    refused(lambda: GgufFile(path), words)
