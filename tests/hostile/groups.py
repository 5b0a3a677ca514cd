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
    "disk": [*WRITES, *MOUNTS, *PROTECTED],
    "reach": [*SECRETS, *NETWORK, *PROCESSES],
    "files": FILES,
    "rules": [*COMMANDS, *READS],
}
_ALONE = [case for cases in _CLASSES.values() for case in cases if case.alone]
_SHARED = {name: [case for case in cases if not case.alone] for name, cases in _CLASSES.items()}

GROUPS: dict[str, list[Case]] = _SHARED | {"last": [*_ALONE, *AFTER_THE_WARDEN]}
"""Behind walls: what a broken wall would let through is tried once more at the end."""
WITHOUT_WALLS: dict[str, list[Case]] = _SHARED | {f"alone-{case.id}": [case] for case in _ALONE}
"""Without walls, where such an attack ends the program or takes the workspace away."""


def house_for(tier: str, group: str) -> House:
    """The house that a group is let into. Rules hold without walls too; what they stop is proved without them."""
    if group == "rules":
        return House(rules="" if tier == "none" else RULES, dotenv=SECRET)
    return House()
