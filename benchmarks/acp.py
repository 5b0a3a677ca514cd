"""How fast the agents that speak ACP are, with a model that costs no time: ours, vibe-acp, claude-agent-acp, codex-acp.

    python benchmarks/acp.py [--rounds 7] [--peer-rounds 5] [--deltas 2000] [--agents NAME ...] [--strict]

Each round starts every agent once, as an editor does (interleaved, so that a busy moment hits all alike): it is asked
to `initialize`, for a new session and, a second later, twice to count. The table shows medians, and how many times ours
each is. All are pointed at one loopback model that sends N deltas of five characters as fast as they are taken
(`instant_model.py`); no agent has an account, and what one will not do without is shown as that. An agent may put many
deltas into one update, so throughput is shown in updates and in characters, from the prompt to the last of them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from acp_client import INITIALIZE, AgentError, Answer, Client, memory_mb
from acp_peers import AGENTS, Agent
from instant_model import deltas, instant_model, text_of
from peers import PeerError

NEW_LIMIT = 0.35
AUTH_REQUIRED = -32000
PROMPT = "Count."
OURS = "laguna-agent"


@dataclass(frozen=True)
class Measure:
    """One row of the table. `limit` is the most that ours may be, where that is promised."""

    title: str
    unit: str
    digits: int = 0
    more_is_better: bool = False
    limit: float | None = None


MEASURES = {
    "initialize": Measure("spawn to `initialize` answered", "s", 3),
    "new": Measure("spawn to `initialize` and `session/new` answered", "s", 3, limit=NEW_LIMIT),
    "first": Measure("first prompt, after a pause, to the model's first word", "s", 3),
    "second": Measure("second prompt to the model's first word", "s", 3),
    "whole": Measure("second prompt to its answer, all deltas shown", "s", 3),
    "updates": Measure("updates per second, second prompt", "", more_is_better=True),
    "characters": Measure("characters per second, second prompt", "", more_is_better=True),
    "resident": Measure("resident memory at `initialize`", "MB"),
    "resident_after": Measure("resident memory after two prompts", "MB"),
    "proportional_after": Measure("the same, shared pages counted once", "MB"),
}


@dataclass
class Measured:
    """An agent and what came of it: samples by measure, and why there are none where it went wrong."""

    agent: Agent
    rounds: int
    samples: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in MEASURES})
    problem: AgentError | None = None
    version: str = ""

    def value(self, name: str) -> float | None:
        return median(self.samples[name]) if self.samples[name] else None


def measure(measured: list[Measured], url: str, count: int, pause: float, scratch: Path) -> None:
    """Fill the samples, by interleaved rounds. A round before the first is thrown away: it fills the agents' caches."""
    places = {each.agent.name: Place.make(scratch / each.agent.name, each.agent, url) for each in measured}
    for number in range(-1, max(each.rounds for each in measured)):
        for each in measured:
            if number < each.rounds:
                samples = one_round(each, places[each.agent.name], count, pause)
                for name, value in samples.items() if number >= 0 else ():
                    each.samples[name].append(value)
    for each in measured:
        weigh(each, places[each.agent.name])


@dataclass(frozen=True)
class Place:
    """Where an agent runs: its project, an empty git repository in its own home, and its environment."""

    folder: Path
    environment: dict[str, str]
    errors: Path

    @classmethod
    def make(cls, home: Path, agent: Agent, url: str) -> Place:
        folder = home / "project"
        folder.mkdir(parents=True)
        subprocess.run(["git", "init", "-q", str(folder)], check=True)
        own = agent.configure(home, url)
        environment = {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8"} | own
        return cls(folder, environment, home / "stderr")

    def start(self, agent: Agent) -> Client:
        return Client(agent.argv, self.environment, self.folder, self.errors)


def one_round(each: Measured, place: Place, count: int, pause: float) -> dict[str, float]:
    """The life of one agent process; where it goes wrong, what was measured until then, and `each.problem` says why."""
    samples: dict[str, float] = {}
    client = place.start(each.agent)
    try:
        each.version = client.request("initialize", INITIALIZE).get("agentInfo", {}).get("version", "")
        samples["initialize"] = time.perf_counter() - client.spawned
        session = client.request("session/new", {"cwd": str(place.folder), "mcpServers": []})["sessionId"]
        samples["new"] = time.perf_counter() - client.spawned
        time.sleep(pause)
        samples["first"], _ = count_aloud(client, session, count)
        samples["second"], answer = count_aloud(client, session, count)
        samples["whole"] = answer.ended
        samples["updates"] = len(answer.pieces) / answer.arrived[-1]
        samples["characters"] = sum(map(len, answer.pieces)) / answer.arrived[-1]
        samples["resident_after"], samples["proportional_after"] = memory_mb(client.pid)
    except AgentError as problem:
        each.problem = problem
    finally:
        client.close()
    return samples


def count_aloud(client: Client, session: str, count: int) -> tuple[float, Answer]:
    """One prompt: seconds to the model's first word, and the answer. Raises AgentError where any of it is missing."""
    answer = Answer()
    prompt = [{"type": "text", "text": PROMPT}]
    client.request("session/prompt", {"sessionId": session, "prompt": prompt}, answer)
    begun = answer.begun(deltas(1)[0].strip())
    said = "".join(answer.pieces)
    if begun is None or text_of(count).strip() not in said:
        raise AgentError(f"session/prompt: the answer is not the model's, but {said[:300]!r}")
    return begun, answer


def weigh(each: Measured, place: Place) -> None:
    """Memory at initialize, in a process of its own: to look takes time, and the rounds are timed."""
    client = place.start(each.agent)
    try:
        client.request("initialize", INITIALIZE)
        each.samples["resident"].append(memory_mb(client.pid)[0])
    except AgentError as problem:
        each.problem = problem
    finally:
        client.close()


def ours_of(measured: list[Measured]) -> Measured | None:
    """Ours among them, where it is."""
    return next((each for each in measured if each.agent.name == OURS), None)


def table(measured: list[Measured]) -> str:
    """Medians in Markdown; a peer's are followed by how many times ours they are."""
    heads = [f"{each.agent.name} {each.version}".strip() for each in measured]
    mine = ours_of(measured)
    lines = [f"| median | {' | '.join(heads)} |", "|---" * (len(measured) + 1) + "|"]
    for name, row in MEASURES.items():
        cells = [cell(each, name, mine.value(name) if mine else None) for each in measured]
        lines.append(f"| {row.title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(each: Measured, name: str, yardstick: float | None) -> str:
    """One value, or why there is none."""
    value, row = each.value(name), MEASURES[name]
    if value is None:
        return "needs an account" if each.problem and each.problem.code == AUTH_REQUIRED else "failed"
    shown = f"{value:,.{row.digits}f} {row.unit}".strip()
    if yardstick is None or each.agent.name == OURS:
        return shown
    return f"{shown} (×{value / yardstick:.3g})"


def broken_promises(measured: list[Measured]) -> list[str]:
    """One line for each row in which ours is not first, or above its limit."""
    mine = ours_of(measured)
    if mine is None:
        return []
    lines = []
    for name, row in MEASURES.items():
        value = mine.value(name)
        if value is None:
            lines.append(f"{row.title}: ours has none")
            continue
        if row.limit is not None and value > row.limit:
            lines.append(f"{row.title}: {value:.{row.digits}f} {row.unit}, promised {row.limit:g}")
        for peer in measured:
            other = peer.value(name)
            if other is not None and (other > value if row.more_is_better else other < value):
                lines.append(f"{row.title}: {peer.agent.name} is ahead")
    return lines


def chosen(names: list[str], rounds: int, peer_rounds: int) -> tuple[list[Measured], list[str]]:
    """The agents that can run here, ours first, and a line for each that cannot."""
    found, missing = [], []
    for name in sorted(names, key=lambda each: each != OURS):
        try:
            agent = AGENTS[name]()
        except PeerError as error:
            missing.append(f"{name} could not be installed: {error}")
        else:
            found.append(Measured(agent, rounds if name == OURS else peer_rounds))
    return found, missing


def options(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure agents that speak ACP against an instant model.")
    parser.add_argument("--rounds", type=int, default=7, help="rounds that count (7)")
    parser.add_argument("--peer-rounds", type=int, default=5, help="the same for the other agents (5)")
    parser.add_argument("--deltas", type=int, default=2000, help="pieces of each answer (2000)")
    parser.add_argument("--pause", type=float, default=1.0, help="seconds from session/new to the first prompt (1)")
    parser.add_argument("--agents", nargs="+", choices=AGENTS, default=list(AGENTS), help="which (all)")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a promise is broken")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    settings = options(arguments)
    measured, missing = chosen(settings.agents, settings.rounds, settings.peer_rounds)
    if measured:
        with tempfile.TemporaryDirectory(prefix="laguna-acp-") as scratch, instant_model(settings.deltas) as url:
            measure(measured, url, settings.deltas, settings.pause, Path(scratch))
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.2f}; ", end="")
    print(f"{settings.rounds} rounds ({settings.peer_rounds} of the peers), {settings.deltas} deltas, ", end="")
    print(f"{settings.pause:g} s from session/new to the first prompt\n")
    print(table(measured))
    notes = missing + [f"{each.agent.name}: {each.problem}" for each in measured if each.problem]
    broken = broken_promises(measured)
    print("\n" + "\n".join([*notes, *(broken or ["Every promise is kept."])]))
    return 1 if broken and settings.strict else 0


if __name__ == "__main__":
    sys.exit(main())
