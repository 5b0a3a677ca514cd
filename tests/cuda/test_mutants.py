"""Every fault planted into the kernels is noticed by the small cases; what is noticed, and how it is told apart."""

from __future__ import annotations

import faulthandler
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from laguna_agent.backend.kernels.cuda.launch import NATIVE
from tests.cuda.battery import FAMILIES, WRONG, first_wrong, small_cases
from tests.cuda.mutants import Mutant
from tests.cuda.mutants.killing import mutants_of, planted, tried, unchanged

LEAST = 40
THREE = {
    "the sum over lanes stops before the last step": "sums and the largest of lanes",
    "exponent of e4m3": "codes of laguna::Fp8<128, laguna::F32>",
    "no barrier between writing and reading shared memory": "through shared memory",
}
"""Faults, and a case that must notice each."""


def test_each_fault_has_a_place_of_its_own(tmp_path):
    total = 0
    for family in FAMILIES:
        listed = mutants_of(family)
        assert len({mutant.fault for mutant in listed}) == len(listed), family
        for number, mutant in enumerate(listed):
            native = planted(mutant, tmp_path / f"{family}-{number}")
            assert (native / mutant.source).read_text() != (NATIVE / mutant.source).read_text()
        total += len(listed)
    assert total >= LEAST


def test_a_fault_that_is_in_no_place_is_told(tmp_path):
    with pytest.raises(ValueError, match="0 places"):
        planted(Mutant("platform.cuh", "no such text", "", "nothing"), tmp_path)


@pytest.mark.parametrize("fault", THREE)
def test_three_faults_are_noticed_by_one_case_each(tmp_path, fault):
    (mutant,) = (each for each in mutants_of("probe") if each.fault == fault)
    cases = [case for case in small_cases("probe") if case.label == THREE[fault]][:1]
    for native, wanted in ((NATIVE, 0), (planted(mutant, tmp_path), WRONG)):
        child = os.fork()
        if child == 0:
            faulthandler.disable()
            torch.set_num_threads(1)
            os._exit(WRONG if first_wrong(cases, native, (1, 2)) else 0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == wanted


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_small_cases_notice_every_fault(family):
    seconds = unchanged(family)
    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        verdicts = pool.map(lambda mutant: (mutant, tried(family, mutant, seconds)), mutants_of(family))
        assert [(mutant.fault, verdict.how) for mutant, verdict in verdicts if not verdict.killed] == []


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_what_changes_nothing_survives_and_what_does_not_compile_is_no_kill():
    harmless = Mutant("linear.cuh", "#pragma once\n", "#pragma once\n// Nothing.\n", "a comment")
    broken = Mutant("linear.cuh", "#pragma once\n", "#pragma once\nnonsense\n", "no C++")
    verdict = tried("linear", harmless, 60.0, (1,))
    assert not verdict.killed and verdict.how == ""
    verdict = tried("linear", broken, 60.0, (1,))
    assert not verdict.killed and "the battery itself failed" in verdict.how
