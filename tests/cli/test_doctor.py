"""`doctor`: exit 0 only if a turn could run; what to type next; never a key."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from tests.conftest import RunCli
from tests.model_server import ModelServer, http


def examine(run_cli: RunCli, env: dict[str, str], *arguments: str) -> tuple[int, dict[str, dict[str, str]]]:
    done = run_cli("doctor", "--json", *arguments, env=env)
    report = json.loads(done.stdout)
    assert report["ok"] == (done.returncode == 0)
    return done.returncode, {finding["name"]: finding for finding in report["findings"]}


def test_fit(run_cli: RunCli, model_server: ModelServer) -> None:
    code, findings = examine(run_cli, model_server.env | {"POOLSIDE_API_KEY": "very-secret"})
    assert code == 0, findings
    assert {"python", "git", "ripgrep", "grammars", "config", "state", "key", "models", "server", "model"} <= set(
        findings
    )
    assert findings["ripgrep"]["status"] == "ok"
    assert findings["grammars"]["status"] == "ok"
    assert "compile" in findings["kernels"]["detail"]
    assert findings["device"]["status"] == "ok"
    assert "python" in findings["grammars"]["detail"]
    assert findings["sandbox"]["status"] in ("ok", "warn")
    assert "POOLSIDE_API_KEY" in findings["key"]["detail"]
    assert "very-secret" not in json.dumps(findings)
    assert "laguna-agent run" in run_cli("doctor", env=model_server.env).stdout


def test_a_gpu_that_is_wanted_and_not_there(run_cli: RunCli, model_server: ModelServer) -> None:
    wanted = model_server.env | {"POOLSIDE_API_KEY": "very-secret", "LAGUNA_DEVICE": "cuda"}
    code, findings = examine(run_cli, wanted)
    # A machine of ours may have one.
    assert (code, findings["device"]["status"]) in ((2, "fail"), (0, "ok"))
    assert ("cuda" in findings["device"]["detail"]) and bool(code) == bool(findings["device"]["next"])
    assert examine(run_cli, wanted | {"LAGUNA_DEVICE": "cpu"})[0] == 0


def test_no_model(run_cli: RunCli) -> None:
    code, findings = examine(run_cli, {})
    assert code == 2
    assert findings["server"]["status"] == "fail"
    assert "models pull" in findings["server"]["next"]
    assert "models pull" in run_cli("doctor").stdout.splitlines()[-1]


def test_unknown_model_names_what_there_is(run_cli: RunCli, model_server: ModelServer) -> None:
    code, findings = examine(run_cli, model_server.env, "--model", "nonesuch")
    assert code == 2
    assert findings["model"]["status"] == "fail"
    assert "test-model" in findings["model"]["detail"]


def test_wrong_key(run_cli: RunCli, model_server: ModelServer) -> None:
    model_server.routes["GET", "/v1/models"] = http(401, {"error": {"message": "bad key"}})
    code, findings = examine(run_cli, model_server.env)
    assert code == 2
    assert findings["server"]["status"] == "fail"


def test_broken_configuration(run_cli: RunCli) -> None:
    code, findings = examine(run_cli, {"LAGUNA_MODLE": "x"})
    assert code == 2
    assert "LAGUNA_MODEL" in findings["config"]["detail"]


def test_state_directory_that_cannot_be_written(run_cli: RunCli, model_server: ModelServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    place = {"XDG_STATE_HOME": str(tmp_path / "file"), "TMPDIR": str(tmp_path)}
    code, findings = examine(run_cli, model_server.env | place)
    assert code == 0
    assert findings["state"]["status"] == "warn"
    assert "may not outlast a restart" in findings["state"]["detail"]
    (tmp_path / f"laguna-agent-{os.geteuid()}").chmod(0o755)
    code, findings = examine(run_cli, model_server.env | place)
    assert code == 2
    assert findings["state"]["status"] == "fail"


def test_no_sandbox_by_choice(run_cli: RunCli, model_server: ModelServer) -> None:
    code, findings = examine(run_cli, model_server.env | {"LAGUNA_SANDBOX": "none"})
    assert code == 0
    assert findings["sandbox"]["status"] == "warn"
    assert "whatever you can" in findings["sandbox"]["detail"]
    assert "bubblewrap" in findings["sandbox"]["next"]


def test_a_sandbox_that_cannot_be_had(run_cli: RunCli, model_server: ModelServer) -> None:
    """A tier asked for by name that is not there: no turn can run."""
    absent = "landlock" if sys.platform == "darwin" else "seatbelt"
    code, findings = examine(run_cli, model_server.env | {"LAGUNA_SANDBOX": absent})
    assert code == 2
    assert findings["sandbox"]["status"] == "fail"
    assert absent in findings["sandbox"]["detail"]


def test_every_sandbox_tried_out(run_cli: RunCli) -> None:
    done = run_cli("doctor", "--sandbox", "--json")
    report = json.loads(done.stdout)
    tiers = {each["tier"]: each for each in report["tiers"]}
    assert set(tiers) == {"bubblewrap", "landlock", "seatbelt"}
    for tier in tiers.values():
        assert bool(tier["proof"]) != bool(tier["reason"])
        if tier["proof"]:
            assert tier["cost"]["confined_ms"] > 0
            assert any("no writing outside" in claim[0] and claim[1] for claim in tier["proof"]["claims"])
    text = run_cli("doctor", "--sandbox").stdout
    assert "in use: " in text.splitlines()[-1]
    assert report["ok"] == any(tier["proof"] for tier in tiers.values()) == (done.returncode == 0)
    if tiers["bubblewrap"]["proof"]:
        assert "no writing to .git/hooks" in text
