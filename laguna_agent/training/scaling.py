"""What training a published model would cost on N nodes: the tables of docs/training.md, on paper.

    python -m laguna_agent.training.scaling [--model XS.2] [--nodes 1 2 4] [--tokens 8388608] [--mfu 0.35] ...

No GPU was measured: the formulae and what they assume are in `step_costs.py`; every speed is an argument.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields, replace

from laguna_agent.backend.kernels.cuda.geometry import PUBLISHED, XS_2, Geometry
from laguna_agent.training.step_costs import (
    Cluster,
    Plan,
    memory,
    newton_schulz_flops,
    parameters,
    state_bytes,
    step,
    traffic,
    training_flops,
)

NODES = (1, 2, 4, 8, 16, 64)


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


HEADINGS = (
    "nodes x 8",
    "layout",
    "GB per GPU, Muon",
    "GB, AdamW",
    "received, GB per step",
    "arithmetic s",
    "shards s",
    "step s",
    "tokens/s",
    "NS share, owners",
    "NS share, redundant",
)


def nodes_table(geometry: Geometry, cluster: Cluster, plan: Plan, nodes: Sequence[int]) -> str:
    """A row for each number of nodes and each layout that differs there."""
    rows: list[Sequence[str]] = [HEADINGS]
    for count in nodes:
        for layout in ("fsdp", "hsdp") if count > 1 else ("fsdp",):
            rows.append(_row(geometry, replace(cluster, nodes=count), replace(plan, layout=layout)))
    return _markdown(rows)


def _row(geometry: Geometry, cluster: Cluster, plan: Plan) -> list[str]:
    taken, naive = step(geometry, cluster, plan), step(geometry, cluster, replace(plan, owners=False))
    held = memory(geometry, cluster, plan).total
    adamw = memory(geometry, cluster, replace(plan, optimizer="adamw")).total
    return [
        str(cluster.nodes),
        plan.layout,
        *(f"{size / 1e9:.1f}{'' if size <= cluster.memory else ' (too much)'}" for size in (held, adamw)),
        f"{traffic(geometry, cluster, plan).total / 1e9:,.0f}",
        f"{taken.arithmetic:.2f}",
        f"{taken.shards:.2f}",
        f"{taken.total:.2f}",
        f"{plan.tokens / taken.total:,.0f}",
        f"{taken.ns_share:.2%}",
        f"{naive.ns_share:.1%}",
    ]


def tokens_table(geometry: Geometry, cluster: Cluster, plan: Plan) -> str:
    """What Newton-Schulz is of a step by tokens per step, in both layouts, with owners and without."""
    rows: list[Sequence[str]] = [("tokens per step", "fsdp, owners", "hsdp, owners", "redundant")]
    for tokens in (1 << 20, 1 << 22, 1 << 23, 24_000_000, 1 << 26):
        plans = [replace(plan, tokens=tokens, layout=layout) for layout in ("fsdp", "hsdp")]
        plans.append(replace(plans[0], owners=False))
        shares = [f"{step(geometry, cluster, each).ns_share:.2%}" for each in plans]
        rows.append((f"{tokens:,}", *shares))
    return _markdown(rows)


def counted(geometry: Geometry, plan: Plan) -> str:
    """What follows from the geometry alone, in one paragraph."""
    numbers = parameters(geometry)
    ns = newton_schulz_flops(geometry)
    return (
        f"{geometry.name}: {numbers.total / 1e9:.2f}B parameters ({numbers.routed / 1e9:.2f}B in routed experts, "
        f"{numbers.matrices / 1e9:.2f}B in other matrices), {numbers.applied / 1e9:.2f}B multiply with a token; "
        f"{training_flops(geometry, plan.sequence) / 1e9:.1f} GFLOP per token at sequences of {plan.sequence:,}, "
        f"{ns / 1e12:.0f} TFLOP per Newton-Schulz of all matrices. Optimizer state: Muon "
        f"{state_bytes(geometry, 'muon') / 1e9:.0f} GB, AdamW {state_bytes(geometry, 'adamw') / 1e9:.0f} GB."
    )


def table(
    geometry: Geometry = XS_2, cluster: Cluster | None = None, plan: Plan | None = None, nodes: Sequence[int] = NODES
) -> str:
    """All that the page shows, in Markdown; without arguments exactly what docs/training.md holds."""
    cluster, plan = cluster or Cluster(), plan or Plan()
    middle = replace(cluster, nodes=8)
    return "\n\n".join(
        (
            counted(geometry, plan),
            f"{plan.tokens:,} tokens per step, {plan.micro:,} per GPU at a time, MFU {cluster.mfu:g}:",
            nodes_table(geometry, cluster, plan, nodes),
            f"Share of Newton-Schulz and its traffic in a step on {middle.nodes} nodes:",
            tokens_table(geometry, middle, plan),
        )
    )


def parser() -> argparse.ArgumentParser:
    """Arguments: the model, the plan, and each speed of the cluster under its own name."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--model", choices=[each.name for each in PUBLISHED], default=XS_2.name)
    found.add_argument("--nodes", type=int, nargs="+", default=list(NODES))
    for name in ("tokens", "micro", "sequence"):
        found.add_argument(f"--{name}", type=int, default=getattr(Plan(), name))
    for field in fields(Cluster):
        if field.name != "nodes":
            kind = int if field.name == "per_node" else float
            found.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; 2 where a number is none that makes sense."""
    reader = parser()
    options = vars(reader.parse_args(arguments))
    model, nodes = options.pop("model"), options.pop("nodes")
    bad = [name for name, value in options.items() if not value > 0] + ["nodes"] * (min(nodes) < 1)
    if bad:
        reader.error(f"--{bad[0].replace('_', '-')} must be above 0")
    plan = Plan(**{name: options.pop(name) for name in ("tokens", "micro", "sequence")})
    geometry = next(each for each in PUBLISHED if each.name == model)
    sys.stdout.write(table(geometry, Cluster(**options), plan, nodes) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
