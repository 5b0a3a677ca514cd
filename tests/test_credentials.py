"""Where keys are looked for, in which order, and the keyring that answers, is locked, hangs or is not there."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from laguna_agent import system_keyring
from laguna_agent.credentials import (
    credentials_file,
    find_key,
    forget_all,
    know_stored_keys,
    remove_key,
    store_key,
    stored_key,
    stored_providers,
)
from laguna_agent.errors import ConfigError, UsageError
from laguna_agent.redaction import without_keys
from tests.conftest import RunCli

STORED = "stored-canary-0123456789abcdef"
RINGED = "keyring-canary-0123456789abcdef"
GIVEN = "given-canary-0123456789abcdef"


@pytest.fixture
def keyring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import keyring as package

    from tests.keyring_backend import FileKeyring

    place = tmp_path / "keyring"
    place.mkdir()
    monkeypatch.setenv("TEST_KEYRING", str(place))
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "tests.keyring_backend.FileKeyring")
    package.set_keyring(FileKeyring())
    return place


def test_the_environment_then_the_keyring_then_the_file(keyring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store_key("openrouter", STORED)
    assert find_key("openrouter", "OPENROUTER_API_KEY") == stored_key("openrouter")
    store_key("openrouter", RINGED, in_keyring=True)
    assert STORED not in credentials_file().read_text()
    assert RINGED not in credentials_file().read_text()
    found = find_key("openrouter", "OPENROUTER_API_KEY")
    assert found is not None
    assert (found.secret, found.source) == (RINGED, "the system's keyring")
    assert RINGED not in repr(found) + without_keys(RINGED)
    monkeypatch.setenv("OPENROUTER_API_KEY", GIVEN)
    found = find_key("openrouter", "OPENROUTER_API_KEY")
    assert found is not None
    assert found.secret == GIVEN


def test_a_key_leaves_the_keyring(keyring: Path) -> None:
    store_key("openrouter", RINGED, in_keyring=True)
    assert stored_providers() == ["openrouter"]
    assert remove_key("openrouter")
    assert RINGED not in (keyring / "secrets.json").read_text()
    assert find_key("openrouter", "OPENROUTER_API_KEY") is None
    store_key("openrouter", RINGED, in_keyring=True)
    store_key("openrouter", STORED)
    assert RINGED not in (keyring / "secrets.json").read_text()


def test_a_locked_keyring_is_one_clear_line(keyring: Path) -> None:
    store_key("openrouter", RINGED, in_keyring=True)
    forget_all()
    (keyring / "locked").touch()
    with pytest.raises(ConfigError, match=r"keyring cannot be used \(KeyringLocked: .*locked\); unlock it"):
        find_key("openrouter", "OPENROUTER_API_KEY")
    with pytest.raises(ConfigError, match="locked"):
        store_key("openrouter", RINGED, in_keyring=True)


def test_a_keyring_that_hangs_does_not_hang_us(keyring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store_key("openrouter", RINGED, in_keyring=True)
    forget_all()
    (keyring / "hangs").touch()
    monkeypatch.setattr(system_keyring, "PATIENCE", 0.3)
    started = time.monotonic()
    with pytest.raises(ConfigError, match=r"no answer within 0.3 s"):
        find_key("openrouter", "OPENROUTER_API_KEY")
    assert time.monotonic() - started < 10


def test_no_keyring_on_this_system_is_no_key(keyring: Path) -> None:
    store_key("openrouter", RINGED, in_keyring=True)
    forget_all()
    (keyring / "none").touch()
    assert find_key("openrouter", "OPENROUTER_API_KEY") is None
    with pytest.raises(UsageError, match="log in without --keyring"):
        store_key("poolside", RINGED, in_keyring=True)


def test_stored_keys_are_known_before_they_are_used() -> None:
    store_key("openrouter", STORED)
    know_stored_keys()
    assert STORED not in without_keys(f"x{STORED}")
    credentials_file().write_text("{")
    know_stored_keys()


def test_login_with_the_keyring(run_cli: RunCli, keyring: Path) -> None:
    done = run_cli("login", "openrouter", "--no-check", "--keyring", stdin=RINGED + "\n")
    assert done.returncode == 0, done.stderr
    assert "in the system's keyring." in done.stdout
    assert RINGED in (keyring / "secrets.json").read_text()
    shown = run_cli("config", "show")
    assert "the system's keyring" in shown.stdout
    assert RINGED not in done.stdout + done.stderr + shown.stdout + shown.stderr
    (keyring / "locked").touch()
    locked = run_cli("run", "Go.")
    assert locked.returncode == 2
    assert len(locked.stderr.splitlines()) == 1
    assert "unlock it" in locked.stderr
    (keyring / "locked").unlink()
    assert run_cli("logout").returncode == 0
    assert RINGED not in (keyring / "secrets.json").read_text()
