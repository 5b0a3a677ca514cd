"""Run files: what a good one says, and how a bad one is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from laguna_agent.errors import ConfigError
from laguna_agent.training.run_file import differences, read_run_file

GOOD = """
[run]
name = "r"
steps = 100
packs_per_step = 4
[data]
datasets = { one = 1.0, other = 2.0 }
[[data.change]]
at_step = 50
weights = { one = 0.0, other = 1.0 }
"""


def read(folder: Path, text: str) -> object:
    path = folder / "run.toml"
    path.write_text(text)
    return read_run_file(path)


def test_paths_are_relative_to_the_file_and_a_run_has_a_place_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(GOOD + "[model]\nconfig = 'sizes.json'\n")
    run = read_run_file(path)
    assert run.model.config == str(tmp_path / "sizes.json")
    assert run.run.directory is not None and run.run.directory.endswith("laguna-agent/runs/r")
    assert [change.at_step for change in run.data.change] == [50]
    path.write_text(GOOD.replace('name = "r"', 'name = "r"\ndirectory = "here"'))
    assert read_run_file(path).run.directory == str(tmp_path / "here")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("steps = 100", "steps = 0"), "run.steps is 0, expected int >= 1"),
        (("steps = 100", 'steps = "many"'), "run.steps is 'many', expected int, got str"),
        (("steps = 100\n", ""), "run.steps is missing"),
        (("steps = 100", "stepps = 100\nsteps = 100"), "unknown key run.stepps; the nearest known one is run.steps"),
        (("packs_per_step = 4", ""), "give one of run.packs_per_step and run.tokens_per_step"),
        (("[data]", "[optimizer]\nlr = nan\n[data]"), "optimizer.lr is nan, expected a finite number"),
        (("[data]", "[optimizer]\nkind = 'sgd'\n[data]"), "optimizer.kind is 'sgd', expected"),
        (("[data]", "[model]\nhidden = 64\nfrom = 'x'\n[data]"), "[model] has from and sizes"),
        (("steps = 100", "steps = 100\nkind = 'sft'"), "model.from is missing"),
        (("one = 1.0, other = 2.0", "one = 0.0, other = 0.0"), "data.datasets is"),
        (("at_step = 50", "at_step = 101"), "data.change[0].at_step is 101, expected a step from 2 to 100"),
        (("{ one = 0.0, other", "{ two = 0.0, other"), "data.change[0].weights is"),
        (("[data]", "[data]\nvalidation = 'one'"), "data.validation is 'one', expected a version that is not learned"),
        (('name = "r"', 'name = "../r"'), "run.name is '../r', expected"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, GOOD.replace(*change))
    assert str(tmp_path / "run.toml") in str(caught.value)
    assert said in str(caught.value)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not valid TOML"):
        read(tmp_path, "[run")
    with pytest.raises(ConfigError, match="cannot read the run file"):
        read_run_file(tmp_path / "absent.toml")


def test_differences_between_runs_are_named_and_what_touches_no_weight_is_free(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(GOOD)
    begun = read_run_file(path)
    path.write_text(GOOD + "[checkpoints]\nkeep = 7\n")
    assert differences(begun, read_run_file(path)) == []
    path.write_text(GOOD.replace("one = 1.0", "one = 3.0") + "[optimizer]\nlr = 0.5\n")
    assert differences(begun, read_run_file(path)) == [
        "data.datasets.one is 3.0, was 1.0",
        "optimizer.lr is 0.5, was 0.004",
    ]
