"""What docs/security.md claims of the sandbox is what `doctor --sandbox` prints; SECURITY.md has what it must have."""

from __future__ import annotations

from pathlib import Path

from laguna_agent.sandbox.policy import PROTECTED_GIT, PROTECTED_NAMES
from laguna_agent.sandbox.probe import CLAIMS

ROOT = Path(__file__).parents[2]


def test_the_table_holds_exactly_the_claims_that_are_tried() -> None:
    lines = (ROOT / "docs" / "security.md").read_text().splitlines()
    at = next(number for number, line in enumerate(lines) if line.strip().startswith("tried here, now"))
    width = lines[at].index("bubblewrap")
    rows = [line[:width].strip() for line in lines[at + 1 :] if line.startswith("    ")][: len(CLAIMS)]
    assert rows == [claim.words for claim in CLAIMS]


def test_every_protected_name_is_told() -> None:
    text = (ROOT / "docs" / "security.md").read_text()
    assert [name for name in (*PROTECTED_NAMES, *PROTECTED_GIT) if f"`{name}`" not in text] == []


def test_the_threat_model_says_what_is_not_covered_and_how_to_report() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    for heading in ("## The threat model", "## Not covered", "## Reporting"):
        assert heading in text
