"""`config show` and `config path`."""

from __future__ import annotations

import json
import os
from pathlib import Path

from laguna_agent.trust import look, trust
from tests.conftest import RunCli


def user_file() -> Path:
    path = Path(os.environ["XDG_CONFIG_HOME"]) / "laguna-agent" / "config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_show_says_where_each_value_comes_from(run_cli: RunCli, workspace: Path) -> None:
    user_file().write_text('model = "ollama/m"\n')
    (workspace / ".laguna").mkdir()
    project = workspace / ".laguna" / "config.toml"
    project.write_text("seed = 7\n")
    trust(look(workspace))
    shown = json.loads(run_cli("config", "show", "--json", env={"LAGUNA_APPROVE": "edits"}).stdout)
    assert shown["model"] == {"value": "ollama/m", "source": f"user {user_file()}"}
    assert shown["seed"] == {"value": 7, "source": f"project {project}"}
    assert shown["approve"] == {"value": "edits", "source": "env LAGUNA_APPROVE"}
    assert shown["top_p"] == {"value": None, "source": "default"}
    text = run_cli("config", "show").stdout
    assert f"user {user_file()}" in text
    assert len(text.splitlines()) == len(shown)


def test_show_says_what_is_not_trusted(run_cli: RunCli, workspace: Path) -> None:
    (workspace / ".laguna").mkdir()
    (workspace / ".laguna" / "config.toml").write_text("seed =")
    shown = json.loads(run_cli("config", "show", "--json").stdout)
    assert shown["seed"] == {"value": None, "source": "default"}
    assert shown[".laguna/config.toml"]["value"] == "not used"
    assert "laguna-agent trust" in shown[".laguna/config.toml"]["source"]


def test_bare_config_shows(run_cli: RunCli) -> None:
    assert run_cli("config").stdout == run_cli("config", "show").stdout


def test_path_says_which_files_exist(run_cli: RunCli) -> None:
    assert f"user: {user_file()} (not there)" in run_cli("config", "path").stdout
    user_file().write_text("")
    assert f"user: {user_file()}\n" in run_cli("config", "path").stdout
    assert json.loads(run_cli("config", "path", "--json").stdout)["user"]["exists"] is True


def test_unreadable_configuration_is_one_line_and_exit_2(run_cli: RunCli) -> None:
    user_file().write_text("modle = 'x'\n")
    done = run_cli("config", "show")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "'modle'" in done.stderr
    assert "'model'" in done.stderr
