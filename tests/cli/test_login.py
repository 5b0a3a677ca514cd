"""`login` and `logout`: on a terminal as a person types, and from a script; no key is ever shown."""

from __future__ import annotations

import json
import os
import re
import socket
import stat
import sys
from pathlib import Path

import pexpect
import pytest

from laguna_agent.atomic import replace_file
from laguna_agent.cli.model_setting import add_model
from laguna_agent.credentials import credentials_file, store_key, stored_key, stored_providers
from laguna_agent.errors import ConfigError
from tests.conftest import RunCli, Terminal
from tests.model_server import ModelServer, http, text

SECRET = "sk-or-v1-very-secret"
WRONG = "sk-or-v1-wrong"


@pytest.fixture
def openrouter(model_server: ModelServer) -> dict[str, str]:
    """An environment in which openrouter is the scripted server."""
    model_server.routes["GET", "/v1/key"] = http(200, {"data": {"label": "test"}})
    return {"OPENROUTER_BASE_URL": model_server.url}


def end(child: pexpect.spawn[str]) -> str:
    child.expect(pexpect.EOF)
    child.close()
    return str(child.before)


def user_config() -> Path:
    return Path(os.environ["XDG_CONFIG_HOME"]) / "laguna-agent" / "config.toml"


def test_a_person_logs_in_and_can_work_at_once(
    terminal: Terminal, openrouter: dict[str, str], model_server: ModelServer, run_cli: RunCli
) -> None:
    child = terminal("login", **openrouter)
    child.expect(r"1  openrouter [^\n]*127\.0\.0\.1")
    child.expect(r"3  ollama [^\n]*optional")
    child.expect(r"Provider \[openrouter\]: ")
    child.sendline("nobody")
    child.expect("unknown provider 'nobody'")
    child.sendline("")
    child.expect("Key for openrouter, not shown: ")
    child.sendline(SECRET)
    child.expect("stored in .*credentials.json; only you")
    child.expect(r"Model to use from now on, or none \[openrouter/poolside/laguna-xs-2.1:free\]: ")
    child.sendline("test-model")
    child.expect(r"openrouter/test-model is set in .*config.toml")
    assert SECRET not in end(child)
    assert child.exitstatus == 0
    asked = {request.path: request.headers.get("authorization") for request in model_server.requests}
    assert asked == {"/v1/key": f"Bearer {SECRET}", "/v1/models": f"Bearer {SECRET}"}
    assert user_config().read_text() == 'model = "openrouter/test-model"\n'
    assert stat.S_IMODE(credentials_file().stat().st_mode) == 0o600

    model_server.always(text("Done."))
    assert run_cli("run", "say done", env=openrouter).returncode == 0
    assert model_server.requests[-1].headers["authorization"] == f"Bearer {SECRET}"


def test_a_refused_key_may_be_typed_again(
    terminal: Terminal, openrouter: dict[str, str], model_server: ModelServer
) -> None:
    model_server.routes["GET", "/v1/key"] = http(401, {"error": {"message": f"no such key: {WRONG}"}})
    child = terminal("login", "openrouter", LAGUNA_MODEL="openrouter/x/y", **openrouter)
    child.expect("not shown: ")
    child.sendline(WRONG)
    child.expect(r"refuses the key \(401\).*try again")
    child.expect("not shown: ")
    model_server.routes["GET", "/v1/key"] = http(200, {})
    child.sendline(SECRET)
    child.expect("stored in")
    child.expect("The model in use is openrouter/x/y")
    assert WRONG not in end(child)
    found = stored_key("openrouter")
    assert found is not None and found.secret == SECRET
    assert not user_config().exists()


@pytest.mark.parametrize("answer", ["", "\x04", "two words"])
def test_no_usable_key_stores_nothing(terminal: Terminal, openrouter: dict[str, str], answer: str) -> None:
    child = terminal("login", "openrouter", **openrouter)
    child.expect("not shown: ")
    child.send(answer + ("" if answer == "\x04" else "\n"))
    assert "nothing is stored" in end(child)
    assert child.exitstatus == 2
    assert not credentials_file().exists()


def test_a_key_is_not_echoed_where_only_the_output_goes_elsewhere(tmp_path: Path) -> None:
    command = f"{sys.executable} -m laguna_agent login vllm --no-check > {tmp_path}/out"
    piped = pexpect.spawn("/bin/sh", ["-c", command], encoding="utf-8", timeout=30)
    piped.expect("not shown: ")
    piped.sendline(SECRET)
    assert SECRET not in end(piped)
    assert stored_providers() == ["vllm"]
    assert SECRET not in (tmp_path / "out").read_text()


def test_interrupted_is_130_and_stores_nothing(terminal: Terminal, openrouter: dict[str, str]) -> None:
    child = terminal("login", "openrouter", **openrouter)
    child.expect("not shown: ")
    child.sendintr()
    assert "Traceback" not in end(child)
    assert child.exitstatus == 130
    assert not credentials_file().exists()


@pytest.mark.parametrize(("answer", "kept"), [("n", False), ("y", True)])
def test_a_provider_that_does_not_answer(terminal: Terminal, answer: str, kept: bool) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}/v1"
        child = terminal("login", "poolside", POOLSIDE_STANDALONE_BASE_URL=url, LAGUNA_MODEL="poolside/x")
        child.expect("not shown: ")
        child.sendline(SECRET)
        child.expect("could not be checked: .*nothing answers")
        child.expect("Go on without")
        child.sendline(answer)
        end(child)
    assert (stored_providers() == ["poolside"]) is kept


def test_a_server_without_a_key_only_needs_a_model(terminal: Terminal, model_server: ModelServer) -> None:
    user_config().parent.mkdir(parents=True)
    user_config().write_text("# mine\nseed = 7  # luck")
    child = terminal("acp", "login", OLLAMA_HOST=model_server.root)
    child.expect("Provider ")
    child.sendline("3")
    child.expect("Key for ollama .*Enter")
    child.sendline("")
    child.expect(r"or none \[ollama/test-model\]: ")
    child.sendline("")
    end(child)
    assert child.exitstatus == 0
    assert not credentials_file().exists()
    assert user_config().read_text() == '# mine\nseed = 7  # luck\nmodel = "ollama/test-model"\n'


def test_the_login_of_an_editor_knows_what_the_editor_uses(terminal: Terminal) -> None:
    child = terminal("acp", "--model", "poolside/x", "login", "--no-check")
    child.expect(r"Provider \[poolside\]: ")
    child.sendline("")
    child.expect("Key for poolside")
    child.sendline(SECRET)
    child.expect("The model in use is poolside/x")
    end(child)
    assert stored_providers() == ["poolside"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("", 'model = "a/b"\n'),
        ("seed = 1", 'seed = 1\nmodel = "a/b"\n'),
        ("seed = 1\r\n", 'seed = 1\r\nmodel = "a/b"\r\n'),
        ("# model = 'x'\n", "# model = 'x'\nmodel = \"a/b\"\n"),
        ("seed = 1\n[table]\nx = 1\n", 'seed = 1\nmodel = "a/b"\n[table]\nx = 1\n'),
        ("model = 'mine'\n", None),
        ('a = """\n[no table]\n"""\n', None),
        ("not toml", None),
    ],
)
def test_the_model_is_added_to_a_configuration_or_nothing_is(old: str, new: str | None) -> None:
    user_config().parent.mkdir(parents=True)
    user_config().write_bytes(old.encode())
    if new is not None:
        add_model("a/b")
    else:
        with pytest.raises(ConfigError, match=r'left as it is .*add this line to it: model = "a/b"'):
            add_model("a/b")
    assert user_config().read_bytes().decode() == (old if new is None else new)


def test_files_are_replaced_whole_where_they_are(tmp_path: Path) -> None:
    real, link, pipe = tmp_path / "dotfiles" / "real", tmp_path / "link", tmp_path / "pipe"
    real.parent.mkdir()
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to(real)
    replace_file(link, b"new")
    assert (link.is_symlink(), real.read_text(), stat.S_IMODE(real.stat().st_mode)) == (True, "new", 0o640)
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="not a regular file"):
        replace_file(pipe, b"new")
    assert {path.name for path in tmp_path.iterdir()} - {"home"} == {"dotfiles", "link", "pipe"}
    assert list(real.parent.iterdir()) == [real]


def test_from_a_script(run_cli: RunCli, openrouter: dict[str, str], model_server: ModelServer) -> None:
    assert run_cli("login", env=openrouter).returncode == 2
    done = run_cli("login", "openrouter", env=openrouter, stdin=SECRET + "\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert "laguna-agent --model openrouter/" in done.stdout
    assert SECRET not in done.stdout
    model_server.routes["GET", "/v1/key"] = http(401, {})
    refused = run_cli("login", "openrouter", env=openrouter, stdin=WRONG + "\n")
    assert refused.returncode == 3
    assert refused.stderr.count("\n") == 1
    assert "refuses the key" in refused.stderr and "nothing is stored" in refused.stderr
    found = stored_key("openrouter")
    assert found is not None and found.secret == SECRET


def test_an_older_key_of_another_provider_stays(run_cli: RunCli) -> None:
    for provider, key in (("poolside", "one"), ("vllm", "two"), ("poolside", "three")):
        assert run_cli("login", provider, "--no-check", stdin=key).returncode == 0
    assert json.loads(credentials_file().read_text()) == {"poolside": {"key": "three"}, "vllm": {"key": "two"}}


def test_logout(run_cli: RunCli) -> None:
    assert "no key is stored" in run_cli("logout").stdout
    store_key("openrouter", SECRET)
    store_key("poolside", SECRET)
    done = run_cli("logout")
    assert done.returncode == 2
    assert "openrouter, poolside" in done.stderr
    done = run_cli("logout", "openrouter", env={"OPENROUTER_API_KEY": "other"})
    assert re.search("key of openrouter is removed.*\n.*OPENROUTER_API_KEY is still set", done.stdout)
    assert "no key of openrouter" in run_cli("logout", "openrouter").stdout
    assert run_cli("logout").returncode == 0
    assert stored_providers() == []
    assert run_cli("logout", "nobody").returncode == 2


def test_the_environment_goes_before_what_is_stored(run_cli: RunCli, model_server: ModelServer) -> None:
    store_key("openrouter", "stored-key")
    model_server.always(text("Done."))
    env = {"OPENROUTER_BASE_URL": model_server.url, "LAGUNA_MODEL": "openrouter/m"}
    assert run_cli("run", "x", env=env).returncode == 0
    assert run_cli("run", "x", env=env | {"OPENROUTER_API_KEY": "set-key"}).returncode == 0
    sent = [r.headers["authorization"] for r in model_server.requests if r.path.endswith("/chat/completions")]
    assert sent == ["Bearer stored-key", "Bearer set-key"]


def test_a_stored_key_goes_to_nobody_else(run_cli: RunCli, model_server: ModelServer) -> None:
    store_key("openrouter", SECRET)
    model_server.always(text("Done."))
    assert run_cli("run", "x", env=model_server.env).returncode == 0
    assert run_cli("run", "x", env={"VLLM_BASE_URL": model_server.url, "LAGUNA_MODEL": "vllm/m"}).returncode == 0
    assert {request.headers.get("authorization") for request in model_server.requests} == {None}


def test_a_refused_stored_key_is_told_by_its_origin(run_cli: RunCli, model_server: ModelServer) -> None:
    store_key("openrouter", SECRET)
    model_server.always(http(401, {"error": {"message": f"bad {SECRET}"}}))
    env = {"OPENROUTER_BASE_URL": model_server.url, "LAGUNA_MODEL": "openrouter/m"}
    done = run_cli("run", "x", env=env)
    assert done.returncode == 3
    assert "check the key that `laguna-agent login openrouter` stored" in done.stderr
    assert SECRET not in done.stderr


@pytest.mark.parametrize(
    ("env", "value", "source"),
    [
        ({"LAGUNA_MODEL": "openrouter/m"}, "set", "`laguna-agent login openrouter` stored"),
        ({"LAGUNA_MODEL": "openrouter/m", "OPENROUTER_API_KEY": SECRET}, "set", "OPENROUTER_API_KEY"),
        ({"LAGUNA_MODEL": "poolside/m"}, "missing", "set POOLSIDE_API_KEY"),
        ({"LAGUNA_MODEL": "local/m"}, "not needed", "local"),
        ({}, "set", "`laguna-agent login openrouter` stored"),
    ],
)
def test_config_and_doctor_say_where_the_key_comes_from(
    run_cli: RunCli, env: dict[str, str], value: str, source: str
) -> None:
    store_key("openrouter", SECRET)
    credentials_file().chmod(0o640)
    env = env | {
        "OPENROUTER_BASE_URL": "http://127.0.0.1:1/v1",
        "POOLSIDE_STANDALONE_BASE_URL": "http://127.0.0.1:1/v1",
    }
    shown = json.loads(run_cli("config", "show", "--json", env=env).stdout)["key"]
    assert shown["value"] == value
    assert source in shown["source"]
    report = run_cli("doctor", "--json", env=env)
    findings = {finding["name"]: finding for finding in json.loads(report.stdout)["findings"]}
    if value != "not needed":
        assert source in findings["key"]["detail"]
    assert findings["key"]["status"] == ("fail" if value == "missing" else "ok")
    assert findings["key file"]["next"].startswith("chmod 600 ")
    assert SECRET not in report.stdout + str(shown)
