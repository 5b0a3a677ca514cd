"""Building the compiled kernels: where there is a compiler, where there is none, and where two processes build at once.

Each test runs real processes with an empty cache directory and a PATH of its own.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

COMPUTING = """
import sys, torch
from laguna_agent.backend.kernels import dispatch, reference
from laguna_agent.backend.kernels.cpu import library, products
from laguna_agent.backend.kernels.formats import GroupInt
from laguna_agent.backend.kernels.quantise import quantise
torch.set_num_threads(1)
products.use()
for bits, group in ((4, 32), (4, 128), (4, 12), (8, 32), (8, 5), (16, 0)):
    for n, rows, columns in ((1, 70, 96), (1, 9, 333), (3, 66, 301), (21, 5, 64)):
        raw, x = torch.randn(rows, columns), torch.randn(n, columns)
        matrix = quantise(raw, GroupInt(bits, group, torch.float16, rows == 9)) if group else raw.bfloat16()
        torch.testing.assert_close(dispatch.linear(x, matrix), reference.linear(x, matrix), rtol=1e-4, atol=1e-3)
        ids = torch.arange(rows)
        assert torch.equal(dispatch.embedding(ids, matrix), reference.embedding(ids, matrix))
print(library.status())
"""
ASKING = "from laguna_agent.backend.kernels.cpu import library; print(library.status())"
LOOKING = "from laguna_agent.backend.kernels.cpu import library; print(*library.outlook())"


def start(cache: Path, path: str, code: str = ASKING, **more: str) -> subprocess.Popen[str]:
    environment = os.environ | {"XDG_CACHE_HOME": str(cache), "PATH": path} | more
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
def compiler(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv("CC", raising=False)
    found = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if found is None:
        pytest.skip("no C compiler on this machine: neither cc nor gcc nor clang")
    return found


def test_without_a_compiler_the_reference_computes_and_says_so(tmp_path, monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    empty = tmp_path / "bin"
    empty.mkdir()
    assert says(start(tmp_path / "cache", str(empty), COMPUTING)) == (
        "plain torch, slow: no C compiler: none of cc, gcc, clang is installed"
    )
    seen = says(start(tmp_path / "cache", str(empty), LOOKING))
    assert seen == "False plain torch, slow: no C compiler: none of cc, gcc, clang is installed"
    assert "$CC is 'nowhere/cc', which is not there" in says(start(tmp_path / "cache", str(empty), CC="nowhere/cc"))
    assert not (tmp_path / "cache").exists()


def test_a_compiler_that_fails_is_quoted(tmp_path):
    broken = script(tmp_path / "bin", "broken-cc", 'echo "k.c:1: error: it is Monday" >&2; exit 1')
    status = says(start(tmp_path / "cache", os.environ["PATH"], CC=str(broken)))
    assert status == f"plain torch, slow: {broken} cannot compile the kernels: k.c:1: error: it is Monday"
    assert not list((tmp_path / "cache").rglob("*.so"))


def test_a_library_of_rubbish_is_not_used(tmp_path):
    rubbish = script(tmp_path / "bin", "rubbish-cc", 'for out; do :; done\n[ "$#" = 1 ] || echo rubbish > "$out"')
    status = says(start(tmp_path / "cache", os.environ["PATH"], CC=str(rubbish)))
    assert status.startswith("plain torch, slow: ") and "cannot be opened" in status and status.endswith("delete it")


def test_a_cache_that_cannot_be_written_has_a_refuge(tmp_path, compiler):
    (tmp_path / "cache").write_text("a file where a folder should be")
    (tmp_path / "refuge").mkdir()
    status = says(start(tmp_path / "cache", os.environ["PATH"], TMPDIR=str(tmp_path / "refuge")))
    assert status.startswith("compiled kernels")
    assert list((tmp_path / "refuge").rglob("*.so"))


def test_two_processes_build_once_and_a_third_finds_it(tmp_path, compiler):
    log = tmp_path / "builds"
    counting = script(
        tmp_path / "bin", "counting-cc", f'[ "$1" = --version ] || echo built >> {log}\nexec {compiler} "$@"'
    )
    before = says(start(tmp_path / "cache", os.environ["PATH"], LOOKING, CC=str(counting)))
    assert before == f"True {counting} compiles the kernels when a local model is first opened"
    assert not (tmp_path / "cache").exists()
    processes = [start(tmp_path / "cache", os.environ["PATH"], CC=str(counting)) for _ in range(2)]
    first, second = (says(process) for process in processes)
    assert first == second and first.startswith("compiled kernels (")
    assert says(start(tmp_path / "cache", os.environ["PATH"], CC=str(counting))) == first
    assert says(start(tmp_path / "cache", os.environ["PATH"], LOOKING, CC=str(counting))) == f"True {first}"
    assert log.read_text() == "built\n"
    left = sorted(path.suffix for path in (tmp_path / "cache" / "laguna-agent" / "kernels").iterdir())
    assert left == [".lock", ".so"]


@pytest.mark.slow
@pytest.mark.parametrize(("without", "vectors"), [("-mno-avx512f", "avx2"), ("-mno-avx", "portable")])
def test_processors_with_shorter_vectors(tmp_path, compiler, without, vectors):
    """Compiled for a processor without the longer ones, as far as this machine can play one."""
    if platform.machine() != "x86_64":
        pytest.skip(f"the options that leave vectors out are those of x86, this is {platform.machine()}")
    status = says(start(tmp_path / "cache", os.environ["PATH"], COMPUTING, CC=f"{compiler} {without}"))
    if vectors == "avx2" and "portable" in status:
        pytest.skip("this processor has no AVX2")
    assert status.startswith(f"compiled kernels ({vectors})"), status
