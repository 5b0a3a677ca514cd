"""The bug corpus: each bug fails as shipped, passes with the reference, and comes from the rule and nothing else."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import make_bugs
import pytest

CORPUS = Path(make_bugs.__file__).parent / "bugs"
BUGS = sorted(path.parent for split in make_bugs.SPLITS for path in (CORPUS / split).glob("*/bug.json"))


def check(project: Path, command: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable if word == "python" else word for word in shlex.split(command)]
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(argv, cwd=project, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("bug", BUGS, ids=lambda path: path.name)
def test_a_bug_fails_as_shipped_and_passes_with_the_reference(bug: Path, tmp_path: Path) -> None:
    command = json.loads((bug / "bug.json").read_text())["check"]
    project = shutil.copytree(bug / "project", tmp_path / "project")
    broken = check(project, command)
    assert broken.returncode != 0
    assert "Error" in broken.stderr
    assert "ImportError" not in broken.stderr
    shutil.copytree(bug / "reference", project, dirs_exist_ok=True)
    assert check(project, command).returncode == 0


def test_the_rule_gives_exactly_what_is_checked_in(tmp_path: Path) -> None:
    made = {path.relative_to(tmp_path) for folder in make_bugs.write_all(tmp_path) for path in folder.rglob("*.*")}
    shipped = {path.relative_to(CORPUS) for bug in BUGS for path in bug.rglob("*.*") if path.suffix != ".pyc"}
    assert made == shipped
    for path in made:
        assert (tmp_path / path).read_bytes() == (CORPUS / path).read_bytes(), path


def test_the_corpus_has_the_promised_shape() -> None:
    records = [json.loads((bug / "bug.json").read_text()) for bug in BUGS]
    counts = {(split, kind): 0 for split in make_bugs.SPLITS for kind in ("single", "two_file")}
    for record in records:
        counts[record["split"], record["kind"]] += 1
    assert counts == {
        ("held_out", "single"): 6,
        ("held_out", "two_file"): 3,
        ("tuning", "single"): 6,
        ("tuning", "two_file"): 3,
    }
    assert len({record["source"] for record in records}) == 18


def test_a_report_quotes_the_failing_example_and_names_the_file_only_for_a_single_file() -> None:
    for bug in BUGS:
        record = json.loads((bug / "bug.json").read_text())
        assert f"`{bug.name}(" in record["prompt"]
        assert (".py" in record["prompt"]) == (record["kind"] == "single")
