"""A checkpoint is somebody's file: whatever is in it, it is refused in one line, at once, in little memory.

Each case runs under a limit of memory beyond what the process has, and of processor time.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import json
import math
import os
import pickle
import re
import resource
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from laguna_agent.backend.laguna.config_json import load_config
from laguna_agent.backend.laguna.template import read_template
from laguna_agent.backend.laguna.tokenizer import read_tokenizer
from laguna_agent.backend.laguna.tokenizer_rules import check_expression
from laguna_agent.backend.laguna.weights.gguf_file import GgufFile
from laguna_agent.backend.laguna.weights.opening import open_checkpoint
from laguna_agent.backend.laguna.weights.safetensors_file import SafetensorsFile
from laguna_agent.errors import ConfigError, LagunaError, UsageError, WeightsError
from laguna_agent.messages import text_message
from tests.laguna.small_tokenizer import WORDS, small_library
from tests.laguna.weight_files import CONFIG, random_tensors, write_folder

MEMORY = 200 << 20
SECONDS = 1.0
PROGRAM = Path(__file__).parents[2] / "laguna_agent"


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """At most 200 MB more of private memory, and one second of the processor."""
    torch.zeros(1)
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    used = 4096 * int(Path("/proc/self/statm").read_text().split()[5]) if Path("/proc/self/statm").exists() else 0
    started = time.process_time()
    if used:
        resource.setrlimit(resource.RLIMIT_DATA, (used + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
    assert time.process_time() - started < SECONDS


def refused(open_it: Callable[[], Any], words: str) -> None:
    with bounded(), pytest.raises(LagunaError, match=re.escape(words)) as caught:
        open_it()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1_000


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
    for nodes in _program().values():
        for node in nodes:
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


@pytest.mark.parametrize("name", ["tokenizer.json", "chat_template.jinja", "x.jinja"])
def test_a_pipe_beside_the_weights_stops_nothing(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    reader = read_tokenizer if name == "tokenizer.json" else read_template
    with bounded(), pytest.raises(ConfigError, match="file"):
        reader(tmp_path)


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


# -- tokenizer ------------------------------------------------------------------------------------------------------


def tokenizer(**changes: Any) -> bytes:
    config = json.loads(small_library().to_str())
    return json.dumps({**config, **changes}).encode()


def split(expression: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: b'{"model":{"type":"BPE"},"x":[' + b"[]," * 5_000_000 + b"[]]}", "more than any vocabulary needs"),
        (lambda: b'{"added_tokens":[' + b"{}," * 1_000_000 + b"{}]}", "more than any vocabulary needs"),
        (lambda: b" " * (65 << 20), "expected a file of at most"),
        (lambda: b"[" * 1_000_000, "not a tokenizer.json"),
        (lambda: b'{"model":' + b'{"type":' * 150_000, "not a tokenizer.json"),
        (lambda: tokenizer(pre_tokenizer=split(r"(a+)+$")), "repeats a group"),
        (
            lambda: tokenizer(pre_tokenizer={"type": "Sequence", "pretokenizers": [split(r"(\w|\d)*x")]}),
            "repeats a group",
        ),
        (
            lambda: tokenizer(pre_tokenizer={"type": "Sequence", "pretokenizers": [split("a")] * 30}),
            "more than 16 steps",
        ),
        (
            lambda: tokenizer(normalizer={"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1_000_000}),
            "normalizer 'Replace' is not supported",
        ),
        (lambda: tokenizer(normalizer={"type": "Prepend", "prepend": "a" * 1_000_000}), "normalizer 'Prepend'"),
        (lambda: tokenizer(normalizer={"type": "Precompiled", "precompiled_charsmap": "A" * 2_000_000}), "1,048,576"),
        (lambda: tokenizer(model={"type": "WordLevel", "vocab": {}, "unk_token": "a"}), "expected 'BPE'"),
    ],
)
def test_hostile_tokenizers(tmp_path: Path, make: Callable[[], bytes], words: str) -> None:
    (tmp_path / "tokenizer.json").write_bytes(make())
    refused(lambda: read_tokenizer(tmp_path), words)


@pytest.mark.parametrize(
    "expression",
    [
        r"(a+)+$", r"(a*)*b", r"(a|a)*b", r"(?:a?a)+b", r"((a)+)+", r"(?i:x+)+", r"(?=a+)*", r"(a{1,9}){1,9}",
        r"a*a*a*b", r"\s*\s*\s*x", r"a{0,999}a{0,999}a{0,999}b", "a?" * 30 + "a" * 30, r"(a)\1+", r"\g<0>",
        r"(?<n>a\g<n>?)", r"\k<n>", r"(?>a+)(?R)", "a" * 3000, None, 5,
    ],
)  # fmt: skip
def test_expressions_that_could_take_for_ever(expression: Any) -> None:
    with pytest.raises(ConfigError, match="regular expression"):
        check_expression(expression, "t")


@pytest.mark.parametrize(
    "expression",
    [
        WORDS,
        r"(?:\r?\n)+(?!\r?\n)",
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
    ],
)
def test_expressions_of_released_tokenizers_are_taken(expression: str) -> None:
    check_expression(expression, "t")


def test_a_released_kind_of_tokenizer_is_read(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(tokenizer(normalizer={"type": "NFC"}))
    assert (
        read_tokenizer(tmp_path).decode(read_tokenizer(tmp_path).encode("def a(): return 1\n")) == "def a(): return 1\n"
    )


# -- templates ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.mkdir('PWNED') }}",
        "{{ messages.__class__.__base__ }}{{ self.__init__.__globals__ }}{% do messages.append(1) %}",
        "{% for a in range(100000000) %}x{% endfor %}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'x' * 1000000000 }}",
        "{% set ns = namespace(a='x') %}{% for i in range(60) %}{% set ns.a = ns.a ~ ns.a %}{% endfor %}{{ ns.a }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ 10 ** 10 ** 10 }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ ['x'] * 100000000 }}",
        "{{ ('x' * 1000000)|replace('x', 'x' * 1000000) }}",
        "{% include '/etc/passwd' %}",
        "{% include '../../etc/passwd' %}",
    ],
)
def test_hostile_templates(tmp_path: Path, template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}" + template)
    started = time.process_time()
    try:
        text = read_template(tmp_path).render([text_message("user", "hello")])
    except (ConfigError, UsageError) as error:
        assert "\n" not in str(error)
    else:
        assert "root:" not in text
        assert "class" not in text
    assert time.process_time() - started < 5
    assert not (tmp_path / "PWNED").exists()


def test_a_template_that_is_too_long(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("{% if 1 %}" * 500_000)
    refused(lambda: read_template(tmp_path), "chat_template.jinja")
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "tokenizer_config.json").write_bytes(b'{"chat_template":"' + b"x" * (9 << 20) + b'"}')
    refused(lambda: read_template(tmp_path), "expected a JSON file of at most")
