"""The ceilings: against figures worked out on their own, and that they are called what they are."""

from __future__ import annotations

import json

import pytest
import torch

from laguna_agent.backend.kernels.cuda.cards import CARDS, sheet_of
from laguna_agent.backend.kernels.cuda.geometry import M_1, PUBLISHED, XS_2
from laguna_agent.backend.kernels.cuda.roofline import SCHEMES, Row, Weights, key_bytes, roofline, row_of
from laguna_agent.backend.kernels.formats import GroupInt
from laguna_agent.cli.app import run_command

INT4 = Weights("int4 in groups of 128", GroupInt(4, 128), GroupInt(4, 128), GroupInt(4, 128))
KNOWN = {
    # Of XS.2: GB of all weights, GB that a token reads, tokens per second of some cards.
    "bf16": (66.9, 5.62, {"H100": 596}),
    "FP8, head bf16": (33.9, 3.04, {"H100": 1103}),
    "official INT4": (23.9, 4.28, {"3090": 219, "4090": 236, "5090": 419, "H100": 783}),
    "experts INT4, rest int8": (22.1, 2.50, {"3090": 375, "4090": 404, "5090": 717, "H100": 1341}),
    INT4.name: (17.6, 1.48, {"3090": 632, "4090": 681, "5090": 1211, "H100": 2264}),
}


@pytest.mark.parametrize("weights", [*SCHEMES[:4], INT4], ids=lambda weights: weights.name)
def test_bytes_and_ceilings_of_the_small_model_are_the_known_ones(weights):
    row = row_of(XS_2, weights, 0)
    everything, token, ceilings = KNOWN[weights.name]
    # The known ones leave out what scales of single rows take: up to 2 parts in 100.
    assert row.nbytes / 1e9 == pytest.approx(everything, rel=0.02)
    assert row.token_bytes / 1e9 == pytest.approx(token, rel=0.02)
    cards = {card.short: card for card in CARDS}
    assert {name: row.ceiling(cards[name]) for name in ceilings} == pytest.approx(ceilings, rel=0.02)


def test_keys_are_those_of_the_context_and_of_windows():
    assert key_bytes(XS_2, 32768) / 1e9 == pytest.approx(1.41, rel=0.005)
    assert key_bytes(XS_2, 131072) / 1e9 == pytest.approx(5.43, rel=0.005)
    assert key_bytes(M_1, 1000) == 70 * 1000 * 2 * 2 * 8 * 128 and key_bytes(XS_2, 0) == 0


def test_what_fits_and_how_many_launches():
    cards = {card.short: card for card in CARDS}
    small = {row.weights: row for row in roofline((XS_2,), 8192)}
    assert small["our int4"].fits(cards["4090"]) and not small["our int4"].fits(cards["4070"])
    assert not small["official INT4"].fits(cards["4090"]) and small["official INT4"].fits(cards["5090"])
    # Ten kernels of a sparse layer, eight of the dense one; the embedding, the head, sampling.
    for row in small.values():
        assert 300 < row.launches < 500 and row.launches_as_graphs == 2
    rows = roofline(PUBLISHED, 8192)
    assert [row.model for row in rows] == ["XS.2"] * 5 + ["S 2.1"] * 4 + ["M.1"] * 4
    assert not any(row.fits(card) for row in rows for card in CARDS if row.model == "M.1" and row.weights == "bf16")


def test_a_row_counts_keys_as_read_and_as_held():
    row, card = Row("m", "w", 10**10, 10**9, 10**9, 1, 1), CARDS[0]
    assert row.ceiling(card) == card.bandwidth / 2e9
    assert row.fits(card) and not Row("m", "w", 12 << 30, 10**9, 0, 1, 1).fits(card)


def test_a_card_is_known_by_the_driver_s_name_and_no_other_one_is():
    known = {
        "NVIDIA GeForce RTX 4090": "4090",
        "NVIDIA GeForce RTX 3060": "3060",
        "NVIDIA A100-SXM4-80GB": "A100",
        "NVIDIA H100 80GB HBM3": "H100",
        "NVIDIA H200": "H200",
        "NVIDIA RTX PRO 6000 Blackwell Workstation Edition": "PRO 6000",
    }
    found = {name: sheet_of(name) for name in known}
    assert {name: sheet.short if sheet else "" for name, sheet in found.items()} == known
    for other in (
        "NVIDIA GeForce RTX 4070 Ti SUPER",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA H100 PCIe",
        "Tesla T4",
    ):
        assert sheet_of(other) is None


def test_the_command_says_that_nothing_was_measured(capfd):
    assert run_command(["bench", "roofline", "--model", "xs2", "--context", "0"]) == 0
    said = capfd.readouterr().out
    assert "Nothing was measured" in said and "S 2.1" not in said and " 236 " in said.replace("  ", " ")
    assert run_command(["bench", "roofline", "--model", "M.1", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["measured"] is False and told["context"] == 8192
    assert len(told["rows"]) == 4 * len(CARDS) and {row["model"] for row in told["rows"]} == {"M.1"}
    assert not torch.cuda.is_initialized()
