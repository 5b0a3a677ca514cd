"""Compiled programs on disk, and where the compiler is found."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from laguna_agent.backend.kernels.cuda import nvrtc
from laguna_agent.backend.kernels.cuda.cubins import Cubins
from laguna_agent.backend.kernels.cuda.nvrtc import Nvrtc, architecture_for
from laguna_agent.errors import KernelError
from tests.cuda.fake_driver import FakeCompiler


def test_what_was_compiled_is_read_again(tmp_path: Path) -> None:
    first, second = FakeCompiler(), FakeCompiler()
    image = Cubins(first, tmp_path / "new").of("text", "sm_90a")
    assert Cubins(second, tmp_path / "new").of("text", "sm_90a") == image == b"sm_90a\ntext\0"
    assert len(first.compiled) == 1 and second.compiled == []
    kept = list((tmp_path / "new").iterdir())
    assert [stat.S_IMODE(path.stat().st_mode) for path in kept] == [0o600]


def test_another_text_architecture_or_compiler_is_another_file(tmp_path: Path) -> None:
    compiler = FakeCompiler()
    cubins = Cubins(compiler, tmp_path)
    places = {cubins.place("text", "sm_80"), cubins.place("text ", "sm_80"), cubins.place("text", "sm_86")}
    compiler.version = "another"
    places.add(cubins.place("text", "sm_80"))
    assert len(places) == 4


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "only a digest", "a directory"])
def test_a_damaged_file_is_made_again(tmp_path: Path, damage: str) -> None:
    compiler = FakeCompiler()
    cubins = Cubins(compiler, tmp_path)
    image = cubins.of("text", "sm_80")
    place = cubins.place("text", "sm_80")
    kept = place.read_bytes()
    if damage == "a directory":
        place.unlink()
        place.mkdir()
    else:
        damaged = {"cut": kept[:-1], "flipped": kept[:-1] + b"\1", "empty": b"", "only a digest": kept[:32]}
        place.write_bytes(damaged[damage])
    assert cubins.of("text", "sm_80") == image
    assert len(compiler.compiled) == 2
    if damage != "a directory":
        assert place.read_bytes() == kept


def test_without_a_place_to_keep_them_they_are_compiled_each_time(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where a directory should be")
    compiler = FakeCompiler()
    cubins = Cubins(compiler, tmp_path / "taken" / "kernels")
    assert cubins.of("text", "sm_80") == cubins.of("text", "sm_80")
    assert len(compiler.compiled) == 2


def test_what_does_not_compile_leaves_nothing(tmp_path: Path) -> None:
    cubins = Cubins(FakeCompiler(broken="fault"), tmp_path / "kept")
    with pytest.raises(KernelError, match="error: fault"):
        cubins.of("a fault", "sm_80")
    assert not (tmp_path / "kept").exists()


def test_a_file_of_others_is_closed_to_them(tmp_path: Path) -> None:
    cubins = Cubins(FakeCompiler(), tmp_path)
    cubins.of("text", "sm_80")
    place = cubins.place("text", "sm_80")
    place.chmod(0o666)
    cubins.of("text", "sm_80")
    assert stat.S_IMODE(place.stat().st_mode) == 0o600


def test_the_default_place_is_the_cache_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cubins = Cubins(FakeCompiler())
    cubins.of("text", "sm_80")
    assert cubins.place("text", "sm_80").parent == tmp_path / "laguna-agent" / "kernels"
    assert cubins.place("text", "sm_80").exists()


def test_the_library_of_torchs_own_cuda_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so.11.2", "libnvrtc-builtins.so.13.5", "libnvrtc.alt.so.13")
    for name in names:
        (tmp_path / name).write_bytes(b"")
    monkeypatch.setattr(nvrtc, "_folders", lambda: iter([tmp_path, tmp_path / "absent"]))
    monkeypatch.setattr(nvrtc, "find_library", lambda name: None)
    for major, first in ((12, "libnvrtc.so.12"), (13, "libnvrtc.so.13"), (0, "libnvrtc.so.13")):
        monkeypatch.setattr(nvrtc, "_torch_major", lambda major=major: major)
        found = [os.path.basename(path) for path in nvrtc.candidates()]
        assert found[0] == first and sorted(found) == sorted(names[:3])


def test_without_a_compiler_the_error_says_what_brings_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvrtc.nvrtc.cache_clear()
    monkeypatch.setattr(nvrtc, "_folders", lambda: iter([tmp_path]))
    monkeypatch.setattr(nvrtc, "find_library", lambda name: None)
    with pytest.raises(KernelError, match="nvidia-cuda-nvrtc"):
        nvrtc.nvrtc()
    (tmp_path / "libnvrtc.so.13").write_bytes(b"no library")
    with pytest.raises(KernelError, match=r"libnvrtc\.so\.13 is no NVRTC that can be used"):
        nvrtc.nvrtc()
    with pytest.raises(KernelError, match="is no NVRTC"):
        # A library, but another one.
        Nvrtc("libc.so.6")


def test_code_for_one_chip_is_not_given_to_another() -> None:
    # 8.7 and 11.0 are systems on one chip, whose code no other GPU runs.
    assert architecture_for((8, 7), (80, 86, 87, 89)) == "sm_87"
    assert architecture_for((8, 8), (80, 86, 87)) == "sm_86"
    assert architecture_for((12, 1), (90, 110, 120)) == "sm_120"
    with pytest.raises(KernelError):
        architecture_for((6, 1), (75, 80))
