"""The run file: everything that a training run depends on, as typed TOML.

Knows what may stand in the file and what contradicts itself; must not know how anything of it is done, and loads
nothing heavy. Paths in the file are relative to its folder.
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import msgspec

from laguna_agent.directories import data_directory
from laguna_agent.errors import ConfigError

Count = Annotated[int, msgspec.Meta(ge=1)]
Whole = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Momentum = Annotated[float, msgspec.Meta(ge=0, lt=1)]
Seed = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]

_NAMED = re.compile(r"^(?P<said>.*?)(?: - at `\$(?P<path>.*)`)?$", re.DOTALL)
_FIELD = re.compile(r"^Object (contains unknown|missing required) field `(.*)`$")


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What all sections have in common: an unknown key is an error."""


class RunSection(Section, frozen=True, kw_only=True):
    """`[run]`. One of `packs_per_step` and `tokens_per_step`; what one rank computes at a time is `micro_packs`."""

    name: Name
    steps: Count
    kind: Literal["pretrain", "sft"] = "pretrain"
    directory: str | None = None
    """Where the run is kept; `runs/NAME` in the program's data directory where nothing is said."""
    seed: Seed = 0
    packs_per_step: Count | None = None
    tokens_per_step: Count | None = None
    micro_packs: Count = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    """What activations are computed in; weights and optimizers are fp32 always."""
    evaluate_every: Whole = 0
    """Steps between looks at the held-out packs; 0: after the last step only."""


class ModelSection(Section, frozen=True, kw_only=True, rename={"from_": "from"}):
    """`[model]`: sizes of a small Laguna (`modelling.small_laguna`), or a config.json, or a checkpoint's folder."""

    config: str | None = None
    from_: str | None = None
    vocab_size: Count | None = None
    """Where it is not said, that of the data's tokenizer."""
    hidden: Count | None = None
    layers: Count | None = None
    heads: Count | None = None
    kv_heads: Count | None = None
    head_dim: Count | None = None
    experts: Count | None = None
    experts_per_token: Count | None = None
    expert_size: Count | None = None
    shared_expert_size: Whole | None = None
    dense_size: Count | None = None
    window: Count | None = None
    full_every: Count | None = None
    context: Count | None = None

    def sizes(self) -> dict[str, int]:
        """The sizes that were given, by their argument of `small_laguna`."""
        values = msgspec.structs.asdict(self)
        return {key: value for key, value in values.items() if key not in ("config", "from_") and value is not None}


class Change(Section, frozen=True, kw_only=True):
    """`[[data.change]]`: from this step on (the first is 1) the datasets have other weights."""

    at_step: Count
    weights: dict[str, NotNegative]


class DataSection(Section, frozen=True, kw_only=True):
    """`[data]`. `datasets`: packed version -> weight; a version is an id, the beginning of one, or a name."""

    datasets: dict[str, NotNegative]
    validation: str | None = None
    """A packed version that is never learned from."""
    validation_packs: Count = 16
    store: str | None = None
    """The store's folder; the program's own where nothing is said."""
    tokenizer: str | None = None
    """A tokenizer.json, or a version of that kind; without it the one that the packs were made with."""
    change: tuple[Change, ...] = ()


class OptimizerSection(Section, frozen=True, kw_only=True):
    """`[optimizer]`. `lr` is the matrices' (by `kind`), `adamw_lr` everybody else's, who are always AdamW's."""

    kind: Literal["muon", "adamw"] = "muon"
    lr: Positive = 4e-3
    adamw_lr: Positive = 3e-3
    momentum: Momentum = 0.95
    weight_decay: NotNegative = 0.1
    coefficients: Literal["kj5", "polar5", "hybrid10"] = "polar5"
    clip: NotNegative = 1.0
    """The largest norm of all gradients together; 0: whatever it is."""
    capture: bool = False
    """Whether Muon's step is replayed from a CUDA graph, where one process has all parameters on a GPU (`Captured`)."""


class ScheduleSection(Section, frozen=True, kw_only=True):
    """`[schedule]`: see `schedule.wsd`. `decay` and `floor` are shares of the steps and of the peak."""

    warmup: Whole = 0
    decay: Share = 0.3
    floor: Share = 0.05


class BalanceSection(Section, frozen=True, kw_only=True):
    """`[balance]`: see `balance.ExpertBalance`. Without `bias_rate`, the one that suits so many steps."""

    bias_rate: NotNegative | None = None
    aux_weight: NotNegative = 0.0


class GuardSection(Section, frozen=True, kw_only=True):
    """`[guard]`: see `guard.Guard`."""

    spike: Annotated[float, msgspec.Meta(gt=1)] = 1.5
    window: Annotated[int, msgspec.Meta(ge=4)] = 64
    roll_backs: Whole = 3


class CheckpointsSection(Section, frozen=True, kw_only=True):
    """`[checkpoints]`: one after every so many steps and after the last, and how many of them stay."""

    every: Count = 100
    keep: Count = 2


class RunFile(Section, frozen=True, kw_only=True):
    """A whole run file."""

    run: RunSection
    data: DataSection
    model: ModelSection = ModelSection()
    optimizer: OptimizerSection = OptimizerSection()
    schedule: ScheduleSection = ScheduleSection()
    balance: BalanceSection = BalanceSection()
    guard: GuardSection = GuardSection()
    checkpoints: CheckpointsSection = CheckpointsSection()
    tensorboard: bool = False


def read_run_file(path: Path) -> RunFile:
    """The run file at `path`, its paths made absolute. Raises ConfigError naming file, key, value and expected."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"cannot read the run file {path}: {reason}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"the run file {path} is not valid TOML: {error}") from error
    return _settled(parse_run(values, str(path)), path.resolve().parent)


def parse_run(values: Mapping[str, Any], source: str) -> RunFile:
    """The run that these values describe; `source` names them in errors. Raises ConfigError."""
    for key, value in _leaves(values, ""):
        if isinstance(value, float) and not math.isfinite(value):
            _refuse(source, key, value, "a finite number")
    try:
        run = msgspec.convert(values, RunFile)
    except msgspec.ValidationError as error:
        _explain(error, values, source)
    _check(run, source)
    return run


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    inner: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        inner = value.items()
    elif isinstance(value, list):
        inner = enumerate(value)
    else:
        yield key, value
    for name, each in inner:
        yield from _leaves(each, f"{key}.{name}" if key else str(name))


def _explain(error: msgspec.ValidationError, values: Mapping[str, Any], source: str) -> NoReturn:
    """msgspec's sentence about `$.run.steps`, as ours about run.steps."""
    found = _NAMED.match(str(error))
    assert found is not None
    said, path = found["said"], (found["path"] or "").removeprefix(".")
    field = _FIELD.match(said)
    if field is None:
        _refuse(source, path or "the file", _at(values, path), said.removeprefix("Expected ").replace("`", ""))
    key = f"{path}.{field[2]}".removeprefix(".")
    if field[1] == "missing required":
        raise ConfigError(f"{source}: {key} is missing")
    known = [name for name, _ in _fields(RunFile, "")]
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0)[0]
    raise ConfigError(f"{source}: unknown key {key}; the nearest known one is {nearest}")


def _fields(kind: type[Section], prefix: str) -> Iterator[tuple[str, Any]]:
    for field in msgspec.structs.fields(kind):
        key = prefix + field.encode_name
        yield key, field.type
        if isinstance(field.type, type) and issubclass(field.type, Section):
            yield from _fields(field.type, key + ".")


def _at(values: Any, path: str) -> Any:
    """The value that a path like `data.change[0].at_step` names."""
    for name in re.findall(r"[^.\[\]]+", path):
        if isinstance(values, list) and name.isdecimal():
            values = values[int(name)]
        elif isinstance(values, Mapping) and name in values:
            values = values[name]
        else:
            # `[...]` is how msgspec names a value of a mapping; which one it was, it does not say.
            return values
    return values


def _refuse(source: str, key: str, found: object, expected: str) -> NoReturn:
    shown = repr(found)
    raise ConfigError(f"{source}: {key} is {shown if len(shown) <= 80 else shown[:77] + '...'}, expected {expected}")


def _check(run: RunFile, source: str) -> None:
    if (run.run.packs_per_step is None) == (run.run.tokens_per_step is None):
        raise ConfigError(f"{source}: give one of run.packs_per_step and run.tokens_per_step")
    ways = [key for key, there in (("from", run.model.from_), ("config", run.model.config)) if there is not None]
    ways += ["sizes"] * bool(run.model.sizes())
    if len(ways) > 1:
        raise ConfigError(f"{source}: [model] has {' and '.join(ways)}; give the one that says what the model is")
    if run.run.kind == "sft" and run.model.from_ is None:
        raise ConfigError(f"{source}: model.from is missing: SFT begins with a checkpoint's folder")
    _check_weights(run.data.datasets, "data.datasets", source)
    before = 1
    for index, change in enumerate(run.data.change):
        key = f"data.change[{index}]"
        if not before < change.at_step <= run.run.steps:
            _refuse(source, f"{key}.at_step", change.at_step, f"a step from {before + 1} to {run.run.steps}")
        before = change.at_step
        _check_weights(change.weights, f"{key}.weights", source)
        if set(change.weights) != set(run.data.datasets):
            _refuse(source, f"{key}.weights", change.weights, "a weight for each of data.datasets, and for no other")
    if run.schedule.warmup > run.run.steps:
        _refuse(source, "schedule.warmup", run.schedule.warmup, f"at most run.steps ({run.run.steps})")
    if run.data.validation in run.data.datasets:
        _refuse(source, "data.validation", run.data.validation, "a version that is not learned from")


def _check_weights(weights: Mapping[str, float], key: str, source: str) -> None:
    if not sum(weights.values()) > 0:
        _refuse(source, key, dict(weights), "at least one version with a weight above 0")


def _settled(run: RunFile, folder: Path) -> RunFile:
    """The run with absolute paths."""

    def absolute(path: str | None) -> str | None:
        return None if path is None else str(folder / Path(path).expanduser())

    replace = msgspec.structs.replace
    data = replace(run.data, store=absolute(run.data.store))
    if data.tokenizer is not None and data.tokenizer.endswith(".json"):
        data = replace(data, tokenizer=absolute(data.tokenizer))
    return replace(
        run,
        run=replace(run.run, directory=absolute(run.run.directory) or str(data_directory() / "runs" / run.run.name)),
        model=replace(run.model, config=absolute(run.model.config), from_=absolute(run.model.from_)),
        data=data,
    )


def run_directory(name: str) -> Path:
    """The folder of a run: a path to it, or the name of one in the program's data directory. Raises ConfigError."""
    for folder in (Path(name), data_directory() / "runs" / name):
        if (folder / "run.json").is_file():
            return folder
    raise ConfigError(f"no run at {name}: there is no run.json; give the directory of a run, or its name")


FREE = ("checkpoints.every", "checkpoints.keep", "tensorboard", "run.directory", "run.evaluate_every")
"""What may change while a run goes on: it touches no weight."""


def differences(begun: RunFile, now: RunFile) -> list[str]:
    """What differs between two runs such that they cannot share a checkpoint: "key is A, was B"."""
    one, other = dict(_leaves(msgspec.to_builtins(begun), "")), dict(_leaves(msgspec.to_builtins(now), ""))
    return [
        f"{key} is {other.get(key)!r}, was {one.get(key)!r}"
        for key in dict.fromkeys((*one, *other))
        if one.get(key) != other.get(key) and key not in FREE
    ]
