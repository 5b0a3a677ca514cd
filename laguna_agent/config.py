"""One typed configuration, layered: defaults < user TOML < project TOML (harmless keys only) < environment < flags.

Knows where settings come from and what each may be; must not know what they are used for. A project file arrives with
a cloned repository: it is not even parsed before a person has trusted this text of it (`trust`), and may then tune the
model, but never choose the server, the approval mode or where a key is sent.
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from laguna_agent.directories import config_directory
from laguna_agent.errors import ConfigError
from laguna_agent.held_keys import held, know_password
from laguna_agent.trust import CONFIG, Ground, look

Approve = Literal["plan", "ask", "edits", "all"]
MODES: tuple[Approve, ...] = get_args(Approve)
EditFormat = Literal["auto", "replace", "symbol", "whole"]
Reasoning = Literal["off", "low", "medium", "high"]
Quant = Literal["auto", "bf16", "int8", "int4"]
Sandbox = Literal["auto", "bubblewrap", "landlock", "seatbelt", "none"]
KVCache = Literal["f32", "f16", "bf16", "int8", "fp8"]
Arithmetic = Literal["fast", "exact"]
Device = Literal["auto", "cpu", "cuda"]
LogLevel = Literal["off", "error", "warning", "info", "debug"]
ThemeName = Literal["auto", "dark", "light", "mono"]
Editing = Literal["emacs", "vi"]
Notify = Literal["auto", "bell", "osc9", "off"]
RuleVerdict = Literal["allow", "ask", "deny"]
PositiveInt = Annotated[int, msgspec.Meta(ge=1)]
PositiveFloat = Annotated[float, msgspec.Meta(gt=0)]
Probability = Annotated[float, msgspec.Meta(ge=0, le=1)]

ENVIRONMENT_PREFIX = "LAGUNA_"
NOT_SETTINGS = frozenset(
    {
        "LAGUNA_SERVE_TOKEN",
        "LAGUNA_KERNEL_VARIANT",
        "LAGUNA_COMPILE_KERNELS",
        "LAGUNA_PIN_THREADS",
        "LAGUNA_NO_TRITON",
    }
)
"""Variables with the prefix that belong in no file of settings: secrets, and what is for one machine or one try."""
PROJECT_KEYS = frozenset(
    {
        "temperature",
        "top_p",
        "top_k",
        "seed",
        "reasoning",
        "reasoning_budget",
        "edit_format",
        "max_output_tokens",
        "shell_timeout",
        "max_turns",
        "max_tokens",
        "max_cost",
        "max_time",
    }
)


USER_ONLY = frozenset({"environment", "rules", "writable"})
"""What the person's own file alone may say: neither a variable, which a wrapper script may carry, nor a project."""


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One `[[rules]]` table: what calls it is about, and what becomes of them. `reason` is shown to the person and the
    model; `match` and `no_match` are examples, checked before any use. What a rule may say: `agent.rules`."""

    rule: str
    verdict: RuleVerdict
    reason: str = ""
    match: tuple[str, ...] = ()
    no_match: tuple[str, ...] = ()


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be set. Field names are the TOML keys, `LAGUNA_` + upper case the environment names."""

    model: str | None = None
    """provider/model, such as `openrouter/poolside/laguna-xs.2:free`, `ollama/qwen2.5-coder:7b`, `local/NAME`."""
    base_url: str | None = None
    """Base URL of an OpenAI-compatible server; then `model` is the server's own name for it."""
    fallback_models: tuple[str, ...] = ()
    """Models to go on with, in this order, when the model's server fails for good; named like `model`."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the key for `base_url`."""
    approve: Approve = "ask"
    sandbox: Sandbox = "auto"
    """What confines commands: the best that proves itself here, one of them by name, or nothing."""
    network: bool = False
    """Whether commands in the sandbox reach the network without asking."""
    rules: tuple[Rule, ...] = ()
    """What is allowed, asked about or denied whatever the mode; the strictest rule wins."""
    writable: tuple[str, ...] = ()
    """Directories beyond the workspace that commands in the sandbox may write."""
    environment: tuple[str, ...] = ()
    """Variables that commands get beyond the usual ones: names, and globs for those that look like no secret."""
    checkpoints: bool = True
    """Whether files are kept before and after each prompt, so that they can be put back."""
    edit_format: EditFormat = "auto"
    temperature: Annotated[float, msgspec.Meta(ge=0)] | None = None
    top_p: Probability | None = None
    top_k: Annotated[int, msgspec.Meta(ge=0)] | None = None
    seed: int | None = None
    reasoning: Reasoning | None = None
    reasoning_budget: Annotated[int, msgspec.Meta(ge=0)] = 16_384
    """Tokens that one thought may take before the model must answer; 0: as many as it likes."""
    max_output_tokens: PositiveInt | None = None
    context_length: PositiveInt | None = None
    """Tokens; overrides what the server and the model table say."""
    quant: Quant = "auto"
    """How a `local/` model is packed: bits per weight; auto takes what suits the file and fits the memory."""
    kv_cache: KVCache = "f16"
    """How a `local/` model keeps what it has read."""
    arithmetic: Arithmetic = "fast"
    """How a CPU computes a `local/` model: fast rounds activations to 8 bits where they meet packed weights; exact
    keeps them in 32 bits and takes several times as long."""
    device: Device = "auto"
    """Where a `local/` model is computed: auto takes an NVIDIA GPU where there is one, else the CPU."""
    gpu_memory: str | None = None
    """How much of a GPU's memory a `local/` model may use: a size like 8GB or a part like 0.5; what is free where it is
    not set."""
    chat_template: str | None = None
    """A file whose Jinja template replaces that of a `local/` model."""
    max_turns: PositiveInt | None = None
    """Model requests per run."""
    max_tokens: PositiveInt | None = None
    """Input plus output tokens per run."""
    max_cost: PositiveFloat | None = None
    """US dollars per run."""
    max_time: PositiveFloat | None = None
    """Seconds per run."""
    retry_budget: Annotated[float, msgspec.Meta(ge=0)] = 120.0
    """Seconds that waiting for a failing server may take in all, per request, from its first failure on."""
    connect_timeout: PositiveFloat = 10.0
    stall_timeout: PositiveFloat = 90.0
    """Seconds of silence before a stream counts as stalled."""
    keep_alive_timeout: PositiveFloat = 300.0
    """Seconds in which keep-alives alone come before a stream counts as stalled."""
    shell_timeout: PositiveFloat = 120.0
    plain: bool = False
    """Whether the chat writes lines only: for screen readers, and terminals that cannot move their cursor."""
    theme: ThemeName = "auto"
    """The colours of the chat; auto takes what /theme was told last, or what suits the terminal's background."""
    editing: Editing = "emacs"
    """The keys of the chat's input line."""
    notify: Notify = "auto"
    """How the chat tells somebody who looks elsewhere that a turn ended or asks: a notification of the terminal (OSC 9)
    where it is known to show them, else the bell; or one of them; or nothing."""
    log_level: LogLevel = "warning"
    """What of its own work a session writes into its log, `diagnostics.jsonl` beside the conversation."""
    log_stderr: bool = False
    """Whether the same lines go to standard error too."""
    otel: bool = False
    """Whether spans go to OpenTelemetry, as the OTEL_* variables say; needs the extra `otel`."""
    otel_content: bool = False
    """Whether the texts of prompts, answers and calls go with them."""


KEYS = tuple(field.name for field in msgspec.structs.fields(Settings))


def load(cwd: Path, flags: Mapping[str, object], ground: Ground | None = None) -> Settings:
    """The settings in force for `cwd`; a flag of None counts as not given. `ground` is what was seen of the workspace,
    where somebody has looked already. Raises ConfigError."""
    return load_with_sources(cwd, flags, ground)[0]


def load_with_sources(
    cwd: Path, flags: Mapping[str, object], ground: Ground | None = None
) -> tuple[Settings, dict[str, str]]:
    """The settings, and for each key its source: "default", "user PATH", "project PATH", "env NAME" or "flag"."""
    types = get_type_hints(Settings, include_extras=True)
    values: dict[str, Any] = {}
    sources = dict.fromkeys(KEYS, "default")

    def take(key: str, value: object, source: str, named: str, *, lenient: bool = False) -> None:
        try:
            values[key] = _convert(value, types[key], lenient=lenient)
        except ValueError as error:
            words = _in_words(types[key])
            if get_origin(types[key]) is tuple:
                raise ConfigError(f"{named} is not valid: {error}; expected {words}") from None
            raise ConfigError(f"{named} = {value!r} is not valid; expected {words}") from None
        sources[key] = source

    user = user_file()
    for key, value in _toml(_read(user), user).items():
        _refuse_unknown(key, str(user))
        take(key, value, f"user {user}", f"{user}: {key}")
    ground = ground or look(cwd)
    project, text = project_file(ground), ground.text(CONFIG)
    for key, value in (_toml(text, project) if project and text else {}).items():
        _refuse_unknown(key, str(project))
        _refuse_in_project(key, str(project))
        take(key, value, f"project {project}", f"{project}: {key}")
    for name, text in sorted(os.environ.items()):
        if name.startswith(ENVIRONMENT_PREFIX) and text and name not in NOT_SETTINGS:
            key = name.removeprefix(ENVIRONMENT_PREFIX).lower()
            _refuse_unknown(key, "the environment", name)
            _refuse_in_environment(key, name)
            take(key, text, f"env {name}", name, lenient=True)
    for key, value in flags.items():
        if value is not None:
            _refuse_unknown(key, "the command line")
            take(key, value, "flag", "--" + key.replace("_", "-"), lenient=isinstance(value, str))
    know_password(str(values.get("base_url") or ""), "the base URL")
    # No child may inherit it, and every face reads its settings before it starts one.
    held(str(values.get("api_key_env") or ""))
    return Settings(**values), sources


def user_file() -> Path:
    """Where the person's own configuration is, whether or not it exists."""
    return config_directory() / "config.toml"


def project_file(ground: Ground) -> Path | None:
    """The nearest `.laguna/config.toml`, trusted or not, up to the git root; outside a repository only the directory
    itself is looked at."""
    found = ground.find(CONFIG)
    return ground.root / found.name if found else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"cannot read the configuration {path}: {reason}") from error


def _toml(text: str, path: Path) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(text.removeprefix("\ufeff"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"the configuration {path} is not valid TOML: {error}") from error


def _refuse_unknown(key: str, where: str, shown: str | None = None) -> None:
    if key in KEYS:
        return
    nearest = difflib.get_close_matches(key.lower(), KEYS, n=1, cutoff=0)[0]
    if shown:
        nearest = ENVIRONMENT_PREFIX + nearest.upper()
    raise ConfigError(f"{where}: unknown setting '{shown or key}'; the nearest known one is '{nearest}'")


def _refuse_in_project(key: str, where: str) -> None:
    if key in PROJECT_KEYS:
        return
    elsewhere = "" if key in USER_ONLY else f" or with {ENVIRONMENT_PREFIX}{key.upper()}"
    raise ConfigError(f"{where}: '{key}' is not allowed in a project file; set it in {user_file()}{elsewhere}")


def _refuse_in_environment(key: str, variable: str) -> None:
    if key in USER_ONLY:
        raise ConfigError(f"{variable}: '{key}' is not read from the environment; set it in {user_file()}")


def _convert(value: object, kind: Any, *, lenient: bool) -> Any:
    """`value` as the setting's type; lenient, a text may spell a number, or a list with commas. Raises ValueError."""
    if lenient and isinstance(value, str) and get_origin(kind) is tuple:
        value = [part for each in value.split(",") if (part := each.strip())]
    converted = msgspec.convert(value, kind, strict=not lenient)
    if isinstance(converted, float) and not math.isfinite(converted):
        raise ValueError(value)
    return converted


def _in_words(kind: Any) -> str:
    """What a setting's type allows, for a person."""
    if type(None) in get_args(kind):
        kind = next(each for each in get_args(kind) if each is not type(None))
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(get_args(kind))
    if kind == tuple[Rule, ...]:
        return "tables [[rules]] with rule and verdict (allow, ask or deny), and if you like reason, match, no_match"
    if get_origin(kind) is tuple:
        return "a list of texts"
    if get_origin(kind) is Annotated:
        base, bounds = get_args(kind)
        limits = {"at least": bounds.ge, "above": bounds.gt, "at most": bounds.le}
        words = [f"{word} {limit}" for word, limit in limits.items() if limit is not None]
        return " and ".join([_in_words(base) + " " + words[0], *words[1:]])
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[kind]
