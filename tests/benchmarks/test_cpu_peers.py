"""The benchmark against CPU peers: its counts, its judgement, and the whole of it with ours alone on a small model."""

import json

import cpu_peers
import numpy as np
import pytest
from cpu_peers_asked import Contender
from cpu_peers_bytes import Traffic, packed_sizes, stored_sizes, traffic
from cpu_peers_course import Column, Course, Floor
from cpu_peers_figures import Figures, guard_table, ratio_table, ratios, table
from cpu_peers_guard import Judgement, judgement
from random_laguna import as_llama_quantize, random_checkpoint

from laguna_agent.directories import cache_directory
from tests.laguna.conftest import share_kernels
from tests.laguna.small_tokenizer import gguf_metadata, small_library
from tests.laguna.twins import VOCABULARY, gguf_keys, settings, tensors
from tests.laguna.weight_files import gguf_tensors, write_gguf

DECODE, PREFILL = Column("decode", 128), Column("prefill", 512)


def test_bytes_of_a_token_are_those_that_the_geometry_has():
    checkpoint = random_checkpoint(40, as_llama_quantize("Q4_0", 40), "test")
    theirs = traffic(checkpoint.config, stored_sizes(checkpoint))
    # 2.585 billion weights at 4.5 bits, the head's 206 million at 6.5625, 24 million at 32; the embedding's one row.
    assert theirs.weights == pytest.approx(2.585e9 * 4.5 / 8 + 0.2055e9 * 6.5625 / 8 + 0.0240e9 * 4, rel=5e-3)
    ours = traffic(checkpoint.config, packed_sizes(checkpoint, "int4"))
    # Our head has 8.125 bits where theirs has 6.5625; all else is stored alike.
    assert ours.weights - theirs.weights == pytest.approx(100352 * 2048 * (8.125 - 6.5625) / 8, rel=0.01)
    # Keys and values of 8 heads of 128 numbers in 2 bytes: 10 layers see all tokens, 30 the last 512.
    assert ours.at(8192) - ours.weights == 2 * 8 * 128 * 2 * (10 * 8192 + 30 * 512)
    assert ours.at(100) - ours.weights == 2 * 8 * 128 * 2 * 40 * 100


def logits_file(path, values):
    values.astype(np.float32).tofile(path)
    return path


def test_the_guard_sees_what_is_far_and_forgives_what_changes_no_probability(tmp_path):
    source = np.random.default_rng(1)
    right = source.standard_normal((50, 300)) * 4
    exact = logits_file(tmp_path / "exact", right)
    moved = judgement(exact, logits_file(tmp_path / "moved", right + source.standard_normal((50, 1))), 300)
    assert moved.holds
    assert moved.rms < 1e-5
    assert moved.top == 1.0
    near = judgement(exact, logits_file(tmp_path / "near", right + 0.08 * source.standard_normal((50, 300))), 300)
    assert near.rms == pytest.approx(0.02, rel=0.1)
    # To second order the divergence is half the error's variance under the probabilities: the more even, the more.
    chances = np.exp(right) / np.exp(right).sum(1, keepdims=True)
    assert near.kl == pytest.approx(0.08**2 / 2 * (1 - np.square(chances).sum(1).mean()), rel=0.2)
    assert near.holds
    far = judgement(exact, logits_file(tmp_path / "far", right + source.standard_normal((50, 300))), 300)
    assert not far.holds
    broken = judgement(exact, logits_file(tmp_path / "broken", np.where(right > 9, np.nan, right)), 300)
    assert not broken.holds
    with pytest.raises(SystemExit, match="49 rows of logits, exact 50"):
        judgement(exact, logits_file(tmp_path / "short", right[:49]), 300)


def course_of(rates, held):
    """Figures of contenders that decoded at those rates, in three rounds of which one was disturbed."""
    figures = {}
    for name, rate in rates.items():
        contender = Contender(name, ["none"], {}, Traffic(10**9, 0, 0, 0), ours=name == "ours")
        figures[name] = Figures(contender, {"open_s": 0.5})
        for seconds in (1 / rate, 10 / rate, 0.99 / rate):
            figures[name].add(DECODE, {"seconds": seconds, "joules": None})
    figures["ours"].guard = Judgement(0.01 if held else 0.5, 0.001, 1.0, 100)
    floors = {("llama.cpp", DECODE.name): Floor(1.6, 2.3)}
    return Course("test", [one.contender for one in figures.values()], [PREFILL, DECODE], [], floors), figures


@pytest.mark.parametrize(
    ("ours", "held", "verdict"),
    [
        (15.9, True, "floor 1.6 NOT met, aim 2.3 not met"),
        (16.1, True, "floor 1.6 met, aim 2.3 not met"),
        (24.0, True, "floor 1.6 met, aim 2.3 met"),
        (24.0, False, "does not count (floor 1.6 met, aim 2.3 met)"),
    ],
)
def test_ratios_are_of_medians_and_count_only_while_the_logits_hold(ours, held, verdict):
    course, figures = course_of({"ours": ours, "llama.cpp Q4_0": 10.0}, held)
    (ratio,) = ratios(course, figures)
    assert ratio.value == pytest.approx(ours / 10)
    assert ratio.verdict == verdict
    assert verdict in "\n".join(ratio_table(course, figures, 32e9))
    lines = table(course, figures, 32e9)
    assert f"{ours:.2f}" in lines[2]
    assert f"{ours / 32:.0%}" in lines[2]
    assert ("NOT" in guard_table(figures)[1]) != held
    assert figures["ours"].as_json(32e9)["columns"][DECODE.name]["share_of_read_limit"] == pytest.approx(ours / 32)


@pytest.mark.timeout(400)
@pytest.mark.slow
def test_the_whole_of_it_with_ours_alone(tmp_path, tmp_path_factory, capsys):
    share_kernels(tmp_path_factory, cache_directory())
    config = settings()
    keys, metadata = gguf_keys(config), gguf_metadata(small_library(VOCABULARY))
    path = write_gguf(tmp_path / "small.gguf", gguf_tensors(tensors(config, 1)), keys, vocabulary=metadata)
    asked = ["--courses", "real", "--gguf", str(path), "--contenders", "ours int4", "--folder", str(tmp_path)]
    asked += ["--prefill", "30", "--decode", "20", "--tokens", "2", "--rounds", "2", "--judged", "60"]
    status = cpu_peers.main([*asked, "--threads", "1", "--gib", "0.02"])
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    (course,) = told["courses"]
    (ours,) = course["contenders"].values()
    assert len(ours["columns"]["prefill 30"]["seconds"]) == len(ours["columns"]["decode 20"]["seconds"]) == 2
    assert told["limits"]["read_bytes_per_s"] > 1e8
    assert ours["memory"]["rss"] > ours["memory"]["anonymous"] > 0
    assert ours["guard"]["rows"] == 12
    assert ours["guard"]["holds"] == (status == 0)
