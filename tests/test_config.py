"""Configuration: layers, their order, and what each refuses."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laguna_agent import config, directories
from laguna_agent.config import KEYS, PROJECT_KEYS, USER_ONLY, Rule, Settings, load, load_with_sources
from laguna_agent.errors import ConfigError
from laguna_agent.trust import look, trust


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own, and no LAGUNA_* variable of the machine's."""
    for name in [name for name in os.environ if name.startswith(("LAGUNA_", "XDG_"))]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    # Outside tmp_path, which is the workspace here: what a workspace holds can trust nothing.
    state = tmp_path.with_name(f"{tmp_path.name}-state")
    monkeypatch.setenv("XDG_STATE_HOME", str(state))
    return home


def write_user(home: Path, text: str) -> Path:
    path = home / "config" / "laguna-agent" / "config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def write_project(root: Path, text: str) -> Path:
    """A project's settings that the person has trusted."""
    path = root / ".laguna" / "config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    trust(look(root))
    return path


def project_file(cwd: Path) -> Path | None:
    return config.project_file(look(cwd))


def test_defaults_alone(tmp_path: Path) -> None:
    settings, sources = load_with_sources(tmp_path, {})
    assert settings == Settings()
    assert set(sources) == set(KEYS)
    assert set(sources.values()) == {"default"}


def test_each_layer_beats_the_one_below(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user = write_user(home, 'model = "ollama/a"\nseed = 1\ntemperature = 0.1\ntop_k = 1\n')
    project = write_project(tmp_path, "seed = 2\ntemperature = 0.2\ntop_k = 2\n")
    monkeypatch.setenv("LAGUNA_TEMPERATURE", "0.3")
    monkeypatch.setenv("LAGUNA_TOP_K", "3")
    settings, sources = load_with_sources(tmp_path, {"top_k": 4, "seed": None})
    assert (settings.model, settings.seed, settings.temperature, settings.top_k) == ("ollama/a", 2, 0.3, 4)
    assert sources["model"] == f"user {user}"
    assert sources["seed"] == f"project {project}"
    assert sources["temperature"] == "env LAGUNA_TEMPERATURE"
    assert sources["top_k"] == "flag"
    assert sources["approve"] == "default"


def test_whole_numbers_are_good_where_a_number_is_expected(tmp_path: Path, home: Path) -> None:
    write_user(home, "temperature = 1\nmax_cost = 2\n")
    assert load(tmp_path, {}).max_cost == 2.0


def test_empty_environment_variable_counts_as_unset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAGUNA_MODEL", "")
    assert load(tmp_path, {}).model is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('modle = "x"', ["config.toml", "'modle'", "'model'"]),
        ("[budget]\nturns = 1", ["config.toml", "'budget'"]),
        ("max_turns = 'ten'", ["config.toml", "max_turns", "'ten'", "a whole number at least 1"]),
        ("max_turns = 0", ["max_turns", "0", "at least 1"]),
        ("max_turns = true", ["max_turns", "True"]),
        ("temperature = nan", ["temperature", "nan", "a number at least 0"]),
        ("top_p = 1.5", ["top_p", "1.5", "at least 0 and at most 1"]),
        ("max_cost = inf", ["max_cost", "inf", "above 0"]),
        ("approve = 'never'", ["approve", "'never'", "one of plan, ask, edits, all"]),
        ("model = 7", ["model", "7", "a text"]),
        ("model = x", ["config.toml", "not valid TOML", "line 1"]),
    ],
)
def test_user_file_errors_name_file_key_value_and_expectation(
    tmp_path: Path, home: Path, text: str, words: list[str]
) -> None:
    write_user(home, text)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, {})
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("LAGUNA_MODLE", "x", ["LAGUNA_MODLE", "LAGUNA_MODEL"]),
        ("LAGUNA_MAX_TURNS", "many", ["LAGUNA_MAX_TURNS", "'many'", "a whole number"]),
        ("LAGUNA_MAX_TIME", "nan", ["LAGUNA_MAX_TIME", "'nan'"]),
        ("LAGUNA_REASONING", "hard", ["LAGUNA_REASONING", "off, low, medium, high"]),
    ],
)
def test_environment_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: list[str]
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, {})
    assert all(word in str(caught.value) for word in words), caught.value


def test_unreadable_file_is_one_clear_line(tmp_path: Path, home: Path) -> None:
    write_user(home, "").unlink()
    (home / "config" / "laguna-agent" / "config.toml").mkdir()
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*config\.toml"):
        load(tmp_path, {})


def test_file_that_is_not_text(tmp_path: Path, home: Path) -> None:
    write_user(home, "").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(tmp_path, {})


@pytest.mark.parametrize("key", sorted(set(KEYS) - PROJECT_KEYS))
def test_project_file_may_not_set_what_could_harm(tmp_path: Path, key: str) -> None:
    write_project(tmp_path, f"{key} = 1")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, {})
    message = str(caught.value)
    assert f"'{key}' is not allowed in a project file" in message
    assert (f"LAGUNA_{key.upper()}" in message) == (key not in USER_ONLY)
    assert str(config.user_file()) in message


@pytest.mark.parametrize("key", sorted(USER_ONLY))
def test_no_variable_sets_what_the_persons_own_file_alone_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv(f"LAGUNA_{key.upper()}", "[]")
    with pytest.raises(ConfigError, match=f"'{key}' is not read from the environment; set it in .*config.toml"):
        load(tmp_path, {})


def test_rules_and_writable_directories(tmp_path: Path, home: Path) -> None:
    user = write_user(
        home,
        """
        writable = ["~/.cache/pip"]
        [[rules]]
        rule = "shell(git push *)"
        verdict = "deny"
        match = ["git push"]
        """,
    )
    settings, sources = load_with_sources(tmp_path, {})
    assert settings.rules == (Rule("shell(git push *)", "deny", match=("git push",)),)
    assert settings.writable == ("~/.cache/pip",)
    assert sources["rules"] == sources["writable"] == f"user {user}"
    assert msgspec.convert(msgspec.to_builtins(settings), Settings) == settings


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rules = 1", ["rules", "expected tables [[rules]]"]),
        ("writable = 'x'", ["writable", "a list of texts"]),
        ("[[rules]]\nrule = 'shell(x)'\nverdict = 'never'", ["rules", "'never'", "$[0].verdict", "allow, ask or deny"]),
        ("[[rules]]\nverdict = 'deny'", ["rules", "`rule`"]),
        ("[[rules]]\nrule = 'shell(x)'\nverdict = 'deny'\nmatches = ['x']", ["rules", "`matches`"]),
    ],
)
def test_errors_in_rules_say_where(tmp_path: Path, home: Path, text: str, words: list[str]) -> None:
    write_user(home, text)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, {})
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize("text", ["seed = 2", "seed =", "base_url = 'http://evil.invalid'", "no_such_key = 1"])
def test_project_file_that_nobody_trusted_is_not_even_read(tmp_path: Path, text: str) -> None:
    (tmp_path / ".laguna").mkdir()
    (tmp_path / ".laguna" / "config.toml").write_text(text)
    assert load(tmp_path, {}) == Settings()
    # Another text than the one that was trusted is one that nobody trusted.
    write_project(tmp_path, "seed = 1").write_text(text)
    assert load(tmp_path, {}) == Settings()


def test_project_file_is_searched_up_to_the_git_root_and_no_further(tmp_path: Path) -> None:
    outer = write_project(tmp_path, "seed = 1")
    root = tmp_path / "repo"
    deep = root / "a" / "b"
    deep.mkdir(parents=True)
    assert project_file(deep) is None
    (root / ".git").mkdir()
    assert project_file(deep) is None
    inner = write_project(root, "seed = 2")
    assert project_file(deep) == inner
    assert project_file(tmp_path) == outer
    assert load(deep, {}).seed == 2


def test_directories_follow_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, state = tmp_path / "h", tmp_path / "s"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_STATE_HOME", str(state))
    monkeypatch.setenv("XDG_DATA_HOME", "relative/is/ignored")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert directories.state_directory() == state / "laguna-agent"
    assert directories.data_directory() == home / ".local/share/laguna-agent"
    assert directories.cache_directory() == home / ".cache/laguna-agent"
    assert directories.displaced() == ""
    assert list(tmp_path.iterdir()) == [tmp_path / "home"], "nothing is made by asking where it would be"


@pytest.mark.parametrize("made", ["open to others", "a link"])
def test_a_refuge_that_somebody_else_made_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: str) -> None:
    """Whoever knows its name could have put into it what we would believe."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", f"/dev/null/{made}")
    refuge = tmp_path / f"laguna-agent-{os.geteuid()}"
    if made == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        refuge.symlink_to(tmp_path / "elsewhere")
    else:
        refuge.mkdir(mode=0o777)
        refuge.chmod(0o777)
    assert directories.state_directory() == Path(f"/dev/null/{made}/laguna-agent")


values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from(["", "ask", "off", "1", "nan", "x"]),
    st.lists(st.integers()),
)


@given(st.dictionaries(st.sampled_from(KEYS), values))
def test_any_flags_give_valid_settings_or_a_config_error(flags: dict[str, object]) -> None:
    try:
        settings = load(Path("/"), flags)
    except ConfigError as error:
        assert "expected" in str(error)
        return
    assert msgspec.convert(msgspec.to_builtins(settings), Settings) == settings
