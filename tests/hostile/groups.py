"""The attacks by group: a group is one run of the program, an attack that is `alone` a group of its own."""

from __future__ import annotations

from tests.hostile.attacks_files import FILES
from tests.hostile.attacks_network import NETWORK
from tests.hostile.attacks_outside import MOUNTS, WRITES
from tests.hostile.attacks_processes import AFTER_THE_WARDEN, PROCESSES
from tests.hostile.attacks_protected import PROTECTED
from tests.hostile.attacks_rules import COMMANDS, READS, RULES, SECRET
from tests.hostile.attacks_secrets import SECRETS
from tests.hostile.case import Case
from tests.hostile.house import House

_CLASSES = {
    "outside": WRITES,
    "mounts": MOUNTS,
    "protected": PROTECTED,
    "secrets": SECRETS,
    "network": NETWORK,
    "processes": PROCESSES,
    "files": FILES,
    "rules": [*COMMANDS, *READS],
}

GROUPS: dict[str, list[Case]] = {}
for _name, _cases in _CLASSES.items():
    GROUPS[_name] = [case for case in _cases if not case.alone]
    for _case in _cases:
        if _case.alone:
            GROUPS[f"{_name}-{_case.id}"] = [_case, *AFTER_THE_WARDEN]
"""Every group; behind an attack that is alone, what a broken wall would let through is tried."""


def house_for(tier: str, group: str) -> House:
    """The house that a group is let into. Rules hold without walls too; what they stop is proved without them."""
    if group == "rules":
        return House(rules="" if tier == "none" else RULES, dotenv=SECRET)
    return House()
