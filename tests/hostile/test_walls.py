"""No wall can be taken away without a test that fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile.walls import WALLS, Wall, copied, notice


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield copied(tmp_path_factory.mktemp("copy"))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("wall", WALLS, ids=lambda wall: wall.name)
def test_somebody_notices(copy: Path, wall: Wall) -> None:
    assert notice(wall, copy)


def test_every_wall_is_where_it_was() -> None:
    """Cheap enough for every run: a wall that has moved is not tried any more."""
    root = Path(__file__).resolve().parents[2] / "laguna_agent"
    moved = [wall.name for wall in WALLS if wall.old not in (root / wall.module).read_text()]
    assert not moved
