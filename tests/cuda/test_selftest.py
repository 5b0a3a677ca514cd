"""The self-test, with the emulator as the device: which kernels it finds wrong, and when it believes what it found."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import pytest

from laguna_agent.backend.kernels.cuda.geometry import S_2_1, XS_2, Geometry, LayerGeometry
from laguna_agent.backend.kernels.cuda.launch import Device
from laguna_agent.backend.kernels.cuda.selftest import Card, Report, examine, kept, sources_hash
from laguna_agent.backend.kernels.cuda.step import decode_kernels, kinds_of
from laguna_agent.backend.kernels.cuda.trial import MODULES, WRONG, try_all
from laguna_agent.backend.kernels.formats import GroupInt
from laguna_agent.errors import KernelError
from tests.cuda.emulator import Emulator
from tests.cuda.samples import SOURCE, sources

SAMPLES = ("tests.cuda.sample_cases",)
CARD = Card("a processor", "0.1", "shim")


def broken(folder: Path, old: str, new: str) -> Path:
    """The samples' sources with one fault."""
    folder.mkdir()
    native = sources(folder)
    text = (native / SOURCE).read_text()
    assert text.count(old) == 1
    (native / SOURCE).write_text(text.replace(old, new))
    return native


def examined(native: Path) -> Report:
    return examine(CARD, (XS_2,), partial(Emulator, native), native=native, modules=SAMPLES)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache directory of its own."""
    monkeypatch.setattr("laguna_agent.backend.kernels.cuda.selftest.cache_directory", lambda: tmp_path / "cache")


def test_one_wrong_kernel_is_named_kept_and_forgotten_when_the_sources_change(tmp_path):
    native = broken(tmp_path / "broken", "x[threadIdx.x] * round", "x[threadIdx.x]")
    report = examined(native)
    assert report.faulty == {"rounds"} and [each.problem for each in report.tried] == [""] * 6
    assert [each.right for each in report.tried] == [True, True, False, False, True, True]
    assert all("XS.2" in each.label for each in report.tried)
    assert kept(CARD, (XS_2,), native) == report
    # Another driver, other sizes, other sources: nothing is known.
    assert kept(Card(CARD.name, "0.2", CARD.architecture), (XS_2,), native) is None
    assert kept(CARD, (S_2_1,), native) is None
    (native / SOURCE).write_text((native / SOURCE).read_text() + "// Changed.\n")
    assert kept(CARD, (XS_2,), native) is None


@pytest.mark.slow
def test_a_kernel_that_ends_its_process_is_named_and_the_others_are_tried(tmp_path):
    native = broken(
        tmp_path / "broken", "pool()[threadIdx.x] = x[threadIdx.x] * round", "pool()[threadIdx.x + 1] = round"
    )
    told = []
    found = try_all(partial(Emulator, native), (XS_2,), SAMPLES, told.append)
    assert tuple(told) == found
    assert [(each.family, each.right) for each in found] == [
        ("reverse", True),
        ("reverse", True),
        ("rounds", False),
        ("sums", True),
        ("sums", True),
    ]
    assert "it ended the process" in found[2].problem


@pytest.mark.slow
def test_a_kernel_that_does_not_compile_or_never_ends_is_named(tmp_path):
    native = broken(tmp_path / "text", "sum += pool()[blockDim.x - 1 - threadIdx.x];", "sum += nonsense;")
    found = try_all(partial(Emulator, native), (XS_2,), SAMPLES, lambda each: None)
    assert {each.family for each in found if not each.right} >= {"rounds"}
    assert any("nonsense" in each.problem for each in found)
    native = broken(tmp_path / "endless", "if (SECOND) __syncthreads();", "round -= x[0] == 0.0f;")
    found = try_all(partial(Emulator, native), (XS_2,), SAMPLES, lambda each: None, patience=20.0)
    assert [each.family for each in found if not each.right] == ["rounds"]
    assert "did not end within 20 seconds" in found[2].problem and len(found) == 5


@pytest.mark.slow
def test_numbers_that_are_none_are_no_error_of_the_process(tmp_path):
    native = broken(tmp_path / "race", "if (BARRIER) __syncthreads();", "")
    found = try_all(partial(Emulator, native), (XS_2,), SAMPLES, lambda each: None)
    assert [each.problem for each in found] == [WRONG] * 2 + [""] * 4


@pytest.mark.slow
def test_a_device_that_cannot_be_made_is_an_error():
    with pytest.raises(KernelError, match=r"cannot begin.*no such device"):
        try_all(nowhere, (XS_2,), SAMPLES, lambda each: None)


def nowhere() -> Device:
    raise KernelError("no such device")


def test_a_damaged_result_is_as_good_as_none(tmp_path, monkeypatch):
    monkeypatch.setattr("laguna_agent.backend.kernels.cuda.selftest.try_all", lambda *given: ())
    native = sources(tmp_path)
    examined(native)
    # Nothing was tried: that says nothing.
    assert kept(CARD, (XS_2,), native) is None
    (path,) = (tmp_path / "cache" / "selftest").glob("*.json")
    path.write_bytes(path.read_bytes()[:-5])
    assert kept(CARD, (XS_2,), native) is None


def test_the_hash_of_the_sources_is_that_of_their_texts(tmp_path):
    one, other = broken(tmp_path / "one", "int round = 1", "int round = 2"), tmp_path / "other"
    shutil.copytree(one, other)
    assert sources_hash(one) == sources_hash(other) != sources_hash()


def test_without_a_gpu_nothing_is_claimed(capfd, monkeypatch):
    from laguna_agent.cli.app import run_command

    monkeypatch.setattr("laguna_agent.backend.kernels.cuda.driver_api.LIBRARY", "libcuda-that-is-not-there.so.1")
    assert run_command(["selftest"]) == 2
    assert capfd.readouterr().out.startswith("no kernel was tried: ")
    assert run_command(["selftest", "--json"]) == 2
    said = json.loads(capfd.readouterr().out)
    assert said["ok"] is False and said["gpu"] is None and "tried" not in said


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_kernel_of_a_step_is_tried_and_right():
    layers = (
        LayerGeometry(4, 16, 0, "per-head", 96),
        LayerGeometry(6, 32, 40, "per-element"),
        LayerGeometry(4, 16, 0, "per-head"),
    )
    tiny = Geometry("tiny", 160, 64, 2, 32, layers, 8, 2, 32, 32)
    kernels = [each for rows in (1, 2, 4, 8) for each in decode_kernels(tiny, rows, kinds_of(tiny, GroupInt(4, 32)))]
    found = try_all(Emulator, (tiny,), MODULES, lambda each: None)
    assert [each for each in found if not each.right] == []
    assert {each.family for each in found} >= {"probe", *(kernel.family for kernel in kernels)}
