"""The trainer: one run, from its first step or its last checkpoint to its end.

A step is: take packs, forward and backward, agree on the loss, ask the guard, apply, write the line. Everything that
the next step depends on is in a checkpoint, so a run that is killed and started again goes on bit for bit (with as many
processes and threads as before; with others, up to the order in which floats are added). Knows the order of things;
each of them lives in a module of its own.
"""

from __future__ import annotations

import fcntl
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch

from laguna_agent.atomic import replace_file
from laguna_agent.backend.laguna.config_json import parse_config
from laguna_agent.backend.laguna.model import CausalLM
from laguna_agent.errors import ConfigError, StorageError, UsageError
from laguna_agent.training.balance import ExpertBalance, bias_rate_for
from laguna_agent.training.batch import Pack, Stream
from laguna_agent.training.checkpoints import Checkpoints, load_tensors, read_state, step_of
from laguna_agent.training.guard import Guard
from laguna_agent.training.loss import held_out
from laguna_agent.training.modelling import initialise
from laguna_agent.training.optim.replicas import check_replicas
from laguna_agent.training.provenance import Lineage
from laguna_agent.training.rng import repeatable, restore_rng, seed_all
from laguna_agent.training.run_file import RunFile, differences
from laguna_agent.training.schedule import wsd
from laguna_agent.training.sharding import Ranks, rest, shard
from laguna_agent.training.step import Agreed, agree, backward, held_out_part, work_of
from laguna_agent.training.stopping import Stop, noted_signals
from laguna_agent.training.telling import Telling
from laguna_agent.training.updates import Updates

CHECKPOINTS, RUN = "checkpoints", "run.json"
_PATIENCE = 10.0
"""Seconds in which the processes of a killed run must have let go of its folder."""


class Begun(msgspec.Struct, frozen=True):
    """`run.json`: what a run is, for those who export or plot it. `config`: the values of the model's config.json."""

    run: RunFile
    config: dict[str, Any]
    lineage: Lineage
    tokenizer: str | None = None


class RunResult(NamedTuple):
    """How far a run came. `stopped` is the signal that ended it before its last step, or 0."""

    step: int
    loss: float
    stopped: int = 0
    rolled_back: int = 0


class Trainer:
    """Trains the model of `config` (the values of a config.json) on the packs of `stream`, as `run` says.

    `validation`: packs to look at and never learn from. `initial`: name -> tensor, the weights to begin with instead of
    random ones. `lineage` is what each checkpoint says that it came from; its versions must stay the same for the whole
    run. Every rank makes one of equal arguments and calls `train`.
    """

    def __init__(
        self,
        run: RunFile,
        stream: Stream,
        *,
        config: Mapping[str, Any],
        lineage: Lineage,
        validation: Sequence[Pack] = (),
        initial: Mapping[str, torch.Tensor] | None = None,
        ranks: Ranks | None = None,
        tokenizer: Path | None = None,
    ) -> None:
        if run.run.directory is None or run.run.packs_per_step is None:
            raise ConfigError("a run needs run.directory and run.packs_per_step before it can be trained")
        self.run, self.stream, self.lineage, self.validation = run, stream, lineage, list(validation)
        self.ranks = ranks or Ranks(0, 1, torch.device("cpu"))
        self.folder, self._packs = Path(run.run.directory), run.run.packs_per_step
        self.checkpoints = Checkpoints(self.folder / CHECKPOINTS, run.checkpoints.keep)
        self._begun = Begun(run, dict(config), lineage, None if tokenizer is None else str(tokenizer))
        seed_all(run.run.seed)
        self.model = make_model(run, config, initial, self.ranks)
        self.parameters = dict(self.model.named_parameters())
        self.updates = Updates(self.model, run.optimizer)
        rate = run.balance.bias_rate
        self.balance = ExpertBalance(
            self.model,
            bias_rate=bias_rate_for(run.run.steps) if rate is None else rate,
            aux_weight=run.balance.aux_weight,
        )
        self.guard = Guard(spike=run.guard.spike, window=run.guard.window, roll_backs=run.guard.roll_backs)
        self.step, self.loss, self._saved = 0, float("nan"), -1

    def train(self) -> RunResult:
        """Take all steps that are left. Raises TrainingDiverged, StorageError, and what the data raises."""
        with ExitStack() as stack:
            if self.ranks.first:
                stack.enter_context(_held(self.folder))
                self.checkpoints.sweep()
            stack.enter_context(repeatable())
            stop = stack.enter_context(noted_signals(patient=self.ranks.size > 1))
            telling = stack.enter_context(Telling(self.run, self.folder, first=self.ranks.first))
            self._begin(telling)
            return self._go_on(telling, stop)

    def _go_on(self, telling: Telling, stop: Stop) -> RunResult:
        stopped = 0
        while self.step < self.run.run.steps and not stopped:
            agreed = self._take_step(telling, stop)
            stopped = signal.SIGTERM if agreed.terminated else signal.SIGINT if agreed.interrupted else 0
            if stopped or self.step % self.run.checkpoints.every == 0 or self.step == self.run.run.steps:
                self._save(telling)
        if self.step == self.run.run.steps:
            stopped = 0
        telling.ended(self.step, stopped)
        return RunResult(self.step, self.loss, stopped, self.guard.rolled_back)

    def _take_step(self, telling: Telling, stop: Stop) -> Agreed:
        """One step, or a roll-back where it is a bad one."""
        begun, step = time.perf_counter(), self.step + 1
        for change in self.run.data.change:
            if change.at_step == step:
                # Streams that cannot change are refused before the first step.
                self.stream.reweigh(change.weights)  # type: ignore[attr-defined]
        packs = self.stream.take(self._packs)
        agreed, tokens, objection = self._gradients(packs, stop)
        if objection:
            self._roll_back(telling, step, objection, packs)
            return agreed
        clip = self.run.optimizer.clip
        if clip and agreed.norm > clip:
            self.updates.scale(clip / agreed.norm)
        rate = self.updates.set_rate(self._factor(step))
        self.updates.step()
        self.balance.update_bias()
        self.guard.applied(agreed.loss)
        self.step, self.loss = step, agreed.loss
        values = {"step": step, "loss": agreed.loss, "lr": rate, "gradient_norm": agreed.norm, "tokens": tokens}
        values |= self._balance_figures() | self._evaluate()
        seconds = time.perf_counter() - begun
        telling.step(values | {"seconds": seconds, "tokens_per_second": tokens / seconds})
        return agreed

    def _gradients(self, packs: Sequence[Pack], stop: Stop) -> tuple[Agreed, int, str]:
        """The gradients of a step in the parameters; what all ranks agree on, the step's tokens, and the guard's
        objection."""
        work = work_of(packs, self.ranks, self.run.run.micro_packs)
        learnable = 0 < work.weight < float("inf")
        loss = torch.zeros((), dtype=torch.float64, device=self.ranks.device)
        if learnable:
            loss = backward(self.model, work, self.balance)
        agreed = agree(
            loss,
            self.updates.squares(),
            interrupted=stop.asked == signal.SIGINT,
            terminated=stop.asked == signal.SIGTERM,
        )
        # Every rank has all packs of the step, so each comes to the same.
        said = f"the weights of its tokens sum to {work.weight}"
        return agreed, work.tokens, self.guard.objection(agreed.loss, agreed.norm) if learnable else said

    def _factor(self, step: int) -> float:
        schedule = self.run.schedule
        return wsd(step, steps=self.run.run.steps, warmup=schedule.warmup, decay=schedule.decay, floor=schedule.floor)

    def _balance_figures(self) -> dict[str, Any]:
        figures = self.balance.metrics()
        if not figures.layers:
            return {}
        return {
            "max_vio": figures.worst_max_vio,
            "dead_experts": figures.worst_dead,
            "load_entropy": figures.worst_entropy,
        }

    def _evaluate(self) -> dict[str, Any]:
        every, steps = self.run.run.evaluate_every, self.run.run.steps
        if not self.validation or not (self.step == steps or (every and self.step % every == 0)):
            return {}
        found = held_out(self.model, held_out_part(self.validation, self.ranks))
        rest(self.model)
        return {"val_loss": found.loss, "val_accuracy": found.accuracy}

    def _roll_back(self, telling: Telling, step: int, objection: str, packs: Sequence[Pack]) -> None:
        """Back to the last checkpoint, but not to its data: what was read since is not read again."""
        self.updates.forget()
        path = self.checkpoints.at(self._saved)
        state = read_state(path)
        telling.bad_step(step, objection, step_of(path), [pack.origin for pack in packs])
        self.guard.roll_back(step, objection, state["guard"])
        self._load(path, state)
        telling.keep_until(self.step)

    def _begin(self, telling: Telling) -> None:
        """Go on from the newest checkpoint, or write the first one."""
        if self.run.data.change and not hasattr(self.stream, "reweigh"):
            raise ConfigError("data.change: this stream's weights cannot be changed")
        path = self.checkpoints.latest()
        if path is None:
            if self.ranks.first:
                replace_file(self.folder / RUN, msgspec.json.format(msgspec.json.encode(self._begun)))
            telling.begun(self.ranks.size)
            self._save(telling)
            return
        state = read_state(path)
        self._refuse_others(path, state)
        self.stream.load_state_dict(state["stream"])
        self.guard.load_state_dict(state["guard"])
        self._load(path, state)
        self._saved, self.loss = self.step, state["loss"] if state["loss"] is not None else float("nan")
        telling.resumed(
            self.step, state["ranks"], self.ranks.size, state["code"] != msgspec.to_builtins(self.lineage.code)
        )

    def _refuse_others(self, path: Path, state: Mapping[str, Any]) -> None:
        """A checkpoint belongs to one run file and its data. Raises ConfigError naming what differs."""
        begun = msgspec.convert(state["run"], RunFile)
        differs = differences(begun, self.run)
        was = state["versions"]
        differs += [
            f"the version of {key} is {self.lineage.versions.get(key)}, was {was.get(key)}"
            for key in sorted({*was, *self.lineage.versions})
            if was.get(key) != self.lineage.versions.get(key)
        ]
        if differs:
            more = f" (and {len(differs) - 1} more)" if len(differs) > 1 else ""
            raise ConfigError(
                f"{path} is of another run: {differs[0]}{more}; set it back, or give the new run another run.name or "
                "run.directory"
            )

    def _load(self, path: Path, state: Mapping[str, Any]) -> None:
        load_tensors(path, self._tensors())
        self.balance.load_state_dict(state["balance"])
        if state["rng"] is not None:
            restore_rng(state["rng"])
        self.step = int(state["step"])

    def _save(self, telling: Telling) -> None:
        if self._saved == self.step:
            return
        # What went wrong on one rank alone must not become what all go on from.
        check_replicas(self.model, self.updates.optimizers, when=f"step {self.step}")
        state = {
            "run": msgspec.to_builtins(self.run),
            "versions": self.lineage.versions,
            "code": self.lineage.code,
            "loss": self.loss if self.step else None,
            "stream": self.stream.state_dict(),
            "guard": self.guard.state_dict(),
            "balance": self.balance.state_dict(),
        }
        lineage = msgspec.to_builtins(self.lineage) | {"step": self.step}
        path = self.checkpoints.save(self.step, self._tensors(), state, lineage)
        self._saved = self.step
        telling.saved(self.step, path)

    def _tensors(self) -> dict[str, torch.Tensor]:
        """Everything with numbers that a checkpoint holds, by name; loading writes into it."""
        model = {name: parameter.detach() for name, parameter in self.parameters.items()}
        return model | dict(self.model.named_buffers()) | self.updates.tensors()


def make_model(
    run: RunFile, config: Mapping[str, Any], initial: Mapping[str, torch.Tensor] | None, ranks: Ranks
) -> CausalLM:
    """The model with its first weights, on this rank's device and cut up over the ranks. Raises ConfigError."""
    compute = torch.bfloat16 if run.run.precision == "bf16" else torch.float32
    model = CausalLM(parse_config(config), torch.float32, compute)
    if initial is None:
        initialise(model, run.run.seed)
    else:
        with torch.no_grad():
            for name, tensor in (*model.named_parameters(), *model.named_buffers()):
                tensor.copy_(initial[name])
    model.to(ranks.device).train()
    shard(model, mixed=compute if run.run.precision == "bf16" else None)
    return model


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Be the one run in this folder. Raises UsageError where another goes on there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("wb")
    except OSError as error:
        raise StorageError(f"cannot write into {folder}: {error.strerror}; choose another run.directory") from error
    with file:
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise UsageError(f"another process trains in {folder}; wait for it, or stop it") from None
                time.sleep(0.1)
        yield
