"""Which library of compiled kernels is used: installed, compiled here, or none; and the variant that is asked for.

Processes of their own with an empty cache directory and a PATH of their own. Where a compiler must deliver, a script
plays it that hands out the library of this test run, for compiling takes half a minute; `tests/native` compiles.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from laguna_agent.backend.kernels.cpu import library as module
from laguna_agent.backend.kernels.cpu.building import digest_of_sources
from laguna_agent.errors import ConfigError
from tests.laguna.kernel_variants import opened
from tests.laguna.processor import variants_here

# A compiler that a developer happens to have as a package is not there either.
BEGIN = "import sys; sys.modules['ziglang'] = None; from laguna_agent.backend.kernels.cpu import library; "
ASKING = BEGIN + "print(library.status())"
LOOKING = BEGIN + "print(*library.outlook())"


def start(cache: Path, path: str, code: str = ASKING, **more: str) -> subprocess.Popen[str]:
    environment = os.environ | {"XDG_CACHE_HOME": str(cache), "PATH": path, "LAGUNA_COMPILE_KERNELS": "1"} | more
    command = [sys.executable, "-c", code]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def says(process: subprocess.Popen[str]) -> str:
    """The status that it printed."""
    out, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    return out.strip()


def script(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    place = folder / name
    place.write_text(f"#!/bin/sh\n{text}\n")
    place.chmod(0o755)
    return place


@pytest.fixture
def delivering(tmp_path: Path) -> Path:
    """A compiler that delivers the library of this test run, and counts how often it has linked one."""
    log = tmp_path / "linked"
    lines = (
        "for out; do :; done",
        f'[ "$1" = --version ] || cp {opened()._name} "$out"',
        f'[ "$1" != -shared ] || echo linked >> {log}',
    )
    return script(tmp_path / "bin", "delivering", "\n".join(lines))


def test_without_a_compiler_there_is_none_and_it_says_so(tmp_path, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    (tmp_path / "bin").mkdir()
    empty = str(tmp_path / "bin")
    none = "plain torch, slow: no C++ compiler: none of c++, g++, clang++ is installed, nor the package ziglang"
    assert says(start(tmp_path / "cache", empty)) == none
    assert says(start(tmp_path / "cache", empty, LOOKING)) == f"False {none}"
    assert "$CXX is 'nowhere/c++', which is not there" in says(start(tmp_path / "cache", empty, CXX="nowhere/c++"))
    asked = start(tmp_path / "cache", empty, LAGUNA_KERNEL_VARIANT="portable").communicate()[1].splitlines()[-1]
    assert "ConfigError: LAGUNA_KERNEL_VARIANT=portable: there are no compiled kernels: no C++ compiler" in asked
    assert not (tmp_path / "cache").exists()


def test_a_compiler_that_fails_is_quoted(tmp_path):
    broken = script(tmp_path / "bin", "broken-c++", 'echo "k.cpp:1: error: it is Monday" >&2; exit 1')
    status = says(start(tmp_path / "cache", os.environ["PATH"], CXX=str(broken)))
    assert status == f"plain torch, slow: {broken} cannot compile the kernels: k.cpp:1: error: it is Monday"
    assert not list((tmp_path / "cache").rglob("*.so"))


def test_a_library_of_rubbish_is_not_used(tmp_path):
    rubbish = script(tmp_path / "bin", "rubbish-c++", 'for out; do :; done\n[ "$#" = 1 ] || echo rubbish > "$out"')
    status = says(start(tmp_path / "cache", os.environ["PATH"], CXX=str(rubbish)))
    assert status.startswith("plain torch, slow: ") and "cannot be opened" in status and status.endswith("delete it")


def test_a_cache_that_cannot_be_written_has_a_refuge(tmp_path, delivering):
    (tmp_path / "cache").write_text("a file where a folder should be")
    (tmp_path / "refuge").mkdir()
    places = {"CXX": str(delivering), "TMPDIR": str(tmp_path / "refuge")}
    assert says(start(tmp_path / "cache", os.environ["PATH"], **places)).startswith("compiled kernels")
    assert list((tmp_path / "refuge").rglob("*.so"))


def test_two_processes_build_once_and_a_third_finds_it(tmp_path, delivering):
    path, chosen = os.environ["PATH"], {"CXX": str(delivering)}
    before = says(start(tmp_path / "cache", path, LOOKING, **chosen))
    assert before == f"True {delivering} compiles the kernels when a local model is first opened"
    assert not (tmp_path / "cache").exists()
    processes = [start(tmp_path / "cache", path, **chosen) for _ in range(2)]
    first, second = (says(process) for process in processes)
    assert first == second and first.startswith(f"compiled kernels ({variants_here()[0]}), compiled here: ")
    assert says(start(tmp_path / "cache", path, **chosen)) == first
    assert says(start(tmp_path / "cache", path, LOOKING, **chosen)) == f"True {first}"
    assert (tmp_path / "linked").read_text() == "linked\n"
    left = sorted(path.suffix for path in (tmp_path / "cache" / "laguna-agent" / "kernels").iterdir())
    assert left == [".lock", ".so"]


def test_the_installed_library_serves_where_it_is_of_these_sources(tmp_path, monkeypatch):
    made = Path(opened()._name).read_bytes()
    monkeypatch.delenv("LAGUNA_COMPILE_KERNELS", raising=False)
    for index, (content, serves) in enumerate(
        [(made, True), (made.replace(digest_of_sources().encode(), b"0" * 16), False), (b"for another machine", False)]
    ):
        place = tmp_path / f"{index}.so"
        place.write_bytes(content)
        monkeypatch.setattr(module, "INSTALLED", place)
        found = module._installed()
        assert (found is not None) == serves
        if found:
            assert found.says == f"compiled kernels ({variants_here()[0]}), installed with the program"
    monkeypatch.setattr(module, "INSTALLED", tmp_path / "0.so")
    monkeypatch.setenv("LAGUNA_COMPILE_KERNELS", "1")
    assert module._installed() is None


def test_a_variant_can_be_asked_for_and_is_refused_where_it_cannot_run(tmp_path, monkeypatch):
    # A copy, for the choice holds for a library and this process has the original.
    monkeypatch.setattr(module, "INSTALLED", Path(shutil.copy(opened()._name, tmp_path / "copy.so")))
    monkeypatch.delenv("LAGUNA_COMPILE_KERNELS", raising=False)
    for name in variants_here():
        monkeypatch.setenv("LAGUNA_KERNEL_VARIANT", name)
        says = f"compiled kernels ({name}, as LAGUNA_KERNEL_VARIANT says), installed with the program"
        assert module.outlook() == (True, says)
    monkeypatch.setenv("LAGUNA_KERNEL_VARIANT", "z80")
    with pytest.raises(ConfigError, match="LAGUNA_KERNEL_VARIANT=z80: there is no such variant; there are "):
        module.outlook()
