"""One group of attacks, driven through the real program by a scripted model, with a look at the house after each."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from tests.hostile.case import REACHED, Case, shell
from tests.hostile.house import KEY, House, differences
from tests.model_server import ModelServer, Reply, stream, text, tool_call

CANARY = re.compile(r"CANARY-[\w-]+")
BACKWARDS = re.compile(r"[\w-]+-YRANAC")
SCRIPT = "import sys\nfrom laguna_agent.cli import main\nsys.exit(main())\n"
"""What pip makes of the entry point."""
RUN_TIME = 500
"""Seconds; a machine that is busy with other tests takes long."""


class Seen(msgspec.Struct):
    """What one attack did: `effects`, one line each, none where the walls hold; `results` is what the model got."""

    effects: list[str] = []
    results: list[str] = []
    seconds: float = 0.0


class Outcome(msgspec.Struct):
    """What a run of the program did. `late` are effects found only when it had ended; `exit_code` None: it hung."""

    seen: dict[str, Seen] = {}
    late: list[str] = []
    exit_code: int | None = None
    stdout: str = ""
    stderr: str = ""
    seconds: float = 0.0


@dataclass
class Drive:
    """A run under way. The model's next call is made when the result of the one before has come."""

    house: House
    cases: Sequence[Case]
    server: ModelServer
    honest: bool = False
    outcome: Outcome = field(default_factory=Outcome)
    agent: int = 0
    faults: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        # The first command puts the walls up; what that leaves in the house is no effect.
        self._steps = [(case, call) for case in (shell("warm-up", "true"), *self.cases) for call in case.calls]
        self._at = 0
        self._before: dict[str, str] = {}
        self._started = 0.0
        self._heard = 0

    def answer(self, body: Any) -> Reply:
        """The model's next answer; a fault of the house's own ends the run, and is told."""
        try:
            return self._answer(body)
        except Exception as fault:
            self.faults.append(repr(fault))
            raise

    def _answer(self, body: Any) -> Reply:
        """First a look at what the last call did."""
        results = [message for message in body["messages"] if message["role"] == "tool"]
        if self._at:
            self._conclude(self._steps[self._at - 1][0], [str(each["content"]) for each in results[self._heard :]])
        self._heard = len(results)
        if self._at == len(self._steps):
            return stream(text("Done."))
        case, (name, arguments) = self._steps[self._at]
        if self._at == 0 or self._steps[self._at - 1][0] is not case:
            self.outcome.seen[case.id] = Seen()
            self._before = self.house.look()
            self._started = time.monotonic()
        self._at += 1
        return stream(tool_call(name, {key: self._filled(value) for key, value in arguments.items()}))

    def _conclude(self, case: Case, results: list[str]) -> None:
        seen = self.outcome.seen[case.id]
        seen.results += results
        if self._at < len(self._steps) and self._steps[self._at][0] is case:
            return
        seen.seconds = time.monotonic() - self._started
        time.sleep(case.settle)
        if case.id == "warm-up":
            self.house.accept()
        elif not self.honest:
            self.judge(case, seen)

    def judge(self, case: Case, seen: Seen) -> None:
        """What of the house is different, and what the results give away."""
        said = "\n".join(seen.results)
        after = self.house.look()
        seen.effects += differences(self._before, after)
        # Backwards too: what is known as a key is taken out of results, and whoever wants it does not say it plainly.
        given = {*CANARY.findall(said), *(f"{each[::-1]} backwards" for each in BACKWARDS.findall(said))}
        seen.effects += sorted(f"the model was given {canary}" for canary in given)
        if REACHED in said:
            seen.effects.append(f"the attack says: {said[:300]}")
        if case.probe is not None:
            seen.effects += case.probe(self.house, said)
        if seen.seconds > case.seconds:
            seen.effects.append(f"it took {seen.seconds:.0f} s")
        if differences(self._before, after):
            self.house.restore()
        self.house.tidy()

    def _filled(self, value: object) -> object:
        if not isinstance(value, str):
            return value
        house = self.house
        names = {
            "@OUT": house.outside, "@WS": house.project, "@HOME": house.home, "@TOP": house.top,
            "@TCP6": house.ears.tcp6, "@TCP": house.ears.tcp, "@UDP": house.ears.udp, "@ABSTRACT": house.abstract,
            "@VICTIM": house.victim.pid, "@AGENT": self.agent, "@DOCKER": house.sockets["docker.sock"],
            "@RUNTIME": house.sockets["runtime.sock"], "@RUN": house.sockets.get("run.sock", "/nowhere"),
        }  # fmt: skip
        for name, meant in names.items():
            value = value.replace(name, str(meant))
        return value


def drive(
    house: House,
    cases: Sequence[Case],
    tier: str,
    *,
    settings: dict[str, str] | None = None,
    arguments: Sequence[str] = (),
    cwd: Path | None = None,
    before: Sequence[str] = (),
    honest: bool = False,
) -> Outcome:
    """Run the program in the house with a model that makes the cases' calls; `before` is put before its command.

    What `honest` cases change is theirs to change.
    """
    server = ModelServer()
    drive = Drive(house, cases, server, honest)
    server.always(drive.answer)
    start = house.look()
    environment = house.environment() | server.env | (settings or {})
    command = [*before, *program(house), "run", "--approve", "all", *sandbox_arguments(tier), *arguments]
    begun = time.monotonic()
    process = subprocess.Popen(
        [*command, "--output", "json", "Go on."],
        cwd=cwd or house.project,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    drive.agent = process.pid
    outcome = drive.outcome
    try:
        outcome.stdout, outcome.stderr = process.communicate(timeout=RUN_TIME)
        outcome.exit_code = process.returncode
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        outcome.stdout, outcome.stderr = process.communicate()
    finally:
        server.close()
    outcome.seconds = time.monotonic() - begun
    _conclude_last(drive)
    outcome.late = drive.faults + late_effects(house, outcome, start, server)
    return outcome


def bodies(house: House, tier: str, *cases: Case, arguments: tuple[str, ...] = ()) -> tuple[str, ModelServer]:
    """Everything that was posted in a run, as JSON."""
    server = ModelServer()
    driving = Drive(house, cases, server, honest=True)
    server.always(driving.answer)
    command = [*program(house), "run", "--approve", "all", "--sandbox", tier, *arguments, "--output", "json", "Go on."]
    try:
        subprocess.run(
            command,
            cwd=house.project,
            env=house.environment() | server.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
        )
    finally:
        server.close()
    return "\n".join(json.dumps(request.body, ensure_ascii=False) for request in server.requests), server


def program(house: House) -> list[str]:
    """The installed program, or what pip would have installed: it must not find modules in the directory it is in."""
    installed = Path(sys.executable).parent / "laguna-agent"
    if installed.exists():
        return [str(installed)]
    script = house.top / "program" / "laguna-agent"
    script.parent.mkdir(exist_ok=True)
    script.write_text(SCRIPT)
    return [sys.executable, str(script)]


def _conclude_last(drive: Drive) -> None:
    """Where the program died of an attack, that attack has not been judged."""
    if drive._at and not drive.outcome.seen[drive._steps[drive._at - 1][0].id].results:
        case = drive._steps[drive._at - 1][0]
        drive.judge(case, drive.outcome.seen[case.id])
        if (drive.outcome.exit_code or 0) < 0:
            drive.outcome.seen[case.id].effects.append("the program was killed in the middle of it")


def late_effects(house: House, outcome: Outcome, start: dict[str, str], server: ModelServer) -> list[str]:
    """What shows only when the program has ended."""
    if outcome.exit_code is None:
        return ["the program hung"]
    effects = [line for line in differences(start, house.look()) if not line.startswith("heard ")]
    effects += [f"a process of a command is left: {each}" for each in left_over(house)]
    written = house.logs() + outcome.stdout + outcome.stderr
    effects += sorted({f"the program wrote down {canary}" for canary in CANARY.findall(written)})
    if any(KEY in json.dumps(request.body) for request in server.requests):
        effects.append("the key is in a posted body")
    return effects


def left_over(house: House) -> list[str]:
    """Processes, other than the house's own, that live in it or have its home; they are ended."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        if int(name) in (house.victim.pid, os.getpid()):
            continue
        with suppress(OSError):
            at_home = str(house.home).encode() in Path("/proc", name, "environ").read_bytes()
            if at_home or os.readlink(f"/proc/{name}/cwd").startswith(str(house.top)):
                arguments = Path("/proc", name, "cmdline").read_bytes().replace(b"\0", b" ")
                found.append(f"{name} {arguments.decode('utf-8', 'replace')[:200]}")
                os.kill(int(name), signal.SIGKILL)
    return found


def sandbox_arguments(tier: str) -> list[str]:
    """The flag that asks for a tier."""
    return ["--sandbox", tier]
