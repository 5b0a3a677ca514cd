"""The texts of a checkpoint, its tokenizer and its template, as hostile input: refused or stopped, in bounds."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from laguna_agent.backend.laguna.template import read_template
from laguna_agent.backend.laguna.tokenizer import read_tokenizer
from laguna_agent.backend.laguna.tokenizer_rules import check_expression
from laguna_agent.errors import ConfigError, UsageError
from laguna_agent.messages import text_message
from tests.laguna.bounds import bounded, refused
from tests.laguna.small_tokenizer import WORDS, small_library

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


@pytest.mark.parametrize("name", ["tokenizer.json", "chat_template.jinja", "x.jinja"])
def test_a_pipe_beside_the_weights_stops_nothing(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    reader = read_tokenizer if name == "tokenizer.json" else read_template
    with bounded(), pytest.raises(ConfigError, match="file"):
        reader(tmp_path)
